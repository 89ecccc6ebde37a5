"Augmentation stays within its limits, and validation images are not changed."
import random
from math import atan2, degrees

import numpy as np
import pytest
import torch
from fastai.torch_core import TensorCategory, no_random
from fastai.vision.core import TensorImage

from pet_classifier.data.augment import Augment, affine_matrices, brightness_contrast, default_augment, warp
from pet_classifier.data.crops import load_crop
from pet_classifier.data.loaders import loaders

NEUTRAL = dict(do_flip=False, max_rotate=0., max_zoom=1., max_warp=0., min_scale=1.)


def some(n=4, side=16, seed=0): return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def where(m, x, y):
    "Return the input position that each matrix samples for the output position (x, y)"
    at = m @ torch.tensor([x, y, 1.])
    return at[:, :2]/at[:, 2:]


@pytest.mark.parametrize('n, side, size', [(1, 16, 16), (5, 37, 32), (3, 8, 20)])
def test_shapes(n, side, size):
    x = Augment(size)(TensorImage(some(n, side)), split_idx=0)
    assert type(x) is TensorImage and x.shape == (n, 3, size, size) and x.dtype == torch.float32
    assert affine_matrices(n).shape == (n, 3, 3)


def test_default_augment_passes_its_arguments():
    transform, = default_augment(24, do_flip=False, max_rotate=3.)
    assert isinstance(transform, Augment) and transform.size == 24 and not transform.do_flip
    assert transform.affine['max_rotate'] == 3 and transform.affine['max_warp'] == 0.2


def test_an_unknown_keyword_is_refused():
    for make in Augment, default_augment:
        with pytest.raises(TypeError, match="expected one of size, min_scale"): make(24, max_rotation=3)


def test_neutral_settings_change_nothing():
    assert torch.allclose(affine_matrices(50, **NEUTRAL), torch.eye(3).expand(50, 3, 3))
    assert torch.allclose(affine_matrices(50, do_flip=False, min_scale=1., p_affine=0.), torch.eye(3).expand(50, 3, 3))
    x = TensorImage(some())
    assert torch.allclose(Augment(16, max_lighting=0., **NEUTRAL)(x, split_idx=0), x, atol=1e-5)
    assert torch.allclose(Augment(16, p_lighting=0., **NEUTRAL)(x, split_idx=0), x, atol=1e-5)


@pytest.mark.parametrize('matrix, same', [
    ([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], lambda x: x.flip(-1)), ([[1, 0, 0], [0, -1, 0], [0, 0, 1]], lambda x: x.flip(-2)),
    ([[0, -1, 0], [1, 0, 0], [0, 0, 1]], lambda x: x.rot90(1, (-2, -1))), ([[2, 0, 0], [0, 2, 0], [0, 0, 2]], lambda x: x)])
def test_a_flip_and_a_rotation_by_90_degrees_are_exact(matrix, same):
    x, m = some(), torch.tensor(matrix, dtype=torch.float32)
    assert torch.allclose(warp(x, m.expand(4, 3, 3), 16), same(x), atol=1e-5)
    assert not torch.allclose(warp(x, m.expand(4, 3, 3), 16), x.flip(-1, -2), atol=1e-1)


def test_a_crop_of_half_the_image():
    x = some(1, 16)
    left_top = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5], [0, 0, 1]]])
    assert torch.allclose(warp(x, left_top, 8), x[:, :, :8, :8], atol=1e-5)


def test_each_image_is_warped_by_its_own_matrix():
    x = some(2)
    m = torch.stack([torch.eye(3), torch.diag(torch.tensor([-1., 1, 1]))])
    assert torch.allclose(warp(x, m, 16), torch.stack([x[0], x[1].flip(-1)]), atol=1e-5)


@pytest.mark.parametrize('pad_mode, beyond', [('zeros', 0.), ('border', 1.), ('reflection', 1.)])
def test_padding_beyond_the_edge(pad_mode, beyond):
    far_right = torch.tensor([[[1., 0, 1.5], [0, 1, 0], [0, 0, 1]]])
    x = torch.zeros(1, 1, 16, 16)
    x[..., -1:] = 1.  # bright at the edge only
    out = warp(x, far_right, 16, pad_mode)[0, 0, 8]
    assert out[4] == beyond if pad_mode != 'reflection' else out[3:5].max() == 1
    assert (out[8:] == (0 if pad_mode != 'border' else 1)).all()


