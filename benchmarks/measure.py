"""What both sides of the benchmarks do alike: run tasks, read the clock, decode with Pillow, train on given batches."""
import argparse
import json
import os
import random
import re
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.torch_core import no_random
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from pet_classifier.model.backbone import build_model

NAME = r'^(.+)_\d+\.jpg$'
IMAGENET = (.485, .456, .406), (.229, .224, .225)  # mean and std of red, green and blue


def run(tasks, doc):
    "Do the jobs of the command line, pairs of a task and its options as JSON; print their results as one line of JSON"
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2, help="torch's threads; on Linux the CPU's cores, too")
    parser.add_argument('jobs', nargs='+', metavar='TASK OPTIONS', help=f'one of {", ".join(tasks)}, and JSON')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:args.threads])
    jobs = zip(args.jobs[::2], args.jobs[1::2], strict=True)
    print(json.dumps([tasks[task](**json.loads(options)) for task, options in jobs]))


def timed(func, *args):
    "Seconds that `func(*args)` takes, and what it gives; a GPU has then done all that it was asked for"
    start = time.perf_counter()
    result = func(*args)
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return time.perf_counter() - start, result


def breed(file): return re.match(NAME, file.name)[1]

def names(file): return set(Path(file).read_text(encoding='utf-8').splitlines())


def pil_square(file, size):
    "the center crop of an image, by Pillow: uint8, 3 x size x size"
    with Image.open(file) as im:
        w, h = im.size
        side = min(w, h)
        left, top = (w-side)//2, (h-side)//2
        small = im.convert('RGB').resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left+side, top+side))
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def normalized(crops, mean, std):
    "A list of uint8 crops as one batch of floats"
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (mean, std))
    return (torch.stack(crops).float()/255 - mean)/std


def loader_rate(loader):
    "Images a second of one pass over `loader`, after one that is not counted"
    for _ in loader: pass
    seconds, n = timed(lambda: sum(len(y) for _, y in loader))
    return n/seconds


def decode_rate(read, files, size):
    "Images a second that `read` makes crops of, in one thread: median of three rounds after one that is not counted"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = [timed(lambda: [read(f, size) for f in files])[0] for _ in range(4)]
    torch.set_num_threads(threads)
    return len(files)/median(seconds[1:])


@torch.inference_mode()
def eager_classes(model, batches):
    "The most probable classes, by the plain loop in fp32"
    return torch.cat([model(x).argmax(1) for x in batches])


def image_batches(images, n, bs, size, seed=2):
    "`n` batches of `bs` images and their classes, in an order drawn with `seed`, again and again"
    files = sorted(Path(images).iterdir())
    vocab = sorted({breed(f) for f in files})
    random.Random(seed).shuffle(files)  # noqa: S311
    turns = cycle(files)
    parts = [list(islice(turns, bs)) for _ in range(n)]
    return [(normalized([pil_square(f, size) for f in part], *IMAGENET), torch.tensor([vocab.index(breed(f)) for f in part]))
            for part in parts]


def same_network(arch, n_out, seed=2):
    "A body with random weights drawn with `seed`, and pet_classifier's head of one layer, which begins with zeros"
    with no_random(seed): return build_model(arch, n_out)


class StepClock(Callback):
    "Keeps the seconds and the loss of each training step, and lets both sides drop the same activations"
    order = -100  # before any other, so that what they do to a batch is timed
    def __init__(self): self.seconds, self.losses = [], []

    def before_batch(self):
        torch.manual_seed(len(self.losses))
        self.start = time.perf_counter()

    def after_batch(self):
        if not self.training: return
        self.seconds.append(time.perf_counter() - self.start)
        self.losses.append(float(self.loss))


def timed_steps(learn, batches, fit):
    "Seconds and loss of each step of `fit()`, with `batches`, in the type and memory format of `learn`'s own, as all its data"
    own = learn.dls.train.one_batch()
    given = [tuple(torch.empty_like(o).copy_(x) for o, x in zip(own, batch)) for batch in batches]
    loader, valid = (DataLoader(part, bs=None, num_workers=0) for part in (given, given[:1]))
    learn.dls = DataLoaders(loader, valid, device=learn.dls.device)
    clock = StepClock()
    learn.add_cb(clock)
    fit()
    return dict(seconds=clock.seconds, losses=clock.losses)


class PartClock(Callback):
    "Marks when each batch was there, had its gradients, and had moved the weights, and ends the fit after `steps` batches"
    order = -100  # before any other, so that what they do to a batch is timed

    def __init__(self, steps): self.steps, self.marks = steps, []

    def mark(self):
        "A moment on the clock of what computes: that of the card, for Python is ahead of it"
        if not self.training: return
        if self.dls.device.type != 'cuda': return self.marks.append(time.perf_counter())
        self.marks.append(torch.cuda.Event(enable_timing=True))
        self.marks[-1].record()

    def before_batch(self): self.mark()
    def before_step(self): self.mark()
    def after_step(self): self.mark()

    def after_batch(self):
        if self.training and len(self.marks) >= 3*self.steps: raise CancelFitException()

    def spans(self):
        "Seconds between each mark and the next"
        if self.dls.device.type != 'cuda': return [b - a for a, b in zip(self.marks, self.marks[1:])]
        torch.cuda.synchronize()
        return [a.elapsed_time(b)/1000 for a, b in zip(self.marks, self.marks[1:])]


class BusyClock(Callback):
    "What share of the time from the `first` training batch to the `last` a GPU computes or copies, by torch's profiler"
    def __init__(self, first, last): self.first, self.last, self.done = first, last, 0

    def after_batch(self):
        self.done += self.training
        if not self.training or self.done not in (self.first, self.last): return
        torch.cuda.synchronize()
        if self.done == self.first:
            self.prof = profile(activities=[ProfilerActivity.CUDA])
            self.prof.start()  # takes seconds, which are not the training's
            self.start = time.perf_counter()
            return
        seconds = time.perf_counter() - self.start
        self.prof.stop()
        self.share = sum(e.self_device_time_total for e in self.prof.key_averages())/1e6/seconds
        raise CancelFitException()


def parts(learn, fit, bs, steps, uncounted):
    "Images a second of `fit()` without validation, and the shares of its parts; then, in a fit of its own, how busy a card is"
    with learn.added_cbs(clock := PartClock(steps)):
        fit()
        spans = clock.spans()[3*uncounted-1:]  # from the end of a step on: loading, gradients, step, loading ...
    loading, gradients, moving = (sum(spans[i::3]) for i in range(3))
    whole = loading + gradients + moving
    res = dict(rate=(steps - uncounted)*bs/whole, loading=loading/whole, gradients=gradients/whole, step=moving/whole, busy=None)
    if learn.dls.device.type != 'cuda': return res
    with learn.added_cbs(busy := BusyClock(uncounted, steps)): fit()
    return res | dict(busy=busy.share)
