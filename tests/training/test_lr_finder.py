"The finder suggests a rate and leaves nothing behind, whatever happens inside."
import random
import tempfile
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.torch_core import no_random
from matplotlib import pyplot as plt

from pet_classifier.core.progress import history
from pet_classifier.training.learner import pet_learner
from pet_classifier.training.learner_features import training_features
from pet_classifier.training.lr_finder import METHODS, SuggestedRate, find_lr


def numbers(value): return value.detach().numpy().tobytes() if isinstance(value, torch.Tensor) else value


THINGS = dict(
    weights=lambda learn: {k: numbers(v) for k, v in learn.model.named_parameters()},
    batch_norm=lambda learn: {k: numbers(v) for k, v in learn.model.named_buffers()},
    hypers=lambda learn: [dict(h) for h in learn.opt.hypers],
    momentum=lambda learn: [{k: numbers(v) for k, v in learn.opt.state[p].items()} for p, *_ in learn.opt.all_params()],
    frozen=lambda learn: [p.requires_grad for p in learn.model.parameters()] + [learn.opt.frozen_idx],
    gradients=lambda learn: sum(p.grad.abs().sum().item() for p in learn.model.parameters() if p.grad is not None),
    modes_of_the_body=lambda learn: [m.training for m in learn.model[0].modules()],
    modes_of_the_head=lambda learn: [m.training for m in learn.model[1]],
    random_state=lambda learn: random.getstate(),
    numpy_state=lambda learn: [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    torch_state=lambda learn: torch.get_rng_state().tolist(),
    order_of_images=lambda learn: learn.dls.train.rng.getstate(),
    records=lambda learn: {k: list(getattr(learn.recorder, k)) for k in 'lrs losses iters values hps metric_names'.split()},
    path=lambda learn: (learn.path, learn.model_dir),
    files=lambda learn: sorted(f.name for f in [*learn.path.rglob('*'), *learn.scratch.rglob('*')]),
    callbacks=lambda learn: [id(cb) for cb in learn.cbs],
    parts=lambda learn: [id(o) for o in (learn.model, learn.dls, learn.splitter, learn.opt, learn.logger, learn.epoch_table)],
    history=lambda learn: history(learn).to_dict(),
)
STATES = [(frozen, interrupted) for frozen in ('frozen', 'unfrozen') for interrupted in ('done', 'interrupted')]
HEADS = 'linear', 'fastai'


def seen(learn): return {name: thing(learn) for name, thing in THINGS.items()}


@pytest.fixture(scope='module')
def before_and_after(tiny_dls, tiny_weights, tmp_path_factory, raises):
    "What was seen of a learner with a past before and after `find_lr`, frozen or not, that ended well or was interrupted"
    def look(head, frozen, interrupted):
        learn = pet_learner(tiny_dls, 'test_resnet', str(tiny_weights), head=head)
        learn.path, learn.scratch = tmp_path_factory.mktemp('work'), tmp_path_factory.mktemp('temporary')
        (learn.path/'notes.txt').write_text('mine')
        if frozen == 'unfrozen': learn.unfreeze()
        learn.fit_one_cycle(2, slice(1e-4, 1e-3))
        learn.model.train()
        for part in learn.model: part[-1].eval() if part is learn.model[1] else part.model.layer1.eval()
        if interrupted == 'interrupted': learn.add_cb(raises(KeyboardInterrupt, at=17))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, 'tempdir', str(learn.scratch))
            before = seen(learn)
            with pytest.raises(KeyboardInterrupt) if interrupted == 'interrupted' else nullcontext():
                find_lr(learn, steps=30, plot=False)
        return SimpleNamespace(before=before, after=seen(learn))
    return {(head, *state): look(head, *state) for head in HEADS for state in STATES}


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('state', STATES, ids='-'.join)
@pytest.mark.parametrize('thing', THINGS)
def test_is_afterwards_as_it_was(before_and_after, thing, state, head):
    looked = before_and_after[(head, *state)]
    assert looked.after[thing] == looked.before[thing]


def test_there_was_something_to_restore(before_and_after):
    for looked in before_and_after.values():
        was = looked.before
        assert any('grad_avg' in state for state in was['momentum']) and was['records']['values']
        assert all({True, False} == set(was[f'modes_of_the_{part}']) for part in ('body', 'head'))
        assert was['files'] == ['notes.txt'] and len({h['lr'] for h in was['hypers']}) > 1


@pytest.mark.parametrize('state', STATES, ids='-'.join)
def test_an_optimizer_that_was_not_there_is_not_there_afterwards(learner, raises, state):
    learn = learner()
    if state[0] == 'unfrozen': learn.unfreeze()
    learn.opt = None
    with pytest.raises(KeyboardInterrupt) if state[1] == 'interrupted' else nullcontext():
        if state[1] == 'interrupted': learn.add_cb(raises(KeyboardInterrupt))
        find_lr(learn, steps=30, plot=False)
    assert learn.opt is None


@pytest.mark.parametrize('state', STATES, ids='-'.join)
def test_records_and_gradients_that_were_not_there_are_not_there_afterwards(learner, raises, state):
    learn = learner()
    if state[0] == 'unfrozen': learn.unfreeze()
    before = set(vars(learn.recorder))
    with pytest.raises(KeyboardInterrupt) if state[1] == 'interrupted' else nullcontext():
        if state[1] == 'interrupted': learn.add_cb(raises(KeyboardInterrupt))
        find_lr(learn, steps=30, plot=False)
    assert 'losses' not in before and set(vars(learn.recorder)) == before
    assert all(p.grad is None for p in learn.model.parameters())


