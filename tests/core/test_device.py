"The device is the one asked for or the best there is, what is sent arrives, and torch's switches are turned back."
from itertools import count, islice

import pytest
import torch
from fastai.torch_core import default_device

from pet_classifier.core.device import choose_device, device_name, fast_math, fits_on_device, index_batches, send
from pet_classifier.data.loaders import loaders

CPU, CUDA = torch.device('cpu'), torch.device('cuda')


def switches():
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32


def test_the_device_is_the_best_there_is_or_the_one_asked_for():
    assert choose_device() == default_device()
    assert choose_device('cpu') == choose_device(CPU) == CPU


def test_a_card_is_given_its_number(monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.setattr('torch.cuda.current_device', lambda: 1)
    assert choose_device('cuda') == torch.device('cuda', 1) and choose_device('cuda:0') == torch.device('cuda', 0)
    with pytest.raises(ValueError, match="device='cuda:2': .* finds 2 such GPUs here"): choose_device('cuda:2')


@pytest.mark.parametrize('device', ['gpu', 'cuda:x', 3.5, 'meta', 'xpu'])
def test_what_is_no_device_is_refused(device):
    with pytest.raises(ValueError, match="expected 'cpu', 'cuda', 'cuda:1' or 'mps'"): choose_device(device)


def test_a_device_that_is_not_there_is_refused_before_an_image_is_opened(tiny_table, monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    table = tiny_table.assign(file='nowhere.jpg')
    with pytest.raises(ValueError, match='finds 0 such GPUs here; leave `device` out'): loaders(table, device='cuda')
    monkeypatch.setattr('torch.backends.mps.is_available', lambda: False)
    with pytest.raises(ValueError, match="device='mps': this machine has none"): loaders(table, device='mps')


def test_a_card_has_its_name_and_a_processor_its_threads(monkeypatch):
    monkeypatch.setattr('torch.cuda.get_device_name', lambda device: 'Fast Card')
    monkeypatch.setattr('torch.get_num_threads', lambda: 1)
    assert device_name(torch.device('cuda', 1)) == 'Fast Card (cuda:1)' and device_name(CPU) == 'cpu, 1 thread'


@pytest.mark.parametrize('n, bs, drop_last, sizes', [
    (7, 3, False, [3, 3, 1]), (7, 3, True, [3, 3]), (6, 3, False, [3, 3]), (0, 3, False, []), (600, 1, False, [1]*600),
    (513, 2, False, [2]*256 + [1]), (513, 2, True, [2]*256)])
def test_batches_of_numbers_are_all_numbers_in_their_order(n, bs, drop_last, sizes):
    order = list(reversed(range(n)))
    batches = list(index_batches(iter(order), bs, drop_last, CPU))
    assert [len(b) for b in batches] == sizes
    assert [i for b in batches for i in b.tolist()] == order[:sum(sizes)]


def test_an_endless_order_is_taken_piece_by_piece():
    assert [b.tolist() for b in islice(index_batches(count(), 2, False, CPU), 300)][-1] == [598, 599]


def test_a_quarter_of_what_is_free_on_a_card_may_be_kept_there(monkeypatch):
    monkeypatch.setattr('torch.cuda.mem_get_info', lambda device: (400, 1000))
    assert fits_on_device(100, CUDA) and not fits_on_device(101, CUDA) and fits_on_device(101, CPU)


def test_on_a_processor_nothing_is_copied_and_no_switch_is_turned():
    before, x = switches(), torch.ones(2)
    with fast_math(CPU): assert send(x, CPU) is x and switches() == before


def test_for_a_card_the_switches_are_turned_and_turned_back_after_an_error_too():
    before = switches()
    with pytest.raises(KeyError), fast_math(CUDA):
        assert switches() == ('high', True, False, True) != before
        raise KeyError
    assert switches() == before


def test_who_wants_the_last_digit_gets_it():
    before = switches()
    torch.use_deterministic_algorithms(True)
    try:
        with fast_math(CUDA): assert switches() == before
    finally: torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here: what needs one is not tested')
def test_on_a_card_images_are_kept_and_trained_on(tiny_table, learner):
    from pet_classifier.training.fine_tuning import fine_tune
    dls = loaders(tiny_table, size=32, bs=4, device='cuda')
    learn = learner(dls)
    fine_tune(learn, 1)
    assert dls.train.decoded.on_device.device == dls.device == next(learn.model.parameters()).device
    there, here = (torch.cat([x.cpu() for x, _ in dl]) for dl in (dls.valid, loaders(tiny_table, size=32, device='cpu').valid))
    assert torch.allclose(there, here)
