"Data sets are created or downloaded once, atomically."
import hashlib
import sys
import tarfile
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from urllib.error import URLError

import pandas as pd
import pytest
from PIL import Image

from pet_classifier.data import breeds, datasets, drawing
from pet_classifier.data.datasets import _unpack, dataset, draw_sample, write_digits


def digests(folder): return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in Path(folder).iterdir()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'


@pytest.fixture
def two_breeds(monkeypatch):
    "Two breeds, with images of one colour, which are drawn fast."
    def draw_pet(breed, seed): return Image.new('RGB', (8, 8), tuple(Random(f'{breed}/{seed}').randbytes(3)))  # noqa: S311
    monkeypatch.setattr(breeds, 'BREEDS', ('Birman', 'pug'))
    monkeypatch.setattr(drawing, 'draw_pet', draw_pet)


@pytest.mark.slow
def test_the_sample_has_the_37_breeds(tmp_path):
    files = list(draw_sample(tmp_path/'pets', per_breed=1).iterdir())
    assert len(breeds.BREEDS) == 37 and sorted(f.name for f in files) == sorted(f'{b}_1.jpg' for b in breeds.BREEDS)
    with Image.open(files[0]) as im: assert im.format == 'JPEG' and im.mode == 'RGB' and min(im.size) >= 200


def test_a_larger_sample_begins_with_the_same_images(tmp_path, two_breeds):
    few, many = (digests(draw_sample(tmp_path/str(n), per_breed=n)) for n in (2, 3))
    assert sorted(few) == ['Birman_1.jpg', 'Birman_2.jpg', 'pug_1.jpg', 'pug_2.jpg']
    assert len(many) == 6 and few.items() <= many.items() and len(set(many.values())) == 6


def test_another_seed_draws_other_images(tmp_path, two_breeds):
    a, b = (digests(draw_sample(tmp_path/str(s), per_breed=1, seed=s)) for s in (0, 1))
    assert a.keys() == b.keys() and not set(a.values()) & set(b.values())


def test_the_sample_is_drawn_into_an_empty_folder_only(tmp_path, two_breeds):
    assert len(digests(draw_sample(tmp_path, per_breed=1))) == 2
    before = digests(tmp_path)
    with pytest.raises(FileExistsError, match='new or an empty folder'): draw_sample(tmp_path, per_breed=2)
    assert digests(tmp_path) == before


@pytest.mark.parametrize('n', [0, -1])
def test_less_than_one_image_per_breed_is_refused(tmp_path, n):
    with pytest.raises(ValueError, match=f'per_breed={n}'): draw_sample(tmp_path/'pets', per_breed=n)
    assert not (tmp_path/'pets').exists()


@pytest.fixture(scope='module')
def digits(tmp_path_factory): return write_digits(tmp_path_factory.mktemp('data')/'digits')


def test_digits_have_the_layout_of_mnist_sample(digits):
    path = digits
    files = sorted(f.relative_to(path).as_posix() for f in path.rglob('*.png'))
    n = Counter(f.rsplit('/', 1)[0] for f in files)
    assert n == {'train/3': 146, 'train/7': 143, 'valid/3': 37, 'valid/7': 36}
    labels = pd.read_csv(path/'labels.csv')
    assert list(labels) == ['name', 'label'] and labels.name.tolist() == files
    assert labels.label.tolist() == [int('/7/' in f) for f in files]
    with Image.open(path/files[0]) as im:
        assert (im.mode, im.size, im.format) == ('L', (28, 28), 'PNG') and im.getextrema()[1] > 200
        assert im.crop((0, 0, 28, 4)).getextrema() == im.crop((24, 0, 28, 28)).getextrema() == (0, 0)  # MNIST's margin


def test_digits_are_the_same_each_time_and_replace_the_old(tmp_path, digits):
    (tmp_path/'mine.txt').touch()
    assert (write_digits(tmp_path)/'labels.csv').read_bytes() == (digits/'labels.csv').read_bytes()
    assert not (tmp_path/'mine.txt').exists()


def test_a_data_set_is_created_once(cache, monkeypatch):
    monkeypatch.setattr(datasets, 'write_digits', lambda folder: (folder/'labels.csv').touch())
    assert dataset('digits') == cache/'digits-centred' and (cache/'digits-centred'/'labels.csv').exists()
    monkeypatch.setattr(datasets, 'write_digits', lambda folder: pytest.fail('made again'))
    assert dataset('digits') == cache/'digits-centred'


def test_the_sample_is_created_atomically(cache, two_breeds, monkeypatch):
    draw, n = drawing.draw_pet, []
    def interrupted(breed, seed):
        n.append(breed)
        if len(n) == 5: raise KeyboardInterrupt
        return draw(breed, seed)
    with monkeypatch.context() as m:
        m.setattr(drawing, 'draw_pet', interrupted)
        with pytest.raises(KeyboardInterrupt): dataset('sample')
    assert list(cache.iterdir()) == []
    assert len(list(dataset('sample').iterdir())) == 20


def test_own_folder(tmp_path, cache):
    assert dataset(tmp_path) == tmp_path and dataset(str(tmp_path)) == tmp_path


@pytest.mark.parametrize('form', ['mine', './mine', '~/mine', 'mine/', '../{here}/mine'])
def test_paths_become_absolute_and_links_are_not_resolved(tmp_path, cache, monkeypatch, form):
    (tmp_path/'real').mkdir()
    (tmp_path/'mine').symlink_to('real')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert dataset(form.format(here=tmp_path.name)) == tmp_path/'mine'


