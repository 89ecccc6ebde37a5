"Made-up images and tiny networks, shared by the tests of the training half."
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported: in tiny networks, threads wait for each other
COLORS = dict(red=(210, 50, 50), green=(50, 200, 60), blue=(50, 60, 210))
TINY = 'test_resnet'  # timm's own network for tests: 0.5 million numbers, with batch-norm


def pytest_configure(config):
    "Hide the GPU before torch looks for it, for tests mean the CPU; `pytest -m gpu` shows it"
    if config.getoption('markexpr') != 'gpu': os.environ['CUDA_VISIBLE_DEVICES'] = ''


def pytest_collection_modifyitems(items):
    "Slow tests first: at the end, no worker has a long one left while the others wait"
    items.sort(key=lambda item: 'slow' not in item.keywords)


@pytest.fixture(scope='session', autouse=True)
def no_mps(pytestconfig):
    "Hide Apple's GPU, for which there is no environment variable"
    if sys.platform != 'darwin' or pytestconfig.getoption('markexpr') == 'gpu': return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('torch.backends.mps.is_available', lambda: False)
        yield


def pytest_terminal_summary(terminalreporter):
    "Say what this machine cannot test"
    torch = sys.modules.get('torch')
    if torch and not torch.cuda.is_available():
        terminalreporter.write_line('no GPU here, or hidden (`pytest -m gpu` shows it): what needs one was left out')


@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory):
    "What is computed is cached where all workers share it, or `PET_CLASSIFIER_CACHE` says, never in the user's cache"
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get('PET_CLASSIFIER_CACHE'):
            patch.setenv('PET_CLASSIFIER_CACHE', str((base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base)/'cache'))
        yield


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    "The folder of what is computed, empty: for tests that look what is computed"
    from pet_classifier.core.cache import computed_dir
    monkeypatch.setenv('PET_CLASSIFIER_CACHE', str(tmp_path/'fresh-cache'))
    monkeypatch.delenv('PET_CLASSIFIER_CACHE_GB', raising=False)
    return computed_dir()


@pytest.fixture(scope='session')
def pets_dir():
    if not os.environ.get('PETS_DIR'): pytest.skip('PETS_DIR is unset')
    return Path(os.environ['PETS_DIR'])


@pytest.fixture(scope='session')
def chromium():
    "A context that starts Chromium, with more `flags`, and closes it; tests without a browser are skipped"
    playwright = pytest.importorskip('playwright.sync_api')
    found = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not found: pytest.skip('no chromium here: the page is not looked at')
    always = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
              '--disable-component-update --disable-sync').split()
    @contextmanager
    def chromium(*flags):
        with playwright.sync_playwright() as p:
            browser = p.chromium.launch(executable_path=found, args=[*always, *flags])
            try: yield browser
            finally: browser.close()
    return chromium


@pytest.fixture(scope='session')
def jupyterlab():
    "A context that serves a notebook of `cells` in `folder` by JupyterLab; it yields the address of the notebook"
    pytest.importorskip('jupyterlab')
    @contextmanager
    def jupyterlab(folder, *cells):
        blank = dict(cell_type='code', metadata={}, outputs=[], execution_count=None)
        kernel = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
        content = dict(cells=[blank | dict(id=f'c{i}', source=c) for i, c in enumerate(cells)], metadata=kernel,
                       nbformat=4, nbformat_minor=5)
        (folder/'test.ipynb').write_text(json.dumps(content))
        with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
        token, address = secrets.token_hex(8), f'http://127.0.0.1:{port}'
        env = os.environ | {f'JUPYTER_{k}_DIR': str(folder/f'.{k}') for k in ('CONFIG', 'DATA', 'RUNTIME')}
        command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1',
                   '--ServerApp.port_retries=0',
                   f'--ServerApp.port={port}', f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={folder}',
                   '--LabApp.news_url=None']
        with open(folder/'.log', 'w') as log, subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder) as server:
            try:
                end = time.monotonic() + 240
                while True:
                    try: urlopen(f'{address}/api?token={token}', timeout=5).read()  # noqa: S310
                    except OSError: assert time.monotonic() < end and server.poll() is None, (folder/'.log').read_text()
                    else: break
                    time.sleep(0.2)
                yield f'{address}/lab/tree/test.ipynb?token={token}'
            finally: server.terminate()
    return jupyterlab


