"The predictor sees what the validation set saw, and a broken file stops nothing."
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pet_classifier.data.images import ImageProblem
from pet_classifier.data.labels import label_by_name
from pet_classifier.data.loaders import loaders
from pet_classifier.data.splits import random_split
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.evaluation.interpretation import interpret
from pet_classifier.model.bundle import load_bundle
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.training.learner import pet_learner


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for i, name in enumerate(f'{c}_{i}.jpg' for c in ('red', 'green', 'blue') for i in range(5)):
        im = Image.fromarray(rng.integers(0, 255, (6, 7, 3), np.uint8)).resize((50 + 9*i, 90 - 4*i))
        exif = Image.Exif()
        exif[0x0112] = 1 + i % 8  # upright, mirrored, on its side
        im.save(folder/name, exif=exif)
    return random_split(label_by_name(sorted(folder.iterdir())), valid_pct=0.4)


@pytest.fixture(scope='module')
def learn(table):
    learn = pet_learner(loaders(table, size=32, bs=4), 'resnet18', weights='none', precision='fp32')
    with learn.no_logging(): learn.fit_one_cycle(1, 0.01)
    return learn


@pytest.fixture(scope='module')
def bundle(learn, tmp_path_factory): return save_bundle(learn, tmp_path_factory.mktemp('saved')/'model')


@pytest.fixture(scope='module')
def predictor(bundle): return Predictor(bundle, precision='fp32')  # which says the same in batches of any size


@pytest.fixture
def files(table): return list(table[table.is_valid].file)


@pytest.fixture
def broken(tmp_path):
    (tmp_path/'text.jpg').write_text('not an image')
    (tmp_path/'empty.jpg').touch()
    return [tmp_path/'text.jpg', tmp_path/'empty.jpg', tmp_path/'nowhere.jpg']


@pytest.mark.slow
def test_says_what_the_learner_says(learn, predictor, files):
    ours = predictor.probabilities(predictor.logits([predictor.prepare(f) for f in files]))
    assert ours.dtype == np.float32 and ours.std() > 0.01
    assert ours == pytest.approx(learn.get_preds()[0].numpy(), abs=1e-5)


def test_a_prediction_is_sorted_and_reads_well(predictor, files):
    p = predictor.predict(files[0])
    assert list(p.probs.values()) == sorted(p.probs.values(), reverse=True)
    assert (p.label, p.probability) == next(iter(p.probs.items()))
    assert sum(p.probs.values()) == pytest.approx(1, abs=1e-5) and set(p.probs) == {'red', 'green', 'blue'}
    assert repr(p) == f'{p.label} ({p.probability:.2f})'


def test_takes_names_paths_pil_images_and_loaded_bundles(bundle, files):
    predictor = Predictor(load_bundle(bundle), precision='fp32')
    expected = predictor.predict(files[1]).probs
    assert predictor.predict(str(files[1])).probs == expected
    assert predictor.predict(Image.open(files[1])).probs == expected  # one that lies on its side


@pytest.mark.slow
def test_takes_bytes_arrays_and_tensors(predictor, files, tmp_path):
    Image.open(files[0]).save(upright := tmp_path/'upright.jpg')  # without EXIF: an array knows of no orientation
    im = Image.open(upright)
    array, expected = np.array(im), predictor.predict(im).probs
    for same in upright.read_bytes(), array, torch.from_numpy(array).permute(2, 0, 1):
        assert predictor.predict(same).probs == pytest.approx(expected, abs=1e-3)
    grey = np.array(im.convert('L'))
    assert predictor.predict(grey).probs == predictor.predict(np.repeat(grey[..., None], 3, 2)).probs
    assert np.array_equal(np.array(predictor.look(array)[0]), predictor.prepare(array).permute(1, 2, 0).numpy())


def test_a_list_is_answered_as_a_list_in_batches(predictor, files, monkeypatch):
    mixed = [*files, files[0].read_bytes(), Image.open(files[1]), str(files[2]), np.zeros((9, 8, 3), np.uint8)]
    expected, sizes, really = [predictor.predict(f) for f in mixed], [], predictor.logits
    monkeypatch.setattr(predictor, 'logits', lambda prepared, n: sizes.append((len(prepared), n)) or really(prepared, n))
    for kind in list, tuple:
        found = predictor.predict(kind(mixed), bs=4)
        assert [p.label for p in found] == [p.label for p in expected]
        assert [p.probability for p in found] == pytest.approx([p.probability for p in expected], abs=1e-5)
    assert sizes == [(4, 10), (4, 10), (2, 10)]*2 and predictor.predict([]) == []
    assert predictor.predict(mixed[:1])[0].label == expected[0].label


