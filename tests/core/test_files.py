"Files and folders are written atomically."
import errno
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from pet_classifier.core import files, stale_files
from pet_classifier.core.files import (
    atomic_write,
    atomic_write_dir,
    cache_dir,
    printable,
    remove_stale_folders,
    write_csv,
    write_json,
    write_text,
)


def names(folder): return sorted(f.name for f in folder.iterdir())


@pytest.fixture
def full_disk(monkeypatch):
    "Make fsync fail as on a full disk."
    def fsync(fd): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, 'fsync', fsync)


def test_cache_dir_is_made_and_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PET_CLASSIFIER_CACHE', 'my/cache')
    assert cache_dir() == tmp_path/'my'/'cache' and cache_dir().is_dir()


def test_cache_dir_by_default_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE', '')
    monkeypatch.setattr('pet_classifier.core.files.user_cache_dir', lambda name, appauthor: str(tmp_path/name))
    assert cache_dir() == tmp_path/'pet_classifier'


def test_atomic_write_yields_a_path_with_the_same_name_beside(tmp_path):
    file = tmp_path/'new'/'weights.safetensors'
    with atomic_write(file) as p:
        assert (p.parent.parent, p.name) == (file.parent, file.name)
        assert p.parent.name.startswith('.') and not file.exists()
        p.write_bytes(b'1')
    assert file.read_bytes() == b'1' and names(file.parent) == [file.name]


@pytest.mark.parametrize('stop', [ValueError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize('old', [True, False])
def test_atomic_write_keeps_the_old_file_after_an_error(tmp_path, stop, old):
    file = tmp_path/'a.txt'
    if old: file.write_text('old')
    with pytest.raises(stop):
        with atomic_write(file) as p:
            p.write_text('ne')
            raise stop('now')
    assert names(tmp_path) == (['a.txt'] if old else [])
    if old: assert file.read_text() == 'old'


def test_atomic_write_flushes_before_renaming(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda fd: (done.append('fsync'), fsync(fd)))
    monkeypatch.setattr(os, 'replace', lambda a, b: (done.append('replace'), replace(a, b)))
    write_text(tmp_path/'a.txt', 'new')
    assert done[:2] == ['fsync', 'replace']


def test_a_full_disk_is_reported_and_the_old_file_stays(tmp_path, full_disk):
    (tmp_path/'a.csv').write_text('old')
    with pytest.raises(OSError) as e: write_csv(tmp_path/'a.csv', pd.DataFrame({'x': [1]}))
    assert e.value.errno == errno.ENOSPC
    assert str(e.value).startswith("cannot write 'a.csv' in ") and 'No space left' in str(e.value)
    assert str(e.value).endswith('what was there is untouched')
    assert (tmp_path/'a.csv').read_text() == 'old' and names(tmp_path) == ['a.csv']


def test_a_full_disk_and_no_old_file(tmp_path, full_disk):
    with pytest.raises(OSError, match='nothing was left behind'): write_text(tmp_path/'a.txt', 'x')
    assert names(tmp_path) == []


def test_a_folder_in_the_way(tmp_path):
    (tmp_path/'a.txt').mkdir()
    with pytest.raises(OSError, match="cannot write 'a.txt'"): write_text(tmp_path/'a.txt', 'x')
    assert names(tmp_path) == ['a.txt']


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path/'a').touch()
    with pytest.raises(OSError, match="cannot write 'b.txt'"): write_text(tmp_path/'a'/'b.txt', 'x')


def test_no_permission(tmp_path, monkeypatch):
    def refuse(a, b): raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(a))
    monkeypatch.setattr(os, 'replace', refuse)
    with pytest.raises(PermissionError, match=r"cannot write 'a\.txt' in .*Permission denied"): write_text(tmp_path/'a.txt', 'x')
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='permissions do not bind this user')
def test_an_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="cannot write 'a.txt'"): write_text(tmp_path/'a.txt', 'x')
    finally: tmp_path.chmod(0o700)


def test_writing_nothing_is_an_error(tmp_path):
    (tmp_path/'a.txt').write_text('old')
    with pytest.raises(FileNotFoundError, match="cannot write 'a.txt'"):
        with atomic_write(tmp_path/'a.txt'): pass
    assert (tmp_path/'a.txt').read_text() == 'old'


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(ConnectionRefusedError) as e:
        with atomic_write(tmp_path/'a.txt'): raise ConnectionRefusedError(errno.ECONNREFUSED, 'refused')
    assert 'cannot write' not in str(e.value)


