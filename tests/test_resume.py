"A run that was interrupted goes on behind its last finished epoch, and ends as if nothing had happened."
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from pet_classifier.core.progress import EpochTable
from pet_classifier.core.stale_files import is_stale_folder
from pet_classifier.data.splits import save_split
from pet_classifier.run import train_run
from pet_classifier.training.checkpoint import Checkpoint, read_tensors, write_tensors
from pet_classifier.training.fine_tuning import fine_tune

pytestmark = pytest.mark.slow


OPTIONS = dict(arch='test_resnet', size=32, head_epochs=3, epochs=2, lr=1e-4, say=lambda text: None)


@pytest.fixture
def quick(monkeypatch, tiny_folder, tiny_weights, tmp_path):
    "A function that runs three epochs of the head and two of all, without figures and report images"
    monkeypatch.setattr('pet_classifier.run.save_figures', lambda *args: None)
    def quick(out=tmp_path/'out', data=tiny_folder, **kwargs):
        return train_run(data, out, **OPTIONS | dict(weights=str(tiny_weights)) | kwargs)
    return quick


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    "Runs that were interrupted, by the number of finished epochs: a folder, and what was said"
    folder, begun = tmp_path_factory.mktemp('begun'), {}
    return begun, lambda n, out, said: begun.update({n: (shutil.copytree(out, folder/str(n)), said)})


@pytest.fixture
def interrupted(monkeypatch, quick, begun, tmp_path):
    "A function that interrupts a run in the middle of the epoch after `n` that were finished, and gives what it said"
    begun, keep = begun
    def interrupted(n, **kwargs):
        if n in begun and not kwargs:
            shutil.copytree(begun[n][0], tmp_path/'out')
            return begun[n][1]
        said, count = [], [0]
        def after_batch(self):
            if not self.training or self.quiet: return
            if self.iter == 0: count[0] += 1
            if count[0] == n+1 and self.iter == self.n_iter-1: raise KeyboardInterrupt
        with monkeypatch.context() as patch:
            patch.setattr(EpochTable, 'after_batch', after_batch)
            with pytest.raises(KeyboardInterrupt): quick(say=said.append, **kwargs)
        if not kwargs: keep(n, tmp_path/'out', said)
        return said
    return interrupted


@pytest.fixture(scope='module')
def whole(tiny_folder, tiny_weights, tmp_path_factory):
    "The folder of such a run that was not interrupted"
    out = tmp_path_factory.mktemp('whole')/'run'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('pet_classifier.run.save_figures', lambda *args: None)
        train_run(tiny_folder, out, **OPTIONS, weights=str(tiny_weights))
    return out


@pytest.mark.parametrize('n, said', [
    (0, 'no epoch was finished'), (1, 'epoch 1 of 3 of stage head is saved'), (3, 'epoch 3 of 3 of stage head is saved'),
    (4, 'epoch 1 of 2 of stage fine-tune is saved')])
def test_an_interrupted_run_says_what_is_kept_and_ends_as_if_it_had_not_been(interrupted, quick, whole, tmp_path, n, said):
    assert interrupted(n)[-1].strip() == f'interrupted; {said}, the same command with --resume continues from there'
    assert (tmp_path/'out'/'checkpoints'/'last.safetensors').is_file() == (n > 0)
    epochs = []
    quick(resume=True, say=epochs.append)
    assert any(s.startswith('training the head') for s in epochs) == (n < 3)
    one, other = (load_file(out/'model'/'model.safetensors') for out in (tmp_path/'out', whole))
    assert all(v.equal(other[k]) for k, v in one.items()) and one.keys() == other.keys()
    histories = [pd.read_csv(out/'history.csv').drop(columns='seconds') for out in (tmp_path/'out', whole)]
    assert histories[0].equals(histories[1]) and len(histories[0]) == 5
    assert not (tmp_path/'out'/'checkpoints'/'last.safetensors').exists()  # it is large, and the run is finished


def test_the_epochs_that_were_finished_are_not_trained_again(interrupted, quick, monkeypatch):
    interrupted(4)
    epochs, write = [], Checkpoint.write
    def noted(self, learn):
        epochs.append((learn.epoch_table.stage, learn.epoch))
        write(self, learn)
    monkeypatch.setattr(Checkpoint, 'write', noted)
    quick(resume=True)
    assert epochs == [('fine-tune', 1)]


@pytest.mark.parametrize('other', [dict(seed=3), dict(size=64), dict(epochs=3), dict(lr=1e-3), dict(weights='none')])
def test_a_run_goes_on_with_the_options_it_was_begun_with(interrupted, quick, tmp_path, other):
    interrupted(1)
    before = (tmp_path/'out'/'checkpoints'/'last.safetensors').read_bytes()
    with pytest.raises(ValueError, match='was started with'): quick(resume=True, **other)
    assert (tmp_path/'out'/'checkpoints'/'last.safetensors').read_bytes() == before


