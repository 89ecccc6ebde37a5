"The learning curve of a run: drawn where there are images enough, told in one sentence, and never fatal."
import numpy as np
import pandas as pd

from pet_classifier.runs import figures
from pet_classifier.runs.figures import save_learning_curve


def data(per_class):
    rng, targets = np.random.default_rng(0), np.repeat([0, 1, 2], per_class)
    table = pd.DataFrame(dict(file=[f'{i}.jpg' for i in range(len(targets))], label=np.array([*'abc'])[targets]))
    return table, rng.normal(size=(len(targets), 5)) + 2*np.eye(5)[targets]


def test_it_is_drawn_and_told(tmp_path):
    found = save_learning_curve(tmp_path, *data(20))
    assert found['learning_curve'].startswith('With 20 images per class, as now') and (tmp_path/'learning_curve.png').is_file()


def test_few_images_or_no_features_give_none(tmp_path):
    table, features = data(10)
    assert save_learning_curve(tmp_path, table, features) == save_learning_curve(tmp_path, data(20)[0], None) == {}
    assert not list(tmp_path.iterdir())


def test_an_error_costs_the_figure_alone(tmp_path, monkeypatch):
    def broken(*args, **kwargs): raise RuntimeError('on purpose')
    monkeypatch.setattr(figures, 'learning_curve', broken)
    said = []
    assert save_learning_curve(tmp_path, *data(20), said.append) == {} and 'on purpose' in said[0]
