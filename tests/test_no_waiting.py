"""Nothing in the training loop waits for the device, and no Python work is done for a single image.

The device is torch's 'meta', which has shapes and no numbers: whoever wants to know a number from there has to ask, and is seen.
It is as far from the CPU as a GPU is, so what would be copied to a card, or from it, is seen as well.
"""
import sys
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import AvgLoss, AvgMetric, AvgSmoothLoss
from fastai.metrics import error_rate
from fastai.optimizer import Adam
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from pet_classifier.data.loaders import loaders
from pet_classifier.training.head import feature_loaders
from pet_classifier.training.learner import pet_learner
from pet_classifier.training.optimizer import FusedAdam

aten = torch.ops.aten
META = torch.device('meta')
READS = 'aten::item', 'aten::_local_scalar_dense', 'aten::nonzero', 'aten::is_nonzero', 'aten::equal', 'aten::masked_select'


class Watch(TorchDispatchMode):
    "Counts all orders, the numbers read from `META`, and the tensors fetched from it and sent to it"
    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, first = kwargs or {}, args[0] if args and torch.is_tensor(args[0]) else None
        self.seen['orders'] += 1
        if first is not None and first.device == META:
            if func is aten._local_scalar_dense.default:
                self.seen['read'] += 1
                return 0.
            if func is aten._to_copy.default and kwargs.get('device', META) != META:
                self.seen['fetched'] += 1
                return torch.zeros(first.shape)
            if func is aten.copy_.default and args[1].device != META: self.seen['sent'] += 1
        elif func is aten.copy_.default and args[1].device == META:
            self.seen['fetched'] += 1
            return first
        elif func is aten._to_copy.default and torch.device(kwargs.get('device') or 'cpu') == META: self.seen['sent'] += 1
        return func(*args, **kwargs)


class WatchLists(TorchFunctionMode):
    "Counts the Python lists that are sent to `META`, which torch does without an order: as numbers, or as indices"
    def __init__(self, seen): self.seen = seen

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor) and not torch.is_tensor(args[0]) and kwargs.get('device') == META
        picked = func is torch.Tensor.__getitem__ and args[0].device == META and isinstance(args[1], list)
        if made or picked: self.seen()['sent'] += 1
        return func(*args, **kwargs)


class Steps(Callback):
    "Takes `read()` behind each batch, of training and of validation"
    order = 1000  # behind all others

    def __init__(self, read): self.read, self.train, self.valid = read, [], []

    def after_batch(self): (self.train if self.training else self.valid).append(self.read())


def watched(learn, epochs=1):
    "What was counted from batch to batch in a fit of `learn`: of training, of validation"
    with Watch() as watch, WatchLists(lambda: watch.seen):
        def read():
            seen, watch.seen = watch.seen, Counter()
            return seen
        with learn.added_cbs(steps := Steps(read)): learn.fit_one_cycle(epochs, 1e-3)
    assert (len(steps.train), len(steps.valid)) == (epochs*len(learn.dls.train), epochs*len(learn.dls.valid))
    def between(seen, dl): return [s for i, s in enumerate(seen) if i % len(dl)]
    return between(steps.train, learn.dls.train), between(steps.valid, learn.dls.valid)


@pytest.fixture
def far(tiny_table, monkeypatch):
    "A function that makes a learner on `META`"
    monkeypatch.setattr(torch, 'autocast', lambda *args, **kwargs: nullcontext())  # which knows no such device
    def far(bs=4, keep=True, head='linear'):
        dls = loaders(tiny_table, size=32, bs=bs, device=META, keep=keep)
        learn = pet_learner(dls, 'test_resnet', weights='none', precision='fp32', head=head)
        learn.model.to(META)
        learn.opt_func = FusedAdam  # as on a GPU
        return learn
    return far


def test_no_number_is_read_fetched_or_sent_between_batches(far):
    train, valid = watched(far(bs=2), epochs=2)
    assert len(train) == 10 and len(valid) == 4
    assert [{k: v for k, v in seen.items() if k != 'orders'} for seen in train + valid] == [{}]*14
    assert all(seen['orders'] > 100 for seen in train)  # it did compute


def test_nor_with_fastais_head_and_its_dropout_and_batch_norm(far):
    train, valid = watched(far(bs=2, head='fastai'))
    assert all(set(seen) == {'orders'} for seen in train + valid)


def test_nor_while_a_head_is_trained_on_features(far):
    learn = far()
    rows = torch.utils.data.TensorDataset(torch.rand(12, 8), torch.zeros(12).long())
    learn.dls, learn.model, learn.opt = feature_loaders(rows, rows, 4, META), torch.nn.Linear(8, 3).to(META), None
    learn.splitter = lambda model: [list(model.parameters())]
    train, valid = watched(learn)
    assert train and all(set(seen) == {'orders'} for seen in train + valid)


def smooth(learn): learn.recorder.smooth_loss = AvgSmoothLoss()

def loss(learn): learn.recorder.loss = AvgLoss()

