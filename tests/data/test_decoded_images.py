"Center crops are decoded once, cached or stored on a device, and correct even if the cache is damaged."
import os
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from pet_classifier.core.cache import clear_cache
from pet_classifier.data import crops, decoded_images
from pet_classifier.data.crops import load_crops
from pet_classifier.data.decoded_images import DecodedImages
from pet_classifier.data.images import ImageProblem
from pet_classifier.data.loaders import loaders

CPU = torch.device('cpu')


@pytest.fixture
def decoded_counts(monkeypatch, fresh_cache):
    "The number of images decoded in each call"
    seen, really = [], load_crops
    def count(files, size):
        seen.append(len(files))
        return really(files, size)
    monkeypatch.setattr(decoded_images, 'load_crops', count)
    return seen


def correct(crops, numbers=(3, 0, 3, 6)):
    return torch.equal(crops[list(numbers)], load_crops([crops.files[i] for i in numbers], crops.size))


def test_crops_are_decoded_once(files, decoded_counts, fresh_cache):
    crops = DecodedImages(files, 16)
    assert len(crops) == 7 and not decoded_counts  # nothing is decoded before it is requested
    assert correct(crops) and sum(decoded_counts) == 7
    decoded_counts.clear()
    again = DecodedImages([str(f) for f in files], 16)
    assert correct(again) and again.path == crops.path and sum(decoded_counts) == 3  # three are compared
    assert crops[[]].shape == (0, 3, 16, 16)
    assert [f.name for f in fresh_cache.iterdir()] == [crops.path.name] and crops.path.name.startswith('crops-')


def test_more_than_one_block_is_written_in_order(files, fresh_cache):
    many = [files[i % 7] for i in np.random.default_rng(1).permutation(150)]
    crops = DecodedImages(many, 8)
    assert torch.equal(crops[list(range(150))], load_crops(many, 8)) and crops.path is not None


def test_the_file_name_depends_on_images_and_size(files, fresh_cache):
    names = [DecodedImages(files, 16).path, DecodedImages(files, 17).path, DecodedImages(files[:-1], 16).path,
             DecodedImages(files[::-1], 16).path]
    stat = files[0].stat()
    Image.open(files[4]).save(files[0])
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    edited = DecodedImages(files, 16)
    assert len({*names, edited.path}) == 5 and correct(edited, [0, 1])


@pytest.mark.parametrize('spoilt', [
    lambda data: b'', lambda data: data[:100], lambda data: data[:-1], lambda data: b'no numpy' + data,
    lambda data: data[:128] + bytes(len(data) - 128)])
def test_a_truncated_or_foreign_file_is_written_again(files, fresh_cache, spoilt):
    path = DecodedImages(files, 16).path
    path.write_bytes(spoilt(path.read_bytes()))
    assert correct(DecodedImages(files, 16), range(7))


@pytest.mark.parametrize('array', [np.zeros((7, 16, 16, 3), np.uint16), np.zeros((7, 3, 16, 16), np.uint8),
                                  np.zeros((6, 16, 16, 3), np.uint8), np.array([None])],
                         ids=['dtype', 'order', 'count', 'object'])
def test_a_numpy_file_is_written_again(files, fresh_cache, array):
    path = DecodedImages(files, 16).path
    with open(path, 'wb') as f: np.save(f, array, allow_pickle=True)
    assert correct(DecodedImages(files, 16), range(7))


def test_without_room_there_is_a_warning_and_the_correct_pixels(files, decoded_counts, monkeypatch, fresh_cache):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', '0.000001')
    crops = DecodedImages(files, 16)
    with pytest.warns(UserWarning, match='7 decoded images are not cached.* no room .*PET_CLASSIFIER_CACHE_GB'):
        assert correct(crops)
    decoded_counts.clear()
    assert correct(crops, [1, 2]) and sum(decoded_counts) == 2 and not list(fresh_cache.iterdir())