def test_a_link_is_followed(tmp_path):
    (tmp_path/'real').mkdir()
    (tmp_path/'real'/'a.txt').write_text('old')
    (tmp_path/'a.txt').symlink_to(tmp_path/'real'/'a.txt')
    write_text(tmp_path/'a.txt', 'new')
    assert (tmp_path/'a.txt').is_symlink() and (tmp_path/'real'/'a.txt').read_text() == 'new'


def test_atomic_write_dir_replaces_the_whole_folder(tmp_path):
    for name in 'first', 'second':
        with atomic_write_dir(tmp_path/'deep'/'model') as d: (d/name).write_text(name)
    assert names(tmp_path/'deep') == ['model'] and names(tmp_path/'deep'/'model') == ['second']


@pytest.mark.parametrize('stop', [ValueError, KeyboardInterrupt])
def test_atomic_write_dir_keeps_the_old_folder_after_an_error(tmp_path, stop):
    with atomic_write_dir(tmp_path/'model') as d: (d/'old').touch()
    with pytest.raises(stop):
        with atomic_write_dir(tmp_path/'model') as d:
            (d/'sub').mkdir()
            (d/'sub'/'new').touch()
            raise stop
    assert names(tmp_path) == ['model'] and names(tmp_path/'model') == ['old']


def test_atomic_write_dir_on_a_full_disk(tmp_path, full_disk):
    (tmp_path/'model').mkdir()
    (tmp_path/'model'/'old').touch()
    with pytest.raises(OSError, match="cannot write 'model'.*No space left.*untouched"):
        with atomic_write_dir(tmp_path/'model') as d: (d/'new').touch()
    assert names(tmp_path) == ['model'] and names(tmp_path/'model') == ['old']


def test_atomic_write_dir_puts_the_old_folder_back_if_the_rename_fails(tmp_path, monkeypatch):
    (tmp_path/'model').mkdir()
    (tmp_path/'model'/'old').touch()
    replace, calls = os.replace, []
    def second_fails(a, b):
        calls.append(Path(b).name)
        if len(calls) == 2: raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace(a, b)
    monkeypatch.setattr(os, 'replace', second_fails)
    monkeypatch.setattr(files, '_exchange', lambda a, b: False)
    with pytest.raises(PermissionError, match='untouched'):
        with atomic_write_dir(tmp_path/'model') as d: (d/'new').touch()
    assert names(tmp_path) == ['model'] and names(tmp_path/'model') == ['old']


def test_atomic_write_dir_does_not_replace_a_file(tmp_path):
    (tmp_path/'model').write_text('mine')
    with pytest.raises(NotADirectoryError, match="cannot write 'model'"):
        with atomic_write_dir(tmp_path/'model') as d: (d/'new').touch()
    assert (tmp_path/'model').read_text() == 'mine'


def test_write_text_is_the_same_bytes_everywhere(tmp_path):
    assert write_text(tmp_path/'a.txt', 'é\n柴\r\n') == tmp_path/'a.txt'
    assert (tmp_path/'a.txt').read_bytes() == 'é\n柴\r\n'.encode()


def test_write_json(tmp_path):
    obj = {'z': [1, .5, None, True], 'a': '柴犬 <b>'}
    write_json(tmp_path/'a.json', obj)
    text = (tmp_path/'a.json').read_text(encoding='utf-8')
    assert json.loads(text) == obj and text.startswith('{\n  "z"') and text.endswith('}\n') and '柴犬' in text


@pytest.mark.parametrize('bad, error', [({'x': float('nan')}, ValueError), ({'x': float('inf')}, ValueError),
                                        ({'x': {1}}, TypeError)])
def test_write_json_refuses_and_keeps_the_old_file(tmp_path, bad, error):
    write_json(tmp_path/'a.json', 1)
    with pytest.raises(error): write_json(tmp_path/'a.json', bad)
    assert (tmp_path/'a.json').read_text() == '1\n' and names(tmp_path) == ['a.json']


ODD = ['a b.jpg', 'quote".jpg', "it's.jpg", 'comma,.jpg', 'line\nend.jpg', 'return\rhere.jpg', '柴犬.jpg',
       'caf\udce9.jpg', 'NA', ' x ']


