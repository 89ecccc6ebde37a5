"What strangers send is decoded apart: the same numbers, and limits of time and memory."
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pet_classifier.data.crops import load_crop
from pet_classifier.data.images import ImageProblem
from pet_classifier.deploy.sandbox import Sandbox

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here: no sandbox')]
rng = np.random.default_rng(0)


def encoded(mode='RGB', size=(70, 50), kind='JPEG', **kwargs):
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), np.uint8), 'RGBA').convert(mode)
    image.save(file := BytesIO(), kind, **kwargs)
    return file.getvalue()


LARGE = BytesIO()
Image.fromarray(np.zeros((8000, 10_000), np.uint8)).save(LARGE, 'PNG', compress_level=1)


@pytest.fixture(scope='module')
def sandbox():
    with Sandbox(32, at_once=4, seconds=4, megabytes=300) as sandbox: yield sandbox


@pytest.mark.parametrize('data', [encoded(), encoded('L'), encoded('CMYK'), encoded('RGBA', kind='PNG'), encoded('P', kind='GIF'),
                                  encoded(kind='WEBP'), encoded(size=(32, 32), kind='PNG')])
def test_the_numbers_are_those_of_read_square(sandbox, data): assert sandbox(data).equal(load_crop(data, 32))


@pytest.mark.parametrize('data', [b'', b'To whom it may concern', encoded()[:300], encoded(kind='PNG')[:-40], encoded()[:30]])
def test_the_problem_is_that_of_read_square(sandbox, data):
    with pytest.raises(ImageProblem) as wanted: load_crop(data, 32)
    with pytest.raises(ImageProblem) as got: sandbox(data)
    assert got.value.reason == wanted.value.reason


def test_what_takes_too_much_memory_is_refused_and_the_next_one_decoded(sandbox):
    with pytest.raises(ImageProblem, match='decoding takes more than 4 seconds or 300 MB'): sandbox(LARGE.getvalue())
    assert sandbox(encoded()).shape == (3, 32, 32)


def test_what_takes_too_long_is_ended_and_keeps_nobody_waiting(sandbox):
    sandbox(encoded())
    ours, theirs = socket.socketpair()
    with ours, theirs: # whose file never comes to an end
        socket.send_fds(sandbox.control, [b'.'], [theirs.fileno()])
        theirs.close()
        assert sandbox(encoded()).shape == (3, 32, 32)
        ours.settimeout(60)
        assert ours.recv(1) == b''


def test_many_at_once(sandbox):
    files = [encoded() for _ in range(20)] + [b'no image']*5
    def same(data):
        try: return sandbox(data).equal(load_crop(data, 32))
        except ImageProblem: return data == b'no image'
    with ThreadPoolExecutor(25) as pool: assert all(pool.map(same, files))


@pytest.mark.skipif(not Path('/proc').exists(), reason='no /proc here')
def test_it_ends_with_its_server_whatever_ends_that():
    script = 'from pet_classifier.deploy.sandbox import Sandbox; print(Sandbox(32).process.pid, flush=True); input()'
    env = os.environ | dict(PYTHONPATH=os.pathsep.join(sys.path))
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, '-c', script], env=env, **pipes) as server:
        pid = int(server.stdout.readline())
        assert Path(f'/proc/{pid}').exists()
        server.kill()
    until = time.monotonic() + 60  # it may still be importing
    while Path(f'/proc/{pid}').exists() and 'Z' not in Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]:
        assert time.monotonic() < until
        time.sleep(.05)


def test_a_process_that_is_gone_is_replaced_and_ends_with_its_sandbox():
    with Sandbox(32) as sandbox:
        sandbox.process.kill()
        sandbox.process.wait()
        assert sandbox(encoded()).shape == (3, 32, 32)
        process = sandbox.process
    assert process.poll() is not None
