"Out of memory: half the batch and the same steps, if the batch size was left to us; an error with the way out, if not."
import warnings

import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.optimizer import SGD

from pet_classifier.core.progress import history
from pet_classifier.data.crops import load_crops
from pet_classifier.data.loaders import loaders
from pet_classifier.model.network import Network
from pet_classifier.training.checkpoint import Checkpoint
from pet_classifier.training.fine_tuning import fine_tune
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner_features import feature_extractor
from pet_classifier.training.lr_finder import find_lr


class Memory(Callback):
    "A GPU whose memory takes `most` images: the `at`-th training batch of more fails, behind its gradients"
    def __init__(self, most, at=1): self.most, self.at, self.sizes, self.n = most, at, [], 0
    def after_backward(self):
        self.sizes.append(len(self.xb[0]))
        self.n += self.sizes[-1] > self.most
        if self.n >= self.at and self.sizes[-1] > self.most:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB. See documentation')


@pytest.fixture
def left_to_us(tiny_table):
    "DataLoaders of 12 training images in batches of 8, a size that the user did not choose"
    dls = loaders(tiny_table, size=32, bs=8, device='cpu')
    dls.bs_given = False
    return dls


def weights(learn): return learn.model.state_dict()


def equal(a, b, **how): return all(torch.allclose(a[k].float(), b[k].float(), **how) for k in a)


@pytest.mark.parametrize('at', [1, 2])
def test_fine_tuning_starts_again_with_half_the_batch_and_makes_the_same_steps(learner, left_to_us, at):
    learn, memory = learner(left_to_us), Memory(4, at)
    learn.add_cb(memory)
    with pytest.warns(UserWarning, match='batches of 8 images do not fit .* batches of 4, and 8 images in each'):
        fine_tune(learn, 2, 1e-3, keep_best=False)
    assert {*memory.sizes} == {8, 4} and len(history(learn)) == 2
    assert learn.dls.train.bs == 8
    assert memory.sizes[at:] == [4]*6  # of 12 images, the third batch of an epoch begins a step that is not made


def test_the_gradients_of_two_halves_are_those_of_the_whole(learner, tiny_table, monkeypatch):
    "At one learning rate: a cycle is followed batch by batch"
    monkeypatch.setattr(Learner, 'fit_one_cycle', lambda self, epochs, lr: self.fit(epochs, lr))
    def trained(cbs):
        dls = loaders(tiny_table, size=32, bs=12, augment=[], device='cpu')
        dls.bs_given = False
        learn = learner(dls, cbs=cbs)
        learn.opt_func, learn.opt = SGD, None
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            fine_tune(learn, 2, 1e-3, keep_best=False)
        return weights(learn)
    assert equal(trained([]), trained([Memory(6)]), atol=1e-5)


def test_weights_and_random_state_are_those_of_a_fit_that_never_failed(learner, tiny_table):
    def trained(at):
        dls = loaders(tiny_table, size=32, bs=8, device='cpu')
        dls.bs_given = False
        learn = learner(dls, cbs=Memory(4, at))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            fine_tune(learn, 2, 1e-2)
        return weights(learn), history(learn).drop(columns='seconds')
    (early, first), (late, second) = trained(1), trained(2)
    assert all(early[k].equal(late[k]) for k in early) and first.equals(second)


@pytest.mark.parametrize('most, bs, said', [
    (4, 8, 'batches of 8 images do not fit .* use a batch size of 4 .bs=4, --bs 4., or leave it out'),
    (1, None, "not even batches of 3 images fit .*device='cpu'")])
def test_an_error_says_which_batch_size_to_try(learner, tiny_table, most, bs, said):
    learn = learner(loaders(tiny_table, size=32, bs=bs, device='cpu'), cbs=Memory(most))
    with warnings.catch_warnings(), pytest.raises(ValueError, match=said) as e:
        warnings.simplefilter('ignore')
        fine_tune(learn, 1, 1e-3)
    assert e.value.__context__ is None


def test_the_head_too(learner):
    learn, memory = learner(), Memory(6)
    learn.add_cb(memory)
    with pytest.warns(UserWarning, match='batches of 64 images do not fit'): fit_head(learn, 2)
    assert memory.sizes[-2:] == [6, 6] and len(history(learn)) == 2
    with pytest.raises(ValueError, match='bs=6'): fit_head(learn, 2, bs=12)


