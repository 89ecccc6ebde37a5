"What the frozen body gave stands for the pictures: the same figures, the same order, and the learner whole again afterwards."
import pytest
import torch
from fastai.callback.core import Callback
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pet_classifier.features import (
    body_features,
    cached_features,
    default_epochs,
    feature_loaders,
    fingerprint,
    fit_head,
    on_features,
    split_head,
)
from pet_classifier.learner import build_model, frozen_groups, pet_learner
from pet_classifier.loaders import loaders
from pet_classifier.progress import history
from pet_classifier.training import fine_tune


def standing(learn): return [learn.model, learn.dls, learn.splitter, learn.opt, *learn.cbs]


@pytest.mark.parametrize('error', [None, ValueError, KeyboardInterrupt])
def test_on_features_puts_model_loaders_splitter_and_optimizer_back(learner, raises, error):
    learn = learner()
    learn.fit(1)
    before = standing(learn)
    def train():
        with on_features(learn):
            assert learn.model is not before[0] and learn.dls is not before[1] and learn.opt is None
            learn.fit(1, cbs=raises(error, at=1) if error else None)
    if error:
        with pytest.raises(error): train()
    else: train()
    after = standing(learn)
    assert len(after) == len(before) and all(a is b for a, b in zip(after, before))


def test_on_features_the_model_is_the_learners_own_head(learner):
    learn = learner()
    head = list(learn.model[1])
    with on_features(learn): ours = list(learn.model)
    assert 0 < len(ours) < len(head) and all(a is b for a, b in zip(ours, head[-len(ours):]))


@pytest.mark.parametrize('weights', ['file', 'none'])
def test_the_last_row_of_fit_head_is_what_validate_says_on_pictures(learner, tiny_weights, weights):
    learn = learner(weights='none' if weights == 'none' else tiny_weights)
    fit_head(learn, 3)
    assert history(learn).iloc[-1][['valid_loss', 'error_rate']].tolist() == pytest.approx(list(learn.validate()), abs=1e-5)
    assert frozen_groups(learn) == 2


def test_fit_head_changes_the_head_and_nothing_of_the_body(learner):
    learn = learner()
    body, head = fingerprint(learn.model[0]), fingerprint(learn.model[1])
    fit_head(learn, 2)
    assert fingerprint(learn.model[0]) == body and fingerprint(learn.model[1]) != head



def test_all_batch_norm_layers_of_the_head_learn_on_features(learner):
    learn = learner()
    fit_head(learn, 3, bs=6)
    assert [m.num_batches_tracked.item() for m in learn.model[1].modules() if isinstance(m, _BatchNorm)] == [6, 6]


def test_pictures_pass_through_the_body_once_until_it_has_learned(learner):
    learn, passed = learner(), []
    learn.model[0].register_forward_hook(lambda module, x, out: passed.append(len(out)))
    fit_head(learn, 2)
    assert sum(passed) == 18
    fit_head(learn, 3)
    with on_features(learn): learn.validate()
    assert sum(passed) == 18  # only the head had learned
    fine_tune(learn, 1, 1e-3)
    passed.clear()
    fit_head(learn, 1)
    assert sum(passed) == 18
    learn.model[0].model.bn1.running_mean += 1  # a buffer, no parameter
    cached_features(learn)
    assert sum(passed) == 36


def test_other_loaders_have_other_features(learner, tiny_table):
    learn = learner()
    first = cached_features(learn)[0].tensors[0]
    learn.dls = learner(loaders(tiny_table, size=48, bs=4)).dls
    assert not torch.allclose(cached_features(learn)[0].tensors[0], first)


def test_features_are_in_the_order_of_the_items_and_of_the_middle_of_the_picture(learner, tiny_table):
    learn = learner()
    for data, ds, of_valid in zip(cached_features(learn), (learn.dls.train_ds, learn.dls.valid_ds), (False, True)):
        x, y = data.tensors
        rows = tiny_table[tiny_table.is_valid == of_valid]
        assert ds.items.file.tolist() == rows.file.tolist()
        assert [learn.dls.vocab[i] for i in y] == rows.label.tolist()
        one = body_features(learn, rows.iloc[[4]]).tensors[0]
        assert torch.allclose(one[0], x[4], atol=1e-5) and not torch.allclose(one[0], x[3], atol=1e-3)


def test_features_times_head_are_the_networks_answers(learner):
    learn = learner()
    (x, y), (_, head) = cached_features(learn)[1].tensors, split_head(learn.model[1])
    probs, targets = learn.get_preds()
    with torch.no_grad(): assert torch.allclose(head.eval()(x).softmax(1), probs, atol=1e-5)
    assert torch.equal(y, targets) and type(x) is torch.Tensor



