"Each image is evaluated by a head that saw neither it nor its near-duplicate."
import numpy as np
import pandas as pd
import pytest
import torch

from pet_classifier.data.groups import folds
from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name, label_from_lists
from pet_classifier.training.cross_validation import cross_validate, out_of_fold_logits
from pet_classifier.training.discriminant import fit_discriminant


def nearest_mean(features, targets, n_classes):
    "A head that needs no library: the class whose mean is nearest"
    means = torch.stack([features[targets == c].mean(0) for c in range(n_classes)])
    return means, -(means**2).sum(1)/2


def blobs(n=60, classes=3, noise=1., seed=0):
    rng, targets = np.random.default_rng(seed), np.arange(n) % classes
    return 2*np.eye(classes, 16)[targets] + noise*rng.normal(size=(n, 16)), targets


def labelled(targets): return label_from_lists([f'{i:04}.jpg' for i in range(len(targets))], [f'class{t}' for t in targets])


def validate(features, targets, **how):
    how = dict(groups=None, fit=nearest_mean) | how
    return cross_validate(labelled(targets), features=features, **how)


# out-of-fold logits

def test_each_image_is_evaluated_by_the_head_of_the_other_folds():
    features, targets = blobs()
    fold = np.arange(60) % 4
    logits = out_of_fold_logits(features, targets, fold, nearest_mean)
    for f in range(4):
        weight, bias = nearest_mean(torch.as_tensor(features[fold != f]), torch.as_tensor(targets[fold != f]), 3)
        np.testing.assert_allclose(logits[fold == f], features[fold == f] @ weight.T.numpy() + bias.numpy(), rtol=1e-4, atol=1e-4)


def test_nothing_is_learned_of_an_image_from_itself():
    "With labels at random, no head can be better than chance on what it did not see"
    features = np.random.default_rng(0).normal(size=(200, 300))
    targets = np.random.default_rng(1).permutation(np.arange(200) % 2)
    cv = validate(features, targets)
    assert 0.35 < cv.error_rate < 0.65


def test_a_class_that_was_not_trained_on_is_not_the_answer():
    features, targets = blobs()
    lone = np.where(np.arange(60) < 1, 2, np.arange(60) % 2)
    logits = out_of_fold_logits(features, lone, np.arange(60) % 5)
    assert np.isfinite(logits).all() and logits.shape == (60, 3) and logits[0].argmax() != 2


def test_a_fold_without_which_one_class_is_left_is_refused():
    features, targets = blobs(classes=2)
    with pytest.raises(ValueError, match='use more folds'): out_of_fold_logits(features, targets, targets, nearest_mean)


# the result

def test_the_figures_belong_to_the_logits():
    features, targets = blobs(noise=2.)
    cv = validate(features, targets)
    assert cv.logits.shape == (60, 3) and cv.evaluated.all() and cv.ungrouped_error is None and not cv.notes
    assert cv.error_rate == cv.interp.error_rate == (cv.logits.argmax(1) != targets).mean()
    assert cv.error_interval == pytest.approx(cv.interp.error_interval)
    assert cv.per_class().errors.sum() == round(60*cv.error_rate) == 60 - np.trace(cv.interp.confusion_matrix())
    assert 'error rate' in repr(cv) and cv.expected(100)[0] < cv.error_rate < cv.expected(100)[1]


def test_the_threshold_turns_away_two_of_a_hundred():
    features, targets = blobs(n=300, noise=2.)
    cv = validate(features, targets)
    assert (cv.logits.max(1) < cv.ood_threshold).sum() == 6


def test_the_temperature_is_that_of_logits_of_unseen_images():
    features, targets = blobs(n=90, noise=3.)
    assert validate(10*features, targets).temperature > 1.5


def test_the_seed_decides_and_the_order_of_the_rows_does_not():
    features, targets = blobs(noise=2.)
    one = validate(features, targets)
    np.testing.assert_array_equal(one.logits, validate(features, targets).logits)
    assert (one.fold != validate(features, targets, seed=3).fold).any()
    order = np.random.default_rng(0).permutation(60)
    other = cross_validate(labelled(targets).iloc[order], features=features[order], groups=None, fit=nearest_mean)
    np.testing.assert_allclose(other.logits, one.logits[order], rtol=1e-4, atol=1e-4)


def test_repeats_average_and_do_not_narrow_the_interval():
    features, targets = blobs(noise=2.5)
    deals = [validate(features, targets, seed=s) for s in (2, 3, 4)]
    cv = validate(features, targets, repeats=3)
    assert cv.error_rate == pytest.approx(np.mean([d.error_rate for d in deals]))
    assert cv.effective_images == 60
    np.testing.assert_allclose(cv.logits, np.mean([d.logits for d in deals], 0), rtol=1e-5)
    low, high = cv.error_interval
    assert high - low > 0.9*np.mean([np.ptp(d.error_interval) for d in deals])
    with pytest.raises(ValueError, match='repeats=0'): validate(features, targets, repeats=0)