def test_what_is_no_image_in_a_list_is_told_with_its_place(predictor, files, broken):
    with pytest.raises(ImageProblem, match='^text.jpg: not an image'): predictor.predict([*files, *broken])
    for wrong, said in ((b'text', 'this image, number 2 of the list: not an image'),
                        (np.zeros((9, 8, 3)), 'this array, number 2 of the list: its dtype is float64, expected uint8'),
                        (None, 'this NoneType, number 2 of the list: not an image; expected a path')):
        with pytest.raises(ImageProblem, match=said): predictor.predict([*files[:2], wrong])
        with pytest.raises(ImageProblem, match=said.replace(', number 2 of the list', '')): predictor.predict(wrong)


def test_predict_files_tells_how_far_it_is(predictor, files, broken):
    told = []
    predictor.predict_files([*files, *broken], bs=4, on_batch=told.append)
    assert told == [4, 4, 1]


TYPED = '''
from pathlib import Path
from pet_classifier.deploy.predictor import Prediction, Predictor
p = Predictor('model', engine='onnx')
one: Prediction = p.predict(Path('a.jpg'))
also: Prediction = p.predict(b'bytes')
many: list[Prediction] = p.predict([Path('a.jpg'), Path('b.jpg')])
label: str = one.label
rows = p.predict_files([Path('a.jpg')], top=2)
figures = p.evaluate(rows).error_rate
wrong: str = p.predict('a.jpg')
p.nonsense
p.predict_files(7)
'''


@pytest.mark.slow
def test_a_type_checker_sees_the_methods_and_what_they_take(tmp_path):
    api = pytest.importorskip('mypy.api', reason='mypy is not installed')
    (tmp_path/'use.py').write_text(TYPED)
    (tmp_path/'mypy.ini').write_text('[mypy]\nfollow_imports = skip\nignore_missing_imports = True\n'
                                     '[mypy-pet_classifier.*]\nfollow_imports = silent\n')
    said, *_ = api.run(['--config-file', str(tmp_path/'mypy.ini'), '--no-incremental', str(tmp_path/'use.py')])
    errors = [line.split(':') for line in said.splitlines() if ': error:' in line]
    assert [(Path(file).name, line) for file, line, *_ in errors] == [('use.py', '11'), ('use.py', '12'), ('use.py', '13')], said


@pytest.mark.parametrize('mode', ['L', 'LA', 'RGBA', 'P', 'CMYK', '1', 'I;16'])
def test_takes_pil_images_of_any_mode(predictor, mode):
    assert predictor.prepare(Image.new(mode, (40, 30))).shape == (3, 32, 32)


@pytest.mark.parametrize('size', [(1, 1), (1, 3000), (3000, 1)])
def test_takes_images_of_any_shape(predictor, tmp_path, size):
    Image.new('RGB', size).save(tmp_path/'a.png')
    assert predictor.predict(tmp_path/'a.png').label


def test_a_broken_image_is_an_image_problem(predictor, broken):
    for f in broken:
        with pytest.raises(ImageProblem, match=f.name): predictor.predict(f)


@pytest.mark.parametrize('bs', [1, 2, 4, 9, 32])
def test_broken_images_among_good_ones_keep_their_place(predictor, files, broken, bs):
    mixed = [broken[0], *files[:3], broken[1], broken[2], *files[3:]]
    rows = predictor.predict_files(mixed, bs=bs)
    assert list(rows) == ['file', 'label', 'probability', 'none_of_these', 'problem'] and not rows.none_of_these.any()
    assert rows.file.tolist() == mixed
    assert rows.label.tolist() == [predictor.predict(f).label if f in files else '' for f in mixed]
    assert rows.probability.isna().tolist() == [f in broken for f in mixed]
    assert [bool(p) for p in rows.problem] == [f in broken for f in mixed]
    assert rows.problem[0].startswith('not an image') and rows.problem[4] == 'empty'


