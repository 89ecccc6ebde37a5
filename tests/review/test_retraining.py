"The comparison of before and after is fair: same images, same folds, corrected labels."
import numpy as np
import pytest

from pet_classifier.review.retraining import compare_labels


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    features = np.repeat(4*np.eye(3, 6), 20, 0) + rng.normal(size=(60, 6))
    return features.astype(np.float32), np.repeat(list('abc'), 20).astype(object)


def names(n): return [f'{i:02}.jpg' for i in range(n)]


def test_corrections_lower_the_error(images):
    x, truth = images
    given = truth.copy()
    given[:14] = 'b'
    r = compare_labels(given, truth, x, names(60))
    assert r.before > .15 and r.after < .1 and r.low <= r.difference <= r.high < 0
    assert (r.images, r.changed, r.excluded) == (60, 14, 0)


def test_nothing_changes_without_corrections(images):
    x, truth = images
    r = compare_labels(truth, truth, x, names(60))
    assert r.before == r.after and (r.difference, r.low, r.high, r.changed) == (0, 0, 0, 0)


def test_excluded_and_unlabeled_images_are_not_evaluated(images):
    x, truth = images
    corrected, given = truth.copy(), truth.copy()
    corrected[:5], given[55:] = '', ''
    r = compare_labels(given, corrected, x, names(60))
    assert (r.images, r.excluded, r.changed) == (50, 5, 0)


def test_too_few_labels_are_refused(images):
    x, truth = images
    with pytest.raises(ValueError, match='too few'): compare_labels(np.full(60, '', dtype=object), truth, x, names(60))
