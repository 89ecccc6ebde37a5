"The head trains on what the frozen body gave: the same figures, the same order, and the learner whole again afterwards."
import pytest
import torch
from fastai.callback.core import Callback
from fastai.data.core import TfmdDL
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.optimizer import Adam
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import TensorDataset

from pet_classifier.core.progress import history
from pet_classifier.data.loaders import loaders
from pet_classifier.model.backbone import HEADS
from pet_classifier.model.features import fingerprint
from pet_classifier.training.checkpoint import Checkpoint
from pet_classifier.training.discriminant import discriminant_temperature, fit_discriminant
from pet_classifier.training.fine_tuning import fine_tune, load_stage, save_stage
from pet_classifier.training.head import (
    RowsDL,
    choose_method,
    default_epochs,
    feature_loaders,
    fit_head,
    head_optimizer,
    on_features,
    torch_threads,
)
from pet_classifier.training.learner import frozen_groups, pet_learner
from pet_classifier.training.learner_features import training_features
from pet_classifier.training.lr_finder import find_lr

both_heads = pytest.mark.parametrize('head', HEADS)


@pytest.fixture
def two_threads():
    "Inside the test, torch computes with two threads"
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def standing(learn): return [learn.model, learn.dls, learn.splitter, learn.opt, learn.opt_func, *learn.cbs]


@both_heads
@pytest.mark.parametrize('error', [None, ValueError, KeyboardInterrupt])
def test_on_features_puts_model_loaders_splitter_optimizers_and_threads_back(learner, raises, two_threads, error, head):
    learn = learner(head=head)
    learn.fit(1)
    before = standing(learn)
    def train():
        with on_features(learn):
            assert learn.model is not before[0] and learn.dls is not before[1] and learn.opt is None
            assert torch.get_num_threads() == 1
            learn.fit(1, cbs=raises(error, at=1) if error else None)
    if error:
        with pytest.raises(error): train()
    else: train()
    after = standing(learn)
    assert len(after) == len(before) and all(a is b for a, b in zip(after, before))
    assert torch.get_num_threads() == 2


@both_heads
def test_on_features_the_model_is_the_learners_own_head(learner, head):
    learn = learner(head=head)
    layers = list(learn.model[1])
    with on_features(learn): ours = list(learn.model)
    assert 0 < len(ours) < len(layers) and all(a is b for a, b in zip(ours, layers[-len(ours):]))


@both_heads
@pytest.mark.parametrize('weights', ['file', 'none'])
def test_the_last_row_of_fit_head_is_what_validate_says_on_images(learner, tiny_weights, weights, head):
    learn = learner(weights='none' if weights == 'none' else tiny_weights, head=head, precision='fp32')
    fit_head(learn, 3)
    assert history(learn).iloc[-1][['valid_loss', 'error_rate']].tolist() == pytest.approx(list(learn.validate()), abs=1e-5)
    assert frozen_groups(learn) == 2


@both_heads
def test_fit_head_changes_the_head_and_nothing_of_the_body(learner, head):
    learn = learner(head=head)
    body, was = fingerprint(learn.model[0]), fingerprint(learn.model[1])
    fit_head(learn, 2)
    assert fingerprint(learn.model[0]) == body and fingerprint(learn.model[1]) != was


@both_heads
def test_fit_head_learns(learner, head):
    learn = learner(head=head)
    fit_head(learn, 40)
    rows = history(learn)
    assert rows.train_loss.iloc[-1] < 0.8*rows.train_loss.iloc[0] and rows.valid_loss.iloc[-1] < rows.valid_loss.iloc[0]


def test_all_batch_norm_layers_of_fastais_head_learn_on_features(learner):
    learn = learner(head='fastai')
    fit_head(learn, 3, bs=6)
    assert [m.num_batches_tracked.item() for m in learn.model[1].modules() if isinstance(m, _BatchNorm)] == [6, 6]