def test_a_deleted_current_folder_is_reported(tmp_path, monkeypatch):
    (tmp_path/'gone').mkdir()
    monkeypatch.chdir(tmp_path/'gone')
    (tmp_path/'gone').rmdir()
    assert dataset(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match="'mine' is relative to the current folder, which no longer"): dataset('mine')


def test_a_path_is_not_a_data_set_name(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('digits').mkdir()
    assert dataset(Path('digits')) == dataset('./digits') == tmp_path/'digits'


@pytest.mark.parametrize('name', ['cats', 'no/such/folder', 'Sample'])
def test_an_unknown_name_lists_the_known_ones(cache, name):
    with pytest.raises(OSError, match='neither a folder nor a data set; .* sample, digits, pets, mnist_sample') as e:
        dataset(name)
    assert repr(name) in str(e.value)


def test_a_file_is_refused(tmp_path, cache):
    (tmp_path/'a.jpg').touch()
    with pytest.raises(NotADirectoryError, match='is a file, not a folder'): dataset(tmp_path/'a.jpg')


def fake_torchvision(monkeypatch, download):
    module = SimpleNamespace(OxfordIIITPet=lambda root, download=False: fetch(root/'oxford-iiit-pet'))
    def fetch(base):
        base.mkdir(parents=True, exist_ok=True)
        download(base)
    monkeypatch.setitem(sys.modules, 'torchvision', SimpleNamespace(datasets=module))
    monkeypatch.setitem(sys.modules, 'torchvision.datasets', module)


def unpacked(base, n=3):
    (base/'images.tar.gz').touch()
    (base/'images').mkdir()
    for i in range(n): (base/'images'/f'pug_{i}.jpg').touch()


def test_pets_are_downloaded_once(cache, monkeypatch):
    fake_torchvision(monkeypatch, unpacked)
    assert len(list(dataset('pets').iterdir())) == 3
    fake_torchvision(monkeypatch, lambda base: pytest.fail('fetched again'))
    assert dataset('pets').name == 'images'


def test_partly_unpacked_pets_are_unpacked_again(cache, monkeypatch):
    def interrupted(base):
        unpacked(base, 1)
        raise KeyboardInterrupt
    fake_torchvision(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt): dataset('pets')
    fake_torchvision(monkeypatch, unpacked)  # fails if the partly unpacked folder still exists
    assert len(list(dataset('pets').iterdir())) == 3


@pytest.mark.parametrize('error', [URLError('no name'), ConnectionResetError('reset'), TimeoutError('timed out'),
                                   RuntimeError('File not found or corrupted.')])
def test_a_failed_download_names_the_alternatives(cache, monkeypatch, error):
    def fail(base): raise error
    fake_torchvision(monkeypatch, fail)
    with pytest.raises(ConnectionError) as e: dataset('pets')
    assert e.value.__cause__ is error
    place = str(cache/'pets'/'oxford-iiit-pet')
    for way in "dataset('sample')", 'drawn', "dataset('digits')", 'your own folder', 'images.tar.gz', place:
        assert way in str(e.value)


def test_a_full_disk_is_not_reported_as_a_failed_download(cache, monkeypatch):
    def fail(base): raise OSError(28, 'No space left on device')
    fake_torchvision(monkeypatch, fail)
    with pytest.raises(OSError, match='No space left') as e: dataset('pets')
    assert not isinstance(e.value, ConnectionError)


def test_mnist_sample_is_verified_before_unpacking(cache, monkeypatch, tmp_path):
    def download_url(url, folder, cut=0):
        with tarfile.open(tmp_path/'whole.tgz', 'w:gz') as tar:
            for i in range(30): tar.add(__file__, f'mnist_sample/train/{i}.py')
        data = (tmp_path/'whole.tgz').read_bytes()
        (folder/'mnist_sample.tgz').write_bytes(data[:len(data)-cut])
    def served(cut): monkeypatch.setattr('torchvision.datasets.utils.download_url', partial(download_url, cut=cut))
    for cut in 1, 5, 500:
        served(cut)
        with pytest.raises(ConnectionError, match='mnist_sample.tgz is truncated'): dataset('mnist_sample')
        assert not (cache/'mnist_sample').exists()
    served(0)
    assert len(list((dataset('mnist_sample')/'train').iterdir())) == 30
    assert dataset('mnist_sample') == cache/'mnist_sample'/'mnist_sample'
    monkeypatch.setattr('torchvision.datasets.utils.download_url', lambda *args: pytest.fail('fetched again'))
    dataset('mnist_sample')


def test_an_archive_downloaded_by_hand_is_used(cache, tmp_path):
    (cache/'archives').mkdir(parents=True)
    with tarfile.open(cache/'archives'/'mnist_sample.tgz', 'w:gz') as tar: tar.add(__file__, 'mnist_sample/a.py')
    assert [f.name for f in dataset('mnist_sample').iterdir()] == ['a.py']


@pytest.mark.parametrize('name', ['../out.txt', '/a/out.txt', 'a/../../out.txt', 'link'])
def test_an_archive_is_unpacked_in_its_folder_only(tmp_path, name):
    file = tarfile.TarInfo(name)
    if name == 'link': file.type, file.linkname = tarfile.SYMTYPE, '../../etc/passwd'
    with tarfile.open(tmp_path/'a.tgz', 'w:gz') as tar: tar.addfile(file)
    if name == '/a/out.txt':  # a leading slash is removed
        _unpack(tmp_path/'a.tgz', tmp_path/'in')
        assert (tmp_path/'in'/'a'/'out.txt').exists()
        return
    with pytest.raises(RuntimeError, match='a.tgz is truncated or damaged'): _unpack(tmp_path/'a.tgz', tmp_path/'in')
    assert not (tmp_path/'out.txt').exists()
