"A run leaves a folder whose parts agree with each other, never touches another, and keeps the better stage."
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from PIL import Image
from safetensors.torch import load_file

from pet_classifier.data.corrections import Corrections
from pet_classifier.data.images import ImageProblem
from pet_classifier.data.labels import label_by_name
from pet_classifier.data.splits import load_split, random_split, save_split
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.evaluation.calibration import at_temperature
from pet_classifier.evaluation.interpretation import load_predictions
from pet_classifier.model.features import fingerprint
from pet_classifier.report import write_report
from pet_classifier.run import check_out, labelled_table, train_run, train_stages
from pet_classifier.runs.config import RunConfig, content_hash
from pet_classifier.runs.dealing import image_size, run_features
from pet_classifier.runs.figures import not_fatal, save_figures
from pet_classifier.training.fine_tuning import better, fine_tune, load_stage

pytestmark = pytest.mark.slow


@pytest.fixture
def quick(monkeypatch, tiny_run, tmp_path):
    "A function that runs as `tiny_run` did, but draws no figures; gives the folder and the metrics"
    monkeypatch.setattr('pet_classifier.run.save_figures', lambda *args: None)
    def quick(data=tiny_run.data, out=tmp_path/'out', **kwargs):
        return out, train_run(data, out, **{**tiny_run.kwargs, 'say': lambda text: None, **kwargs})
    return quick


@pytest.mark.parametrize('a, b, is_better', [
    ((1., .2), (2., .1), True), ((1., .1), (.5, .2), False), ((1., .1), (.9, .1), True), ((1., .1), (1.1, .1), False),
    ((1., .1), (1., .1), True), ((1., .1), (float('nan'), .1), False), ((1., .1), (float('nan'), .2), False)])
def test_the_lower_error_is_better_and_among_equals_the_lower_loss(a, b, is_better): assert better(a, b) == is_better


def test_a_run_has_every_part(tiny_run):
    assert sorted(f.relative_to(tiny_run.out).as_posix() for f in tiny_run.out.rglob('*') if f.is_file()) == [
        '.lock', 'checkpoints/fine-tuned.safetensors', 'checkpoints/head.safetensors', 'duplicates.csv',
        'figures/batch.png', 'figures/confusion_matrix.png', 'figures/lr.png', 'figures/top_losses.png', 'history.csv',
        'label_issues.csv', 'metrics.json', 'model/README.md', 'model/config.json', 'model/model.safetensors', 'predictions.csv',
        'report.html', 'run.json', 'split.csv']
    for f in (tiny_run.out/'figures').iterdir():
        with Image.open(f) as im: assert min(im.size) > 100 and len(im.convert('RGB').getcolors(2**24)) > 20


def test_metrics_history_and_bundle_agree(tiny_run):
    metrics = json.loads((tiny_run.out/'metrics.json').read_text())
    card = (tiny_run.out/'model'/'README.md').read_text()
    assert f'| error_rate | {metrics["error_rate"]:.4g} |' in card and '| data_licence | unknown: state their source' in card
    assert metrics == tiny_run.metrics
    assert {'error_rate', 'seconds', 'arch', 'size', 'seed', 'train', 'valid', 'versions'} <= metrics.keys()
    table, broken = labelled_table(tiny_run.data)
    table = load_split(table, tiny_run.out/'split.csv')
    counts = (~table.is_valid).sum(), table.is_valid.sum(), len(broken)
    assert (metrics['train'], metrics['valid'], metrics['left_out']) == counts == (14, 4, 2)
    interp = Predictor(tiny_run.out/'model').evaluate(table[table.is_valid])
    assert interp.error_rate == metrics['error_rate']
    history = pd.read_csv(tiny_run.out/'history.csv')
    assert history.stage.tolist() == ['head']*3 + ['fine-tune']
    last = history[history.stage == dict(head='head', **{'fine-tuned': 'fine-tune'})[metrics['stage']]].iloc[-1]
    assert last.error_rate == pytest.approx(metrics['error_rate'])
    raw = load_predictions(tiny_run.out/'predictions.csv', tiny_run.data)  # before the temperature
    assert last.valid_loss == pytest.approx(raw.losses.mean(), abs=1e-4)
    assert interp.probs == pytest.approx(at_temperature(raw.probs, metrics['temperature']), abs=1e-4)
    facts = json.loads((tiny_run.out/'model'/'config.json').read_text())['facts']
    assert facts.items() <= metrics.items() and facts.keys() >= {'error_rate', 'error_low', 'error_high', 'train', 'valid'}
    assert 'root' not in facts  # the bundle does not tell where its images lay


