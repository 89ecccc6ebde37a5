"Two processes, as fastai starts one for each GPU: the same epoch is kept, with the same weights, and one of them writes."
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from pet_classifier.data.loaders import loaders


@pytest.mark.slow
@pytest.mark.skipif(not distributed.is_available() or not distributed.is_gloo_available() or not hasattr(os, 'fork'),
                    reason='torch without gloo, or no fork here')
def test_two_processes_keep_the_same_epoch_and_end_with_the_same_weights(tiny_folder, tiny_weights, tmp_path):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    script = Path(__file__).with_name('distributed_fit.py')
    env = dict(os.environ, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), OMP_NUM_THREADS='1')
    done = subprocess.run([sys.executable, script, tiny_folder, tiny_weights, tmp_path], env=env, text=True, timeout=300,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    first, second = (json.loads((tmp_path/str(rank)/'result.json').read_text()) for rank in (0, 1))
    assert first['kept'] == second['kept'] and first['values'] == second['values'] and first['state'] == second['state']
    assert first['files'] == ['last.safetensors', 'tuned.safetensors'] and second['files'] == []
    assert (first['rows'], second['rows']) == (6, 2)


@pytest.fixture
def three_gpus(monkeypatch):
    "Three GPUs that only count themselves: the numbers of those that were chosen"
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 3)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setattr('pet_classifier.data.loaders.choose_device', lambda device: torch.device(device or 'cpu'))
    return chosen


@pytest.mark.parametrize('rank, device, chosen', [(None, None, []), ('0', None, [0]), ('2', None, [2]), ('2', 'cpu', [])])
def test_each_process_takes_its_gpu_before_the_loaders_choose_theirs(tiny_table, three_gpus, monkeypatch, rank, device, chosen):
    if rank is None: monkeypatch.delenv('LOCAL_RANK', raising=False)
    else: monkeypatch.setenv('LOCAL_RANK', rank)
    loaders(tiny_table, size=32, bs=4, device=device)
    assert three_gpus == chosen


def test_more_processes_than_gpus_are_refused(tiny_table, three_gpus, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '3')
    with pytest.raises(ValueError, match='LOCAL_RANK=3: this machine has 3 GPUs; start at most one process for each'):
        loaders(tiny_table, size=32, bs=4)