def test_write_csv_preserves_every_name(tmp_path):
    write_csv(tmp_path/'a.csv', pd.DataFrame({'file': ODD, 'p': range(len(ODD))}))
    assert b'\r\n' not in (tmp_path/'a.csv').read_bytes()
    back = pd.read_csv(tmp_path/'a.csv', keep_default_na=False, encoding_errors='surrogateescape')
    assert back.file.tolist() == ODD and list(back) == ['file', 'p']


SHOWN = {
    'two\nlines': r'two\nlines', 'red\x1b[31m': r'red\x1b[31m', 'gpj.\u202etac': r'gpj.\u202etac', 'caf\udce9': r'caf\xe9',
    'a\ud800': r'a\ud800', 'a\u2028b\x85\x7f\x00\ufeff': r'a\u2028b\x85\x7f\x00\ufeff',
    **dict.fromkeys(['柴犬 🐕\u200d🦺 é\xa0\u3000ß', 'می\u200cخواهم'])}


@pytest.mark.parametrize('text', SHOWN)
def test_printable_gives_one_printable_line(text):
    shown = SHOWN[text] or text
    assert printable(text) == shown and printable(Path('x')/text) == f'x{os.sep}{shown}'
    assert printable(text).encode() and len(printable(text).splitlines()) == 1


@pytest.mark.parametrize('variable', ['file/cache', '~nobody-of-this-name/cache', None])
def test_a_cache_folder_that_cannot_be_made_is_an_error_that_names_the_variable(tmp_path, monkeypatch, variable):
    def no_home(*args, **kwargs): raise RuntimeError('could not determine the home directory')
    monkeypatch.chdir(tmp_path)
    (tmp_path/'file').touch()
    monkeypatch.setenv('PET_CLASSIFIER_CACHE', variable or '')
    monkeypatch.setattr(files, 'user_cache_dir', no_home)
    with pytest.raises(OSError, match='cannot create the cache folder .*PET_CLASSIFIER_CACHE'): cache_dir()
    assert names(tmp_path) == ['file']


MINE = ['.diary-20251126.txt', '.photos-20251126', '.tmpabc123', '.a-0123abcd', '.pet_classifier-tmp-mine', '.note-12345678.txt',
        f'.pet_classifier-tmp-{stale_files._here()}-1-0123abcd-copy',
        f'.pet_classifier-tmp-{stale_files._here()}-{2**22+1}-0123abcd.txt']


@pytest.mark.parametrize('name', MINE)
def test_files_of_the_user_are_never_deleted(tmp_path, name):
    for folder in tmp_path, tmp_path/'sub':
        folder.mkdir(exist_ok=True)
        (folder/name).mkdir() if name.endswith(('26', 'd')) else (folder/name).write_text('mine')
    write_text(tmp_path/'a.txt', 'new')
    remove_stale_folders(tmp_path)
    assert (tmp_path/name).exists() and (tmp_path/'sub'/name).exists()


def left_by(folder, where=None, pid=2**22+1, age=0):
    "Create the temporary folder of a process `pid` in `folder`, `age` seconds ago"
    place = folder/f'{stale_files._MARK}{where or stale_files._here()}-{pid}-0123abcd'
    place.mkdir(parents=True)
    (place/'a.txt').write_text('half')
    os.utime(place, (place.stat().st_mtime - age,)*2)
    return place


@pytest.mark.skipif(os.name == 'nt', reason='a process cannot be asked whether it lives')
@pytest.mark.parametrize('kwargs, stays', [(dict(), False), (dict(pid=os.getpid(), age=10**6), True), (dict(where='0'*8), True),
                                           (dict(where='0'*8, age=90_000), False), (dict(pid=2**80), True)])
def test_stale_folders_are_deleted_at_the_next_write(tmp_path, kwargs, stays):
    near, deep = left_by(tmp_path, **kwargs), left_by(tmp_path/'sub', **kwargs)
    write_text(tmp_path/'b.txt', 'new')
    assert near.exists() == stays and deep.exists()
    remove_stale_folders(tmp_path)
    assert near.exists() == deep.exists() == stays


def test_a_link_of_that_name_is_not_followed(tmp_path):
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis').touch()
    link = tmp_path/f'{stale_files._MARK}{stale_files._here()}-{2**22+1}-0123abcd'
    link.symlink_to(tmp_path/'mine')
    remove_stale_folders(tmp_path)
    assert (tmp_path/'mine'/'thesis').exists() and link.is_symlink()


posix = pytest.mark.skipif(os.name == 'nt', reason='Windows has no such modes')


