"Each depth gets the rate it should, and a stage comes back as it was or is refused."
import json

import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.metrics import accuracy, error_rate
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pet_classifier.core.progress import history
from pet_classifier.data.loaders import loaders
from pet_classifier.model.features import fingerprint
from pet_classifier.training.checkpoint import read_tensors, write_tensors
from pet_classifier.training.fine_tuning import (
    better,
    check_rates,
    fine_tune,
    group_rates,
    load_stage,
    loss_and_error,
    save_stage,
    stage_file,
)
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import frozen_groups, pet_learner

RATES = [(1e-3, [1e-3]*3), (slice(1e-3), [1e-4, 1e-4, 1e-3]), (slice(1e-6, 1e-4), [1e-6, 1e-5, 1e-4]),
         (slice(1e-4, 1e-4), [1e-4]*3)]


class Rates(Callback):
    "The highest rate that each group was given"
    run_valid = False
    def before_fit(self): self.highest = [0]*len(self.opt.hypers)
    def before_step(self): self.highest = [max(was, h['lr']) for was, h in zip(self.highest, self.opt.hypers)]


@pytest.mark.parametrize('lr, rates', RATES)
def test_the_table_shows_the_rates_that_fastais_optimizer_gets(learner, lr, rates):
    learn = learner()
    learn.opt.set_hyper('lr', lr)
    assert group_rates(learn, lr).lr.tolist() == pytest.approx(rates)
    assert [h['lr'] for h in learn.opt.hypers] == pytest.approx(rates)


@pytest.mark.parametrize('lr, rates', RATES[1:3])
def test_fine_tune_trains_each_group_at_its_rate(learner, lr, rates):
    learn = learner(cbs=Rates())
    fine_tune(learn, 4, lr)  # 12 steps, the fourth at the top of the cycle
    assert learn.rates.highest == pytest.approx(rates) and frozen_groups(learn) == 0


def test_dataloaders_of_fastai_can_take_the_place_of_ours(learner):
    learn = learner()
    x, y = learn.dls.train.one_batch()
    batches = DataLoader([(x, y)]*3, bs=None, num_workers=0)
    learn.dls = DataLoaders(batches, batches, device=x.device)
    was = fingerprint(learn.model)
    fine_tune(learn, 1, 1e-3, keep_best=False)
    assert learn.train_iter == 3 and fingerprint(learn.model) != was


def test_frozen_groups_keep_their_weights_and_get_no_gradient(learner):
    learn = learner()
    was = [[p.clone() for p in group] for group in learn.splitter(learn.model)]
    fine_tune(learn, 1, 1e-2, frozen=1, keep_best=False)
    changed = [any(not torch.equal(p, q) for p, q in zip(group, old)) for group, old in zip(learn.splitter(learn.model), was)]
    assert changed == [False, True, True] and frozen_groups(learn) == 1
    assert all(p.grad is None for p in learn.splitter(learn.model)[0])


@pytest.mark.parametrize('frozen', [-1, 3])
def test_all_groups_frozen_is_refused(learner, frozen):
    with pytest.raises(ValueError, match='expected 0 to 2; there are 3'): fine_tune(learner(), 1, frozen=frozen)


def test_the_table_counts_every_parameter_once(learner):
    learn = learner()
    table = group_rates(learn, 1e-3)
    assert table.group.tolist() == ['body 1', 'body 2', 'head']
    assert table.parameters.sum() == sum(p.numel() for p in learn.model.parameters()) and (table.parameters > 0).all()


@pytest.mark.parametrize('lr', [1e-3, 10, slice(1e-3), slice(1e-6, 1e-4), slice(1e-4, 1e-4)])
def test_a_rate_is_taken(lr): check_rates(lr)


@pytest.mark.parametrize('lr', [
    0, -1e-3, None, float('nan'), float('inf'), slice(None), slice(1e-3, None), slice(1e-4, 1e-6), slice(-1e-6, 1e-4),
    slice(1e-6, 0), slice(1e-6, float('inf')), slice(float('nan'), 1e-4), slice(-1e-3)])
def test_what_is_no_rate_is_refused_and_nothing_is_unfrozen(learner, lr):
    learn = learner()
    with pytest.raises(ValueError, match='expected a rate above 0, or slice'): fine_tune(learn, 1, lr)
    assert frozen_groups(learn) == 2


def test_a_slice_from_zero_is_refused():
    with pytest.raises(ValueError, match='0 < low'): check_rates(slice(0, 1e-3))


