"What is shown first is what is wrong."
import numpy as np
import pandas as pd
import pytest

from pet_classifier.review.queues import (
    LabelPredictions,
    compact_features,
    confused_queue,
    duplicate_queue,
    label_issue_queue,
    ood_queue,
    predict_labels,
    representative_rows,
    to_label_queue,
)


def clusters(n=20, k=4, seed=0):
    "Features of `k` well separated classes of `n` images each, and their labels"
    rng = np.random.default_rng(seed)
    features = np.repeat(10*np.eye(k, 8), n, 0) + rng.normal(size=(n*k, 8))
    return features.astype(np.float32), np.repeat(list('abcd')[:k], n).astype(object)


@pytest.fixture
def planted():
    "Features, labels of which six are wrong, the wrong rows"
    x, labels = clusters()
    for i in range(0, 60, 10): labels[i] = dict(a='b', b='c', c='d')[labels[i]]
    return x, labels, {*range(0, 60, 10)}


def test_wrong_labels_come_first(planted):
    x, labels, wrong = planted
    queue = label_issue_queue(labels, predict_labels(labels, x))
    assert {item.row for item in queue[:6]} == wrong
    assert queue[0].reason.startswith('looks more like')


def test_an_image_is_predicted_by_a_head_that_never_saw_its_label(planted):
    x, labels, wrong = planted
    p = predict_labels(labels, x)
    assert p.held_out.all() and not (p.predicted() == labels)[[*wrong]].any()


def test_confused_pairs_stand_together_the_most_frequent_first(planted):
    x, labels, _ = planted
    labels[1] = 'b'  # a and b are confused three times, the other pairs twice
    queue = confused_queue(labels, predict_labels(labels, x))
    assert [item.reason.split()[2] for item in queue] == ['3', '3', '3', '2', '2', '2', '2']
    assert {item.row for item in queue[:3]} == {0, 1, 10}


def test_the_least_similar_image_is_the_first_that_is_out_of_distribution():
    x, labels = clusters(n=50)
    x[7] = -5
    assert ood_queue(predict_labels(labels, x))[0].row == 7


def test_of_duplicates_those_with_different_labels_come_first_then_those_across_the_split():
    pairs = pd.DataFrame(dict(file=[0, 2, 4], other=[1, 3, 5]))
    labels, sides = np.array(list('aabbcd'), object), ['train', 'train', 'train', 'valid', 'train', 'valid']
    queue = duplicate_queue(pairs, labels, sides)
    assert [(item.row, item.other) for item in queue] == [(5, 4), (3, 2), (1, 0)]
    assert 'labeled c' in queue[0].reason and 'other side of the split' in queue[1].reason


@pytest.mark.parametrize('labels', [[''], ['a', ''], ['a', 'a', 'a']])
def test_nothing_is_predicted_without_two_classes(labels):
    assert predict_labels(np.array(labels, object), np.eye(len(labels), 3)) is None


def test_two_images_of_two_classes_are_enough_to_suggest_the_others():
    x, truth = clusters(k=2)
    labels = np.full(len(truth), '', dtype=object)
    labels[[0, -1]] = 'a', 'b'
    p = predict_labels(labels, x)
    assert (p.predicted() == truth).mean() > .9 and not p.held_out.any()


def test_the_first_images_to_label_show_every_class():
    x, truth = clusters()
    queue = to_label_queue(np.full(80, '', dtype=object), x, None, np.arange(80))
    assert {*truth[[item.row for item in queue[:20]]]} == {*'abcd'} and len({item.row for item in queue}) == 80


def test_what_is_like_a_labeled_image_waits():
    x, truth = clusters()
    labeled = np.isin(truth, ['a', 'b', 'c'])
    assert {*truth[representative_rows(x, labeled, n=4)]} == {'d'}


def test_what_the_head_is_certain_of_comes_last():
    x, labels = clusters(k=2)
    labels[10:30] = ''
    rows = np.flatnonzero(labels == '')
    sure = np.random.default_rng(0).uniform(.5, 1, 40)
    p = LabelPredictions(['a', 'b'], np.stack([sure, 1 - sure], 1), sure, labels != '', -np.inf)
    queue = [item.row for item in to_label_queue(labels, x, p, rows)]
    assert {*queue} == {*rows} and queue == sorted(rows, key=lambda i: sure[i])


def test_many_images_are_compared_by_principal_components():
    x = np.random.default_rng(0).normal(size=(2001, 300))
    assert compact_features(x).shape == (2001, 256) and compact_features(x[:2000]).shape == (2000, 300)