def test_folds_can_be_given():
    features, targets = blobs(noise=2.)
    fold = np.arange(60) // 20 + 7
    cv = validate(features, targets, folds=fold)
    np.testing.assert_array_equal(cv.fold, fold)
    np.testing.assert_array_equal(cv.logits, out_of_fold_logits(features, targets, fold, nearest_mean))
    with pytest.raises(ValueError, match='cannot be dealt again'): validate(features, targets, folds=fold, repeats=2)


# groups

def planted(seed=0):
    "60 images, the first 20 of which are there three times: labels are hard to learn, copies easy to remember"
    features, targets = blobs(n=60, noise=4., seed=seed)
    copies = np.repeat(np.arange(20), 2)
    features = np.r_[features, features[copies] + 0.01]
    return features, np.r_[targets, targets[copies]], np.r_[np.arange(60), copies]


def remembering(features, targets, n_classes):
    "A head that remembers: least squares through every training image"
    x = torch.cat([features, torch.ones(len(features), 1)], 1).double()
    weight = x.T @ torch.linalg.solve(x @ x.T + 1e-6*torch.eye(len(x)).double(), torch.eye(n_classes)[targets].double() - 0.5)
    return weight[:-1].T.float(), weight[-1].float()


def test_copies_flatter_an_ungrouped_error_and_not_a_grouped_one():
    rng = np.random.default_rng(0)
    features, targets, groups = planted()
    features = np.c_[features, rng.normal(size=(60, 200))[groups]] # enough to remember an image by
    how = dict(fit=remembering, repeats=5)
    grouped, alone = (validate(features, targets, groups=g, **how) for g in (groups, None))
    single = validate(features[:60], targets[:60], **how)
    assert grouped.ungrouped_error == pytest.approx(alone.error_rate)
    assert alone.error_rate < grouped.error_rate - 0.1 and abs(grouped.error_rate - single.error_rate) < 0.1
    assert grouped.effective_images < 100 and np.ptp(grouped.error_interval) > np.ptp(alone.error_interval)


def test_folds_do_not_divide_groups():
    features, targets, groups = planted()
    cv = validate(features, targets, groups=groups)
    assert (pd.Series(cv.fold).groupby(groups).nunique() == 1).all()
    np.testing.assert_array_equal(cv.fold, folds(labelled(targets), groups=groups))


def test_the_column_group_counts_and_none_switches_it_off():
    features, targets, groups = planted()
    table = labelled(targets).assign(group=groups)
    def of(g): return cross_validate(table, features=features, groups=g, fit=nearest_mean)
    assert len(set(of(groups).groups)) == 60 and of(None).ungrouped_error is None
    with pytest.raises(ValueError, match="groups='x'"): of('x')


def test_a_class_of_one_image_or_one_group_is_left_out_and_named():
    features, targets = blobs(n=30)
    targets = np.r_[targets[:-3], 3, 4, 4]
    cv = validate(features, targets, groups=[*range(29), 28], fit=fit_discriminant)
    assert cv.evaluated.sum() == 27 and len(cv.interp.files) == 27 and cv.logits.shape == (30, 5)
    assert '2 of 5 classes' in cv.notes[0] and 'class3, class4' in cv.notes[0]
    assert cv.error_rate == cv.interp.error_rate and (cv.fold[27:] == -1).all() and (cv.fold[:27] >= 0).all()


def test_a_class_of_one_image_is_an_answer_that_the_others_may_get():
    features, targets = blobs(n=31, classes=2, noise=0.1)
    features[30], targets[30] = features[:30][targets[:30] == 0].mean(0), 2 # it looks like class 0
    cv = validate(features, targets)
    assert cv.evaluated.sum() == 30 and (cv.logits[:30].argmax(1) == 2).any()


# with images

def test_copies_among_images_are_found(pets_dir, tmp_path):
    from PIL import Image
    files = [f for f in list_images(pets_dir) if f.name.startswith(('Birman', 'pug', 'boxer'))]
    for f in files[:4]: Image.open(f).resize((150, 150)).save(tmp_path/f'{f.stem}0.jpg')
    table = label_by_name(files + list_images(tmp_path), PETS_PATTERN)
    cv = cross_validate(table, size=64)
    assert len(table) - len(set(cv.groups)) == 4 and cv.ungrouped_error is not None


def test_a_learner_brings_its_images_and_its_features(pets_dir):
    from pet_classifier.data.loaders import loaders
    from pet_classifier.data.splits import random_split
    from pet_classifier.training.learner import pet_learner
    table = label_by_name([f for f in list_images(pets_dir) if f.name.startswith(('Birman', 'pug', 'boxer'))], PETS_PATTERN)
    learn = pet_learner(loaders(random_split(table), size=64), 'efficientnet_lite0')
    cv = cross_validate(learn)
    assert sorted(cv.table.file) == sorted(table.file) and cv.vocab == list(learn.dls.vocab)
    assert cv.error_rate == pytest.approx(cross_validate(table, size=64).error_rate, abs=0.1)


def test_what_is_no_table_is_refused():
    with pytest.raises(TypeError, match='a list: expected a labelled table'): cross_validate([1, 2])