@pytest.mark.parametrize('epochs', [0, -1])
def test_no_epochs_are_refused_and_nothing_is_unfrozen(learner, epochs):
    learn = learner()
    with pytest.raises(ValueError, match=f'epochs={epochs}: expected at least 1'): fine_tune(learn, epochs)
    assert frozen_groups(learn) == 2


def test_the_same_seed_makes_the_same_weights_and_leaves_the_random_state(learner, same_random_state):
    def trained(seed):
        learn = learner()
        with same_random_state(): fine_tune(learn, 1, seed=seed, keep_best=False)
        return fingerprint(learn.model)
    assert trained(1) == trained(1) != trained(3)


def state(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}


def equal(a, b): return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


class Each(Callback):
    "The weights at the end of each epoch"
    order = 60
    def before_fit(self): self.weights = []
    def after_epoch(self): self.weights.append(state(self.learn))


@pytest.mark.parametrize('head', ['linear', 'fastai'])
@pytest.mark.parametrize('lr', [10., slice(1., 1e6)])
def test_a_rate_that_destroys_ends_with_exactly_the_weights_it_began_with(learner, lr, head):
    learn = learner(head=head)
    fit_head(learn, 30)
    before, reached = state(learn), list(learn.validate())
    assert fine_tune(learn, 3, lr) is False
    assert equal(state(learn), before) and list(learn.validate()) == reached
    assert history(learn).stage.tolist() == ['head']*30 + ['fine-tune']*3  # what was tried is in the history
    destroyed = learner(head=head)
    fit_head(destroyed, 30)
    assert fine_tune(destroyed, 3, lr, keep_best=False) is False and not equal(state(destroyed), before)


def test_a_rate_that_improves_is_said_to_and_ends_as_good_as_its_best_epoch(learner):
    learn = learner(precision='fp32')
    began, before = loss_and_error(learn, learn.validate()), state(learn)
    assert fine_tune(learn, 8, 1e-2) is True
    ended = loss_and_error(learn, learn.validate())
    assert ended[0] < 0.95*began[0] and better(began, ended) and not equal(state(learn), before)
    rows = history(learn)
    epochs = list(zip(rows.valid_loss, rows.error_rate))
    assert ended == pytest.approx(min(epochs, key=lambda e: e[::-1]), abs=1e-4)


@pytest.mark.parametrize('values, kept', [
    ([(1, .5), (1, .4), (1, .2), (1, .3)], 1), ([(1, .5), (1, .4), (9, .2), (.1, .3)], 1),
    ([(1, .5), (1, .4), (1, .3), (1, .2)], 2), ([(1, .5), (1, .2), (1, .3), (1, .4)], 0),
    ([(1, .5), (.9, .5), (.7, .5), (.8, .5)], 1), ([(1, .5), (1, .4), (1, .4), (1, .5)], 1),
    ([(1, .5), (1, .6), (.1, .7), (1, .51)], None), ([(1, .5), (1.1, .5), (1.2, .5), (1.3, .5)], None),
    ([(1, .5), (float('nan'), .5), (float('nan'), .6), (2, .6)], None), ([(1, .5), (1, .3), (float('nan'), .3), (1, .4)], 0),
    ([(1, .0), (1, .0), (2, .0), (2, .0)], 0)], ids=str)
def test_the_best_epoch_is_kept_wherever_it_lies(learner, monkeypatch, values, kept):
    learn, said = learner(cbs=Each()), iter(values)
    before = state(learn)
    monkeypatch.setattr('pet_classifier.training.fine_tuning.loss_and_error', lambda learn, values: next(said))
    assert fine_tune(learn, 3, 1e-3) is (kept is not None)
    epochs = [before, *learn.each.weights]
    assert not any(equal(a, b) for a, b in zip(epochs, epochs[1:]))
    assert equal(state(learn), before if kept is None else learn.each.weights[kept])


@pytest.mark.parametrize('last, helped', [((1, .4), True), ((.9, .5), True), ((1, .5), True), ((1.1, .5), False),
                                          ((.1, .6), False)])
def test_without_keep_best_the_last_epoch_stays_and_is_compared_with_the_beginning(learner, monkeypatch, last, helped):
    learn, said = learner(cbs=Each()), [(1, .5), last]
    monkeypatch.setattr('pet_classifier.training.fine_tuning.loss_and_error', lambda learn, values: said.pop(0))
    assert fine_tune(learn, 2, 1e-3, keep_best=False) is helped and not said
    assert equal(state(learn), learn.each.weights[-1])


