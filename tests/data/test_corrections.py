"Decisions survive crashes, names of every kind and writers at the same time, and are applied to the labels they were made about."
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from pet_classifier.data.corrections import Corrections, apply_corrections, copy_corrected
from pet_classifier.data.decisions import HEADER

APPENDS = """
import sys
from pet_classifier.data.corrections import Corrections
log = Corrections(sys.argv[1], '.')
for i in range(int(sys.argv[3])):
    log.append(f'{sys.argv[2]}/{i}.jpg', 'cat', 'relabel', 'dog, "the\\nother"', 'x'*500)
    print(i, flush=True)
"""


@pytest.fixture
def log(tmp_path): return Corrections(tmp_path/'corrections.csv', tmp_path/'photos')


def labeled(log, **labels):
    "Return a table of images `NAME.jpg` below the root"
    return pd.DataFrame({'file': [Path(log.root)/f'{n}.jpg' for n in labels], 'label': list(labels.values())})


def applied(log, **labels):
    "Return the label of each image by its name after corrections, and the counts"
    table, counts = apply_corrections(labeled(log, **labels), log)
    return {f.stem: l for f, l in zip(table.file, table.label)}, counts


def appending(log, name, n): return [sys.executable, '-c', APPENDS, str(log.path), name, str(n)]


# the file

def test_one_line_per_decision(log):
    log.append(Path(log.root)/'cat'/'1.jpg', 'cat', 'relabel', 'dog', 'label issue')
    assert log.path.read_text().splitlines()[0] == 'file,given_label,decision,label,reason,time'
    row, = log.read()
    assert row[:5] == ('cat/1.jpg', 'cat', 'relabel', 'dog', 'label issue')
    assert row.time.endswith('+00:00') and log.path.read_text().endswith(f'{row.time}\n')


@pytest.mark.parametrize('text', [
    'a,b', 'say "cat"', 'two\nlines', 'a\r\nb', 'a\rb', '=cmd("x")', '+1', '@x', ' leading', 'é 猫 🐈', os.fsdecode(b'caf\xe9'),
    '001', 'NA', 'nan', "'", '"', '""', ',', '\\', '<b>&', 'a\u2028b'])
def test_names_of_every_kind_survive(log, text):
    log.append(f'{text}/{text}.jpg', text, 'relabel', f'{text}2', text)
    log.append('plain.jpg', 'cat', 'keep')
    assert log.read()[0][:5] == (f'{text}/{text}.jpg', text, 'relabel', f'{text}2', text)
    assert log.read()[1].file == 'plain.jpg'
    assert applied(log, plain='cat')[1].kept == 1


def test_the_last_decision_counts(log):
    for decision in [('keep',), ('exclude',), ('undo',), ('relabel', 'dog')]: log.append('a.jpg', 'cat', *decision)
    log.append('b.jpg', 'cat', 'exclude')
    log.append('b.jpg', 'cat', 'undo')
    assert {n: d.decision for n, d in log.decisions().items()} == {'a.jpg': 'relabel'} and len(log.read()) == 6


@pytest.mark.parametrize('args, message', [
    (('a.jpg', 'cat', 'delete'), "'delete'; expected keep, relabel"),
    (('a.jpg', 'cat', 'relabel', ' '), 'relabel without a label'),
    (('a.jpg', 'cat', 'relabel', 'cat'), 'to confirm it, keep it'),
    (('a.jpg', 'cat', 'exclude', 'dog'), "exclude with the label 'dog'"),
    (('', 'cat', 'keep'), 'keep without a file'), (('a.jpg', 'cat', 'rename', 'dog'), "rename with the file 'a.jpg'"),
    (('', ' ', 'rename', 'dog'), 'rename without a given_label'), (('', '', 'undo'), 'undo without a file'),
    (('a\0.jpg', 'cat', 'keep'), 'a NUL character')])
def test_what_makes_no_sense_is_refused(log, args, message):
    with pytest.raises(ValueError, match=message): log.append(*args)
    assert not log.path.exists()


@pytest.mark.parametrize('content, message', [
    ('image;class\n1.jpg;cat\n', "its first line is 'image;class', expected 'file,given_label,"),
    (f'{HEADER}\na.jpg,cat\n', 'line 2 has 2 fields, expected 6'),
    (f'{HEADER}\n\na.jpg,cat,drop,,,\n', "line 3 has the decision 'drop'"),
    (f'{HEADER}\n"a.jpg,cat,keep,,,\nb.jpg,cat,keep,,,2026-01-01T00:00:00Z\n', 'line 2 has a quotation mark that is not closed'),
    ('\x89PNG\r\n\x1a\n' + 'x'*999, 'its first line is')])
