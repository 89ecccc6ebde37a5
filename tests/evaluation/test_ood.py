"A threshold turns away no more than it may, and a bundle that has one says so of images that look like nothing."
import json

import numpy as np
import pytest

from pet_classifier.deploy.predictor import Predictor
from pet_classifier.evaluation.ood import ood_threshold
from pet_classifier.model.bundle_writer import save_bundle


@pytest.mark.parametrize('n', [1, 2, 49, 50, 51, 74, 1000])
@pytest.mark.parametrize('share', [0, .02, .05, .5])
def test_no_more_than_the_share_is_turned_away_and_one_more_would_be(n, share):
    max_logits = np.random.default_rng(n).normal(size=n)
    threshold = ood_threshold(max_logits, share)
    assert (max_logits < threshold).sum() <= share*n < (max_logits <= threshold).sum()


@pytest.mark.parametrize('max_logits, share, said', [([], .02, 'no max_logits'), ([1.], 1, 'share=1'), ([1.], -.1, 'share=-0.1')])
def test_nonsense_is_refused(max_logits, share, said):
    with pytest.raises(ValueError, match=said): ood_threshold(max_logits, share)


@pytest.fixture(scope='module')
def learn(tiny_dls, tiny_weights):
    from pet_classifier.training.learner import pet_learner
    return pet_learner(tiny_dls, 'test_resnet', str(tiny_weights), precision='fp32')


def test_the_answer_is_none_of_these_below_the_threshold_only(learn, tiny_table, tmp_path):
    files = tiny_table.file[:6].tolist()
    plain = Predictor(save_bundle(learn, tmp_path/'plain'), precision='fp32')
    highest = plain.logits([plain.prepare(f) for f in files]).max(1)
    middle = float(np.sort(highest)[3])
    careful = Predictor(save_bundle(learn, tmp_path/'careful', none_below=middle), precision='fp32')
    rows = careful.predict_files(files)
    assert rows.none_of_these.tolist() == (highest < middle).tolist()
    assert [careful.predict(f).none_of_these for f in files] == rows.none_of_these.tolist()
    assert rows.label.tolist() == plain.predict_files(files).label.tolist()  # the best guess stays
    assert not plain.predict_files(files).none_of_these.any()


@pytest.mark.parametrize('changed', [dict(temperature=0), dict(temperature='1'), dict(temperature=None), dict(none_below='low'),
                                     dict(none_below=[1])], ids=str)
def test_a_bundle_with_a_senseless_temperature_or_threshold_is_refused(learn, tmp_path, changed):
    file = save_bundle(learn, tmp_path/'model')/'config.json'
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(ValueError, match='temperature .* none_below'): Predictor(file.parent)