def test_what_is_compared_is_the_validation_loss_and_the_error_rate(learner):
    for metrics, at in ([], None), ([error_rate], 1), ([accuracy, error_rate], 2):
        learn = learner(metrics=metrics)
        fit_head(learn, 3)
        values = list(learn.validate())
        assert loss_and_error(learn, learn.validate()) == (values[0], values[at] if at else 0)
        learn.fit(1)
        row = history(learn).iloc[-1]
        assert loss_and_error(learn, learn.recorder.values[-1][1:]) == pytest.approx((row.valid_loss, row.get('error_rate', 0)))


def test_a_learner_that_measures_no_error_goes_by_the_loss(learner):
    learn = learner(metrics=[accuracy], precision='fp32')
    assert fine_tune(learn, 4, 1e-2) is True
    assert learn.validate()[0] == pytest.approx(history(learn).valid_loss.min(), abs=1e-4)


def test_a_fit_that_is_ended_early_keeps_the_best_too(learner, raises, monkeypatch):
    said = iter([(1, .5), (1, .3), (1, .4)])
    learn = learner(cbs=[Each(), raises(CancelFitException, at=8)])  # in the third epoch of three batches each
    monkeypatch.setattr('pet_classifier.training.fine_tuning.loss_and_error', lambda learn, values: next(said))
    assert fine_tune(learn, 5, 1e-3) is True
    assert len(learn.each.weights) == 2 and equal(state(learn), learn.each.weights[0])


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_after_an_error_the_learner_has_its_callbacks_as_before(learner, raises, error):
    learn = learner(cbs=raises(error))
    before = list(learn.cbs)
    with pytest.raises(error): fine_tune(learn, 2, 1e-3)
    assert list(learn.cbs) == before


@pytest.mark.parametrize('frozen', [0, 1, 2])
def test_a_stage_comes_back_exactly_with_what_was_frozen(learner, frozen):
    learn = learner()
    learn.fit(1)
    learn.freeze_to(frozen)
    kept = fingerprint(learn.model)
    assert save_stage(learn, 'stage-1') == learn.path/'models'/'stage-1.safetensors'
    fine_tune(learn, 1, 1e-2, keep_best=False)
    learn.freeze_to(2 - frozen)
    assert fingerprint(learn.model) != kept
    load_stage(learn, 'stage-1')
    assert fingerprint(learn.model) == kept and frozen_groups(learn) == frozen


def test_a_stage_goes_into_a_new_learner_of_another_seed(learner):
    first, second = learner(seed=1), learner(seed=2)
    save_stage(first, 'a')
    load_stage(second, 'a')
    assert fingerprint(second.model) == fingerprint(first.model)
    assert list(second.validate()) == list(first.validate())


def test_loading_a_stage_drops_the_momentum_of_other_weights(learner):
    learn = learner()
    save_stage(learn, 'a')
    fine_tune(learn, 1)
    old = learn.opt
    load_stage(learn, 'a')
    assert learn.opt is not old and not any('grad_avg' in learn.opt.state[p] for p, *_ in learn.opt.all_params())


def test_a_body_that_a_stage_froze_again_does_not_move(learner):
    learn = learner()
    was = fingerprint(learn.model[0])
    save_stage(learn, 'head')
    fine_tune(learn, 1, 1e-3, keep_best=False)
    assert fingerprint(learn.model[0]) != was
    load_stage(learn, 'head')
    learn.fit(1, 1e-2)
    assert fingerprint(learn.model[0]) == was


def test_a_stage_holds_tensors_and_how_much_is_frozen(learner):
    learn = learner()
    with safe_open(save_stage(learn, 'a'), 'pt') as f:
        assert json.loads(f.metadata()['stage']) == dict(format_version=1, frozen=2)
        assert set(f.keys()) == set(learn.model.state_dict())


@pytest.fixture
def saved(learner):
    "A learner with a stage `a`, and its file"
    learn = learner()
    return learn, save_stage(learn, 'a')


@pytest.mark.parametrize('spoilt', [lambda data: b'', lambda data: data[:100], lambda data: data[:-1], lambda data: data + b'0',
                                    lambda data: b'\x80\x04' + data])
def test_a_torn_stage_is_refused_and_changes_nothing(saved, spoilt):
    learn, file = saved
    file.write_bytes(spoilt(file.read_bytes()))
    fine_tune(learn, 1, 1e-2)
    before = fingerprint(learn.model)
    with pytest.raises(ValueError, match='a.safetensors is not a complete safetensors file'): load_stage(learn, 'a')
    assert fingerprint(learn.model) == before and frozen_groups(learn) == 0


