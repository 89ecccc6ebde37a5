"Very many images to a table: in order, none twice, the same whether the run was killed or not, and nothing spoiled."
import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pet_classifier.core.files import folder_lock, write_csv
from pet_classifier.deploy import tables
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.deploy.tables import expand_files, predict_table, table_format, table_schema
from pet_classifier.model.bundle import load_bundle


@pytest.fixture(scope='module')
def predictor(bundle): return Predictor(bundle, 'torch', 'fp32')


@pytest.fixture(scope='module')
def files(tiny_folder, tmp_path_factory):
    "Fifty images, of them three broken"
    folder, originals = tmp_path_factory.mktemp('many'), sorted(tiny_folder.iterdir())
    for i in range(47): (folder/f'{i:03}.jpg').symlink_to(originals[i % len(originals)])
    (folder/'010a.jpg').write_text('not an image')
    (folder/'020a.jpg').touch()
    return [*sorted(folder.iterdir())[:30], folder/'gone.jpg', *sorted(folder.iterdir())[30:]]


class Counting(Predictor):
    "Counts the images, and stops as if killed after `most`"
    asked, most = 0, 10**9
    def logits(self, prepared, n=1):
        if self.asked + len(prepared) > self.most: raise KeyboardInterrupt
        self.asked += len(prepared)
        return super().logits(prepared, n)


def left(folder): return sorted(f.name for f in folder.iterdir())


@pytest.mark.parametrize('chunk', [1, 7, 50, 1000])
@pytest.mark.parametrize('top', [1, 3])
@pytest.mark.slow
def test_a_table_is_that_of_predict_files(predictor, files, tmp_path, chunk, top):
    expected = predictor.predict_files(files, top)
    assert predict_table(predictor, files, tmp_path/'a.parquet', top, chunk) == 3
    table = pd.read_parquet(tmp_path/'a.parquet')
    assert pq.read_schema(tmp_path/'a.parquet').equals(table_schema(top), check_metadata=False)
    assert table.file.tolist() == [str(f) for f in files] and list(table) == list(expected)
    for c in ('label', 'none_of_these', 'problem'): assert table[c].tolist() == expected[c].tolist()
    assert np.allclose(table.probability, expected.probability, atol=1e-5, equal_nan=True)
    if chunk < 50: return
    assert predict_table(predictor, files, tmp_path/'a.csv', top, chunk) == 3 and left(tmp_path) == ['a.csv', 'a.parquet']
    assert (tmp_path/'a.csv').read_bytes() == write_csv(tmp_path/'b.csv', expected).read_bytes()


@pytest.mark.parametrize('name', ['a.csv', 'a.parquet', 'A.CSV'])
def test_parts_are_put_together_as_one(predictor, files, tmp_path, name):
    (tmp_path/'whole').mkdir()
    predict_table(predictor, files, tmp_path/name, chunk=8)
    predict_table(predictor, files, tmp_path/'whole'/name, chunk=8)
    assert (tmp_path/name).read_bytes() == (tmp_path/'whole'/name).read_bytes()
    read = pd.read_parquet if name == 'a.parquet' else pd.read_csv
    assert read(tmp_path/name).file.tolist() == [str(f) for f in files]


@pytest.mark.parametrize('name', ['a.csv', 'a.parquet'])
def test_no_images_are_a_table_without_rows(predictor, tmp_path, name):
    assert predict_table(predictor, [], tmp_path/name, top=2) == 0
    table = (pd.read_csv if name == 'a.csv' else pd.read_parquet)(tmp_path/name)
    assert len(table) == 0 and list(table) == table_schema(2).names


@pytest.mark.parametrize('name', ['a.csv', 'a.parquet'])
@pytest.mark.parametrize('most', [0, 3, 25, 47])
def test_a_run_that_was_stopped_goes_on(predictor, files, tmp_path, name, most):
    said, stopped, again = [], Counting(predictor.bundle, 'torch', 'fp32'), Counting(predictor.bundle, 'torch', 'fp32')
    stopped.most = most
    (tmp_path/name).write_text('an older table')
    if most < 47:
        with pytest.raises(KeyboardInterrupt): predict_table(stopped, files, tmp_path/name, chunk=8)
        assert (tmp_path/name).read_text() == 'an older table'
    assert predict_table(again, files, tmp_path/name, chunk=8, say=said.append) == 3
    assert again.asked == 47 - stopped.asked and len(said) == (stopped.asked > 0) == (most == 25)
    assert all('of 50 images are already done' in s for s in said)
    predict_table(predictor, files, tmp_path/f'b{name}', chunk=8)
    assert (tmp_path/name).read_bytes() == (tmp_path/f'b{name}').read_bytes() and left(tmp_path) == [name, f'b{name}']


