"What is written is written whole or not at all."
import errno
import json
import os
from pathlib import Path

import pandas as pd
import pytest

from pet_classifier.storage import cache_dir, replacing, replacing_dir, write_csv, write_json, write_text


def names(folder): return sorted(f.name for f in folder.iterdir())


@pytest.fixture
def full_disk(monkeypatch):
    "Flushing fails as it does on a full disk."
    def fsync(fd): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, 'fsync', fsync)


def test_cache_dir_is_made_and_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PET_CLASSIFIER_CACHE', 'my/cache')
    assert cache_dir() == tmp_path/'my'/'cache' and cache_dir().is_dir()


def test_cache_dir_by_default_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE', '')
    monkeypatch.setattr('pet_classifier.storage.user_cache_dir', lambda name, appauthor: str(tmp_path/name))
    assert cache_dir() == tmp_path/'pet_classifier'


def test_replacing_gives_a_path_beside_with_the_same_suffix(tmp_path):
    file = tmp_path/'new'/'weights.safetensors'
    with replacing(file) as p:
        assert (p.parent, p.suffix) == (file.parent, '.safetensors')
        assert p.name.startswith('.') and not file.exists()
        p.write_bytes(b'1')
    assert file.read_bytes() == b'1' and names(file.parent) == [file.name]


@pytest.mark.parametrize('stop', [ValueError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize('old', [True, False])
def test_replacing_leaves_the_old_file(tmp_path, stop, old):
    file = tmp_path/'a.txt'
    if old: file.write_text('old')
    with pytest.raises(stop):
        with replacing(file) as p:
            p.write_text('ne')
            raise stop('now')
    assert names(tmp_path) == (['a.txt'] if old else [])
    if old: assert file.read_text() == 'old'


def test_replacing_flushes_before_it_moves(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda fd: (done.append('fsync'), fsync(fd)))
    monkeypatch.setattr(os, 'replace', lambda a, b: (done.append('replace'), replace(a, b)))
    write_text(tmp_path/'a.txt', 'new')
    assert done[:2] == ['fsync', 'replace']


def test_a_full_disk_is_said_and_the_old_file_stays(tmp_path, full_disk):
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


def test_nothing_written_is_an_error_and_not_an_empty_file(tmp_path):
    (tmp_path/'a.txt').write_text('old')
    with pytest.raises(FileNotFoundError, match="cannot write 'a.txt'"):
        with replacing(tmp_path/'a.txt'): pass
    assert (tmp_path/'a.txt').read_text() == 'old'


def test_errors_that_are_not_the_disks_pass_through(tmp_path):
    with pytest.raises(ConnectionRefusedError) as e:
        with replacing(tmp_path/'a.txt'): raise ConnectionRefusedError(errno.ECONNREFUSED, 'refused')
    assert 'cannot write' not in str(e.value)


def test_a_link_is_followed(tmp_path):
    (tmp_path/'real').mkdir()
    (tmp_path/'real'/'a.txt').write_text('old')
    (tmp_path/'a.txt').symlink_to(tmp_path/'real'/'a.txt')
    write_text(tmp_path/'a.txt', 'new')
    assert (tmp_path/'a.txt').is_symlink() and (tmp_path/'real'/'a.txt').read_text() == 'new'


def test_replacing_dir_swaps_whole_folders(tmp_path):
    for name in 'first', 'second':
        with replacing_dir(tmp_path/'deep'/'model') as d: (d/name).write_text(name)
    assert names(tmp_path/'deep') == ['model'] and names(tmp_path/'deep'/'model') == ['second']


@pytest.mark.parametrize('stop', [ValueError, KeyboardInterrupt])
def test_replacing_dir_leaves_the_old_folder(tmp_path, stop):
    with replacing_dir(tmp_path/'model') as d: (d/'old').touch()
    with pytest.raises(stop):
        with replacing_dir(tmp_path/'model') as d:
            (d/'sub').mkdir()
            (d/'sub'/'new').touch()
            raise stop
    assert names(tmp_path) == ['model'] and names(tmp_path/'model') == ['old']


def test_replacing_dir_on_a_full_disk(tmp_path, full_disk):
    (tmp_path/'model').mkdir()
    (tmp_path/'model'/'old').touch()
    with pytest.raises(OSError, match="cannot write 'model'.*No space left.*untouched"):
        with replacing_dir(tmp_path/'model') as d: (d/'new').touch()
    assert names(tmp_path) == ['model'] and names(tmp_path/'model') == ['old']


def test_replacing_dir_puts_the_old_folder_back_when_the_move_fails(tmp_path, monkeypatch):
    (tmp_path/'model').mkdir()
    (tmp_path/'model'/'old').touch()
    replace, calls = os.replace, []
    def second_fails(a, b):
        calls.append(Path(b).name)
        if len(calls) == 2: raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace(a, b)
    monkeypatch.setattr(os, 'replace', second_fails)
    with pytest.raises(PermissionError, match='untouched'):
        with replacing_dir(tmp_path/'model') as d: (d/'new').touch()
    assert names(tmp_path) == ['model'] and names(tmp_path/'model') == ['old']


def test_replacing_dir_does_not_eat_a_file(tmp_path):
    (tmp_path/'model').write_text('mine')
    with pytest.raises(NotADirectoryError, match="cannot write 'model'"):
        with replacing_dir(tmp_path/'model') as d: (d/'new').touch()
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


def test_write_csv_brings_every_name_back(tmp_path):
    write_csv(tmp_path/'a.csv', pd.DataFrame({'file': ODD, 'p': range(len(ODD))}))
    assert b'\r\n' not in (tmp_path/'a.csv').read_bytes()
    back = pd.read_csv(tmp_path/'a.csv', keep_default_na=False, encoding_errors='surrogateescape')
    assert back.file.tolist() == ODD and list(back) == ['file', 'p']