def test_broken_files_are_named_counted_and_left_out(tiny_run):
    assert tiny_run.metrics['left_out'] == 2
    assert [s.split(':')[1].strip() for s in tiny_run.said if s.startswith('left out')] == ['blue_91.jpg', 'red_90.jpg']
    assert not pd.read_csv(tiny_run.out/'split.csv').file.isin(['blue_91.jpg', 'red_90.jpg']).any()
    assert any(f'error rate {tiny_run.metrics["error_rate"]:.1%} on 4 images' in s for s in tiny_run.said)


def test_the_same_seed_makes_the_same_run(tiny_run, quick):
    out, metrics = quick()
    for name in 'error_rate', 'stage', 'suggested_lr': assert metrics[name] == tiny_run.metrics[name]
    assert (out/'split.csv').read_bytes() == (tiny_run.out/'split.csv').read_bytes()
    one, other = (load_file(o/'model'/'model.safetensors') for o in (out, tiny_run.out))
    assert one.keys() == other.keys() and all((v - other[k]).abs().max() <= 1e-6 for k, v in one.items())
    assert not (out/'figures').exists()  # it was a second run


def test_another_seed_makes_another_split(tiny_run, quick):
    out, metrics = quick(seed=3, epochs=0, head_epochs=1)
    assert (out/'split.csv').read_bytes() != (tiny_run.out/'split.csv').read_bytes()
    assert metrics['stage'] == 'head' and [f.name for f in (out/'checkpoints').iterdir()] == ['head.safetensors']


def test_a_split_that_is_given_is_used(tiny_run, quick, tmp_path):
    table, _ = labelled_table(tiny_run.data)
    table = random_split(table, valid_pct=0.5, seed=9)
    save_split(table, tmp_path/'mine.csv')
    out, metrics = quick(split=tmp_path/'mine.csv', epochs=0, head_epochs=1)
    assert (out/'split.csv').read_bytes() == (tmp_path/'mine.csv').read_bytes() and metrics['valid'] == 9


def test_fine_tuning_that_spoils_the_weights_is_taken_back(quick, monkeypatch):
    heads, said = [], []
    def spoil(learn, epochs, lr, seed, checkpoint):
        heads.append((tuple(learn.validate()), fingerprint(learn.model)))
        return fine_tune(learn, epochs, 10., seed, checkpoint=checkpoint)
    monkeypatch.setattr('pet_classifier.run.fine_tune', spoil)
    out, metrics = quick(head_epochs=20, say=said.append)
    (_, error), kept = heads[0]
    assert error < 0.5 and metrics['error_rate'] == pytest.approx(error) and metrics['stage'] == 'head'
    assert any('fine-tuning did not lower the validation error' in s for s in said)
    assert fingerprint(Predictor(out/'model').bundle.model) == kept


def test_fine_tuning_that_makes_it_better_is_kept(learner, monkeypatch):
    learn, said = learner(), []
    def improve(learn, *args, **kwargs):
        learn.model[1][-1].bias.data += 1
        return True
    monkeypatch.setattr('pet_classifier.run.fine_tune', improve)
    assert train_stages(learn, 1, 1, slice(1e-5, 1e-4), 2, said.append) == 'fine-tuned'
    assert not any('did not lower' in s for s in said)
    kept = fingerprint(learn.model)
    load_stage(learn, 'head')
    assert fingerprint(learn.model) != kept
    load_stage(learn, 'fine-tuned')
    assert fingerprint(learn.model) == kept


def test_the_stages_are_compared_without_predicting_the_validation_images_again(learner, monkeypatch):
    learn, validate, asked = learner(), Learner.validate, []
    def counted(self, *args, **kwargs):
        asked.append(1)
        return validate(self, *args, **kwargs)
    monkeypatch.setattr(Learner, 'validate', counted)
    assert train_stages(learn, 1, 2, slice(1e-5, 1e-4), 2, lambda text: None) in ('head', 'fine-tuned')
    assert len(asked) == 1  # before fine-tuning; each epoch says by itself what it reached