def test_images_pass_through_the_body_once_until_it_has_learned(learner, fresh_cache):
    learn, passed = learner(), []
    learn.model[0].register_forward_hook(lambda module, x, out: passed.append(len(out) - (len(out) == 1)))
    fit_head(learn, 2)
    assert sum(passed) == 18  # and the single image that `fold_batch_norm` tries
    fit_head(learn, 3)
    with on_features(learn): learn.validate()
    assert sum(passed) == 18  # only the head had learned
    fine_tune(learn, 1, 1e-3, keep_best=False)
    passed.clear()
    fit_head(learn, 1)
    assert sum(passed) == 18
    learn.model[0].model.bn1.running_mean += 1  # a buffer, no parameter
    training_features(learn)
    assert sum(passed) == 36


@pytest.mark.parametrize('n, bs, sizes', [
    (12, 64, [12]), (12, 5, [4, 4, 4]), (13, 12, [7, 6]), (13, 6, [5, 5, 3]), (10, 4, [4, 4, 2]), (3, 2, [2]), (7, 3, [3, 3]),
    (65, 64, [33, 32]), (2, 64, [2])])
def test_feature_batches_are_even_and_a_last_one_of_one_is_left_out(n, bs, sizes):
    data = TensorDataset(torch.zeros(n, 4), torch.zeros(n).long())
    dls = feature_loaders(data, data, bs, torch.device('cpu'))
    assert [len(x) for x, _ in dls.train] == sizes and sum(len(x) for x, _ in dls.valid) == n


def test_rows_that_come_at_once_are_those_that_come_one_by_one():
    data = TensorDataset(torch.rand(11, 4), torch.arange(11))
    for kwargs in dict(bs=4), dict(bs=4, drop_last=True), dict(bs=11), dict(bs=3, shuffle=True):
        ours, theirs = (dl(data, num_workers=0, **kwargs) for dl in (RowsDL, TfmdDL))
        theirs.rng.setstate(ours.rng.getstate())
        ours, theirs = list(ours), list(theirs)
        assert len(ours) == len(theirs) > 0 and all(torch.equal(a, b) for o, t in zip(ours, theirs) for a, b in zip(o, t))


def test_training_rows_come_in_another_order_each_time_each_with_its_class():
    data = TensorDataset(torch.arange(30.).view(30, 1), torch.arange(30))
    dl = feature_loaders(data, data, 10, torch.device('cpu')).train
    one, two = ([(x[:, 0].tolist(), y.tolist()) for x, y in dl] for _ in range(2))
    assert one != two and all(x == y for x, y in one + two)
    assert sorted(i for _, y in one for i in y) == list(range(30))


@both_heads
def test_a_head_trains_on_a_number_of_images_that_leaves_one_over(learner, tiny_table, head):
    table = tiny_table.drop(tiny_table.index[~tiny_table.is_valid][1:-1:2])
    learn = learner(loaders(table, size=32, bs=4), head=head)
    assert len(learn.dls.train_ds) == 7
    fit_head(learn, 1, bs=3)
    assert history(learn).train_loss.notna().all()


@both_heads
def test_the_same_seed_makes_the_same_weights_to_the_last_bit(learner, head):
    def trained(seed, drawn):
        learn = learner(head=head)
        torch.rand(drawn)
        fit_head(learn, 2, bs=6, seed=seed)
        return fingerprint(learn.model)
    assert trained(1, 0) == trained(1, 5) != trained(3, 0)


@both_heads
def test_the_same_seed_makes_the_same_weights_whether_or_not_features_were_there(learner, fresh_cache, head):
    def trained(cached):
        learn = learner(head=head)
        if cached: training_features(learn)
        fit_head(learn, 2)
        return fingerprint(learn.model)
    assert trained(False) == trained(True) == trained(False)


@pytest.mark.parametrize('views', [1, 2])
def test_fit_head_leaves_the_random_state_and_the_order_of_the_images(learner, same_random_state, fresh_cache, views):
    learn = learner()
    order = learn.dls.train.rng.getstate()
    with same_random_state(): fit_head(learn, 1, views=views)
    assert learn.dls.train.rng.getstate() == order


def test_views_are_trained_on_as_more_images(learner):
    class Counts(Callback):
        n = 0
        def before_batch(self): self.n += self.training*len(self.yb[0])
    for views in 1, 3:
        learn = learner(cbs=Counts())
        fit_head(learn, 1, views=views)
        assert learn.counts.n == 12*views