def test_about_half_are_flipped_and_none_with_do_flip_false():
    with no_random(0):
        assert 0.4 < (torch.linalg.det(affine_matrices(1000, max_warp=0.)) < 0).float().mean() < 0.6
        assert (torch.linalg.det(affine_matrices(1000, do_flip=False)) > 0).all()


def test_do_flip_false_never_flips_a_batch():
    x = torch.zeros(64, 3, 16, 16)
    x[..., :8] = 1.  # bright on the left
    with no_random(0):
        plain, mirrored = (Augment(16, do_flip=f)(TensorImage(x), split_idx=0).mean((1, 2)) for f in (False, True))
    assert (plain[:, :4].mean(1) > plain[:, -4:].mean(1)).all()
    assert 16 < (mirrored[:, :4].mean(1) < mirrored[:, -4:].mean(1)).sum() < 48


@pytest.mark.parametrize('low', [0.3, 0.75])
def test_crops_respect_min_scale_and_the_image_borders(low):
    with no_random(0): m = affine_matrices(1000, **NEUTRAL | dict(min_scale=low))
    part = m[:, 0, 0]
    assert torch.equal(part, m[:, 1, 1]) and (part**2 >= low - 1e-5).all() and (part <= 1).all()
    assert (part**2).min() < low + 0.02 and (part**2).max() > 0.98  # and from one end to the other
    for x, y in (-1, -1), (1, 1): assert (where(m, x, y).abs() <= 1 + 1e-5).all()
    assert m[:, 0, 2].std() > 0.03 and m[:, 1, 2].std() > 0.03 and abs(m[:, 0, 2].mean()) < 0.02


def test_rotations_respect_max_rotate():
    with no_random(0): m = affine_matrices(1000, **NEUTRAL | dict(max_rotate=10.), p_affine=1.)
    angles = torch.tensor([degrees(atan2(b, a)) for a, b in zip(m[:, 0, 0].tolist(), m[:, 1, 0].tolist())])
    assert 9.5 < angles.abs().max() <= 10 + 1e-3 and angles.min() < -9 and angles.max() > 9
    assert torch.allclose(m @ m.transpose(1, 2), torch.eye(3).expand_as(m), atol=1e-5)


def test_zooms_respect_max_zoom():
    with no_random(0): closer = 1/affine_matrices(1000, **NEUTRAL | dict(max_zoom=1.3), p_affine=1.)[:, 0, 0]
    assert closer.min() >= 1 - 1e-5 and 1.28 < closer.max() <= 1.3 + 1e-5


def test_a_warp_enlarges_one_edge_and_shrinks_the_opposite_one():
    with no_random(0): m = affine_matrices(2000, **NEUTRAL | dict(max_warp=0.2), p_affine=0.5)
    upright = m[m[:, 0, 2] == 0]  # only vertical warps
    share = upright[:, 1, 2]
    assert len(upright) > 500 and 0.18 < share.abs().max() <= 0.2
    for x in -1, 1:
        assert torch.allclose(where(upright, x, 1), torch.stack([x*(1-share), torch.ones_like(share)], 1), atol=1e-5)
        assert torch.allclose(where(upright, x, -1), torch.stack([x*(1+share), -torch.ones_like(share)], 1), atol=1e-5)
    sideways = m[m[:, 1, 2] == 0]
    share = sideways[:, 0, 2]
    assert len(sideways) > 500 and 0.18 < share.abs().max() <= 0.2
    for y in -1, 1: assert torch.allclose(where(sideways, 1, y), torch.stack([torch.ones_like(share), y*(1-share)], 1), atol=1e-5)