RUN = '''
import sys, time
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.deploy.tables import expand_files, predict_table
class Stops(Predictor):
    asked = 0
    def logits(self, prepared, n=1):
        if self.asked >= 150: time.sleep(600) # until it is killed
        self.asked += len(prepared)
        return super().logits(prepared, n)
print(predict_table(Stops(sys.argv[1], 'torch', 'fp32'), expand_files([sys.argv[2]]), sys.argv[3], chunk=10))
'''


@pytest.mark.slow
def test_a_process_that_is_killed_and_started_again_writes_the_same_table(bundle, predictor, tiny_folder, tmp_path):
    folder, originals, out = tmp_path/'many', sorted(tiny_folder.iterdir()), tmp_path/'killed.parquet'
    folder.mkdir()
    for i in range(300): (folder/f'{i:03}.jpg').symlink_to(originals[i % len(originals)])
    words, parts = [sys.executable, '-c', RUN, bundle, folder, out], tmp_path/'.killed.parquet.parts'
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while len(list(parts.glob('part-*'))) < 15 and process.poll() is None: time.sleep(0.01)
    with pytest.raises(BlockingIOError, match="another process is writing 'killed.parquet'"):
        predict_table(predictor, expand_files([folder]), out, chunk=10)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists() and len(list(parts.glob('part-*'))) == 15
    again = Counting(bundle, 'torch', 'fp32')
    assert predict_table(again, expand_files([folder]), out, chunk=10) == 0 and again.asked == 150
    predict_table(predictor, expand_files([folder]), tmp_path/'whole.parquet', chunk=10)
    table = pq.read_table(out)
    assert table.equals(pq.read_table(tmp_path/'whole.parquet')) and len(set(table['file'].to_pylist())) == len(table) == 300
    assert left(tmp_path) == ['killed.parquet', 'many', 'whole.parquet']


def stop(predictor, files, out, **kwargs):
    stopped = Counting(predictor.bundle, 'torch', 'fp32')
    stopped.most = 25
    with pytest.raises(KeyboardInterrupt): predict_table(stopped, files, out, chunk=8, **kwargs)


@pytest.mark.parametrize('change, said', [
    (dict(top=2), r'another top 1 \(now 2\);'), (dict(chunk=9), r'another chunk 8 \(now 9\);'),
    (dict(files=1), r'another images 50 \(now 49\), files;'), (dict(precision='bf16'), r'another precision fp32 \(now bf16\);'),
    (dict(none_below=1.), 'another bundle;'), (dict(reverse=True), 'another files;')], ids=str)
def test_the_parts_of_another_call_are_refused(predictor, files, tmp_path, change, said):
    stop(predictor, files, tmp_path/'a.csv')
    bundle = load_bundle_with(predictor, change.pop('none_below', None))
    other = Predictor(bundle, 'torch', change.pop('precision', 'fp32'))
    asked = files[change.pop('files', 0):][::-1 if change.pop('reverse', False) else 1]
    said = f"'a.csv' was started by another call, with {said} 3 parts .* delete '.*a.csv.parts'"
    with pytest.raises(FileExistsError, match=said):
        predict_table(other, asked, tmp_path/'a.csv', **(dict(chunk=8) | change))
    assert predict_table(predictor, files, tmp_path/'a.csv', chunk=8) == 3 and left(tmp_path) == ['a.csv']


def load_bundle_with(predictor, none_below):
    from dataclasses import replace
    return predictor.bundle if none_below is None else replace(predictor.bundle, none_below=none_below)


def test_the_same_names_in_another_folder_are_other_files(predictor, tiny_folder, tmp_path, monkeypatch):
    names = sorted(f.name for f in tiny_folder.iterdir())
    monkeypatch.chdir(tiny_folder)
    stopped = Counting(predictor.bundle, 'torch', 'fp32')
    stopped.most = 10
    with pytest.raises(KeyboardInterrupt): predict_table(stopped, names, tmp_path/'a.csv', chunk=5)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match='with another files'): predict_table(predictor, names, tmp_path/'a.csv', chunk=5)