def test_another_file_is_refused_and_left_alone(log, content, message):
    log.path.write_bytes(raw := content.encode('latin-1'))
    with pytest.raises(ValueError, match=message): log.read()
    if 'line 2 has 2' in message or 'drop' in message: return # an append looks at the first line and the end only
    with pytest.raises(ValueError, match=message): log.append('a.jpg', 'cat', 'keep')
    assert log.path.read_bytes() == raw


def test_a_file_saved_by_a_spreadsheet(log):
    log.append('a.jpg', 'cat', 'relabel', 'dog')
    log.path.write_bytes(b'\xef\xbb\xbf' + log.path.read_bytes().replace(b'\n', b'\r\n').rstrip())
    log.append('b.jpg', 'cat', 'keep')
    assert [d.file for d in log.read()] == ['a.jpg', 'b.jpg'] and applied(log, a='cat', b='cat')[0] == dict(a='dog', b='cat')


def test_an_empty_file_is_no_decision(log):
    log.path.touch()
    assert log.read() == [] and applied(log, a='cat')[0] == dict(a='cat')
    log.append('b.jpg', 'cat', 'keep')
    assert [d.file for d in log.read()] == ['b.jpg']


# crashes and writers at the same time

def test_a_row_torn_at_any_byte_costs_no_other(log):
    log.append('a.jpg', 'cat', 'keep')
    before = log.path.read_bytes()
    log.append('"b,\nb".jpg', 'ca"t', 'relabel', 'do\ng')
    whole = log.path.read_bytes()
    for n in range(len(before) + 1, len(whole)):
        log.path.write_bytes(whole[:n])
        assert [d.file for d in log.read()][0] == 'a.jpg'
        if n <= len(whole) - len('+00:00\n'): # without its time zone it is incomplete
            with pytest.warns(UserWarning, match='incomplete row'): log.append('c.jpg', 'cat', 'keep')
            assert log.path.read_bytes().startswith(before) and log.path.read_bytes().endswith(b'+00:00\n')
            assert [d.file for d in log.read()] == ['a.jpg', 'c.jpg'], n
    log.path.write_bytes(whole[:-1]) # without its line end it is complete
    log.append('c.jpg', 'cat', 'keep')
    assert [d.file for d in log.read()] == ['a.jpg', '"b,\nb".jpg', 'c.jpg']


@pytest.mark.slow
def test_killed_while_appending(log):
    for run in range(4):
        writer = subprocess.Popen(appending(log, f'run{run}', 10_000), stdout=subprocess.PIPE, text=True)  # noqa: S603
        told = [int(writer.stdout.readline()) for _ in range(20 + 7*run)]
        writer.send_signal(signal.SIGKILL)
        told += [int(line) for line in writer.stdout.read().split()]
        writer.wait()
        written = [d.file for d in log.read()]
        assert {f'run{run}/{i}.jpg' for i in told} <= set(written) and len(set(written)) == len(written)
    assert {f'run{r}/{i}.jpg' for r in range(4) for i in range(20)} <= {d.file for d in log.read()}


@pytest.mark.slow
def test_processes_and_threads_at_once_lose_nothing(log):
    writers = [subprocess.Popen(appending(log, f'process{w}', 60), stdout=subprocess.DEVNULL) for w in range(2)]  # noqa: S603
    def append(w):
        for i in range(60): log.append(f'thread{w}/{i}.jpg', 'cat', 'keep')
    threads = [threading.Thread(target=append, args=(w,)) for w in range(2)]
    for t in threads: t.start()
    for t in [*threads, *writers]: t.join() if isinstance(t, threading.Thread) else t.wait()
    assert sorted(d.file for d in log.read()) == sorted(f'{kind}{w}/{i}.jpg' for kind in ('process', 'thread') for w in range(2)
                                                        for i in range(60))


def test_a_full_disk_leaves_the_rows_before(log, monkeypatch):
    log.append('a.jpg', 'cat', 'keep')
    before = log.path.read_bytes()
    def full(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match="cannot write 'corrections.csv'"): log.append('b.jpg', 'cat', 'keep')
    assert log.path.read_bytes().startswith(before)


def test_a_lock_that_is_held_is_waited_for(log, monkeypatch):
    from filelock import FileLock
    monkeypatch.setattr('pet_classifier.data.corrections._WAIT', .05)
    with FileLock(log.path.with_name('.corrections.csv.lock')), pytest.raises(TimeoutError, match='locked by another process'):
        log.append('a.jpg', 'cat', 'keep')
    log.append('a.jpg', 'cat', 'keep')