@pytest.mark.parametrize('p', [0., 0.3, 1.])
def test_p_affine_is_the_probability_of_rotation_zoom_and_warp(p):
    with no_random(0):
        turned = affine_matrices(1000, **NEUTRAL | dict(max_rotate=10.), p_affine=p)[:, 0, 1] != 0
        zoomed = affine_matrices(1000, **NEUTRAL | dict(max_zoom=1.2), p_affine=p)[:, 0, 0] != 1
        warped = affine_matrices(1000, **NEUTRAL | dict(max_warp=0.2), p_affine=p)[:, 2, 0] != 0
    for happened in turned, zoomed, warped: assert abs(happened.float().mean() - p) < 0.06


def test_brightness_and_contrast_respect_max_lighting():
    with no_random(0): flat = brightness_contrast(torch.full((1000, 3, 4, 4), 0.5), 0.2, 1.)
    assert torch.allclose(flat, flat[:, :1, :1, :1].expand_as(flat), atol=1e-6)  # contrast does not change a uniform image
    bright = flat[:, 0, 0, 0]/0.5
    assert 0.8 - 1e-5 <= bright.min() < 0.82 and 1.18 < bright.max() <= 1.2 + 1e-5
    x = some(1000, 4)*0.4 + 0.3
    with no_random(0): lit = brightness_contrast(x, 0.2, 1.)
    contrast = lit.std((1, 2, 3))/x.std((1, 2, 3))/(lit.mean((1, 2, 3))/x.mean((1, 2, 3)))
    assert 0.79 < contrast.min() < 0.83 and 1.17 < contrast.max() < 1.21
    with no_random(0): extreme = brightness_contrast(some(100, 4), 0.9, 1.)
    assert extreme.min() == 0 and extreme.max() == 1


def test_p_lighting_is_the_probability_of_brightness_and_contrast():
    with no_random(0): same = (brightness_contrast(torch.full((2000, 3, 2, 2), 0.5), 0.2, 0.3) == 0.5).all(3).all(2).all(1)
    assert abs(same.float().mean() - 0.7) < 0.05
    x = some()
    assert torch.allclose(brightness_contrast(x, 0.), x, atol=1e-6)
    assert torch.allclose(brightness_contrast(x, 0.5, 0.), x, atol=1e-6)


def test_brightness_contrast_does_not_change_its_input():
    x = some()
    before = x.clone()
    brightness_contrast(x, 0.9, 1.)
    assert torch.equal(x, before)


@pytest.mark.parametrize('seed', [0, 1])
def test_output_is_between_0_and_1(seed):
    with no_random(seed): x = Augment(32)(TensorImage((some(32, 37) > 0.5).float()), split_idx=0)
    assert x.min() >= 0 and x.max() <= 1 and not x.isnan().any() and x.std() > 0.1


def test_output_depends_on_torchs_seed_only():
    x, t = TensorImage(some()), Augment(16)
    def out(seed):
        torch.manual_seed(seed)
        random.seed(None), np.random.seed(None)
        return t(x, split_idx=0)
    with no_random():
        states = random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
        torch.manual_seed(1)
        one = t(x, split_idx=0)
        assert (random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]) == states
        assert torch.equal(out(1), one) and not torch.allclose(out(2), one, atol=1e-2)
        assert not torch.allclose(t(x, split_idx=0), t(x, split_idx=0), atol=1e-2)


def test_validation_images_and_labels_are_not_changed():
    x, y = TensorImage(some()), TensorCategory(torch.arange(4))
    assert Augment(16)(x, split_idx=1) is x
    moved, labels = Augment(16)((x, y), split_idx=0)
    assert torch.equal(labels, y) and not torch.allclose(moved, x, atol=1e-2)


def test_in_loaders_training_images_are_augmented_and_validation_images_are_not(tiny_table):
    dls = loaders(tiny_table, size=32, bs=12)
    plain = {dl: torch.stack([load_crop(f, 32) for f in dl.dataset.items.file])/255 for dl in dls.loaders}
    valid = dls.valid.one_batch()[0]
    assert torch.equal(valid, plain[dls.valid]) and torch.equal(dls.valid.one_batch()[0], valid)
    train = dls.train.new(shuffle=False).one_batch()[0]
    assert train.shape == (12, 3, 32, 32) and ((train - plain[dls.train]).abs().mean((1, 2, 3)) > 1e-2).all()