def test_all_is_as_it_was_when_computing_the_features_is_interrupted(learner, same_random_state, fresh_cache):
    learn, passed = learner(), []
    learn.model.train()
    def interrupt(*args):
        passed.append(1)
        raise KeyboardInterrupt
    handle = learn.model[0].register_forward_hook(interrupt)
    names = [name for name in THINGS if name not in ('files', 'momentum', 'hypers', 'frozen', 'records')]
    before = {name: THINGS[name](learn) for name in names}
    with same_random_state(), pytest.raises(KeyboardInterrupt): find_lr(learn, steps=30, plot=False)
    handle.remove()
    assert passed == [1] and {name: THINGS[name](learn) for name in names} == before


@pytest.mark.parametrize('frozen', [True, False])
def test_training_goes_on_as_if_nothing_had_been(learner, frozen):
    def trained(look):
        learn = learner()
        if not frozen: learn.unfreeze()
        with no_random(1):
            learn.fit(1)
            if look: find_lr(learn, steps=30, plot=False)
            learn.fit(1)
        return learn.model.state_dict()
    one, other = trained(True), trained(False)
    assert all(torch.equal(v, other[k]) for k, v in one.items())


def test_the_test_itself_did_train(learner):
    assert np.ptp(find_lr(learner(), steps=30, plot=False).losses) > 0.1


@pytest.mark.parametrize('frozen', [True, False])
def test_only_a_frozen_body_is_computed_once(learner, frozen):
    learn, passed = learner(), []
    training_features(learn)
    if not frozen: learn.unfreeze()
    learn.model[0].register_forward_hook(lambda *args: passed.append(1))
    find_lr(learn, steps=30, plot=False)
    assert (len(passed) == 0) if frozen else (len(passed) > 20)


@pytest.mark.parametrize('frozen', [True, False])
@pytest.mark.parametrize('method', METHODS)
def test_every_method_gives_a_rate_between_start_and_end(learner, method, frozen):
    learn = learner()
    if not frozen: learn.unfreeze()
    rate = find_lr(learn, method, start=1e-6, end=1., steps=40, plot=False)
    assert isinstance(rate, float) and 1e-6 < rate < 1. and rate.method == method
    assert len(rate.lrs) == len(rate.losses) <= 41 and rate.lrs == sorted(rate.lrs)


def test_the_same_seed_gives_the_same_rate_whether_or_not_features_were_there(learner):
    learn = learner()
    one, other = (find_lr(learn, steps=30, plot=False) for _ in range(2))
    assert one.losses == other.losses


def test_a_loss_that_diverges_at_once_is_an_error(learner):
    with pytest.raises(ValueError, match='the loss diverged after .* use a lower start'):
        find_lr(learner(head='fastai'), plot=False, steps=30, start=1., end=1e6)


def test_minimum_suggests_no_rate_that_was_not_tried(learner):
    assert 1e-3 <= find_lr(learner(), 'minimum', start=1e-3, end=1e-2, steps=30, plot=False) <= 1e-2


def test_the_same_seed_gives_the_same_rate(learner):
    learn = learner(head='fastai')
    training_features(learn)
    def found(seed): return find_lr(learn, steps=30, plot=False, seed=seed)
    one, other = found(1), found(1)
    assert one == other and one.losses == other.losses != found(3).losses  # by dropout


@pytest.mark.parametrize('kwargs, said', [
    (dict(method='best'), "method='best': expected one of valley, steep, minimum, slide"),
    (dict(start=0), 'start=0, end=1000.0: expected two rates above 0'),
    (dict(start=-1e-3), 'expected two rates above 0'),
    (dict(start=1e-2, end=1e-3), 'start below end'),
    (dict(start=1e-2, end=1e-2), 'start below end'),
    (dict(start=float('nan')), 'start=nan'),
    (dict(steps=29), 'steps=29: expected at least 30'),
    (dict(steps=-1), 'steps=-1'),
])
def test_what_makes_no_sense_is_refused_before_anything_is_computed(learner, kwargs, said):
    learn = learner()
    with pytest.raises(ValueError, match=said): find_lr(learn, **kwargs)
    assert not hasattr(learn, 'features_key')


def test_the_plot_shows_the_curve_and_the_suggestion():
    rate = SuggestedRate(1e-3, [1e-4, 1e-3, 1e-2, 1e-1], [2., 1.5, 1., 90.], 'steep')
    ax = rate.plot().axes[0]
    curve, dot = ax.lines
    assert curve.get_xdata().tolist() == rate.lrs and (dot.get_xdata()[0], dot.get_ydata()[0]) == (1e-3, 1.5)
    assert ax.get_xscale() == 'log' and ax.get_ylim()[1] < 10 and repr(rate) == '0.001'
    plt.close(ax.figure)


def test_the_plot_leaves_out_the_first_tenth_where_nothing_is_averaged_yet():
    losses = [50., 40., 30., 20.] + [2 - i/50 for i in range(36)]
    rate = SuggestedRate(1e-3, [10**(i/10 - 5) for i in range(40)], losses, 'valley')
    ax = rate.plot().axes[0]
    assert ax.lines[0].get_xdata().tolist() == rate.lrs[4:] and ax.get_ylim()[1] < 3
    plt.close(ax.figure)


@pytest.mark.parametrize('plot, figures', [(True, 1), (False, 0)])
def test_a_plot_is_drawn_when_it_is_asked_for(learner, monkeypatch, plot, figures):
    monkeypatch.setattr(plt, 'show', lambda: None)
    plt.close('all')
    find_lr(learner(), steps=30, plot=plot)
    assert len(plt.get_fignums()) == figures
    plt.close('all')
