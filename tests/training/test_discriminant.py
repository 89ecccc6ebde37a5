"The discriminant is the one of the formula, by either of two systems, whatever the classes look like; its confidence is honest."
import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss

from pet_classifier.training.discriminant import discriminant_temperature, fit_discriminant


def rows(n, p, k=4, seed=0, apart=1.):
    "`n` rows of `p` features, of `k` classes in turn"
    g, targets = torch.Generator().manual_seed(seed), torch.arange(n) % k
    centers = apart*torch.randn(k, p, generator=torch.Generator().manual_seed(99))
    return centers[targets] + torch.randn(n, p, generator=g), targets


def by_formula(x, y, k, shrinkage):
    "Logits of the rows themselves, from the whole covariance, as the textbook has them"
    x, n = x.double().numpy(), len(x)
    means = np.stack([x[y == c].mean(0) for c in range(k)])
    d = x - means[y]
    cov, dims = d.T@d/n, min(n - 1, (np.ptp(x, axis=0) > 0).sum())
    inverse = np.linalg.inv((1-shrinkage)*cov + shrinkage*np.trace(cov)/dims*np.eye(x.shape[1]))
    return x@inverse@means.T - np.einsum('kp,pq,kq->k', means, inverse, means)/2 + np.log(np.bincount(y, minlength=k)/n)


def logits(x, weight, bias): return (x@weight.T + bias).numpy()


def centered(z): return z - z.mean(1, keepdims=True)


@pytest.mark.parametrize('shrinkage', [0.05, 0.4, 1.])
@pytest.mark.parametrize('n, p', [(9, 60), (30, 60), (59, 60), (60, 60), (61, 60), (3000, 60), (7, 1), (40, 2)])
def test_logits_are_those_of_the_formula_up_to_what_softmax_does_not_see(n, p, shrinkage):
    x, y = rows(n, p)
    ours = centered(logits(x, *fit_discriminant(x, y, 4, shrinkage)))
    theirs = centered(by_formula(x, y, 4, shrinkage))
    assert np.allclose(ours, theirs, atol=1e-4*max(1, abs(theirs).max()))


def test_logits_are_those_of_scikit_learn_where_all_features_vary_and_rows_are_many():
    x, y = rows(400, 20)
    x, y = x[17:], y[17:]  # classes of unequal size
    theirs = LinearDiscriminantAnalysis(solver='eigen', shrinkage=0.4).fit(x, y).decision_function(x)
    assert np.allclose(centered(logits(x, *fit_discriminant(x, y, 4))), centered(theirs), atol=1e-3)


@pytest.mark.parametrize('n', [20, 3000])
def test_a_feature_that_never_varies_has_no_weight_and_changes_nothing(n):
    x, y = rows(n, 30)
    more = torch.cat([x, torch.full((n, 5), 7.)], 1)
    weight, bias = fit_discriminant(more, y, 4)
    assert weight[:, 30:].abs().max() < 1e-5
    assert np.allclose(centered(logits(more, weight, bias)), centered(logits(x, *fit_discriminant(x, y, 4))), atol=1e-2)


def test_features_far_from_zero_cost_no_precision():
    x, y = rows(40, 60)
    near, far = (logits(x + shift, *fit_discriminant(x + shift, y, 4)) for shift in (0, 100))
    assert np.allclose(centered(near), centered(far), atol=2e-2*abs(near).max())


@pytest.mark.parametrize('n', [12, 600])
def test_the_scale_of_the_features_does_not_matter(n):
    x, y = rows(n, 50)
    assert np.allclose(logits(x, *fit_discriminant(x, y, 4)), logits(1000*x, *fit_discriminant(1000*x, y, 4)), atol=1e-2)


@pytest.mark.parametrize('n', [1, 2, 5])
def test_one_image_per_class_is_enough_to_know_them_again(n):
    x, y = torch.randn(n, 30, generator=torch.Generator().manual_seed(1)), torch.arange(n)
    weight, bias = fit_discriminant(x, y, n)
    assert weight.isfinite().all() and bias.isfinite().all() and (logits(x, weight, bias).argmax(1) == y.numpy()).all()
    assert discriminant_temperature(x, y, n) == 1


def test_a_class_of_one_image_among_larger_ones_is_known_again():
    x, y = rows(41, 60, apart=2.)
    y[-1] = 4
    x[-1] += 5
    weight, bias = fit_discriminant(x, y, 5)
    assert logits(x, weight, bias)[-1].argmax() == 4
    assert 0.05 < discriminant_temperature(x, y, 5) < 20