def test_nothing_but_broken_images(predictor, broken):
    rows = predictor.predict_files(broken, top=3)
    assert (rows.label == '').all() and (rows.label3 == '').all() and rows.probability3.isna().all()


def test_top(predictor, files):
    rows = predictor.predict_files(files, top=3)
    assert list(rows) == ['file', 'label', 'probability', 'label2', 'probability2', 'label3', 'probability3',
                          'none_of_these', 'problem']
    first = predictor.predict(files[0])
    assert [rows.label[0], rows.label2[0], rows.label3[0]] == list(first.probs)
    assert rows.probability2[0] == pytest.approx(list(first.probs.values())[1], abs=1e-5)
    for top in 0, 4:
        with pytest.raises(ValueError, match=f'top={top}: expected 1 to 3'): predictor.predict_files(files, top=top)
    with pytest.raises(ValueError, match='bs=0'): predictor.predict_files(files, bs=0)


def test_one_file_and_none(predictor, files):
    assert predictor.predict_files(str(files[0])).file.tolist() == [Path(files[0])]
    assert list(predictor.predict_files([], top=2)) == ['file', 'label', 'probability', 'label2', 'probability2',
                                                       'none_of_these', 'problem']


def test_evaluates_as_the_learner_does(learn, predictor, table):
    ours, theirs = predictor.evaluate(table[table.is_valid], bs=4), interpret(learn)
    assert ours.files == theirs.files and ours.vocab == theirs.vocab and ours.problems.empty
    assert ours.targets.tolist() == theirs.targets.tolist()
    assert ours.error_rate == theirs.error_rate
    assert ours.probs == pytest.approx(theirs.probs, abs=1e-5)


def test_evaluates_without_the_broken_ones(predictor, files, broken):
    table = pd.DataFrame(dict(file=[broken[0], files[0], broken[1], files[1]], label=['red', 'blue', 'blue', 'green']))
    interp = predictor.evaluate(table)
    assert interp.files == files[:2] and [interp.vocab[t] for t in interp.targets] == ['blue', 'green']
    assert interp.problems.file.tolist() == broken[:2] and interp.problems.problem[1] == 'empty'
    with pytest.raises(ValueError, match='none of 1 images can be opened: empty.jpg'): predictor.evaluate(table.iloc[[2]])


def test_labels_that_the_bundle_does_not_know_are_listed_and_counted_apart(predictor, files):
    table = pd.DataFrame(dict(file=files[:4], label=['mauve', 'red', 'ecru', 'blue']), index=[7, 7, 3, 1])
    interp = predictor.evaluate(table)
    assert interp.files == [files[1], files[3]] and [interp.vocab[t] for t in interp.targets] == ['red', 'blue']
    assert interp.unknown.values.tolist() == [[files[0], 'mauve'], [files[2], 'ecru']] and interp.problems.empty


@pytest.mark.parametrize('label', ['red', 'green'])
@pytest.mark.slow
def test_images_of_one_class_only_are_evaluated(predictor, files, label):
    interp = predictor.evaluate(pd.DataFrame(dict(file=files[:3], label=label)))
    assert len(interp.files) == 3 and interp.majority_error == 0 and interp.unknown.empty
    assert interp.per_breed().support.tolist() == [3*(v == label) for v in interp.vocab]


def test_without_one_label_that_the_bundle_knows_there_is_nothing_to_evaluate(predictor, files):
    table = pd.DataFrame(dict(file=files[:2], label=['mauve', 'ecru']))
    said = 'no label is one of the 3 classes of this bundle: ecru, mauve; it has blue, green, red'
    with pytest.raises(ValueError, match=said): predictor.evaluate(table)
    with pytest.raises(ValueError, match="no column label"): predictor.evaluate(table[['file']])


def test_a_network_whose_answers_are_no_numbers_is_an_error_and_not_the_first_class(learn, tmp_path):
    state = {k: v.clone() for k, v in learn.model.state_dict().items()}
    bundle = load_bundle(save_bundle(learn, tmp_path/'model'))
    bundle.model.load_state_dict({k: -torch.ones_like(v) if 'running_var' in k else v for k, v in state.items()})
    with pytest.raises(ValueError, match='the network returns NaN'): Predictor(bundle).predict(Image.new('RGB', (32, 32)))