@both_heads
def test_a_network_whose_body_pools_by_itself_trains_and_says_the_same_afterwards(tiny_table, head):
    learn = pet_learner(loaders(tiny_table, size=160, bs=6), 'test_vit', 'none', head=head, precision='fp32')
    fit_head(learn, 2)
    assert history(learn).iloc[-1].valid_loss == pytest.approx(learn.validate()[0], abs=1e-5)
    before = fingerprint(learn.model[0])
    fine_tune(learn, 1, 1e-3, keep_best=False)
    assert fingerprint(learn.model[0]) != before


def test_a_callback_of_ones_own_works_on_features(learner):
    class Sees(Callback):
        def before_batch(self): self.shape = tuple(self.xb[0].shape)
    learn = learner(cbs=Sees())
    fit_head(learn, 1)
    assert len(learn.sees.shape) == 2  # rows of numbers, no images


def test_a_head_of_one_layer_gets_gradient_descent_with_momentum_and_another_the_usual():
    one, two = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert head_optimizer(two, Adam) is Adam
    opt = head_optimizer(one, Adam)(list(one.parameters()), lr=0.1)
    assert opt.hypers[0]['mom'] == 0.9
    weight = one[0].weight.detach().clone()
    for _ in range(2):  # the second step goes further by what is left of the first
        one[0].weight.grad, one[0].bias.grad = torch.ones(2, 2), torch.ones(2)
        opt.step()
    assert torch.allclose(weight - one[0].weight, torch.full((2, 2), 0.1 + 0.1*1.9))


@pytest.mark.parametrize('head, descends', [('linear', True), ('fastai', False)])
def test_on_features_the_learner_has_the_optimizer_of_its_head(learner, head, descends):
    learn = learner(head=head)
    with on_features(learn):
        learn.create_opt()
        assert ('sqr_mom' not in learn.opt.hypers[0]) == descends  # which Adam has and plain descent has not
    learn.create_opt()
    assert 'sqr_mom' in learn.opt.hypers[0]


@pytest.mark.parametrize('head, rate', [('linear', 0.05), ('fastai', 0.005)])
def test_each_head_has_a_rate_of_its_own_unless_one_is_given(learner, head, rate):
    class Highest(Callback):
        lr = 0
        def before_step(self): self.lr = max(self.lr, self.opt.hypers[-1]['lr'])
    for lr, expected in (None, rate), (0.02, 0.02):
        learn = learner(head=head, cbs=Highest())
        fit_head(learn, 4, lr)  # the step at the top of the cycle is one of the four
        assert learn.highest.lr == pytest.approx(expected)


@pytest.mark.parametrize('error', [None, KeyboardInterrupt])
def test_torch_threads_gives_the_threads_back(two_threads, error):
    def inside():
        with torch_threads():
            assert torch.get_num_threads() == 1
            if error: raise error
    if error:
        with pytest.raises(error): inside()
    else: inside()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize('n, bs, epochs', [(5912, 64, 4), (2880, 64, 4), (2816, 64, 5), (185, 64, 60), (12, 6, 90)])
def test_default_epochs_make_180_steps_and_are_at_least_four(n, bs, epochs): assert default_epochs(n, bs) == epochs


@pytest.mark.parametrize('epochs', [0, -1])
def test_no_epochs_are_refused_and_nothing_is_frozen(learner, epochs):
    learn = learner(weights='none')
    with pytest.raises(ValueError, match=f'epochs={epochs}: expected at least 1, or None'): fit_head(learn, epochs)
    assert frozen_groups(learn) == 0 and not hasattr(learn, 'features_key')


@pytest.mark.parametrize('bs', [0, 1])
def test_a_batch_that_cannot_be_normalised_is_refused(learner, bs):
    with pytest.raises(ValueError, match=f'bs={bs}'): fit_head(learner(), 1, bs=bs)


def test_by_default_a_linear_head_is_the_discriminant_of_its_features_at_its_temperature(learner):
    learn = learner()
    features, targets = training_features(learn)[0].tensors
    fit_head(learn)
    weight, bias = fit_discriminant(features, targets, 3)
    t, layer = discriminant_temperature(features, targets, 3), learn.model[1][-1]
    assert torch.allclose(layer.weight, weight/t) and torch.allclose(layer.bias, bias/t)


