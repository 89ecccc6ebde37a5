"Which images to label next: uncertain, different from each other, none twice, and broken ones named."
import numpy as np
import pytest
import torch

from pet_classifier.deploy.predictor import Predictor
from pet_classifier.deploy.suggestion import suggest_images, uncertain_and_diverse, uncertainty
from pet_classifier.model.features import FeatureExtractor


def test_uncertainty_is_between_0_and_1_and_greatest_where_all_are_equal():
    probs = np.array([[1, 0, 0], [0.5, 0.5, 0], [1/3, 1/3, 1/3]])
    found = uncertainty(probs)
    assert found[0] < 1e-6 and found[0] < found[1] < found[2] == pytest.approx(1)
    assert uncertainty(np.array([[0., 1], [1, 0]])).min() >= 0


def test_each_cluster_gives_its_most_uncertain_image():
    rng = np.random.default_rng(0)
    where, unsure = np.repeat([0, 1, 2, 3], 5), rng.random(20)
    features = np.eye(4)[where]*10 + 0.01*rng.random((20, 4))
    chosen = uncertain_and_diverse(features, unsure, 4)
    assert sorted(chosen) == sorted(max(np.flatnonzero(where == w), key=lambda i: unsure[i]) for w in range(4))
    assert (np.diff(unsure[chosen]) <= 0).all()


def test_what_is_certain_is_not_suggested():
    rng = np.random.default_rng(0)
    unsure = np.r_[np.full(30, 0.9), np.zeros(300)]
    assert set(uncertain_and_diverse(rng.normal(size=(330, 5)), unsure, 3)) <= set(range(30))


@pytest.mark.parametrize('n', [1, 5, 9, 50])
def test_as_many_as_asked_for_none_twice_even_of_copies(n):
    chosen = uncertain_and_diverse(np.ones((9, 3)), np.linspace(0, 1, 9), n)
    assert len(set(chosen)) == len(chosen) == min(n, 9)


def test_the_same_seed_chooses_the_same():
    rng = np.random.default_rng(0)
    features, unsure = rng.normal(size=(200, 5)), rng.random(200)
    assert (uncertain_and_diverse(features, unsure, 20) == uncertain_and_diverse(features, unsure, 20)).all()


def test_suggestions_say_what_the_bundle_predicts(bundle, tiny_folder):
    files = sorted(tiny_folder.iterdir())
    predictor = Predictor(bundle, 'torch', 'fp32')
    rows = suggest_images(predictor, files, 5)
    assert list(rows) == ['file', 'predicted_label', 'probability', 'reason'] and rows.file.nunique() == 5
    predicted = predictor.predict_files(rows.file)
    assert rows.predicted_label.tolist() == predicted.label.tolist()
    assert rows.probability.to_numpy() == pytest.approx(predicted.probability.to_numpy(), abs=1e-4)
    assert all(label in reason for label, reason in zip(rows.predicted_label, rows.reason))


def test_the_predictor_computes_as_before(bundle, tiny_folder):
    files = sorted(tiny_folder.iterdir())
    predictor = Predictor(bundle, 'torch')
    before = predictor.predict_files(files).probability
    suggest_images(predictor, files, 2)
    assert predictor.bundle.model.runs_in == 'fp32' and (predictor.predict_files(files).probability == before).all()


def test_images_that_cannot_be_read_are_named(bundle, tiny_folder, tmp_path):
    (tmp_path/'broken.jpg').write_text('not an image')
    files, left_out = [*sorted(tiny_folder.iterdir())[:4], tmp_path/'broken.jpg'], []
    with pytest.warns(UserWarning, match='1 of 5 images cannot be read: broken.jpg'): rows = suggest_images(bundle, files, 9)
    assert len(rows) == 4
    assert len(suggest_images(bundle, files, 9, left_out=left_out.extend)) == 4 and left_out == [tmp_path/'broken.jpg']
    with pytest.raises(ValueError, match='none of 1 images can be read'): suggest_images(bundle, files[-1:])


def test_features_are_computed_where_the_predictor_computes(bundle, tiny_folder, monkeypatch):
    where = []
    def features(self, files):
        where.append((self.device, self.model.runs_in))
        return torch.zeros(len(files), self.model[1][-1].in_features)
    monkeypatch.setattr(FeatureExtractor, '__call__', features)
    predictor = Predictor(bundle, precision='fp32', device='cpu')
    predictor.device = torch.device('cuda', 1)
    assert len(suggest_images(predictor, list(tiny_folder.iterdir()), 2)) == 2
    assert where == [(torch.device('cuda', 1), 'fp32')]
