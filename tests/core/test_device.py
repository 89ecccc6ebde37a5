"Devices are chosen and named, data are sent to them, and torch's switches are restored."
import os
import subprocess
import sys
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from fastai.torch_core import default_device

from pet_classifier.core.device import choose_device, device_name, fast_math, fits_on_device, index_batches, memory_format, send
from pet_classifier.data.loaders import loaders

CPU, CUDA = torch.device('cpu'), torch.device('cuda')


def readings():
    "What torch's new interface for precision says, and its older one"
    def older(read):
        try: return read()
        except RuntimeError: return 'mixed'
    b = torch.backends
    new = [part.fp32_precision for part in (b, b.cuda.matmul, b.cudnn, b.cudnn.conv, b.cudnn.rnn)]
    return *new, *map(older, (torch.get_float32_matmul_precision, lambda: b.cuda.matmul.allow_tf32, lambda: b.cudnn.allow_tf32))


def switches(): return *readings(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def test_the_device_is_the_given_or_the_best_one():
    assert choose_device() == default_device()
    assert choose_device('cpu') == choose_device(CPU) == CPU


def test_a_gpu_device_gets_its_index(monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.setattr('torch.cuda.current_device', lambda: 1)
    assert choose_device('cuda') == torch.device('cuda', 1) and choose_device('cuda:0') == torch.device('cuda', 0)
    with pytest.raises(ValueError, match="device='cuda:2': .* finds 2 such GPUs here"): choose_device('cuda:2')


@pytest.mark.parametrize('device', ['gpu', 'cuda:x', 3.5, 'meta', 'xpu'])
def test_an_invalid_device_is_refused(device):
    with pytest.raises(ValueError, match="expected 'cpu', 'cuda', 'cuda:1' or 'mps'"): choose_device(device)


def test_a_missing_device_is_refused_before_an_image_is_opened(tiny_table, monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    table = tiny_table.assign(file='nowhere.jpg')
    with pytest.raises(ValueError, match='finds 0 such GPUs here; leave `device` out'): loaders(table, device='cuda')
    monkeypatch.setattr('torch.backends.mps.is_available', lambda: False)
    with pytest.raises(ValueError, match="device='mps': this machine has none"): loaders(table, device='mps')


def test_device_name_of_gpu_and_cpu(monkeypatch):
    monkeypatch.setattr('torch.cuda.get_device_name', lambda device: 'Fast GPU')
    monkeypatch.setattr('torch.get_num_threads', lambda: 1)
    assert device_name(torch.device('cuda', 1)) == 'Fast GPU (cuda:1)' and device_name(CPU) == 'cpu, 1 thread'


@pytest.mark.parametrize('n, bs, drop_last, sizes', [
    (7, 3, False, [3, 3, 1]), (7, 3, True, [3, 3]), (6, 3, False, [3, 3]), (0, 3, False, []), (600, 1, False, [1]*600),
    (513, 2, False, [2]*256 + [1]), (513, 2, True, [2]*256)])
def test_index_batches_yield_all_indices_in_order(n, bs, drop_last, sizes):
    order = list(reversed(range(n)))
    batches = list(index_batches(iter(order), bs, drop_last, CPU))
    assert [len(b) for b in batches] == sizes
    assert [i for b in batches for i in b.tolist()] == order[:sum(sizes)]


def test_index_batches_accept_an_infinite_iterator():
    assert [b.tolist() for b in islice(index_batches(count(), 2, False, CPU), 300)][-1] == [598, 599]


def test_fits_on_device_allows_a_quarter_of_the_free_gpu_memory_and_of_what_torch_holds_in_reserve(monkeypatch):
    for name, value in dict(mem_get_info=(300, 1000), memory_reserved=500, memory_allocated=400).items():
        monkeypatch.setattr(f'torch.cuda.{name}', lambda device, value=value: value)
    assert fits_on_device(100, CUDA) and not fits_on_device(101, CUDA) and fits_on_device(101, CPU)


class Copies(torch.Tensor):
    "Records how it is copied"
    def pin_memory(self):
        asked.append('pinned')
        return self
    def to(self, device, **how):
        asked.append((str(device), how))
        return self

asked: list = []


@pytest.mark.parametrize('device, expected', [
    ('cuda:0', ['pinned', ('cuda:0', dict(non_blocking=True))]), ('mps:0', [('mps:0', {})])])
def test_only_pinned_memory_is_copied_asynchronously(device, expected):
    asked.clear()
    send(torch.ones(2).as_subclass(Copies), torch.device(device))
    assert asked == expected


@pytest.mark.parametrize('available, best', [(True, 'mps:0'), (False, 'cpu')])
def test_mps_is_chosen_only_if_it_is_available(monkeypatch, available, best):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('fastai.torch_core._has_mps', lambda: True)  # which means: torch was built with it
    monkeypatch.setattr('torch.backends.mps.is_available', lambda: available)
    assert str(choose_device()) == best


def test_convolutions_are_channels_last_but_on_mps():
    assert [memory_format(d) for d in ('cuda', 'cpu', 'mps')] == [torch.channels_last]*2 + [torch.contiguous_format]


def test_on_a_cpu_nothing_is_copied_and_no_switch_is_changed():
    before, x = switches(), torch.ones(2)
    with fast_math(CPU): assert send(x, CPU) is x and switches() == before


def test_fast_math_restores_the_switches_after_an_error():
    before = switches()
    with pytest.raises(KeyError), fast_math(CUDA):
        assert switches()[-2:] == (True, False) and set(readings()) == {'tf32', 'none', 'high', True} != set(before)
        raise KeyError
    assert switches() == before


def test_without_a_search_the_algorithms_are_the_default_ones():
    with fast_math(CUDA, search=False): assert switches()[-2:] == (False, False)


def test_fast_math_respects_deterministic_algorithms():
    before = switches()
    torch.use_deterministic_algorithms(True)
    try:
        with fast_math(CUDA): assert switches() == before
    finally: torch.use_deterministic_algorithms(False)


PRECISION = '''
import os, sys, traceback, warnings
import torch
sys.path.insert(0, sys.argv[1])
from test_device import CUDA, fast_math, switches
b = torch.backends

def check(setting):
    exec(setting)
    before = switches()
    warnings.simplefilter('error')
    with fast_math(CUDA):
        now = b.cuda.matmul.fp32_precision, b.cudnn.conv.fp32_precision, b.cudnn.benchmark
        assert now == ('tf32', 'tf32', True), switches()
        if before[5] != 'mixed':
            assert torch.get_float32_matmul_precision() in ('high', 'medium') and b.cuda.matmul.allow_tf32
    assert switches() == before, (before, switches())
    if 'matmul' not in setting and 'conv' not in setting:  # they have no setting of their own, now as before
        for precision in 'ieee', 'tf32':
            b.fp32_precision = b.cudnn.fp32_precision = precision
            assert b.cuda.matmul.fp32_precision == b.cudnn.conv.fp32_precision == precision, (precision, switches())

for setting in sys.argv[2:]:
    if (child := os.fork()) == 0: # each in a process of its own, for no switch can be set back to what it was at first
        try: check(setting)
        except BaseException: print(setting, traceback.format_exc()), sys.stdout.flush(), os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, setting
'''
SETTINGS = [
    '', "b.fp32_precision = 'tf32'", "b.fp32_precision = 'ieee'", "b.cuda.matmul.fp32_precision = 'tf32'",
    "b.cuda.matmul.fp32_precision = 'ieee'", "b.cudnn.fp32_precision = 'ieee'", "b.cudnn.conv.fp32_precision = 'tf32'",
    "b.cudnn.conv.fp32_precision = 'ieee'", "torch.set_float32_matmul_precision('medium')",
    "torch.set_float32_matmul_precision('high')", 'b.cuda.matmul.allow_tf32 = True', 'b.cudnn.allow_tf32 = False']


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
def test_fast_math_under_both_interfaces_for_precision():
    done = subprocess.run([sys.executable, '-c', PRECISION, Path(__file__).parent, *SETTINGS], capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here, or hidden: `pytest -m gpu` shows it')
def test_on_a_gpu_images_are_stored_and_trained_on(tiny_table, learner):
    from pet_classifier.training.fine_tuning import fine_tune
    dls = loaders(tiny_table, size=32, bs=4, device='cuda')
    learn = learner(dls)
    fine_tune(learn, 1)
    assert dls.train.decoded.on_device.device == dls.device == next(learn.model.parameters()).device
    there, here = (torch.cat([x.cpu() for x, _ in dl]) for dl in (dls.valid, loaders(tiny_table, size=32, device='cpu').valid))
    assert torch.allclose(there, here)
