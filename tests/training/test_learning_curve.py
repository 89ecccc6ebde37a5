"The learning curve: smaller training sets are parts of larger ones, no head sees what it is tested on, and the law fits."
import numpy as np
import pandas as pd
import pytest
import torch

from pet_classifier.data.groups import folds
from pet_classifier.training.learning_curve import (
    LearningCurve,
    fit_power_law,
    learning_curve,
    plot_learning_curve,
    power_law,
    subsampled_errors,
    training_sizes,
)


def blobs(per_class=12, n_classes=4, spread=1.0, seed=0):
    "Features and targets of overlapping classes"
    rng = np.random.default_rng(seed)
    targets = np.repeat(np.arange(n_classes), per_class)
    return rng.normal(size=(n_classes, 8))[targets] + spread*rng.normal(size=(len(targets), 8)), targets


def named(targets): return pd.DataFrame(dict(file=[f'{i}.jpg' for i in range(len(targets))], label=targets.astype(str)))


@pytest.mark.parametrize('available', [2.4, 5.6, 20, 400])
def test_training_sizes_ascend_to_what_there_is(available):
    sizes = training_sizes(available)
    assert sizes == sorted(set(sizes)) and sizes[-1] == available and sizes[0] >= 2 and len(sizes) <= 6


def test_no_head_is_fitted_on_an_image_it_is_tested_on_and_smaller_sets_are_parts_of_larger_ones():
    features, targets = blobs()
    fold, seen = folds(named(targets), 4), []
    def fit(x, y, n_classes):
        seen.append({tuple(r) for r in x.numpy().round(6)})
        return torch.zeros(n_classes, x.shape[1]), torch.zeros(n_classes)
    used, wrong = subsampled_errors(features, targets, [fold], [2, 4, 9], fit=fit)
    assert used.tolist() == [2, 4, 9] and wrong.shape == (3, 1, 48) and len(seen) == 4*3
    for f in range(4):
        small, middle, large = seen[3*f:3*f + 3]
        assert small < middle < large and len(large) == 36
    assert len(set.intersection(*(seen[3*f + 2] for f in range(4)))) == 0  # each image is left out once


def test_a_class_keeps_its_share_and_at_least_one_image():
    features, targets = blobs()
    keep = np.concatenate([np.flatnonzero(targets == t)[:n] for t, n in enumerate((12, 12, 4, 2))])
    counts = []
    def fit(x, y, n_classes):
        counts.append(np.bincount(y, minlength=n_classes).tolist())
        return torch.zeros(n_classes, x.shape[1]), torch.zeros(n_classes)
    subsampled_errors(features[keep], targets[keep], [folds(named(targets[keep]), 2)], [2.5, 3.75], fit=fit)
    assert all(min(c) >= 1 for c in counts) and all(c[0] > c[2] for c in counts[1::2])


@pytest.mark.parametrize('law', [(0, 0.5, 0.3), (0.05, 0.4, 0.6), (0.1, 0.0, 0.5)])
def test_fit_power_law_finds_the_law(law):
    n = np.array([2, 3, 5, 9, 16])
    found = fit_power_law(n, power_law(n, *law))
    assert power_law([2, 32, 64], *found) == pytest.approx(power_law([2, 32, 64], *law), rel=0.02)


def test_fit_power_law_needs_three_sizes():
    with pytest.raises(ValueError, match='got error rates at 2 sizes'): fit_power_law([2, 4, 4], [0.3, 0.2, 0.2])


@pytest.fixture(scope='module')
def curve():
    features, targets = blobs()
    return learning_curve(named(targets), features=features, samples=60)


def test_the_outlook_is_for_as_many_twice_and_four_times_as_many(curve):
    outlook = curve.outlook()
    assert outlook.images.tolist() == [48, 96, 192] and outlook.images_per_class.tolist() == [12, 24, 48]
    assert outlook.error_rate.is_monotonic_decreasing
    assert (outlook.low <= outlook.error_rate).all() and (outlook.error_rate <= outlook.high).all()


def test_the_same_seed_gives_the_same_curve(curve):
    features, targets = blobs()
    again = learning_curve(named(targets), features=features, samples=60)
    assert (again.wrong == curve.wrong).all() and (again.laws == curve.laws).all()
    assert (learning_curve(named(targets), features=features, samples=2, seed=3).wrong != curve.wrong).any()


def test_a_hard_class_is_named():
    wrong = np.zeros((3, 2, 40), bool)
    wrong[:, :, :7] = True  # 7 of the 10 of class a
    found = LearningCurve(np.array([2., 4, 8]), wrong, np.repeat([0, 1, 2, 3], 10), list('abcd'), np.array([[0.1, 0.1, 0.5]]))
    assert found.per_class().label[0] == 'a' and found.per_class().above_average.tolist() == [True, False, False, False]
    assert found.sentence().endswith('more images are needed most of a.')


def test_groups_stay_together(monkeypatch):
    features, targets = blobs()
    table = named(targets).assign(group=np.arange(48)//2)
    dealt = []
    def errors(features, targets, deals, **kwargs):
        dealt.extend(deals)
        return np.array([2., 3, 4]), np.ones((3, len(deals), len(targets)), bool)
    monkeypatch.setattr('pet_classifier.training.learning_curve.subsampled_errors', errors)
    learning_curve(table, features=features, samples=2)
    assert len(dealt) == 5 and all((fold[::2] == fold[1::2]).all() for fold in dealt)


def test_too_few_images_are_an_error():
    features, targets = blobs(per_class=3)
    with pytest.raises(ValueError, match='12 images of 4 classes are too few'): learning_curve(named(targets), features=features)


def test_the_plot_shows_what_was_measured(curve):
    ax = plot_learning_curve(curve).axes[0]
    assert ax.get_xlim()[1] > 48 and [t.get_text() for t in ax.get_xticklabels()][-3:] == ['12', '24', '48']


def test_on_real_photos_few_images_foretell_more(pets_dir):
    "Fitted on 2 to 4 photos of each breed, the law says what 5 and 6 gave, to a sixth"
    from pet_classifier.data.images import list_images
    from pet_classifier.data.labels import PETS_PATTERN, label_by_name
    from pet_classifier.model.pretrained import pretrained_features
    table = label_by_name(list_images(pets_dir), PETS_PATTERN)
    targets = np.unique(table.label, return_inverse=True)[1]
    deals = [folds(table, 7, seed) for seed in range(3)]
    used, wrong = subsampled_errors(pretrained_features(table.file), targets, deals, [2, 3, 4, 5, 6])
    error = wrong.mean((1, 2))
    assert power_law(used[3:], *fit_power_law(used[:3], error[:3])) == pytest.approx(error[3:], rel=1/6)
