"What a network said about images is kept, and counted rightly."
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from pet_classifier.data.labels import label_by_name
from pet_classifier.data.loaders import loaders
from pet_classifier.data.splits import random_split
from pet_classifier.evaluation.interpretation import PetInterpretation, interpret
from pet_classifier.training.learner import pet_learner


def made(targets, preds, vocab=('a', 'b', 'c'), files=None):
    "An interpretation in which the images of class `targets` were taken for `preds`, each with 0.9"
    probs = np.full((len(targets), len(vocab)), 0.1/(len(vocab)-1), np.float32)
    probs[np.arange(len(preds)), preds] = 0.9
    files = files or [Path(f'{i}.jpg') for i in range(len(targets))]
    return PetInterpretation(files, list(vocab), np.array(targets), probs)


@pytest.fixture(scope='module')
def learn(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for name in (f'{c}_{i}.jpg' for c in ('red', 'green', 'blue') for i in range(5)):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(folder/name)
    table = random_split(label_by_name(sorted(folder.iterdir())), valid_pct=0.4)
    return pet_learner(loaders(table, size=32, bs=4), 'resnet18', weights='none')


@pytest.fixture
def images(tmp_path):
    files = [tmp_path/f'${i}_{{.jpg' for i in range(5)]
    for f in files: Image.new('RGB', (30, 60)).save(f)
    yield files
    plt.close('all')


def test_agrees_with_fastai(learn):
    loss, error = learn.validate()
    interp = interpret(learn)
    assert interp.error_rate == pytest.approx(error, abs=1e-6)
    assert interp.losses.mean() == pytest.approx(loss, abs=1e-4)
    assert interp.probs.dtype == np.float32 and interp.probs.shape == (6, 3)


def test_files_stand_beside_their_own_labels(learn):
    interp = interpret(learn)
    assert [f.name.split('_')[0] for f in interp.files] == [interp.vocab[t] for t in interp.targets]
    train = interpret(learn, learn.dls.train)  # which shuffles and drops a last batch that is not full
    assert [f.name.split('_')[0] for f in train.files] == [train.vocab[t] for t in train.targets]
    assert len(train.files) == len(train.probs) == 9


def test_nothing_is_predicted_twice(learn):
    asked = []
    hook = learn.model[0].register_forward_hook(lambda *_: asked.append(1))
    interp = interpret(learn)
    assert len(asked) == 2  # six images in batches of four
    interp.plot_top_losses(2), interp.plot_confusion_matrix(), interp.most_confused(), interp.per_breed(), interp.table()
    hook.remove()
    plt.close('all')
    assert len(asked) == 2


def test_images_without_labels_are_refused(learn):
    dl = learn.dls.test_dl(learn.dls.valid_ds.items)
    with pytest.raises(ValueError, match='with_labels=True'): interpret(learn, dl)


def test_loss_of_a_truth_that_was_thought_impossible_is_finite():
    interp = PetInterpretation([Path('x.jpg')], ['a', 'b'], np.array([1]), np.array([[1, 0]], np.float32))
    assert 80 < interp.losses[0] < 100


def test_table_has_the_highest_loss_first():
    interp = made([0, 1, 2], [0, 0, 2])
    assert list(interp.table()) == ['file', 'label', 'predicted', 'probability', 'label_probability', 'loss']
    row = interp.table().iloc[0]
    assert (row.file, row.label, row.predicted) == (Path('1.jpg'), 'b', 'a')
    assert (row.probability, row.label_probability, row.loss) == pytest.approx((0.9, 0.05, -np.log(0.05)), abs=1e-5)


def test_top_losses_clamps_k():
    interp = made([0, 1, 2], [0, 0, 2])
    assert [len(interp.top_losses(k)) for k in (1, 3, 4, None)] == [1, 3, 3, 3]
    for k in 0, -1:
        with pytest.raises(ValueError, match=f'k={k}'): interp.top_losses(k)


@pytest.mark.parametrize('k, ncols, shape',
                         [(9, None, (2, 3)), (1, None, (1, 1)), (4, None, (2, 2)), (5, 9, (1, 5)), (3, 1, (3, 1))])
def test_plot_top_losses_has_a_place_for_each(images, k, ncols, shape):
    fig = made([0, 1, 2, 0, 1], [1, 1, 1, 1, 1], ('$x', r'$\oops$', 'c'), images).plot_top_losses(k, ncols)
    grid = fig.axes[0].get_gridspec()
    assert (grid.nrows, grid.ncols) == shape
    shown = [ax for ax in fig.axes if ax.images]
    assert len(shown) == min(k, 5)
    assert shown[0].get_title() == '$\\oops$\n$x\n3.00 / 0.90' and shown[0].texts[0].get_text() == '$0_{.jpg'
    fig.canvas.draw()  # where $...$ would be taken for a formula


def test_most_confused_order_and_types():
    interp = made([2, 2, 0, 1, 1, 0, 0], [1, 1, 1, 0, 2, 2, 0])
    assert interp.most_confused() == [('c', 'b', 2), ('a', 'b', 1), ('a', 'c', 1), ('b', 'a', 1), ('b', 'c', 1)]
    assert interp.most_confused(min_val=2) == [('c', 'b', 2)]
    assert {tuple(map(type, t)) for t in interp.most_confused()} == {(str, str, int)}
    backwards = made([0, 1], [1, 0], ('z', 'a'))
    assert backwards.most_confused() == [('a', 'z', 1), ('z', 'a', 1)]


def test_a_single_error():
    interp = made([0, 1, 2], [0, 0, 2])
    assert interp.most_confused() == [('b', 'a', 1)]
    assert interp.error_rate == pytest.approx(1/3)


@pytest.mark.parametrize('preds', [[0, 1, 0], [1, 0, 1]])
def test_all_right_and_all_wrong(preds):
    interp = made([0, 1, 0], preds, ('a', 'b'))
    counts = interp.confusion_matrix()
    assert counts.sum() == 3 and interp.error_rate == 1 - counts.trace()/3
    interp.plot_confusion_matrix(figsize=(3, 3)).canvas.draw()
    plt.close('all')


def test_confusion_matrix_writes_only_what_is_there():
    fig = made([0, 1, 2, 2], [0, 0, 2, 2]).plot_confusion_matrix()
    ax = fig.axes[0]
    assert sorted((*t.get_position(), t.get_text()) for t in ax.texts) == [(0, 0, '1'), (0, 1, '1'), (2, 2, '2')]
    assert [t.get_text() for t in ax.get_yticklabels()] == ['a', 'b', 'c']
    assert ax.get_title() == '1 errors among 4 images'
    plt.close(fig)


def test_per_breed_counts_a_class_without_images_or_predictions():
    frame = made([0, 0, 1], [0, 1, 1]).per_breed()
    assert frame.breed.tolist() == ['a', 'b', 'c']
    assert frame.precision.tolist() == [1, 0.5, 0]
    assert frame.recall.tolist() == [0.5, 1, 0]
    assert frame.support.tolist() == [2, 1, 0] and frame.errors.tolist() == [1, 0, 0]