def test_a_request_of_which_nothing_was_done_is_in_nobodys_way(predictor, files, tmp_path):
    stopped = Counting(predictor.bundle, 'torch', 'fp32')
    stopped.most = 0
    with pytest.raises(KeyboardInterrupt): predict_table(stopped, files, tmp_path/'a.csv', top=2)
    assert predict_table(predictor, files, tmp_path/'a.csv', top=1) == 3


def test_one_at_a_time(predictor, files, tmp_path):
    with folder_lock(tmp_path/'.a.csv.parts', 'it'):
        said = "another process is writing 'a.csv' in .*: wait until it is done, or choose another folder"
        with pytest.raises(BlockingIOError, match=said): predict_table(predictor, files, tmp_path/'a.csv')
    assert predict_table(predictor, files, tmp_path/'a.csv') == 3


def test_what_cannot_be_done_is_said_before_anything_is_computed(predictor, files, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, 'logits', lambda *args: pytest.fail('computed'))
    (tmp_path/'b.csv').mkdir()
    (tmp_path/'file').touch()
    for out, kwargs, error, said in (
            ('a.txt', {}, ValueError, "'a.txt': expected a name that ends in .csv or .parquet"),
            ('a', {}, ValueError, "'a': expected a name"),
            ('a.csv', dict(top=4), ValueError, 'top=4: expected 1 to 3'), ('a.csv', dict(chunk=0), ValueError, 'chunk=0'),
            ('b.csv', {}, OSError, "cannot write 'b.csv' in .*: Is a directory"),
            ('file/a.csv', {}, OSError, "cannot write 'a.csv' in .*: Not a directory")):
        with pytest.raises(error, match=said): predict_table(predictor, files, tmp_path/out, **kwargs)
    assert left(tmp_path) == ['b.csv', 'file']


@pytest.mark.parametrize('name', ['a.csv', 'a.parquet'])
def test_a_full_disk_is_said_the_old_table_stays_and_the_parts_are_kept(predictor, files, tmp_path, name):
    resource = pytest.importorskip('resource', reason='Windows has no limit for the size of a file')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path/name).write_text('an older table')
    many = files*40  # two thousand rows are more than the table may be long
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, limits[1]))
        with pytest.raises(OSError, match=f"cannot write '{name}' in .*: File too large; what was there is untouched") as e:
            predict_table(Fake(predictor.bundle), many, tmp_path/name, chunk=50)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'parts are saved; the same call resumes from there' in str(e.value) and e.value.errno == errno.EFBIG
    assert (tmp_path/name).read_text() == 'an older table' and left(tmp_path) == [f'.{name}.parts', name]
    predict_table(Fake(predictor.bundle), many, tmp_path/name, chunk=50)
    assert left(tmp_path) == [name]


class Fake(Predictor):
    "Opens nothing"
    def _logits(self, images, bs, n=None, on_batch=None):
        return np.zeros((len(images), len(self.bundle.vocab)), np.float32), [None]*len(images)


def test_names_that_are_no_utf8(predictor, tiny_folder, tmp_path):
    odd = tmp_path/os.fsdecode(b'caf\xe9,"\n.jpg')
    try: odd.write_bytes((tiny_folder/'red_0.jpg').read_bytes())
    except OSError: pytest.skip('this disk refuses such names')
    gone = tmp_path/os.fsdecode(b'\xff\r.jpg')
    for out in 'a.csv', 'a.parquet': assert predict_table(predictor, [odd, gone], tmp_path/out) == 1
    assert pd.read_parquet(tmp_path/'a.parquet').file.tolist() == [f'{tmp_path}/caf\\xe9,"\n.jpg', f'{tmp_path}/\\xff\r.jpg']
    back = pd.read_csv(tmp_path/'a.csv', encoding_errors='surrogateescape', dtype=dict(file=object))
    assert back.file.tolist() == [str(odd), str(gone)]


def test_the_engine_goes_by_all_images_not_by_those_of_a_part(predictor, files, tmp_path, monkeypatch):
    asked, really = [], tables.Predictor.logits
    monkeypatch.setattr(tables.Predictor, 'logits', lambda self, prepared, n=1: asked.append(n) or really(self, prepared, n))
    predict_table(predictor, files, tmp_path/'a.csv', chunk=8)
    assert set(asked) == {50}