def metric(learn): learn.metrics = [AvgMetric(error_rate)]

class Prints(Callback):
    "Shows the loss of each batch"
    def after_batch(self): self.shown = f'{self.loss.item():.3f}'

class Decides(Callback):
    "Does something if the loss is high"
    def after_batch(self): self.high = bool(self.loss > 1)

class Sends(Callback):
    "Makes a tensor of numbers"
    def before_batch(self): self.sent = torch.tensor([1., 2.], device=self.xb[0].device)

class Picks(Callback):
    "Takes two of the predictions"
    def after_pred(self): self.picked = self.pred[[0, 1]]

class Lists(Callback):
    "Wants to see the predictions"
    def after_pred(self): self.seen = self.pred.detach().cpu().tolist()


@pytest.mark.parametrize('spoil, where, what', [
    (smooth, 'train', 'fetched'), (loss, 'valid', 'fetched'), (metric, 'valid', 'fetched'), (Prints, 'train', 'read'),
    (Decides, 'train', 'read'), (Lists, 'train', 'fetched'), (Sends, 'train', 'sent'), (Picks, 'train', 'sent')])
def test_what_waits_is_seen(far, spoil, where, what):
    learn = far(bs=2)
    learn.add_cb(spoil()) if isinstance(spoil, type) else spoil(learn)
    seen = dict(zip(('train', 'valid'), watched(learn)))
    assert all(s[what] > 0 for s in seen[where])


def test_images_that_are_not_kept_there_are_sent_batch_by_batch(far):
    train, _ = watched(far(bs=2, keep=False))
    assert all(seen['sent'] == 2 and not seen['read'] + seen['fetched'] for seen in train)  # images and classes


def test_a_condition_on_numbers_that_are_not_known_cannot_go_unseen(far):
    class Chooses(Callback):
        "Takes the predictions above 1"
        def after_pred(self): self.chosen = self.pred[self.pred > 1]
    (learn := far()).add_cb(Chooses())
    with pytest.raises(NotImplementedError, match='nonzero'): watched(learn)


def orders(learn): return {seen['orders'] for seen in watched(learn)[0]}


def test_as_many_orders_are_given_for_a_large_batch_as_for_a_small_one(far):
    assert len(orders(far(bs=2)) | orders(far(bs=6))) == 1


def test_one_step_for_all_weights_takes_a_tenth_of_the_orders(far):
    def step(opt_func):
        learn = far()
        learn.opt_func = opt_func
        learn.create_opt()
        for p in learn.model.parameters(): p.grad = torch.zeros_like(p)
        learn.opt.step()  # in which the averages are made
        with Watch() as watch: learn.opt.step()
        return watch.seen['orders']
    assert step(FusedAdam) < step(Adam)/10


@pytest.fixture
def near(learner, tiny_table):
    "A function that makes a learner on the CPU, with its images kept in memory"
    def near(bs=4, opt_func=FusedAdam):
        learn = learner(loaders(tiny_table, size=32, bs=bs, device='cpu', keep=True), weights='none')
        learn.opt_func = opt_func
        return learn
    return near


def test_the_profiler_sees_no_reading_either(near):
    # `fit`, for the schedule of `fit_one_cycle` is a few numbers that always lie on the CPU, and reads them; and `Adam`,
    # for torch's fused step reads its numbers on a CPU, and only there
    def profiled(learn, n=6):
        with profile(activities=[ProfilerActivity.CPU]) as prof:
            def mark():
                with record_function('batch done'): pass
            with learn.added_cbs(Steps(mark)): learn.fit(1, 1e-3)
        names = [e.name for e in sorted(prof.events(), key=lambda e: e.time_range.start)]
        marks = [i for i, name in enumerate(names) if name == 'batch done']
        assert len(marks) == n + len(learn.dls.valid)
        return Counter(names[marks[0]:marks[n-1]])
    seen = profiled(near(bs=2, opt_func=Adam))
    assert seen['aten::convolution'] > 50 and not [name for name in READS if seen[name]]
    (learn := near(bs=2, opt_func=Adam)).add_cb(Prints())
    assert profiled(learn)['aten::item'] == 5


def python_calls(learn):
    "Calls from batch to batch of training, without the first two batches"
    count = [0]
    def called(frame, event, arg): count[0] += event in ('call', 'c_call')
    def read():
        seen, count[0] = count[0], 0
        return seen
    with learn.added_cbs(steps := Steps(read)):
        sys.setprofile(called)
        try: learn.fit(1, 1e-3)
        finally: sys.setprofile(None)
    return min(steps.train[2:] or steps.train[1:])


def test_python_does_as_much_for_a_large_batch_as_for_a_small_one(near):
    few, many = python_calls(near(bs=2)), python_calls(near(bs=6))
    assert abs(many - few) <= 4  # `split` and `islice` are called for batches, not for images
    learns = near(bs=2), near(bs=6)
    for learn in learns: learn.dls.train.side = None  # which makes fastai's own loader of it, image by image
    few, many = map(python_calls, learns)
    assert many - few > 4*20