@posix
@pytest.mark.parametrize('mode', [0o600, 0o640, 0o664, 0o444, 0o200])
def test_a_file_keeps_its_mode(tmp_path, mode):
    write_text(tmp_path/'a.txt', 'old')
    (tmp_path/'a.txt').chmod(mode)
    with atomic_write(tmp_path/'a.txt') as p:
        p.write_text('new')
        assert p.parent.stat().st_mode & 0o777 == 0o700  # private while it is being written
    assert (tmp_path/'a.txt').stat().st_mode & 0o7777 == mode
    (tmp_path/'a.txt').chmod(0o600)
    assert (tmp_path/'a.txt').read_text() == 'new'


@posix
def test_a_folder_and_its_files_keep_their_modes_and_new_ones_honour_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        for text in 'old', 'new':
            with atomic_write_dir(tmp_path/'model') as d:
                for name in 'a', 'b':
                    (d/name).mkdir()
                    (d/name/'x').write_text(text)
            if text == 'old':
                for path, mode in ('', 0o700), ('a', 0o711), ('a/x', 0o600): (tmp_path/'model'/path).chmod(mode)
    finally: os.umask(old)
    modes = {p: (tmp_path/'model'/p).stat().st_mode & 0o777 for p in ('', 'a', 'a/x', 'b', 'b/x')}
    assert modes == {'': 0o700, 'a': 0o711, 'a/x': 0o600, 'b': 0o750, 'b/x': 0o640}
    assert (tmp_path/'model'/'a'/'x').read_text() == 'new'


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='only root can give files away')
def test_a_file_keeps_its_owner(tmp_path):
    write_text(tmp_path/'a.txt', 'old')
    os.chown(tmp_path/'a.txt', 12345, 12346)
    write_text(tmp_path/'a.txt', 'new')
    s = (tmp_path/'a.txt').stat()
    assert (s.st_uid, s.st_gid) == (12345, 12346)


@posix
@pytest.mark.parametrize('make, kind', [(os.mkfifo, 'fifo'), (lambda f: os.mknod(f, 0o20600, os.makedev(1, 3)), 'char device')])
def test_a_fifo_or_a_device_is_not_replaced(tmp_path, make, kind):
    try: make(tmp_path/'a.csv')
    except PermissionError: pytest.skip('only root can make a device')
    before = (tmp_path/'a.csv').lstat()
    with pytest.raises(OSError, match=f"a.csv' is a {kind}, not a regular file; choose another name"):
        write_csv(tmp_path/'a.csv', pd.DataFrame({'x': [1]}))
    assert (tmp_path/'a.csv').lstat() == before and names(tmp_path) == ['a.csv']


@posix
@pytest.mark.parametrize('exchange', [True, False])
@pytest.mark.parametrize('calls', [1, 2])
def test_a_folder_is_old_or_new_after_a_kill(tmp_path, monkeypatch, exchange, calls):
    with atomic_write_dir(tmp_path/'model') as d: (d/'a').write_text('old')
    if not exchange: monkeypatch.setattr(files, '_exchange', lambda a, b: False)
    if (pid := os.fork()) == 0:
        really, n = os.replace, [0]
        def replace(a, b):
            n[0] += 1
            if n[0] == calls: os.kill(os.getpid(), 9)
            return really(a, b)
        os.replace = replace
        with atomic_write_dir(tmp_path/'model') as d: (d/'a').write_text('new')
        os._exit(0)
    os.waitpid(pid, 0)
    if exchange and (tmp_path/'model').exists(): assert (tmp_path/'model'/'a').read_text() in ('old', 'new')
    else: remove_stale_folders(tmp_path)  # cleanup at the next start
    assert (tmp_path/'model'/'a').read_text() == ('new' if exchange else 'old')
    with atomic_write_dir(tmp_path/'model') as d: (d/'a').write_text('newer')
    assert names(tmp_path) == ['model'] and (tmp_path/'model'/'a').read_text() == 'newer'


def test_a_stale_lock_of_another_machine_is_named_with_the_way_out(tmp_path):
    with files.folder_lock(tmp_path, 'the table'):
        with pytest.raises(BlockingIOError, match=f"another process is writing the table: wait .*delete '{tmp_path}/.lock'"):
            with files.folder_lock(tmp_path, 'the table'): pass


def test_a_cache_file_is_not_flushed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda fd: pytest.fail('flushed'))
    with atomic_write(tmp_path/'a', sync=False) as p: p.write_text('x')
    assert (tmp_path/'a').read_text() == 'x'