def test_a_disk_error_is_a_warning_and_leaves_no_file(files, monkeypatch, fresh_cache):
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.replace', full)
    with pytest.warns(UserWarning, match='not cached.*No space left'): assert correct(DecodedImages(files, 16))
    assert not list(fresh_cache.iterdir())


def test_pixels_are_correct_after_clearing_the_cache_in_use(files, fresh_cache):
    crops = DecodedImages(files, 16)
    assert correct(crops) and clear_cache() > 0
    with pytest.warns(UserWarning, match='were damaged or deleted, and are decoded again'): assert correct(crops)
    assert correct(crops, range(7)) and correct(DecodedImages(files, 16)) and len(list(fresh_cache.iterdir())) == 1


def make_a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {'cut': lambda f: f.write_bytes(f.read_bytes()[:900]), 'emptied': lambda f: f.write_bytes(b''),
          'deleted': lambda f: f.unlink(), 'a folder': make_a_folder, 'zeroed': lambda f: f.write_bytes(bytes(f.stat().st_size)),
          'one bit': lambda f: f.write_bytes(f.read_bytes()[:700] + b'x' + f.read_bytes()[701:])}


@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize('device', [None, torch.device('cpu')])
def test_pixels_are_correct_after_damage_during_training(files, fresh_cache, damage, device):
    crops = DecodedImages(files, 16, device)
    path = crops.path
    DAMAGE[damage](path)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter('always')
        for _ in range(2): assert torch.equal(crops[list(range(7))], load_crops(files, 16))
    messages = [str(w.message) for w in messages if w.category is UserWarning]
    assert 1 <= len(messages) <= 2 and 'decoded again' in messages[0]
    if damage != 'a folder': assert correct(DecodedImages(files, 16)) and path.is_file()


def test_exchanged_cache_entries_are_detected(files, fresh_cache):
    a, b = DecodedImages(files, 16), DecodedImages(files[::-1], 16)
    one, other = a.path.read_bytes(), b.path.read_bytes()
    a.path.write_bytes(other)
    b.path.write_bytes(one)
    with pytest.warns(UserWarning, match='decoded again'): assert correct(a, range(7)) and correct(b, range(7))


@pytest.mark.parametrize('bad', ['file/cache', '~nobody-of-this-name/cache'])
def test_without_a_cache_folder_there_is_one_warning_and_the_correct_pixels(files, tmp_path, monkeypatch, bad):
    (tmp_path/'file').touch()
    monkeypatch.setenv('PET_CLASSIFIER_CACHE', str(tmp_path/bad) if bad[0] != '~' else bad)
    crops = DecodedImages(files, 16)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter('always')
        assert correct(crops) and correct(crops, range(7))
    messages, = [str(w.message) for w in messages if w.category is UserWarning]
    assert '7 decoded images are not cached' in messages and 'PET_CLASSIFIER_CACHE' in messages and '\n' not in messages


def test_a_broken_image_is_named_and_leaves_no_file(files, fresh_cache):
    files[5].write_bytes(files[5].read_bytes()[:60])
    with pytest.raises(ImageProblem, match='5.jpg'): DecodedImages(files, 16)[[0]]
    assert not list(fresh_cache.iterdir())


def test_a_batch_does_not_load_the_whole_file(files, fresh_cache):
    crops = DecodedImages(files*30, 64)
    crops[[0]]
    tracemalloc.start()
    try:
        x = crops[[5, 100]]
        _, most = tracemalloc.get_traced_memory()
    finally: tracemalloc.stop()
    assert x.shape == (2, 3, 64, 64) and most < crops.path.stat().st_size/10