def test_equal_images_leave_nothing_but_how_frequent_classes_are():
    x, y = torch.full((8, 5), 0.3), torch.tensor([0]*6 + [1]*2)
    weight, bias = fit_discriminant(x, y, 2)
    assert weight.abs().max() == 0 and bias.softmax(0).tolist() == pytest.approx([0.75, 0.25])


def test_copies_of_one_image_per_class_count_as_that_image():
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 0)
    weight, bias = fit_discriminant(x, torch.arange(3).repeat_interleave(4), 3)
    assert weight.isfinite().all() and (logits(x, weight, bias).argmax(1) == np.arange(3).repeat(4)).all()


@pytest.mark.parametrize('n', [24, 3000])
@pytest.mark.parametrize('lost', [0, 2, 3])
def test_a_class_without_images_never_wins_and_is_a_number(n, lost):
    x, y = rows(n, 60)
    x, y = x[y != lost], y[y != lost]
    weight, bias = fit_discriminant(x, y, 4)
    z = logits(x, weight, bias)
    assert np.isfinite(z).all() and weight[lost].abs().max() == 0 and (z[:, lost] <= z.min(1) + 1e-4).all()
    there = [c for c in range(4) if c != lost]
    alone = logits(x, *fit_discriminant(x, torch.searchsorted(torch.tensor(there), y), 3))
    assert np.allclose(z[:, there], alone, atol=1e-4*abs(alone).max())


def test_frequent_classes_are_more_probable_unless_class_weight_evens_them_out():
    x, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0]*30 + [1]*10)
    bias = fit_discriminant(x, y, 2)[1]
    even = fit_discriminant(x, y, 2, class_weight=torch.tensor([20/30, 20/10]))[1]
    assert ((bias[0] - bias[1]) - (even[0] - even[1])).item() == pytest.approx(np.log(3), abs=1e-4)


def test_shrinking_entirely_is_the_nearest_mean():
    x, y = rows(40, 60)
    means = torch.stack([x[y == c].mean(0) for c in range(4)])
    z = logits(new := rows(200, 60, seed=5)[0], *fit_discriminant(x, y, 4, shrinkage=1.))
    assert (z.argmax(1) == torch.cdist(new, means).argmin(1).numpy()).all()


@pytest.mark.parametrize('n', [20, 5000])
def test_weights_are_float32_on_the_shape_of_a_linear_layer_and_leave_the_rows(n):
    x, y = rows(n, 30)
    before = x.clone()
    weight, bias = fit_discriminant(x, y, 4)
    assert (weight.shape, bias.shape, weight.dtype, bias.dtype) == ((4, 30), (4,), torch.float32, torch.float32)
    assert torch.equal(x, before)


@pytest.mark.parametrize('kwargs, why', [
    (dict(shrinkage=0), 'shrinkage=0: expected a number above 0'), (dict(shrinkage=1.1), 'shrinkage=1.1'),
    (dict(n_classes=3), 'targets from 0 to 3: expected 0 to 2'), (dict(targets=torch.zeros(5).long()), r'targets \(5,\)'),
    (dict(features=torch.zeros(0, 3), targets=torch.zeros(0).long()), 'expected one row per target'),
    (dict(features=torch.full((8, 3), torch.nan)), 'NaN or infinity')])
def test_what_makes_no_sense_is_refused(kwargs, why):
    x, y = rows(8, 3)
    with pytest.raises(ValueError, match=why): fit_discriminant(**dict(features=x, targets=y, n_classes=4) | kwargs)


@pytest.mark.parametrize('n', [40, 80, 400])
def test_the_temperature_makes_the_confidence_honest_on_new_rows(n):
    (x, y), (new, truth) = rows(n, 150, apart=0.3), rows(2000, 150, seed=7, apart=0.3)
    t = discriminant_temperature(x, y, 4)
    z = logits(new, *fit_discriminant(x, y, 4))
    raw, scaled = (log_loss(truth, softmax(z/t, axis=1)) for t in (1, t))
    best = min(log_loss(truth, softmax(z/t, axis=1)) for t in np.geomspace(0.3, 30, 60))
    assert t > 1 and scaled < raw and scaled < best + 0.15


def test_the_temperature_leaves_the_random_state_and_is_the_same_each_time(same_random_state):
    x, y = rows(30, 60, apart=0.3)
    with same_random_state(): t = discriminant_temperature(x, y, 4)
    assert t == discriminant_temperature(x, y, 4) != discriminant_temperature(x, y, 4, seed=3)