def test_the_discriminant_is_one_row_of_the_table_and_what_validate_says_on_images(learner):
    learn = learner(precision='fp32')
    fit_head(learn)
    rows = history(learn)
    assert len(rows) == 1 and rows.stage.tolist() == ['head'] and rows.seconds.iloc[0] > 0 and rows.train_loss.notna().all()
    assert rows.iloc[0][['valid_loss', 'error_rate']].tolist() == pytest.approx(list(learn.validate()), abs=1e-4)
    assert frozen_groups(learn) == 2


def test_the_discriminant_is_the_same_each_time_and_leaves_the_random_state(learner, same_random_state):
    first, second = learner(), learner()
    with same_random_state(): fit_head(first)
    fit_head(second)
    fit_head(second)  # whatever the head was before
    assert fingerprint(first.model) == fingerprint(second.model)
    assert len(history(second)) == 2


def test_training_goes_on_from_the_discriminant(learner):
    learn = learner()
    fit_head(learn)
    file, was = save_stage(learn, 'head'), fingerprint(learn.model)
    assert fine_tune(learn, 1, 1e-3, keep_best=False) in (True, False)
    assert history(learn).stage.tolist() == ['head', 'fine-tune'] and fingerprint(learn.model) != was
    load_stage(learn, 'head')
    assert file.is_file() and fingerprint(learn.model) == was
    find_lr(learn, plot=False)
    assert fingerprint(learn.model) == was


def test_a_discriminant_that_was_checkpointed_is_not_computed_again(learner, tmp_path):
    learn = learner()
    fit_head(learn, checkpoint=Checkpoint(tmp_path/'last.safetensors'))
    again = learner()
    fit_head(again, checkpoint=Checkpoint(tmp_path/'last.safetensors', resume=True))
    assert fingerprint(again.model) == fingerprint(learn.model) and len(history(again)) == 1


def test_class_weights_of_the_loss_change_how_probable_classes_are_beforehand(learner, tiny_table):
    few = tiny_table[~((tiny_table.label == 'red') & ~tiny_table.is_valid) | (tiny_table.index % 2 == 0)]
    plain, balanced = (learner(loaders(few, size=32, bs=4), balance=b) for b in (False, True))
    for learn in plain, balanced: fit_head(learn)
    bias = [learn.model[1][-1].bias.detach() for learn in (plain, balanced)]
    assert not torch.allclose(*bias)


@pytest.mark.parametrize('given, method', [
    ({}, 'discriminant'), (dict(epochs=2), 'sgd'), (dict(lr=0.1), 'sgd'), (dict(bs=4), 'sgd'), (dict(views=2), 'sgd')])
def test_what_only_gradient_descent_has_asks_for_it(learner, given, method):
    learn = learner()
    assert choose_method(learn, **given) == method and choose_method(learn, 'sgd', **given) == 'sgd'
    assert choose_method(learner(head='fastai'), **given) == 'sgd'
    if given:
        with pytest.raises(ValueError, match="method='discriminant', .*leave them out"):
            fit_head(learn, method='discriminant', **given)


def test_what_is_no_linear_head_with_cross_entropy_has_no_discriminant(learner):
    smooth = learner()
    smooth.loss_func = LabelSmoothingCrossEntropyFlat()
    assert choose_method(smooth) == 'sgd'
    for learn in smooth, learner(head='fastai'):
        with pytest.raises(ValueError, match='expected a linear head and cross-entropy'): fit_head(learn, method='discriminant')
    with pytest.raises(ValueError, match="method='lda': expected one of auto, discriminant, sgd"): fit_head(smooth, method='lda')


def test_a_callback_sees_the_discriminants_batches_and_no_gradient(learner):
    class Sees(Callback):
        n = steps = 0
        def before_batch(self): self.n += self.training*len(self.yb[0])
        def before_step(self): self.steps += 1
    learn = learner(cbs=Sees())
    fit_head(learn)
    assert (learn.sees.n, learn.sees.steps) == (12, 0)