def test_expand_files(tmp_path, monkeypatch):
    for name in 'b/2.jpg', 'b/1.JPG', 'b/c/3.jpg', 'b/notes.txt', 'b/.hidden.jpg', 'odd[1].jpg', 'a.jpg':
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).touch()
    monkeypatch.chdir(tmp_path)
    def names(*words): return [f.as_posix() for f in expand_files(words)]
    assert names('b') == ['b/1.JPG', 'b/2.jpg', 'b/c/3.jpg']
    assert names('b/**/*.jpg') == ['b/2.jpg', 'b/c/3.jpg'] and names('b/*') == ['b/1.JPG', 'b/2.jpg', 'b/notes.txt']
    assert names('odd[1].jpg', 'gone.jpg', 'a.jpg') == ['odd[1].jpg', 'gone.jpg', 'a.jpg']
    whole = tmp_path/'a.jpg'
    assert names('b/2.jpg', 'b', './b/2.jpg', whole, 'a.jpg') == ['b/2.jpg', 'b/1.JPG', 'b/c/3.jpg', str(whole)]
    for word in 'b/*.png', '**/x.jpg':
        with pytest.raises(ValueError, match='no file matches'): expand_files(['a.jpg', word])
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match="no image in 'empty'"): expand_files(['empty'])


def test_formats():
    assert [table_format(f) for f in ('a.csv', 'b/A.PARQUET')] == ['.csv', '.parquet']
    assert table_schema(2).names == ['file', 'label', 'probability', 'label2', 'probability2', 'none_of_these', 'problem']


def test_a_bar_on_a_terminal_only(predictor, files, tmp_path, capsys, monkeypatch):
    predict_table(predictor, files, tmp_path/'a.csv')
    assert capsys.readouterr() == ('', '')
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    predict_table(predictor, files, tmp_path/'b.csv')
    out, err = capsys.readouterr()
    assert not out and '0/50' in err and 'images' in err


def test_a_loaded_bundle_is_the_same_request(predictor, bundle, files, tmp_path):
    stop(predictor, files, tmp_path/'a.csv')
    assert predict_table(Predictor(load_bundle(bundle), 'torch', 'fp32'), files, tmp_path/'a.csv', chunk=8) == 3


CHANGES = {  # what somebody does to an image between a run that was killed and the one that goes on
    'edited': lambda f, other: f.write_bytes(other.read_bytes()), 'gone': lambda f, other: f.unlink(),
    'broken': lambda f, other: f.write_bytes(b'no image'), 'back': lambda f, other: None,
    'of equal size and time': lambda f, other: (f.write_bytes(b'x'*f.stat().st_size), os.utime(f, ns=(10**18, 10**18)))}


@pytest.fixture
def own_files(tiny_folder, tmp_path):
    (tmp_path/'own').mkdir()
    for f in tiny_folder.iterdir():
        (tmp_path/'own'/f.name).write_bytes(f.read_bytes())
        os.utime(tmp_path/'own'/f.name, ns=(10**18, 10**18))
    return [*sorted((tmp_path/'own').iterdir()), tmp_path/'own'/'later.jpg']


@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('name', ['a.csv', 'a.parquet'])
def test_answers_for_images_that_changed_meanwhile_are_not_kept(predictor, own_files, tmp_path, change, name):
    own_files = [own_files[-1], *own_files[:-1]]  # 'later.jpg', which is not there, stands in the first part
    stopped = Counting(predictor.bundle, 'torch', 'fp32')
    stopped.most = 8
    with pytest.raises(KeyboardInterrupt): predict_table(stopped, own_files, tmp_path/name, chunk=5)
    if change == 'back': own_files[0].write_bytes(own_files[9].read_bytes())
    else: CHANGES[change](own_files[2], own_files[9])
    again = Counting(predictor.bundle, 'torch', 'fp32')
    predict_table(again, own_files, tmp_path/name, chunk=5, say=lambda text: None)
    predict_table(predictor, own_files, tmp_path/f'whole-{name}', chunk=5)
    read = pd.read_parquet if name == 'a.parquet' else pd.read_csv
    assert again.asked <= 15  # and in batches of another size: the last digits may differ
    pd.testing.assert_frame_equal(read(tmp_path/name), read(tmp_path/f'whole-{name}'), rtol=1e-4)


@pytest.mark.parametrize('damage', [lambda d: d.replace(b'red', b'rad'), lambda d: d[:-1], lambda d: b'',
                                    lambda d: d[:99] + bytes(len(d)-99)])
