"Intervals of an error rate: with groups, and for images to come."
import numpy as np
import pytest

from pet_classifier.evaluation.calibration import error_interval
from pet_classifier.evaluation.intervals import effective_images, grouped_interval, prediction_interval


@pytest.mark.parametrize('wrong, n', [(0, 10), (1, 7), (26, 259), (259, 259)])
def test_without_groups_it_is_wilsons(wrong, n):
    flags = np.arange(n) < wrong
    assert grouped_interval(flags) == pytest.approx(error_interval(wrong, n))
    assert grouped_interval(flags, np.arange(n)) == pytest.approx(error_interval(wrong, n))


def test_copies_say_nothing_new():
    once = np.arange(200) % 5 == 0
    assert effective_images(np.repeat(once, 3), np.arange(600)//3) == pytest.approx(200, rel=0.01)
    assert grouped_interval(np.repeat(once, 3), np.arange(600)//3) == pytest.approx(grouped_interval(once), abs=1e-3)


def test_groups_whose_images_err_independently_count_in_full():
    wrong = np.random.default_rng(0).random(3000) < 0.2
    assert effective_images(wrong, np.arange(3000)//3) > 2700


def test_without_errors_a_group_counts_once():
    assert effective_images(np.zeros(12), np.arange(12)//4) == 3
    assert grouped_interval(np.zeros(12), np.arange(12)//4)[1] == pytest.approx(error_interval(0, 3)[1])


def test_it_never_counts_more_than_the_images_nor_less_than_one():
    alternate = np.array([0, 1]*20) # each group has one of either: less variance than independent images
    assert effective_images(alternate, np.arange(40)//2) == 40
    assert effective_images(alternate, np.zeros(40)) == 1


@pytest.mark.parametrize('size', [1, 2, 4])
@pytest.mark.slow
def test_the_interval_contains_the_true_rate_95_times_of_100(size):
    "Groups of copies, each right or wrong as a whole: 150 groups, true rate 12 %"
    rng = np.random.default_rng(size)
    flags = [np.repeat(rng.random(150) < 0.12, size) for _ in range(1000)]
    held = [low <= 0.12 <= high for low, high in (grouped_interval(f, np.arange(150*size)//size) for f in flags)]
    assert 0.93 < np.mean(held) < 0.97
    if size == 4: assert np.mean([low <= 0.12 <= high for low, high in map(grouped_interval, flags)]) < 0.75


def test_nothing_has_no_interval():
    with pytest.raises(ValueError, match='at least one'): grouped_interval(np.zeros(0))


@pytest.mark.parametrize('rate', [0.03, 0.1, 0.4])
@pytest.mark.parametrize('m', [37, 74, 1000])
def test_the_prediction_interval_contains_what_comes_95_times_of_100(rate, m):
    rng = np.random.default_rng(m)
    measured, later = rng.binomial(185, rate, 2000)/185, rng.binomial(m, rate, 2000)/m
    held = [low <= r <= high for r, (low, high) in zip(later, (prediction_interval(p, 185, m) for p in measured), strict=True)]
    assert 0.925 < np.mean(held) < 0.985


def test_the_more_new_images_the_closer_to_the_confidence_interval():
    low, high = prediction_interval(0.1, 259, 1_000_000)
    assert (low, high) == pytest.approx(error_interval(26, 259), abs=2e-3)
    assert prediction_interval(0.1, 259, 50)[1] > prediction_interval(0.1, 259, 500)[1] > high


def test_the_prediction_interval_of_no_error_and_of_one_image():
    assert prediction_interval(0., 50, 5)[0] == 0 and prediction_interval(0.5, 10, 1) == (0, 1)
    with pytest.raises(ValueError, match='at least one image each'): prediction_interval(0.1, 0, 5)
