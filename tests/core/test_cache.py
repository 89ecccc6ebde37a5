"Cache entries have a size limit, are deleted least recently used first, and can be listed and cleared."
import os
import time
from pathlib import Path

import pytest

from pet_classifier.cli import main
from pet_classifier.core.cache import cache_limit, cache_table, clear_cache, computed_dir, make_room, touch


def put(folder, name, size, age):
    "Write a file of `size` bytes that was last used `age` seconds ago"
    (folder/name).write_bytes(b'0'*size)
    os.utime(folder/name, (time.time() - age,)*2)
    return folder/name


def names(folder): return sorted(f.name for f in folder.iterdir())


@pytest.fixture
def limit(monkeypatch, fresh_cache):
    "Return a function that sets the limit in bytes"
    return lambda n: monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', str(n/1e9))


def test_computed_dir_is_created_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE', str(tmp_path/'a'/'b'))
    assert computed_dir() == tmp_path/'a'/'b'/'computed' and computed_dir().is_dir()


def test_tests_do_not_write_into_the_users_cache():
    import platformdirs
    users = platformdirs.user_cache_dir('pet_classifier', appauthor=False)
    assert os.environ['PET_CLASSIFIER_CACHE'] and not computed_dir().is_relative_to(users)


@pytest.mark.parametrize('text, limit', [(None, 5*10**9), ('', 5*10**9), ('0', 0), ('0.25', 25*10**7), ('2', 2*10**9),
                                         ('1e1', 10**10)])
def test_the_limit(monkeypatch, text, limit):
    monkeypatch.delenv('PET_CLASSIFIER_CACHE_GB', raising=False)
    if text is not None: monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', text)
    assert cache_limit() == limit


@pytest.mark.parametrize('text', ['-1', 'much', 'inf', 'nan', '5 GB'])
def test_an_invalid_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', text)
    with pytest.raises(ValueError, match=f'PET_CLASSIFIER_CACHE_GB={text}: expected a number of gigabytes'): cache_limit()


@pytest.mark.parametrize('size, left', [(400, 'abc'), (401, 'bc'), (500, 'bc'), (501, 'c'), (1000, '')])
def test_make_room_deletes_the_least_recently_used_files_only_as_needed(fresh_cache, limit, size, left):
    limit(1000)
    for name, n, age in ('b', 100, 20), ('c', 400, 10), ('a', 100, 30): put(fresh_cache, name, n, age)
    assert make_room(size) and names(fresh_cache) == list(left)


def test_touch_protects_a_file_from_deletion(fresh_cache, limit):
    limit(300)
    for name, age in ('a', 30), ('b', 20), ('c', 10): put(fresh_cache, name, 100, age)
    touch(fresh_cache/'a')
    assert make_room(100) and names(fresh_cache) == ['a', 'c']
    touch(fresh_cache/'gone')  # not an error


def test_a_file_larger_than_the_limit_deletes_nothing(fresh_cache, limit):
    limit(1000)
    put(fresh_cache, 'a', 900, 10)
    assert not make_room(1001) and names(fresh_cache) == ['a']
    limit(0)
    assert not make_room(1)


def test_unfinished_files_are_deleted_after_a_day(fresh_cache, limit):
    limit(1000)
    put(fresh_cache, '.young-1.npy', 600, 3600)
    put(fresh_cache, '.old-1.npy', 600, 2*86_400)
    put(fresh_cache, 'a', 100, 10)
    assert not make_room(500) and names(fresh_cache) == ['.young-1.npy']
    assert make_room(400)


def test_files_deleted_by_another_process_are_ignored(fresh_cache, limit, monkeypatch):
    limit(1000)
    put(fresh_cache, 'gone', 600, 20)
    put(fresh_cache, 'kept', 600, 10)
    is_file = Path.is_file
    def is_file_then_deleted(file):
        res = is_file(file)
        (fresh_cache/'gone').unlink(missing_ok=True)
        return res
    monkeypatch.setattr(Path, 'is_file', is_file_then_deleted)
    assert make_room(400) and names(fresh_cache) == ['kept']


def test_other_folders_are_not_deleted(fresh_cache, limit):
    (fresh_cache/'mine').mkdir()
    put(fresh_cache/'mine', 'thesis', 100, 10**6)
    limit(100)
    assert make_room(100) and clear_cache() == 0
    assert (fresh_cache/'mine'/'thesis').exists() and cache_table().empty


def test_cache_table_counts_each_kind_and_clear_cache_returns_the_bytes(fresh_cache):
    for name, n in ('crops-1.npy', 2000), ('crops-2.npy', 1000), ('features-1.safetensors', 500), ('.decoded-1-ab.npy', 7):
        put(fresh_cache, name, n, 10)
    table = cache_table().set_index('kind')
    assert table.files.to_dict() == dict(crops=2, features=1, unfinished=1)
    assert table.megabytes.to_dict() == pytest.approx(dict(crops=3e-3, features=5e-4, unfinished=7e-6))
    assert clear_cache() == 3507 and names(fresh_cache) == [] and cache_table().empty and clear_cache() == 0


def test_the_cache_command_lists_and_clears(fresh_cache, capsys):
    put(fresh_cache, 'crops-1.npy', 2_000_000, 10)
    assert main(['cache']) == 0
    out, err = capsys.readouterr()
    assert out == 'kind,files,megabytes\ncrops,1,2.0\n' and err == f'{fresh_cache}, at most 5 GB (PET_CLASSIFIER_CACHE_GB)\n'
    assert names(fresh_cache) == ['crops-1.npy']
    assert main(['cache', '--clear']) == 0
    assert '2.0 MB deleted' in capsys.readouterr().err and names(fresh_cache) == []


def test_an_invalid_limit_is_an_error_in_one_line(fresh_cache, monkeypatch, capsys):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', 'much')
    assert main(['cache']) == 2
    assert capsys.readouterr().err.startswith('error: PET_CLASSIFIER_CACHE_GB=much')