def test_a_damaged_part_is_predicted_anew(predictor, files, tmp_path, damage):
    stop(predictor, files, tmp_path/'a.csv')
    part = tmp_path/'.a.csv.parts'/'part-000001.parquet'
    before, again = part.read_bytes(), Counting(predictor.bundle, 'torch', 'fp32')
    part.write_bytes(damage(before))
    assert part.read_bytes() != before
    predict_table(again, files, tmp_path/'a.csv', chunk=8, say=lambda text: None)
    predict_table(predictor, files, tmp_path/'b.csv', chunk=8)
    assert (tmp_path/'a.csv').read_bytes() == (tmp_path/'b.csv').read_bytes() and 47 - 25 < again.asked < 47


def test_a_link_in_the_place_of_the_parts_is_not_written_through(predictor, files, tmp_path):
    (tmp_path/'theirs').mkdir()
    (tmp_path/'.a.csv.parts').symlink_to(tmp_path/'theirs')
    with pytest.raises(FileExistsError, match='is a link or belongs to another user'):
        predict_table(predictor, files, tmp_path/'a.csv')
    assert left(tmp_path/'theirs') == [] and left(tmp_path) == ['.a.csv.parts', 'theirs']


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='only root can give a folder away')
def test_a_folder_of_parts_that_somebody_else_has_made_is_refused(predictor, files, tmp_path):
    (tmp_path/'.a.csv.parts').mkdir()
    os.chown(tmp_path/'.a.csv.parts', 12345, 12345)
    with pytest.raises(FileExistsError, match='belongs to another user'): predict_table(predictor, files, tmp_path/'a.csv')


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such modes')
def test_what_only_its_owner_may_read_stays_so_on_the_way_too(predictor, files, tmp_path):
    (tmp_path/'a.csv').touch()
    (tmp_path/'a.csv').chmod(0o600)
    stop(predictor, files, tmp_path/'a.csv')
    assert (tmp_path/'.a.csv.parts').stat().st_mode & 0o777 == 0o700
    predict_table(predictor, files, tmp_path/'a.csv', chunk=8, say=lambda text: None)
    assert (tmp_path/'a.csv').stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no FIFO here')
def test_a_fifo_is_refused_before_anything_is_computed(predictor, files, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, 'logits', lambda *args: pytest.fail('computed'))
    os.mkfifo(tmp_path/'a.csv')
    with pytest.raises(OSError, match='is a fifo'): predict_table(predictor, files, tmp_path/'a.csv')
    assert left(tmp_path) == ['a.csv']


def test_a_class_that_no_file_can_hold_is_refused_before_anything_is_computed(predictor, files, tmp_path, monkeypatch):
    from dataclasses import replace
    monkeypatch.setattr(Predictor, 'logits', lambda *args: pytest.fail('computed'))
    other = Predictor(replace(predictor.bundle, vocab=['a', 'b\ud800', 'c']), 'torch')
    with pytest.raises(ValueError, match=r"the class name 'b\\ud800' cannot be encoded"):
        predict_table(other, files, tmp_path/'a.csv')
    assert left(tmp_path) == []


@pytest.mark.parametrize('name, shown', [('=1+1.jpg', './=1+1.jpg'), ('-a.jpg', './-a.jpg'), ('@a.jpg', './@a.jpg'),
                                         ('a=1.jpg', 'a=1.jpg')])
def test_no_file_name_is_a_formula_in_a_csv_and_still_names_the_file(predictor, tiny_folder, tmp_path, monkeypatch, name, shown):
    monkeypatch.chdir(tmp_path)
    (tmp_path/name).write_bytes(next(tiny_folder.iterdir()).read_bytes())
    for out in 'a.csv', 'a.parquet': assert predict_table(predictor, [name], out) == 0
    assert pd.read_csv('a.csv').file.tolist() == [shown] and os.path.exists(shown)
    assert pd.read_parquet('a.parquet').file.tolist() == [name]


@pytest.mark.parametrize('label, shown', [('=cmd|x', "'=cmd|x"), ('+a', "'+a"), ('@SUM(1)', "'@SUM(1)"),
                                          ('-1', '-1'), ('+3.5', '+3.5'), ('a-b', 'a-b')])
def test_no_label_is_a_formula_and_numbers_stay(label, shown):
    rows = pd.DataFrame(dict(file=['a'], label=[label], label2=[label]))
    assert tables._no_formulas(rows)[['label', 'label2']].values.tolist() == [[shown]*2]