def test_a_resumed_fit_is_resumed_again_with_half_the_batch(learner, left_to_us, tmp_path, raises):
    file = tmp_path/'last.safetensors'
    with pytest.raises(KeyboardInterrupt):
        fine_tune(learner(left_to_us, cbs=raises(KeyboardInterrupt, at=3)), 4, 1e-3, checkpoint=Checkpoint(file))
    learn, memory = learner(left_to_us), Memory(4)
    learn.add_cb(memory)
    with pytest.warns(UserWarning, match='batches of 8'): fine_tune(learn, 4, 1e-3, checkpoint=Checkpoint(file, resume=True))
    assert len(history(learn)) == 4 and memory.sizes == [8] + [4]*3*2


@pytest.fixture
def body_memory(monkeypatch):
    "A function that limits the memory for features to so many images, and returns the sizes of the batches that are tried"
    def limit(most):
        sizes, really = [], Network.pooled
        def pooled(self, x, pool):
            sizes.append(len(x))
            if len(x) > most: raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')
            return really(self, x, pool)
        monkeypatch.setattr(Network, 'pooled', pooled)
        return sizes
    return limit


def test_features_are_computed_in_smaller_parts_and_each_image_is_decoded_once(learner, tiny_table, body_memory, monkeypatch):
    extractor, files = feature_extractor(learner(precision='fp32')), tiny_table.file.tolist()
    expected, sizes, loaded = extractor.compute(files), body_memory(3), []
    def noted(files, size): return loaded.extend(files) or load_crops(files, size)
    monkeypatch.setattr('pet_classifier.model.features.load_crops', noted)
    with pytest.warns(UserWarning) as told: features = extractor.compute(files, bs=12)
    assert torch.allclose(features, expected, atol=1e-5) and loaded == files
    assert sizes == [12, 6] + [3]*6  # of the last six images, no more than three are tried
    assert [str(w.message) for w in told] == [f'batches of {n} images do not fit into the memory of cpu: features are computed '
                                              f'in batches of {n//2}' for n in (12, 6)]


def test_where_no_image_fits_the_error_says_what_to_do(learner, tiny_table, body_memory):
    learn, _ = learner(), body_memory(0)
    with warnings.catch_warnings(), pytest.raises(ValueError, match='not even one image of 32 pixels fits .*smaller') as e:
        warnings.simplefilter('ignore')
        feature_extractor(learn).compute(tiny_table.file)
    assert e.value.__context__ is None


def test_the_finder_makes_the_same_steps_with_half_the_batch_and_restores_everything(learner, tiny_table):
    "Without batch norm in training, dropout and augmentation, the halves of a batch make the same step"
    def found(most):
        dls = loaders(tiny_table, size=32, bs=12, augment=[], device='cpu')
        dls.bs_given = False
        learn = learner(dls, cbs=[memory := Memory(most)], precision='fp32')
        learn.opt_func, learn.opt = SGD, None
        learn.unfreeze()
        before, opt = {k: v.clone() for k, v in weights(learn).items()}, learn.opt
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            rate = find_lr(learn, steps=40, end=1e-2, plot=False)
        assert equal(weights(learn), before) and learn.dls.train.bs == 12 and learn.opt is opt
        return rate, memory.sizes
    (whole, sizes), (halves, tried) = found(12), found(6)
    assert {*sizes} == {12} and tried[0] == 12 and {*tried[1:]} == {6} and len(tried) - 1 == 2*len(sizes)
    assert len(whole.losses) == len(halves.losses) == 40
    assert halves.lrs == pytest.approx(whole.lrs, rel=0.2)
    assert halves.losses == pytest.approx(whole.losses, rel=0.2)


def test_the_finder_leaves_a_batch_size_that_was_given(learner, tiny_table):
    learn = learner(loaders(tiny_table, size=32, bs=8, device='cpu'), cbs=Memory(4))
    learn.unfreeze()
    with pytest.raises(ValueError, match='bs=4'): find_lr(learn, steps=30, plot=False)
    assert learn.dls.train.bs == 8
