"What the notebooks say about the original lesson, the data set and statistics, worked out."
import pytest

from pet_classifier.evaluation.calibration import error_interval

# error rates that the original lesson printed, to as many digits as are known
PRINTED = dict(resnet34=(1503, 0.069195, [0.0912, 0.0772, 0.0745, 0.0692, 0.0645, 0.0652]),
               resnet50=(1517, 0.044166, [0.0850, 0.0481, 0.0508, 0.0494, 0.0442]))
IMAGES = 7390


def whole(rate, n, digits):
    "Is `rate`, rounded to `digits`, a whole number of errors among `n` images?"
    return round(round(rate*n)/n, digits) == rate


@pytest.mark.parametrize('network', PRINTED)
def test_six_digits_give_away_the_number_of_validation_images(network):
    n, rate, _ = PRINTED[network]
    assert [m for m in range(1400, 1600) if whole(rate, m, 6)] == [n]


@pytest.mark.parametrize('network', PRINTED)
def test_the_other_rates_fit_that_number_and_not_a_fifth_of_all_images(network):
    n, _, rates = PRINTED[network]
    assert all(whole(rate, n, 4) for rate in rates)
    assert not all(whole(rate, IMAGES//5, 4) for rate in rates)
    assert abs(n - 0.2*IMAGES) < 2*(IMAGES*0.2*0.8)**0.5  # each image drawn with probability 0.2


def test_the_two_networks_were_validated_on_different_images():
    (n, _, rates), (m, _, others) = PRINTED.values()
    assert not all(whole(r, m, 4) for r in rates) and not all(whole(r, n, 4) for r in others)


def test_images_without_an_error_that_show_a_rate_below_one_percent():
    assert next(n for n in range(1, 1000) if 0.99**n < 0.05) == 299  # one-sided; the rule of three says 300
    assert next(n for n in range(1, 1000) if error_interval(0, n)[1] < 0.01) == 381  # two-sided, Wilson