@pytest.fixture(scope='session')
def draw():
    "A function that writes an image to `file`, in about the colour that is its label; the `i`-th looks like no other"
    def draw(file, label, i=0):
        noise = np.random.default_rng(i).normal(COLORS[label], 50, (6, 7, 3)).clip(0, 255).astype(np.uint8)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((48 + 3*(i % 6), 64 - 3*(i % 5))).save(file)
    return draw


@pytest.fixture(scope='session')
def tiny_folder(tmp_path_factory, draw):
    folder = tmp_path_factory.mktemp('tiny')
    for n, label in enumerate(COLORS):
        for i in range(6): draw(folder/f'{label}_{i}.jpg', label, 10*n + i)
    return folder


@pytest.fixture(scope='session')
def tiny_table(tiny_folder):
    from pet_classifier.data.images import list_images
    from pet_classifier.data.labels import label_by_name
    from pet_classifier.data.splits import random_split
    return random_split(label_by_name(list_images(tiny_folder)), valid_pct=0.34)  # 12 to train on, 6 to validate on


@pytest.fixture(scope='session')
def tiny_dls(tiny_table):
    from pet_classifier.data.loaders import loaders
    return loaders(tiny_table, size=32, bs=4)


@pytest.fixture(scope='session')
def tiny_weights(tmp_path_factory):
    "A weights file for the tiny network: random numbers, and batch-norm statistics that are not those of a new network"
    import timm
    import torch
    from safetensors.torch import save_file
    state, g = timm.create_model(TINY).state_dict(), torch.Generator().manual_seed(0)
    for k, v in state.items():
        if 'running_var' in k: state[k] = 0.5 + torch.rand(v.shape, generator=g)
        elif 'running_mean' in k: state[k] = 0.1*torch.randn(v.shape, generator=g)
        elif v.ndim > 1: state[k] = torch.randn(v.shape, generator=g)*(2/v[0].numel())**0.5
    save_file(state, file := tmp_path_factory.mktemp('weights')/'tiny.safetensors')
    return file


@pytest.fixture
def learner(tiny_dls, tiny_weights, tmp_path):
    "A function that makes a tiny learner with a folder of its own; frozen, for it is 'pretrained', but with weights='none'"
    from pet_classifier.training.learner import pet_learner
    def learner(dls=tiny_dls, weights=tiny_weights, **kwargs):
        learn = pet_learner(dls, TINY, str(weights), **kwargs)
        learn.path = tmp_path
        return learn
    return learner


@pytest.fixture(scope='session')
def tiny_run(tiny_folder, tiny_weights, tmp_path_factory):
    "A finished run of a tiny network on the tiny images and two broken ones: what it was given, what came out, what was said"
    from types import SimpleNamespace

    from pet_classifier.run import train_run
    data, out, said = tmp_path_factory.mktemp('data'), tmp_path_factory.mktemp('runs')/'run', []
    for f in tiny_folder.iterdir(): (data/f.name).write_bytes(f.read_bytes())
    (data/'red_90.jpg').write_text('not an image')
    (data/'blue_91.jpg').touch()
    kwargs = dict(arch=TINY, weights=str(tiny_weights), size=32, head_epochs=3, epochs=1, lr=slice(1e-4, 1e-3))
    metrics = train_run(data, out, say=said.append, **kwargs)
    return SimpleNamespace(data=data, out=out, kwargs=kwargs, metrics=metrics, said=said)


@pytest.fixture(scope='session')
def same_random_state():
    "A context after which random, numpy and torch stand where they stood before it, or the test fails"
    import torch
    def state():
        _, numbers, at, *_ = np.random.get_state()
        return random.getstate(), numbers.tolist(), at, torch.get_rng_state().tolist()
    @contextmanager
    def same():
        before = state()
        try: yield
        finally: assert state() == before
    return same


def _raises(error, event, at):
    from fastai.callback.core import Callback
    class Raises(Callback):
        "Raises an error in the middle of a fit"
        n = 0
    def raise_it(self):
        self.n += self.training
        if self.n == at: raise error('on purpose')
    setattr(Raises, event, raise_it)
    return Raises()


@pytest.fixture(scope='session')
def raises():
    "A function that makes a callback which raises `error` at the `at`-th training batch's `event`"
    return lambda error, event='after_backward', at=2: _raises(error, event, at)