PROCESS = '''
import os, sys, time
from pathlib import Path
from pet_classifier.data import crops, decoded_images
folder, me, others = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
files = sorted((folder/'own').iterdir())*20
really, calls = decoded_images.load_crops, []
def load_crops(files, size):
    calls.append(1)
    if me == 'killed' and len(calls) == 2: os.kill(os.getpid(), 9)
    return really(files, size)
decoded_images.load_crops = load_crops
(folder/f'ready-{me}').touch()
while len(list(folder.glob('ready-*'))) < others: time.sleep(0.01)
x = decoded_images.DecodedImages(files, 32)[list(range(len(files)))]
import torch
assert torch.equal(x, really(files, 32))
print('correct')
'''


def process(tmp_path, me, others):
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', PROCESS, tmp_path, me, str(others)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_concurrent_processes_get_the_correct_pixels(files, tmp_path, fresh_cache):
    both = [process(tmp_path, me, 2) for me in ('one', 'other')]
    messages = [p.communicate(timeout=120) for p in both]
    assert [out for out, _ in messages] == ['correct\n']*2, messages
    assert len(list(fresh_cache.iterdir())) == 1 and correct(DecodedImages(sorted(files)*20, 32), range(140))


@pytest.mark.slow
def test_a_killed_process_leaves_no_incomplete_file(files, tmp_path, fresh_cache):
    killed = process(tmp_path, 'killed', 1)
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    left, = fresh_cache.iterdir()
    assert left.name.startswith('.')  # the temporary folder
    crops = DecodedImages(sorted(files)*20, 32)
    assert correct(crops, range(140)) and crops.path.exists()


def test_crops_on_a_device_equal_those_of_the_file(files, fresh_cache):
    mapped, stored = DecodedImages(files, 24), DecodedImages(files, 24, CPU)
    for numbers in [3, 0, 6], [2, 2], [5]:
        for asked in numbers, torch.tensor(numbers):
            assert torch.equal(stored[asked], mapped[numbers]) and stored[asked].stride() == mapped[numbers].stride()
    assert stored.on_device.shape == (7, 24, 24, 3) and stored.on_device.dtype == torch.uint8 and mapped.on_device is None


def test_crops_on_a_device_need_no_file(files, fresh_cache):
    stored, expected = DecodedImages(files, 24, CPU), load_crops(files, 24)
    assert torch.equal(stored[[1, 2]], expected[[1, 2]])
    stored.path.unlink()
    for f in files: f.unlink()
    assert torch.equal(stored[[6, 0]], expected[[6, 0]])


def test_crops_are_stored_on_a_device_if_the_cache_has_no_room(files, fresh_cache, monkeypatch):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', '0')
    with pytest.warns(UserWarning, match='will be decoded each time'): crops = DecodedImages(files, 24, CPU)[[6, 0]]
    assert torch.equal(crops, load_crops([files[6], files[0]], 24))


def test_crops_that_do_not_fit_are_read_from_the_file(files, fresh_cache, monkeypatch):
    monkeypatch.setattr(decoded_images, 'fits_on_device', lambda n_bytes, device: n_bytes < 7*24*24*3)
    assert DecodedImages(files[:6], 24, CPU).fits
    decoded = DecodedImages(files, 24, CPU)
    assert not decoded.fits and decoded.on_device is None
    assert torch.equal(decoded[[6, 0]], load_crops([files[6], files[0]], 24))


@pytest.fixture
def decoded(monkeypatch, fresh_cache):
    "The names of the images that are decoded"
    seen, really = [], crops.decode
    def decode(file, at_least):
        seen.append(file.name)
        return really(file, at_least)
    monkeypatch.setattr(crops, 'decode', decode)
    return seen


def test_a_batch_is_shown_before_all_images_are_decoded(tiny_table, decoded):
    dls = loaders(tiny_table, size=32, bs=4)
    first = dls.one_batch()
    assert len(decoded) == 4 and not dls.train.decoded.is_stored
    assert dls.train.decoded.path and dls.train.decoded.is_stored
    decoded.clear()
    other = loaders(tiny_table, size=32, bs=4)
    other.one_batch()
    assert len(decoded) <= 3*2  # three images are compared, by each question
    assert first[0].shape == (4, 3, 32, 32)
