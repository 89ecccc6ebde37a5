"Where a file cannot be written to its end, the error says so, the old file is as it was, and nothing half written is left."
import errno
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from pet_classifier.core.files import atomic_write_dir, write_csv, write_json, write_text
from pet_classifier.deploy.engines import _cached
from pet_classifier.model.bundle import load_bundle
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.model.features import read_features, write_features
from pet_classifier.run import save_figure
from pet_classifier.training.checkpoint import read_tensors, write_tensors
from pet_classifier.training.fine_tuning import load_stage, save_stage

pytestmark = pytest.mark.slow

resource = pytest.importorskip('resource', reason='Windows has no limit for the size of a file')


@contextmanager
def little_room(size=20_000):
    "Inside, nobody writes a file of more than `size` bytes; not even pytest, whose own output may go into one"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def folder_of(path, size):
    with atomic_write_dir(path) as new: (new/'a.bin').write_bytes(bytes(size))


def figure(path, size):
    fig, ax = plt.subplots()
    ax.imshow(np.random.default_rng(0).random((max(2, size//300), 300)))
    save_figure(fig, path)


WRITERS = {  # a function that writes about so many bytes to a path
    'a.safetensors': lambda path, size: write_tensors(path, 'test', {}, dict(a=torch.zeros(size//4))),
    'a.csv': lambda path, size: write_csv(path, pd.DataFrame(dict(a=range(size//4)))),
    'a.json': lambda path, size: write_json(path, list(range(size//4))),
    'a.html': lambda path, size: write_text(path, 'x'*size), 'a.png': figure, 'folder': folder_of}


def content(path): return {f.name: f.read_bytes() for f in path.iterdir()} if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize('name', WRITERS)
def test_the_old_file_stays_and_the_error_says_why(tmp_path, name):
    path, write = tmp_path/name, WRITERS[name]
    write(path, 40)
    before = content(path)
    room = 20_000 if name != 'a.png' else 1_000
    with pytest.raises(OSError, match=f"cannot write '{name}' in .*: File too large; what was there is untouched") as e:
        with little_room(room): write(path, 100_000)
    assert e.value.errno == errno.EFBIG and content(path) == before and [f.name for f in tmp_path.iterdir()] == [name]
    other = tmp_path/f'other{path.suffix}'
    with pytest.raises(OSError, match='nothing was left behind'), little_room(room): write(other, 100_000)
    assert [f.name for f in tmp_path.iterdir()] == [name]


def test_a_stage_and_a_bundle_that_were_saved_still_load(learner, tmp_path):
    learn = learner()
    stage, bundle = save_stage(learn, 'head'), save_bundle(learn, tmp_path/'model')
    with pytest.raises(OSError, match="cannot write 'head.safetensors'"), little_room(): save_stage(learn, 'head')
    with pytest.raises(OSError, match="cannot write 'model'"), little_room(): save_bundle(learn, bundle)
    load_stage(learn, 'head')
    assert read_tensors(stage, 'stage')[0]['frozen'] and load_bundle(bundle).vocab == ['blue', 'green', 'red']


def test_a_cache_that_cannot_be_written_is_said_and_done_without(fresh_cache):
    rows = torch.zeros(3, 100)
    write_features('features-0.npz', ['0'*32, '1'*32, '2'*32], rows)
    with pytest.warns(UserWarning, match='the features of 100 images are not cached on disk: .*File too large'), little_room():
        write_features('features-0.npz', [f'{i:032x}' for i in range(100)], torch.zeros(100, 100))
    assert torch.equal(read_features('features-0.npz')[1], rows) and len(list(fresh_cache.iterdir())) == 1


def test_a_converted_network_that_cannot_be_kept_is_said_and_used(fresh_cache):
    made = dict(xml=np.ones(50, np.uint8), bin=np.ones(50_000, np.uint8))
    bundle = SimpleNamespace(size=32, config=dict(sizes=[32], arch='a', head='linear', mean=[0]*3, std=[1]*3, sha256='0'))
    with pytest.warns(UserWarning, match='the converted network is not cached: cannot write .*File too large'), little_room():
        kept = _cached('openvino', '0', bundle, lambda bundle: made)
    assert kept is made and not list(fresh_cache.iterdir())