@pytest.mark.parametrize('make, error, said', [
    (lambda out: out.write_text('x'), NotADirectoryError, 'is a file'),
    (lambda out: (out.mkdir(), (out/'thesis.txt').write_text('x')), FileExistsError, 'is not empty; a run never overwrites'),
    (lambda out: (out.mkdir(), (out/'.hidden').touch()), FileExistsError, 'is not empty'),
])
def test_an_out_that_holds_something_is_refused_and_left_alone(tiny_run, quick, tmp_path, make, error, said):
    make(tmp_path/'out')
    before = [(f, f.is_dir() or f.read_bytes()) for f in tmp_path.rglob('*')]
    with pytest.raises(error, match=said): quick()
    assert [(f, f.is_dir() or f.read_bytes()) for f in tmp_path.rglob('*')] == before


def test_an_empty_folder_is_taken(tmp_path): assert check_out(str(tmp_path)) == tmp_path


@pytest.mark.parametrize('kwargs', [
    dict(arch='resnet43'), dict(lr=0), dict(lr=slice(1e-3, 1e-5)), dict(weights='best'), dict(weights='nowhere.pth'),
    dict(valid_pct=0), dict(valid_pct=1.5), dict(pattern='(x)'), dict(pattern='no group'), dict(split='nowhere.csv'),
    dict(seed=-1), dict(data='nowhere'), dict(epoch=3),
    dict(epochs=-1), dict(head_epochs=0), dict(size=0)])
def test_wrong_arguments_make_no_folder(quick, tmp_path, kwargs):
    with pytest.raises((ValueError, OSError, TypeError)): quick(**kwargs)
    assert not (tmp_path/'out').exists()


def test_the_split_of_other_images_is_refused_and_makes_no_folder(quick, tmp_path, tiny_run):
    table = labelled_table(tiny_run.data)[0].iloc[1:]
    save_split(random_split(table), tmp_path/'other.csv')
    with pytest.raises(ValueError, match="'other.csv' is not the split of these images: 1 only in the table: blue_0.jpg"):
        quick(split=tmp_path/'other.csv')
    assert not (tmp_path/'out').exists()


def test_folders_label_where_there_are_several_and_names_else(tiny_folder, tmp_path, draw):
    assert labelled_table(tiny_folder)[0].label.nunique() == 3
    for i, label in enumerate(['red', 'green', 'blue']*3): draw(tmp_path/'a'/label/f'IMG{i}.png', label, i)
    table, broken = labelled_table(tmp_path/'a')
    assert table.label.tolist() == [f.parent.name for f in table.file] and len(table) == 9 and 'is_valid' not in table
    for i, label in enumerate(['red', 'green', 'blue']*3): draw(tmp_path/'b'/'all'/f'{label}_{i}.jpg', label, i)
    assert set(labelled_table(tmp_path/'b')[0].label) == {'red', 'green', 'blue'}
    (tmp_path/'a'/'red'/'broken.png').touch()
    table, broken = labelled_table(tmp_path/'a')
    assert len(table) == 9 and broken.file.tolist() == [tmp_path/'a'/'red'/'broken.png']


@pytest.mark.parametrize('cameras', [('IMG',), ('IMG', 'DSC')])
def test_a_cameras_name_is_no_label(tmp_path, draw, cameras):
    for i, label in enumerate(['red', 'green', 'blue']*4):
        draw(tmp_path/label/f'{cameras[i % len(cameras)]}_{1000+i}.jpg', label, i)
    assert sorted(labelled_table(tmp_path)[0].label) == sorted(['red', 'green', 'blue']*4)


