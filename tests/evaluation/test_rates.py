"Rates in which rare classes count are those of scikit-learn, and a balanced loss counts them too."
import numpy as np
import pytest
import torch
from sklearn import metrics

from pet_classifier.data.loaders import loaders
from pet_classifier.evaluation.rates import Rates
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import class_weights, pet_learner


def rates(targets, preds, vocab='abcd'):
    r = Rates()
    r.vocab, r.targets, r.probs = list(vocab), np.array(targets), np.eye(len(vocab), dtype=np.float32)[preds]
    return r


def test_always_the_same_answer_is_as_good_as_the_majority_and_no_better():
    r = rates([0]*95 + [1]*5, [0]*100)
    assert (r.error_rate, r.majority_error, r.balanced_error) == pytest.approx((0.05, 0.05, 0.5))
    assert r.never_predicted == ['b'] and r.macro_f1 == pytest.approx(95/97.5/2)


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('seed', range(5))
def test_the_means_over_classes_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    targets, preds = rng.integers(0, 3, 50), rng.integers(0, 4, 50)  # of the fourth class there is no image
    r = rates(targets, preds)
    recalls = [np.mean(preds[targets == c] == c) for c in range(3)]
    assert r.balanced_error == pytest.approx(1 - np.mean(recalls))
    assert r.macro_f1 == pytest.approx(metrics.f1_score(targets, preds, average='macro', zero_division=0))


@pytest.mark.filterwarnings('error')
def test_images_of_one_class_only_have_rates_too():
    r = rates([2, 2], [2, 1])
    assert (r.error_rate, r.majority_error, r.balanced_error, r.never_predicted) == (0.5, 0, 0.5, [])


@pytest.fixture(scope='module')
def uneven(tiny_table):
    "Twelve training images, of which one is blue and one is green"
    rare = tiny_table.label.isin(['blue', 'green']) & ~tiny_table.is_valid
    first = ~tiny_table.duplicated(['label', 'is_valid'])
    return loaders(tiny_table[~rare | first], size=32, bs=4)


def test_class_weights_are_inverse_frequencies_with_mean_1(uneven):
    counts, weights = torch.bincount(uneven.train.targets), class_weights(uneven)
    assert counts.min() < counts.max()
    assert torch.allclose(weights*counts, (weights*counts)[0].expand(3))
    assert weights[uneven.train.targets].mean() == pytest.approx(1)


def test_a_balanced_loss_is_used_in_both_stages_and_changes_the_head(uneven):
    heads = []
    for balance in False, True:
        learn = pet_learner(uneven, 'test_resnet', 'none', balance=balance)
        assert (learn.loss_func.func.weight is None) != balance
        fit_head(learn, 3)
        heads.append(learn.model[1][-1].bias.detach().clone())
    common = uneven.train.targets.bincount().argmax()
    assert heads[1][common] < heads[0][common]
