"How sure, how right, and how sure to be about that."
import numpy as np
import pytest
from scipy.special import softmax

from pet_classifier.evaluation.calibration import (
    at_temperature,
    calibrate,
    calibration_error,
    confidence_bins,
    error_interval,
    fit_temperature,
    out_of_fold,
)


@pytest.fixture
def asked():
    "Probabilities that are what happens, and what happened"
    rng = np.random.default_rng(1)
    probs = rng.dirichlet([.5]*4, 1500)
    return probs, np.array([rng.choice(4, p=p) for p in probs])


@pytest.mark.parametrize('errors, n, low, high', [
    (0, 10, 0., .2775), (10, 10, .7225, 1.), (4, 74, .0212, .1307), (148, 1478, .0859, .1165)])
def test_wilsons_interval_is_that_of_the_textbooks(errors, n, low, high):
    assert error_interval(errors, n) == pytest.approx((low, high), abs=1e-3)


@pytest.mark.parametrize('errors, n', [(-1, 5), (6, 5), (0, 0)])
def test_an_interval_of_nonsense_is_refused(errors, n):
    with pytest.raises(ValueError, match=f'errors={errors}, n={n}'): error_interval(errors, n)


def test_certainty_is_in_the_last_bin_and_empty_bins_are_left_out():
    probs = np.array([[1., 0], [.55, .45], [.5, .5]])
    rows = confidence_bins(probs, np.array([0, 1, 0]))
    assert rows['count'].tolist() == [2, 1] and rows.low.tolist() == [.5, .9] and rows.accuracy.tolist() == [.5, 1.]
    assert calibration_error(probs, np.array([0, 1, 0])) == pytest.approx((2*abs(.525-.5) + 0)/3)


@pytest.mark.parametrize('power', [.4, 1., 2.5])
def test_the_temperature_that_was_put_in_is_found_and_taken_out(asked, power):
    probs, truth = asked
    said = softmax(power*np.log(probs + 1e-12), 1)
    assert fit_temperature(said, truth) == pytest.approx(power, rel=.15)
    if power != 1:
        c = calibrate(said, truth)
        assert c.ece_scaled < c.ece/2 and c.log_loss_scaled < c.log_loss


def test_no_image_is_judged_at_a_temperature_it_helped_to_fit(asked):
    probs, truth = (a[:40] for a in asked)
    before = out_of_fold(probs, truth)
    for i in range(0, 40, 9):
        other = truth.copy()
        other[i] = (truth[i] + 1) % 4  # had it been fitted on this one, its own probabilities would change
        assert out_of_fold(probs, other)[i] == pytest.approx(before[i], abs=0)


def test_a_few_right_answers_do_not_make_it_certain():
    assert 0.1 < fit_temperature(np.array([[.99, .01]]*3), np.zeros(3, int)) <= 1
    assert np.isfinite(at_temperature(np.array([[1., 0]], np.float32), 2.)).all()


@pytest.mark.parametrize('temperature', [0, -1, float('nan')])
def test_a_temperature_is_above_0(temperature):
    with pytest.raises(ValueError, match='above 0'): at_temperature(np.ones((1, 2))/2, temperature)