def test_a_folder_that_is_called_like_a_data_set_is_a_folder(tmp_path, draw, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, label in enumerate(['red', 'blue']*3): draw(Path('sample')/label/f'{i}.jpg', label, i)
    assert len(labelled_table(Path('sample'))[0]) == 6


def test_a_name_that_does_not_fit_is_an_error_where_there_are_no_folders(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path/'a')
    (tmp_path/'a'/'red_0.jpg').rename(tmp_path/'a'/'red.jpg')
    with pytest.raises(ValueError, match='1 of 18 names do not match .*red.jpg'): labelled_table(tmp_path/'a')


def test_a_pattern_that_is_given_goes_before_folders(tiny_folder):
    table, _ = labelled_table(tiny_folder, r'_(\d)\.jpg$')
    assert set(table.label) == set('012345')
    assert table.label.tolist() == label_by_name(table.file, r'_(\d)\.jpg$').label.tolist()


def test_nothing_but_broken_images_is_an_error(tmp_path):
    (tmp_path/'red_1.jpg').touch()
    with pytest.raises(ValueError, match='no images to label'): labelled_table(tmp_path)


def test_train_and_valid_folders_become_the_split(quick, tmp_path, draw):
    for part, n in dict(train=4, valid=2).items():
        for i, label in enumerate(['red', 'green', 'blue']*n): draw(tmp_path/'data'/part/label/f'{i}.png', label, i)
    out, metrics = quick(data=tmp_path/'data', epochs=0, head_epochs=1)
    split = pd.read_csv(out/'split.csv')
    assert split.is_valid.tolist() == split.file.str.startswith('valid/').tolist()
    assert (metrics['train'], metrics['valid']) == (12, 6)


@pytest.fixture(scope='module')
def real_run(pets_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp('real')/'run'
    return out, train_run(pets_dir, out, 'efficientnet_lite0', size=128, epochs=0, say=lambda text: None)


def test_real_pets_are_learned_and_a_fresh_process_says_the_same(real_run, pets_dir):
    out, metrics = real_run
    assert metrics['train'] == metrics['valid'] == 259 and metrics['error_rate'] < 0.35
    table, _ = labelled_table(pets_dir)
    table = load_split(table, out/'split.csv')
    table = table[table.is_valid]
    interp = Predictor(out/'model').evaluate(table)
    assert interp.error_rate < metrics['error_rate'] # the final head has seen all of them
    code = 'from pet_classifier.entry import run; run()'
    words = 'predict', out/'model', *table.file, '--csv', out/'said.csv'
    done = subprocess.run([sys.executable, '-c', code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = pd.read_csv(out/'said.csv', keep_default_na=False)
    assert said.file.tolist() == [str(f) for f in table.file]
    assert said.label.tolist() == [interp.vocab[i] for i in interp.preds]
    assert said.probability.tolist() == pytest.approx(interp.probs.max(1).tolist(), abs=1e-4)


def test_what_computes_is_said_once_and_kept(tiny_run):
    said = [s for s in tiny_run.said if s.startswith('computing on ')]
    assert len(said) == 1 and said[0].removeprefix('computing on ') == tiny_run.metrics['device']
    assert '--device' not in tiny_run.metrics['command']  # a run may go on elsewhere


def test_a_device_that_is_not_there_is_refused_before_anything_else(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    with pytest.raises(ValueError, match="device='cuda': .* leave `device` out, or give 'cpu'"):
        train_run(tiny_folder, tmp_path/'run', 'test_resnet', device='cuda')
    assert not (tmp_path/'run').exists()


def test_the_device_is_the_one_asked_for(quick, monkeypatch):
    monkeypatch.setattr('pet_classifier.core.device.default_device', lambda: torch.device('meta'))  # which would fail
    _, metrics = quick(device='cpu')
    assert metrics['device'].startswith('cpu, ')


def test_relative_paths_and_a_run_folder_among_the_images(quick, tmp_path, tiny_folder, monkeypatch):
    shutil.copytree(tiny_folder, tmp_path/'photos')
    monkeypatch.chdir(tmp_path)
    for name in 'run', 'run2':  # the second finds the figures of the first
        out, metrics = quick(data='photos', out=f'photos/{name}', epochs=0, head_epochs=1)
        assert Path(out, 'report.html').is_file() and metrics['root'] == str(tmp_path/'photos')
        assert metrics['train'] + metrics['valid'] == 18
        assert metrics['command'].startswith(f'pet-classifier train photos --out photos/{name} ')
    write_report('photos/run')
    (tmp_path/'photos').rename('moved')  # with the runs in it
    write_report('moved/run')
    with pytest.raises(FileExistsError, match="and the images in 'moved' are in it"): quick(data='moved', out='.')


@pytest.mark.parametrize('broken', [
    ['runs.figures.save_figure', 'run.find_lr', 'runs.dealing.duplicate_pairs', 'runs.issues.find_label_issues',
     'run.evaluate_test_set'], ['run.save_figures', 'run.write_report']], ids=len)
def test_what_only_shows_the_result_costs_no_model(quick, monkeypatch, broken, tiny_run):
    said = []
    monkeypatch.setattr('pet_classifier.run.save_figures', save_figures)
    def fails(name):
        def fail(*args, **kwargs): raise RuntimeError(f'{name}\non purpose')
        return fail
    for name in broken: monkeypatch.setattr(f'pet_classifier.{name}', fails(name))
    out, metrics = quick(epochs=0, head_epochs=1, say=said.append)
    for name in broken: assert any(s.endswith(f'is left out: RuntimeError: {name}\\non purpose') for s in said), name
    assert Predictor(out/'model').bundle.vocab and metrics == json.loads((out/'metrics.json').read_text())
    if 'run.write_report' not in broken: assert (out/'report.html').is_file()
    assert quick(epochs=0, head_epochs=1, resume=True)[1] == metrics  # finished


def test_an_interruption_is_not_left_out():
    with pytest.raises(KeyboardInterrupt), not_fatal('this'): raise KeyboardInterrupt


@pytest.mark.parametrize('broken', ['write_json', 'save_split', 'write_csv'])
def test_after_an_error_before_training_the_place_is_as_it_was(quick, monkeypatch, tmp_path, broken):
    def fail(*args, **kwargs): raise OSError('the disk is full')
    monkeypatch.setattr(f'pet_classifier.runs.folder.{broken}', fail)
    (tmp_path/'there').mkdir()
    for out in tmp_path/'some'/'where', tmp_path/'there':
        with pytest.raises(OSError, match='the disk is full'): quick(out=out)
    assert not (tmp_path/'some').exists() and list((tmp_path/'there').iterdir()) == []


def test_weights_that_are_not_there_leave_no_folder(quick, tmp_path):
    with pytest.raises(FileNotFoundError): quick(weights='gone.safetensors')
    assert not (tmp_path/'out').exists()


def test_always_the_same_answer_is_told(quick, tmp_path, draw):
    for i in range(20): draw(tmp_path/'data'/'cat'/f'{i}.png', 'red', i)
    for i in range(2): draw(tmp_path/'data'/'dog'/f'{i}.png', 'red', 50+i)
    said = []
    out, metrics = quick(data=tmp_path/'data', epochs=0, head_epochs=1, say=said.append)
    assert "always answering 'cat' would be wrong on" in said[-1] and 'never predicted: dog' in said[-1]
    assert metrics['never_predicted'] == ['dog'] and metrics['balanced_error'] == 0.5
    assert metrics['majority_error'] == pytest.approx(metrics['error_rate'])
    assert 'never predicted: dog' in (out/'report.html').read_text()


def test_a_test_set_is_evaluated_once_and_apart(quick, tmp_path, draw):
    for i, label in enumerate(['red', 'green', 'blue']*2): draw(tmp_path/'test'/label/f'{i}.png', label, 100+i)
    said = []
    out, metrics = quick(test=tmp_path/'test', epochs=0, head_epochs=1, say=said.append)
    table, _ = labelled_table(tmp_path/'test')
    interp = Predictor(out/'model').evaluate(table)
    assert (metrics['test_n'], metrics['test_error']) == (6, interp.error_rate)
    assert any(s.startswith(f'test set: error rate {interp.error_rate:.1%} on 6 images') for s in said)
    assert f'{interp.error_rate:.1%} of 6 images' in (out/'report.html').read_text()


def test_any_name_of_a_class_can_be_drawn(quick, monkeypatch, tmp_path, draw):
    monkeypatch.setattr('pet_classifier.run.save_figures', save_figures)
    names, said = ['from $5 to $10', 'a'*120, '猫', '001', '002'], []
    for n, name in enumerate(names):
        for i in range(3): draw(tmp_path/'data'/name/f'{i}.png', 'red', i + 10*n)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        out, _ = quick(data=tmp_path/'data', epochs=0, head_epochs=1, say=said.append)
    assert not [w for w in caught if 'Glyph' in str(w.message) or 'layout' in str(w.message)]
    assert len(list((out/'figures').iterdir())) == 4 and not any('left out' in s for s in said)
    page = (out/'report.html').read_text()
    assert all(name in page for name in names)
    assert {s.partition(',')[0].rpartition(' ')[2] for s in said if 'font has no' in s} == {'猫'}


# cross-validated runs: the head alone, in closed form, on all images

@pytest.fixture(scope='module')
def photos(tmp_path_factory, draw):
    "Ten images of each colour, two of which have another's label, and a copy of the first of them"
    folder, labels = tmp_path_factory.mktemp('photos'), ['red', 'green', 'blue']
    for n, label in enumerate(labels):
        for i in range(10): draw(folder/f'{label}_{i}.png', label if i < 8 else labels[n-1], 10*n + i)
    with Image.open(folder/'red_0.png') as im: im.resize((90, 120)).save(folder/'red_10.png')
    return folder


@pytest.fixture
def crossed(monkeypatch, photos, tiny_weights, tiny_run, tmp_path):
    "A function that runs on `photos` without fine-tuning, but draws no figures; gives the folder, the metrics and what was said"
    monkeypatch.setattr('pet_classifier.run.save_figures', lambda *args: None)
    def crossed(data=photos, out=tmp_path/'crossed', **kwargs):
        said, how = [], dict(arch=tiny_run.kwargs['arch'], weights=str(tiny_weights), size=32, epochs=0, device='cpu')
        return out, train_run(data, out, say=said.append, **how | kwargs), said
    return crossed


def test_the_head_alone_is_cross_validated_and_then_fitted_on_all_images(crossed, photos):
    out, metrics, said = crossed()
    assert (metrics['evaluation'], metrics['train'], metrics['valid'], metrics['refit'], metrics['folds']) == (
        'cross-validated', 31, 31, True, 5)
    assert metrics['error_low'] < metrics['error_rate'] + 1e-9 < metrics['error_high']
    assert any('cross-validated in 5 folds' in s for s in said)
    interp = load_predictions(out/'predictions.csv', photos)
    assert len(interp.files) == 31 and interp.error_rate == pytest.approx(metrics['error_rate'])
    final = Predictor(out/'model').evaluate(labelled_table(photos)[0])
    assert final.error_rate <= metrics['error_rate'] and not np.allclose(final.probs, interp.probs)
    assert 'cross-validated on 31 images' in (out/'model'/'README.md').read_text()
    page = (out/'report.html').read_text()
    assert '5-fold cross-validation' in page and 'On 100 new images, expect' in page and 'How it learned' not in page
    facts = json.loads((out/'model'/'config.json').read_text())['facts']
    assert facts.items() <= metrics.items() and facts['evaluation'] == 'cross-validated'


def test_copies_are_in_one_fold_and_the_split_is_used_again(crossed, photos, tmp_path):
    out, metrics, said = crossed()
    split = pd.read_csv(out/'split.csv').set_index('file')
    assert list(split) == ['label', 'is_valid', 'fold', 'group']
    assert split.fold['red_0.png'] == split.fold['red_10.png'] and split.group['red_0.png'] == split.group['red_10.png']
    assert metrics['ungrouped_error'] is not None and 'stay in one fold' in (out/'report.html').read_text()
    assert not pd.read_csv(out/'duplicates.csv').across_split.any()
    again, other, _ = crossed(out=tmp_path/'again', split=out/'split.csv', seed=7)
    assert (again/'split.csv').read_bytes() == (out/'split.csv').read_bytes()
    assert (again/'predictions.csv').read_bytes() == (out/'predictions.csv').read_bytes()


@pytest.mark.parametrize('kwargs', [dict(refit=False), dict(valid_pct=0.3), dict(head_epochs=1), dict(epochs=1)])
def test_a_validation_set_is_held_out_where_one_is_asked_for_or_needed(crossed, kwargs):
    out, metrics, _ = crossed(**kwargs)
    assert metrics['evaluation'] == 'held-out' and not metrics['refit'] and metrics['train'] + metrics['valid'] == 31
    assert 'held out before training' in (out/'report.html').read_text()
    assert 'held-out images' in (out/'model'/'README.md').read_text()
    assert 'fold' not in pd.read_csv(out/'split.csv')


def test_fine_tuning_is_skipped_without_a_gpu_for_few_images_and_that_is_said(crossed):
    _, metrics, said = crossed(epochs=None)
    assert metrics['epochs'] == 0 and any('skipping fine-tuning' in s and '--epochs 2 turns it on' in s for s in said)
    assert '--epochs' not in metrics['command']


def test_a_share_as_test_set_is_drawn_apart_and_reported_apart(crossed, photos):
    out, metrics, said = crossed(test=0.2)
    split = pd.read_csv(out/'split.csv')
    tested = split[split.test]
    assert len(tested) == metrics['test_n'] == 31 - metrics['train'] and set(tested.label) == {'red', 'green', 'blue'}
    assert not set(pd.read_csv(out/'predictions.csv').file) & set(tested.file)
    final = Predictor(out/'model').evaluate(tested.assign(file=[photos/f for f in tested.file]))
    assert final.error_rate == metrics['test_error']
    assert 'test set' in (out/'report.html').read_text() and 'test set' in (out/'model'/'README.md').read_text()
    assert len(load_split(labelled_table(photos)[0], out/'split.csv')) == metrics['train']
    assert '--test 0.2' in metrics['command']


def test_groups_by_pattern_and_by_column(crossed, photos, tmp_path):
    out, _, said = crossed(group_pattern=r'_([12])\.png')
    split = pd.read_csv(out/'split.csv')
    assert split[split.file.str.contains(r'_1\.')].fold.nunique() == 1
    assert any('groups, which stay on one side' in s for s in said)
    table = labelled_table(photos)[0]
    table.assign(group=[f.stem[-1] for f in table.file]).to_csv(tmp_path/'t.csv', index=False)
    out, _, said = crossed(data=tmp_path/'t.csv', out=tmp_path/'by_column', folds=3)
    split = pd.read_csv(out/'split.csv')
    assert split.groupby(split.file.str[-5]).fold.nunique().max() == 1
    assert any("images with the same 'group' stay on one side" in s for s in said)


def test_a_class_of_one_image_is_named_and_the_final_model_knows_it(crossed, photos, tmp_path, draw):
    data = shutil.copytree(photos, tmp_path/'data')
    for i in range(1, 10): (data/f'blue_{i}.png').unlink()
    out, metrics, said = crossed(data=data)
    assert any('1 of 3 classes have a single image' in s and 'blue' in s for s in said)
    assert (metrics['train'], metrics['valid']) == (22, 21)
    assert Predictor(out/'model').predict(data/'blue_0.png').label == 'blue'


def test_balanced_classes_are_cross_validated_too(crossed, photos, tmp_path):
    data = shutil.copytree(photos, tmp_path/'data')
    for i in range(3, 10): (data/f'blue_{i}.png').unlink()
    plain, balanced = (crossed(data=data, out=tmp_path/f'{b}', balance=b)[0] for b in (False, True))
    one, other = (load_predictions(o/'predictions.csv', data) for o in (plain, balanced))
    blue = one.vocab.index('blue')
    assert other.probs[:, blue].mean() > one.probs[:, blue].mean()


def test_a_killed_cross_validated_run_goes_on_with_its_folds(crossed, monkeypatch):
    whole, metrics, _ = crossed(test=0.2)
    with monkeypatch.context() as patch:
        patch.setattr('pet_classifier.run.save_bundle', lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt): crossed(out=whole.parent/'killed', test=0.2)
    out, again, _ = crossed(out=whole.parent/'killed', test=0.2, resume=True)
    for name in 'split.csv', 'predictions.csv': assert (out/name).read_bytes() == (whole/name).read_bytes()
    assert again['error_rate'] == metrics['error_rate'] and again['test_error'] == metrics['test_error']


@pytest.mark.parametrize('test', ['1.5', 0, 2])
def test_a_share_that_is_none_is_refused(crossed, test):
    with pytest.raises(ValueError, match='a share between 0 and 1'): crossed(test=test)


@pytest.mark.parametrize('asked, epochs, size', [
    ({}, 0, (224, 352)), ({}, 2, 224), (dict(head_epochs=3), 0, 224), (dict(weights='none'), 0, 224), (dict(size=96), 0, 96),
    (dict(size=(64, 96)), 2, (64, 96)), (dict(arch='test_vit_relpos', size=None), 0, 224)])
def test_two_sizes_where_only_a_head_is_fitted_and_both_can_be_taken(asked, epochs, size):
    assert image_size(RunConfig(**asked), epochs) == size


def test_an_image_that_vanishes_before_the_split_is_left_out(crossed, photos, tmp_path, monkeypatch):
    data, really, lost = shutil.copytree(photos, tmp_path/'data'), run_features, []
    def vanishes(table, config, device):
        if not lost:
            lost.append(data/'green_3.png')
            lost[0].unlink()
            raise ImageProblem(lost[0], 'not found')
        return really(table, config, device)
    monkeypatch.setattr('pet_classifier.run.run_features', vanishes)
    out, metrics, said = crossed(data=data)
    assert (metrics['train'], metrics['left_out']) == (30, 1) and any('green_3.png' in s for s in said)
    assert 'green_3.png' not in set(pd.read_csv(out/'split.csv').file)


def test_the_loser_of_a_race_leaves_the_winners_files(crossed, tmp_path, monkeypatch):
    out = tmp_path/'crossed'
    def other_is_quicker(path, work):
        path.mkdir(parents=True)
        (path/'.lock').touch()
        (path/'run.json').touch()
        raise BlockingIOError('another process is writing')
    monkeypatch.setattr('pet_classifier.run.folder_lock', other_is_quicker)
    with pytest.raises(BlockingIOError): crossed()
    assert sorted(f.name for f in out.iterdir()) == ['.lock', 'run.json']


# corrections

@pytest.fixture
def corrections(photos, tmp_path):
    "Decisions about `photos`: the six wrong labels corrected, one to a new class, and an image excluded"
    log, labels = Corrections(tmp_path/'corrections.csv', photos), ['red', 'green', 'blue']
    for n, label in enumerate(labels):
        for i in (8, 9): log.append(f'{label}_{i}.png', label, 'relabel', labels[n-1])
    log.append('red_10.png', 'red', 'exclude', reason='a copy')
    log.append('red_0.png', 'red', 'keep')
    return log.path


def test_corrected_labels_are_trained_on_and_counted_everywhere(crossed, photos, corrections):
    before = crossed()[1]
    out, metrics, said = crossed(out=corrections.parent/'corrected', corrections=corrections)
    counts = '6 labels corrected, 1 image excluded, 1 label confirmed'
    assert metrics['corrections'] == counts and metrics['train'] == 30 and f"'corrections.csv': {counts}" in said
    assert metrics['error_rate'] < before['error_rate']
    split = pd.read_csv(out/'split.csv').set_index('file').label
    assert split['red_8.png'] == 'blue' and 'red_10.png' not in split
    run = json.loads((out/'run.json').read_text())
    assert run['corrections'].items() >= dict(file=str(corrections), relabeled=6, excluded=1, kept=1, conflicts=0).items()
    assert run['options']['--corrections'] == f"a file with the SHA-256 {run['corrections']['sha256']}"
    assert metrics['correction_counts']['excluded'] == 1 and f'--corrections {corrections}' in metrics['command']
    assert all(counts in (out/page).read_text() for page in ('report.html', 'model/README.md'))
    assert 'corrections' not in before


def test_a_split_of_before_the_corrections_is_used_again(crossed, corrections, tmp_path):
    before = crossed()[0]/'split.csv'
    out, metrics, _ = crossed(out=tmp_path/'corrected', corrections=corrections, split=before)
    then, now = (pd.read_csv(f).set_index('file') for f in (before, out/'split.csv'))
    assert set(then.index) - set(now.index) == {'red_10.png'} and (then.fold[now.index] == now.fold).all()


def test_a_run_is_not_resumed_with_other_corrections(crossed, corrections, photos, monkeypatch):
    def killed(*args, **kwargs): raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr('pet_classifier.run.cross_validated_estimate', killed)
        crossed(corrections=corrections)
    Corrections(corrections, photos).append('red_1.png', 'red', 'keep')
    with pytest.raises(ValueError, match='started with --corrections a file with the SHA-256'):
        crossed(corrections=corrections, resume=True)
    with pytest.raises(ValueError, match='cannot be resumed with no --corrections'): crossed(resume=True)
    corrections.write_text(''.join(corrections.read_text().splitlines(keepends=True)[:-1]))
    assert crossed(corrections=corrections, resume=True)[1]['correction_counts']['relabeled'] == 6


def test_decisions_made_during_training_do_not_count(crossed, corrections, photos, monkeypatch):
    from pet_classifier.run import deal
    def review(*args):
        Corrections(corrections, photos).append('red_1.png', 'red', 'exclude')
        return deal(*args)
    monkeypatch.setattr('pet_classifier.run.deal', review)
    digest = content_hash(corrections)
    out, metrics, _ = crossed(corrections=corrections)
    assert digest in json.loads((out/'run.json').read_text())['options']['--corrections']
    assert metrics['correction_counts']['sha256'] == digest