# paths

def test_paths_outside_of_the_root_are_compared_only(log, tmp_path):
    inside, outside = Path(log.root)/'a.jpg', tmp_path/'secret.jpg'
    outside.write_bytes(b'secret')
    assert log.append('../secret.jpg', 'cat', 'exclude').file == outside.as_posix()
    assert log.append('x/../../photos/a.jpg', 'cat', 'keep').file == 'a.jpg'
    assert log.append('/etc/passwd', 'cat', 'exclude').file == '/etc/passwd'
    _, counts = apply_corrections(pd.DataFrame({'file': [inside, outside], 'label': 'cat'}), log)
    assert (counts.kept, counts.excluded, counts.not_found) == (1, 1, ['/etc/passwd'])
    assert sorted(f.name for f in tmp_path.iterdir() if not f.name.startswith('.')) == ['corrections.csv', 'secret.jpg']


def test_relative_paths_of_a_table_begin_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame(dict(file=[Path('photos/a.jpg'), Path('photos/b.jpg')], label='cat'))
    log = Corrections('c.csv', 'photos')
    assert log.append(table.file[0], 'cat', 'exclude').file == 'a.jpg' and log.append('b.jpg', 'cat', 'keep').file == 'b.jpg'
    for files in table.file, table.file.map(str):
        assert str(apply_corrections(table.assign(file=files), log)[1]) == '1 image excluded, 1 label confirmed'
    monkeypatch.chdir('/')
    assert apply_corrections(table.assign(file=[tmp_path/f for f in table.file]), log)[1].excluded == 1


def test_a_link_is_followed_and_locks_its_target(tmp_path):
    (tmp_path/'link.csv').symlink_to(tmp_path/'real.csv')
    for name in 'link.csv', 'real.csv': Corrections(tmp_path/name, tmp_path).append(f'{name}.jpg', 'cat', 'keep')
    assert Corrections(tmp_path/'link.csv', tmp_path).path == Corrections(tmp_path/'real.csv', tmp_path).path
    assert (tmp_path/'link.csv').is_symlink() and len(Corrections(tmp_path/'real.csv', tmp_path).read()) == 2


# what is applied

def test_decisions_about_images(log):
    log.append('a.jpg', 'cat', 'relabel', 'dog')
    log.append('b.jpg', 'cat', 'exclude')
    log.append('c.jpg', 'cat', 'keep')
    log.append('e.jpg', 'cat', 'relabel', 'a class of its own')
    labels, counts = applied(log, a='cat', b='cat', c='cat', d='dog', e='cat')
    assert labels == dict(a='dog', c='cat', d='dog', e='a class of its own')
    assert str(counts) == '2 labels corrected, 1 image excluded, 1 label confirmed' and counts.notes() == [str(counts)]
    assert counts.changes.drop(columns='file').to_numpy().tolist() == [['cat', 'dog'], ['cat', ''], ['cat', 'a class of its own']]


def test_other_columns_and_an_index_stay_with_their_images(log):
    log.append('a.jpg', 'cat', 'exclude')
    table = labeled(log, a='cat', b='dog').assign(is_valid=[True, False]).set_index(pd.Index([7, 9]))
    assert apply_corrections(table, log)[0].is_valid.tolist() == [False] and table.label.tolist() == ['cat', 'dog']


@pytest.mark.parametrize('decision', [('relabel', 'dog'), ('exclude',), ('keep',)])
def test_an_image_with_another_label_today_is_a_conflict(log, decision):
    log.append('a.jpg', 'cat', *decision)
    labels, counts = applied(log, a='rabbit')
    assert labels == dict(a='rabbit') and counts.relabeled == counts.excluded == counts.kept == 0
    assert counts.conflicts == [('a.jpg', f'labeled rabbit, but cat when the decision was {decision[0]}')]
    assert 'not applied, because the data have changed' in counts.notes()[1]


def test_a_label_corrected_at_its_source_is_no_conflict(log):
    log.append('a.jpg', 'cat', 'relabel', 'dog')
    labels, counts = applied(log, a='dog')
    assert labels == dict(a='dog') and not counts.conflicts and (counts.relabeled, counts.kept) == (0, 1)


def test_an_image_that_is_gone_is_reported(log):
    log.append('a.jpg', 'cat', 'relabel', 'dog')
    log.append('b.jpg', 'cat', 'exclude')
    log.append('b.jpg', 'cat', 'undo')
    counts = applied(log, c='cat')[1]
    assert counts.not_found == ['a.jpg'] and counts.notes()[1] == '1 corrections are for images that are not in the data: a.jpg'