@pytest.mark.parametrize('meta', [None, {'format': 'pt'}])
def test_a_safetensors_file_of_others_is_refused(saved, meta):
    learn, file = saved
    save_file(load_file(file), file, metadata=meta)
    with pytest.raises(ValueError, match='a.safetensors contains no stage'): load_stage(learn, 'a')


@pytest.mark.parametrize('change, said', [
    (lambda state: {k: v for k, v in state.items() if k != '1.3.weight'}, '1 tensors differ .* first: 1.3.weight'),
    (lambda state: state | {'more': torch.zeros(1)}, '1 tensors differ .* first: more'),
    (lambda state: state | {'1.3.weight': torch.zeros(4, 512)}, '1 tensors differ .* first: 1.3.weight'),
])
def test_other_tensors_are_refused(saved, change, said):
    learn, file = saved
    told, state = read_tensors(file, 'stage')
    write_tensors(file, 'stage', told, change(state))
    with pytest.raises(ValueError, match=f'a.safetensors belongs to another network: {said}'): load_stage(learn, 'a')


@pytest.mark.parametrize('damage', [
    lambda data: data[:-1], lambda data: data[:9000] + bytes(1000) + data[10000:], lambda data: b'',
    lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]])
def test_a_damaged_stage_is_refused(saved, damage):
    learn, file = saved
    before = fingerprint(learn.model)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match='a.safetensors is (damaged|not a complete)'): load_stage(learn, 'a')
    assert fingerprint(learn.model) == before


@pytest.mark.parametrize('change', [dict(format_version=99), dict(frozen='1'), dict(frozen=None)])
def test_a_stage_of_another_format_is_refused(saved, change):
    learn, file = saved
    told, state = read_tensors(file, 'stage')
    write_tensors(file, 'stage', told | change, state)
    with pytest.raises(ValueError, match='not a stage that this version reads'): load_stage(learn, 'a')


def test_a_stage_of_an_older_version_without_a_hash_is_read(saved):
    learn, file = saved
    with safe_open(file, 'pt') as f: meta = f.metadata()
    save_file(load_file(file), file, metadata={'stage': meta['stage'].replace('"format_version": 2', '"format_version": 1')})
    load_stage(learn, 'a')


def test_a_stage_of_other_classes_or_of_another_architecture_is_refused(saved, tiny_table):
    learn, _ = saved
    dls = loaders(tiny_table[tiny_table.label != 'red'], size=32, bs=4)
    for other in pet_learner(dls, 'test_resnet', 'none'), pet_learner(learn.dls, 'test_efficientnet', 'none'):
        other.path, before = learn.path, fingerprint(other.model)
        with pytest.raises(ValueError, match='belongs to another network'): load_stage(other, 'a')
        assert fingerprint(other.model) == before


def test_a_stage_that_is_not_there_is_refused_with_those_that_are(saved):
    learn, _ = saved
    with pytest.raises(FileNotFoundError, match="no stage 'b'; saved stages: a$"): load_stage(learn, 'b')
    learn.model_dir = 'elsewhere'
    with pytest.raises(FileNotFoundError, match="saved stages: none$"): load_stage(learn, 'a')


@pytest.mark.parametrize('name', ['../a', 'a/b', '/a', '', '.', '..'])
def test_a_name_with_folders_is_refused(learner, name):
    learn = learner()
    for func in stage_file, save_stage, load_stage:
        with pytest.raises(ValueError, match='expected a plain name'): func(learn, name)
    assert not any(learn.path.iterdir()) and not (learn.path.parent/'a.safetensors').exists()


def test_a_full_disk_leaves_the_old_stage(saved, monkeypatch):
    learn, file = saved
    kept, data = fingerprint(learn.model), file.read_bytes()
    fine_tune(learn, 1, 1e-2, keep_best=False)
    def full(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space left'): save_stage(learn, 'a')
    assert [f.name for f in file.parent.iterdir()] == ['a.safetensors'] and file.read_bytes() == data
    load_stage(learn, 'a')
    assert fingerprint(learn.model) == kept


def test_saving_again_replaces(saved):
    learn, file = saved
    first = fingerprint(learn.model)
    fine_tune(learn, 1, 1e-2, keep_best=False)
    kept = fingerprint(learn.model)
    save_stage(learn, 'a')
    fine_tune(learn, 1, 1e-2, keep_best=False)
    load_stage(learn, 'a')
    assert fingerprint(learn.model) == kept != first and frozen_groups(learn) == 0