@pytest.mark.parametrize('change', [
    lambda lines: lines[:-1], lambda lines: [s.replace('True', 'False') for s in lines], lambda lines: []])
def test_a_changed_split_is_told_and_the_recorded_one_used(interrupted, quick, tmp_path, change):
    interrupted(1)
    split, said = tmp_path/'out'/'split.csv', []
    before = split.read_text()
    split.write_text('\n'.join(change(before.splitlines())) + '\n')
    quick(resume=True, say=said.append)
    assert any('the run uses the split it recorded' in s for s in said) and split.read_text() == before
    assert set(pd.read_csv(tmp_path/'out'/'predictions.csv').file) == set(pd.read_csv(split).query('is_valid').file)


@pytest.mark.parametrize('change, said', [
    (lambda d: (d/'red_0.jpg').unlink(), '1 missing: red_0.jpg'),
    (lambda d: shutil.copy(d/'red_0.jpg', d/'red_9.jpg'), '1 added: red_9.jpg'),
    (lambda d: swap(d/'red_0.jpg', d/'blue_0.jpg'), '2 with other content: blue_0.jpg, red_0.jpg')])
def test_other_images_are_refused_by_name(interrupted, quick, tmp_path, tiny_folder, change, said):
    data = shutil.copytree(tiny_folder, tmp_path/'data')
    interrupted(1, data=data)
    checkpoint = tmp_path/'out'/'checkpoints'/'last.safetensors'
    before = checkpoint.read_bytes()
    change(data)
    with pytest.raises(ValueError, match=f'not the images that the run in .* started with: .*{said}'):
        quick(data=data, resume=True)
    assert checkpoint.read_bytes() == before


def swap(a, b):
    "Let two files change places, with their sizes and times"
    other = a.with_suffix('.tmp')
    a.rename(other)
    b.rename(a)
    other.rename(b)


def test_a_run_goes_on_where_its_images_have_moved_to(interrupted, quick, tmp_path, tiny_folder):
    interrupted(1, data=shutil.copytree(tiny_folder, tmp_path/'data'))
    assert quick(data=(tmp_path/'data').rename(tmp_path/'moved'), resume=True)['root'] == str(tmp_path/'moved')


def test_a_split_file_that_changed_is_refused(interrupted, quick, tmp_path, tiny_table):
    save_split(tiny_table, split := tmp_path/'mine.csv')
    interrupted(1, split=split)
    save_split(tiny_table.assign(is_valid=~tiny_table.is_valid), split)
    with pytest.raises(ValueError, match='started with --split a file with the SHA-256'): quick(split=split, resume=True)


def test_an_image_that_vanishes_is_set_aside(quick, tmp_path, tiny_folder, monkeypatch):
    "Without a cache of decoded images, too: then it is missed in the middle of the training"
    monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', '0')
    data, said = shutil.copytree(tiny_folder, tmp_path/'data'), []
    def vanish(learn, *args, **kwargs):
        (data/'red_0.jpg').unlink(missing_ok=True)
        return fine_tune(learn, *args, **kwargs)
    monkeypatch.setattr('pet_classifier.run.fine_tune', vanish)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        metrics = quick(data=data, say=said.append)
    assert any('1 images can no longer be read (red_0.jpg); the run continues without them' in s for s in said)
    assert metrics['train'] + metrics['valid'] == 17 and metrics['left_out'] == 1
    assert 'red_0.jpg' not in (tmp_path/'out'/'split.csv').read_text()


@pytest.mark.parametrize('change, said', [
    (lambda told, tensors: told.pop('random'), "is incomplete or invalid: KeyError..random"),
    (lambda told, tensors: told.update(optimizer=[]), 'is incomplete or invalid'),
    (lambda told, tensors: told.update(format_version=99), 'has format 99, but this version reads format 3'),
    (lambda told, tensors: told.update(done=7), 'has 7 finished epochs of 3'),
    (lambda told, tensors: tensors.update({k: v*float('nan') for k, v in tensors.items()}), 'NaN or infinity'),
    (lambda told, tensors: tensors.update({k: v[:1] for k, v in tensors.items() if v.ndim}), 'another network')])
def test_a_checkpoint_that_is_not_as_it_should_be_is_refused_with_the_way_out(interrupted, quick, tmp_path, change, said):
    interrupted(1)
    file = tmp_path/'out'/'checkpoints'/'last.safetensors'
    told, tensors = read_tensors(file, 'checkpoint')
    change(told, tensors)
    write_tensors(file, 'checkpoint', told, tensors)
    with pytest.raises(ValueError, match=f'{said}.*; delete .* to train this stage again'): quick(resume=True)