def test_features_can_be_trained_on_without_fastai(learner):
    x, y = cached_features(learner())[0].tensors
    assert not x.is_inference() and not y.is_inference()


@pytest.mark.parametrize('arch, pooled', [('resnet18', True), ('test_resnet', True), ('test_vit', False)])
def test_split_head_parts_the_pooling_from_the_rest_and_loses_no_layer(arch, pooled):
    head = build_model(arch, 3)[1]
    pool, rest = split_head(head)
    assert [*pool, *rest] == list(head)
    assert (len(pool) > 0) == pooled and not list(pool.parameters()) and not any(isinstance(m, nn.Dropout) for m in pool)


@pytest.mark.parametrize('n, bs, sizes', [
    (12, 64, [12]), (12, 5, [4, 4, 4]), (13, 12, [7, 6]), (13, 6, [5, 5, 3]), (10, 4, [4, 4, 2]), (3, 2, [2]), (7, 3, [3, 3]),
    (65, 64, [33, 32]), (2, 64, [2])])
def test_feature_batches_are_even_and_a_last_one_of_one_is_left_out(n, bs, sizes):
    data = torch.utils.data.TensorDataset(torch.zeros(n, 4), torch.zeros(n).long())
    dls = feature_loaders(data, data, bs, torch.device('cpu'))
    assert [len(x) for x, _ in dls.train] == sizes and sum(len(x) for x, _ in dls.valid) == n


def test_a_head_trains_on_a_number_of_pictures_that_leaves_one_over(learner, tiny_table):
    table = tiny_table.drop(tiny_table.index[~tiny_table.is_valid][1:-1:2])
    learn = learner(loaders(table, size=32, bs=4))
    assert len(learn.dls.train_ds) == 7
    fit_head(learn, 1, bs=3)
    assert history(learn).train_loss.notna().all()


def test_the_same_seed_makes_the_same_weights_to_the_last_bit(learner):
    def trained(seed, drawn):
        learn = learner()
        torch.rand(drawn)
        fit_head(learn, 2, seed=seed)
        return fingerprint(learn.model)
    assert trained(1, 0) == trained(1, 5) != trained(3, 0)



def test_the_same_seed_makes_the_same_weights_whether_or_not_features_were_there(learner):
    def trained(cached):
        learn = learner()
        if cached: cached_features(learn)
        fit_head(learn, 2)
        return fingerprint(learn.model)
    assert trained(True) == trained(False)


def test_fit_head_leaves_the_random_state_and_the_order_of_the_pictures(learner, same_random_state):
    learn = learner()
    order = learn.dls.train.rng.getstate()
    with same_random_state(): fit_head(learn, 1)
    assert learn.dls.train.rng.getstate() == order


def test_a_network_whose_body_pools_by_itself_trains_and_says_the_same_afterwards(tiny_table):
    learn = pet_learner(loaders(tiny_table, size=160, bs=6), 'test_vit', 'none')
    fit_head(learn, 2)
    assert history(learn).iloc[-1].valid_loss == pytest.approx(learn.validate()[0], abs=1e-5)
    before = fingerprint(learn.model[0])
    fine_tune(learn, 1, 1e-3)
    assert fingerprint(learn.model[0]) != before


def test_a_callback_of_ones_own_works_on_features(learner):
    class Sees(Callback):
        def before_batch(self): self.shape = tuple(self.xb[0].shape)
    learn = learner(cbs=Sees())
    fit_head(learn, 1)
    assert len(learn.sees.shape) == 2  # rows of numbers, no pictures


@pytest.mark.parametrize('n, bs, epochs', [(5912, 64, 4), (2880, 64, 4), (2816, 64, 5), (185, 64, 60), (12, 6, 90)])
def test_default_epochs_make_180_steps_and_are_at_least_four(n, bs, epochs): assert default_epochs(n, bs) == epochs


@pytest.mark.parametrize('epochs', [0, -1])
def test_no_epochs_are_refused_and_nothing_is_frozen(learner, epochs):
    learn = learner(weights='none')
    with pytest.raises(ValueError, match=f'epochs={epochs}: expected at least 1, or None'): fit_head(learn, epochs)
    assert frozen_groups(learn) == 0 and not hasattr(learn, 'features')



@pytest.mark.parametrize('bs', [0, 1])
def test_a_batch_that_cannot_be_normalised_is_refused(learner, bs):
    with pytest.raises(ValueError, match=f'bs={bs}'): fit_head(learner(), 1, bs=bs)


def test_a_fingerprint_knows_weights_and_buffers_from_others():
    bn = nn.BatchNorm1d(3)
    seen = {fingerprint(bn)}
    for tensor in bn.weight.data, bn.running_mean, bn.num_batches_tracked:
        tensor += 1
        seen.add(fingerprint(bn))
    assert len(seen) == 4 and fingerprint(bn) in seen