def test_a_correction_is_corrected(log):
    log.append('a.jpg', 'cat', 'relabel', 'dog')
    log.append('a.jpg', 'dog', 'relabel', 'fox') # seen with its corrected label
    assert applied(log, a='cat')[0] == dict(a='fox')
    assert applied(log, a='rabbit')[1].conflicts # the first does not fit, so the second has nothing to stand on


def test_renames(log):
    log.append('', 'kitten', 'rename', 'cat')
    log.append('b.jpg', 'dog', 'relabel', 'kitten') # after the rename, and by its old name
    log.append('c.jpg', 'cat', 'exclude') # seen under the new name
    labels, counts = applied(log, a='kitten', b='dog', c='kitten', d='cat')
    assert labels == dict(a='cat', b='cat', d='cat') and counts.renamed == {'kitten': 'cat'} and not counts.conflicts
    assert '1 class renamed' in str(counts)


def test_renames_follow_the_order_of_their_rows(log):
    for old, new in [('cat', 'tmp'), ('dog', 'cat'), ('tmp', 'dog')]: log.append('', old, 'rename', new) # the two were swapped
    assert applied(log, a='cat', b='dog')[0] == dict(a='dog', b='cat')
    log.append('', 'cat', 'undo')
    log.append('', 'tmp', 'undo')
    assert applied(log, a='cat', b='dog')[0] == dict(a='cat', b='cat')


def test_by_path(log):
    log.append('a.jpg', 'cat', 'relabel', 'dog')
    assert apply_corrections(labeled(log, a='cat'), str(log.path), log.root)[0].label.tolist() == ['dog']
    with pytest.raises(ValueError, match='root is missing'): apply_corrections(labeled(log, a='cat'), log.path)
    with pytest.raises(FileNotFoundError, match='no file of corrections'):
        apply_corrections(labeled(log, a='cat'), 'none.csv', log.root)


# a corrected copy

@pytest.fixture
def photos(tmp_path):
    "Return a table of six images in two folders, two of the same name"
    files = [tmp_path/'photos'/n for n in ('x/1.jpg', 'y/1.jpg', 'y/1_2.jpg', 'x/2.JPG', 'y/3.jpg', 'x/4.jpg')]
    for f in files:
        f.parent.mkdir(parents=True, exist_ok=True)
        f.write_text(str(f))
        f.chmod(0o444)
    return pd.DataFrame({'file': files, 'label': ['cat', 'cat', 'cat', '../up', 'a/b', '.hidden']})


def test_a_copy_has_each_image_once_in_the_folder_of_its_label(photos, tmp_path):
    folders = copy_corrected(photos, tmp_path/'out')
    copied = {f.relative_to(tmp_path/'out').as_posix(): f.read_text() for f in (tmp_path/'out').rglob('*') if f.is_file()}
    assert folders == {'cat': 'cat', '../up': '%2E.%2Fup', 'a/b': 'a%2Fb', '.hidden': '%2Ehidden'}
    assert sorted(copied) == ['%2E.%2Fup/2.JPG', '%2Ehidden/4.jpg', 'a%2Fb/3.jpg', 'cat/1.jpg', 'cat/1_2.jpg', 'cat/1_2_2.jpg']
    assert sorted(copied.values()) == sorted(map(str, photos.file)) and all(f.is_file() for f in photos.file)


def test_a_copy_is_whole_or_not_there(photos, tmp_path):
    photos.file.iloc[-1].unlink()
    with pytest.raises(OSError, match='nothing was left behind'): copy_corrected(photos, tmp_path/'out')
    assert [f.name for f in tmp_path.iterdir()] == ['photos']


def test_a_folder_that_is_not_empty_stays(photos, tmp_path):
    (tmp_path/'out').mkdir()
    copy_corrected(photos, tmp_path/'out')
    with pytest.raises(FileExistsError, match='is not empty; choose a new folder'): copy_corrected(photos[:1], tmp_path/'out')
    assert len(list((tmp_path/'out').rglob('*.jpg'))) == 5


@pytest.mark.parametrize('label, message', [('', '1 of 1 images have no label'), (None, 'no image to copy')])
def test_a_copy_of_nothing_is_refused(photos, tmp_path, label, message):
    table = photos[:0] if label is None else photos[:1].assign(label=label)
    with pytest.raises(ValueError, match=message): copy_corrected(table, tmp_path/'out')