def test_without_the_checkpoint_the_stage_is_trained_again(interrupted, quick, tmp_path):
    interrupted(1)
    (tmp_path/'out'/'checkpoints'/'last.safetensors').unlink()
    assert quick(resume=True)['train'] == 14


def test_a_folder_with_a_begun_run_says_how_to_go_on(interrupted, quick):
    interrupted(1)
    with pytest.raises(FileExistsError, match='resume it .--resume., or choose a new folder'): quick()


def left_by_a_killed_process(folder):
    "The hidden folder in which a process that is no more was writing"
    code = 'import os; from pathlib import Path; from pet_classifier.core.stale_files import temporary_path'
    write = f"place = temporary_path(Path({str(folder/'a')!r})); place.__enter__(); os._exit(9)"
    subprocess.run([sys.executable, '-c', f'{code}; {write}'], check=False)
    assert any(is_stale_folder(f) for f in folder.iterdir())


def test_where_nothing_was_begun_resuming_begins(quick, tmp_path):
    said = []
    metrics = quick(resume=True, say=said.append)
    assert any('there is no run to resume in' in s for s in said) and metrics['train'] == 14
    (tmp_path/'killed').mkdir()
    left_by_a_killed_process(tmp_path/'killed')  # before a word of the run was on the disk
    assert quick(tmp_path/'killed', resume=True)['train'] == 14
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.txt').write_text('three years')
    with pytest.raises(FileNotFoundError, match='there is no run in'): quick(tmp_path/'mine', resume=True)
    assert [f.name for f in (tmp_path/'mine').iterdir()] == ['thesis.txt']


def test_a_finished_run_is_left_as_it_is(quick, tmp_path):
    def state(): return {f: f.read_bytes() for f in (tmp_path/'out').rglob('*') if f.is_file()}
    metrics, said = quick(), []
    before = state()
    assert quick(resume=True, say=said.append) == metrics and state() == before
    assert 'is finished; nothing is left to do' in said[-1]


def test_a_second_process_is_told(quick, tmp_path):
    (tmp_path/'out').mkdir()
    with FileLock(tmp_path/'out'/'.lock'):
        code = f'import filelock; filelock.FileLock({str(tmp_path/"out"/".lock")!r}).acquire(blocking=False)'
        assert 'Timeout' in subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stderr
        with pytest.raises(BlockingIOError, match='another process is writing the run'): quick()
    assert [f.name for f in (tmp_path/'out').iterdir()] == ['.lock']
    assert quick()['valid'] == 4


def test_a_torn_checkpoint_is_refused(interrupted, quick, tmp_path):
    interrupted(1)
    file = tmp_path/'out'/'checkpoints'/'last.safetensors'
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match='last.safetensors is not a complete safetensors file'): quick(resume=True)


def test_what_killed_writers_left_is_removed(interrupted, quick, tmp_path):
    interrupted(1)
    for folder in tmp_path/'out', tmp_path/'out'/'checkpoints': left_by_a_killed_process(folder)
    (tmp_path/'out'/'.mine').touch()
    quick(resume=True)
    assert sorted(f.name for f in (tmp_path/'out').rglob('.*')) == ['.lock', '.mine']


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no SIGKILL and no fork')
def test_killed_runs_end_as_if_they_had_not_been():
    script = Path(__file__).parents[1]/'tools'/'kill_and_resume.py'
    done = subprocess.run([sys.executable, script, '--kills', '4', '--seed', '1'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '4 of 4 ended with the weights and losses' in done.stdout


def test_a_full_disk_in_the_middle_is_one_clear_line_and_the_last_epoch_stays(quick, tmp_path, monkeypatch):
    write, n = Checkpoint.write, []
    def full(self, learn):
        n.append(1)
        if len(n) == 3: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        write(self, learn)
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, 'write', full)
        patch.setattr('pet_classifier.run.Checkpoint', partial(Checkpoint, every=0))
        try:
            with pytest.raises(OSError) as e: quick()
        finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(e.value).startswith("cannot write 'last.safetensors'") and str(e.value).endswith('what was there is untouched')
    quick(resume=True)
    assert len(pd.read_csv(tmp_path/'out'/'history.csv')) == 5


def test_a_checkpoint_of_another_network_is_refused(learner, tmp_path):
    told = dict(format_version=3, stage='fine-tune', epochs=1, done=1, callbacks=dict(EpochTable=dict(rows=[])))
    write_tensors(tmp_path/'last.safetensors', 'checkpoint', told, {'model/other': torch.zeros(1)})
    with pytest.raises(ValueError, match='last.safetensors belongs to another network'):
        fine_tune(learner(), 1, 1e-4, checkpoint=Checkpoint(tmp_path/'last.safetensors', resume=True))
