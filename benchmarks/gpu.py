"""The lesson on a GPU beside plain fastai with `.to_fp16()` and 16 workers: times and shares, as a table and as JSON.

    python benchmarks/gpu.py [--images DIR] [--resnet50] [--repeats 3] [--json FILE]
    python benchmarks/gpu.py --device cpu --tiny

Images are tiled to 5,912 to train on and 1,478 to validate on: those of --images or PETS_DIR (a folder of
`<breed>_<number>.jpg`), else drawn ones. Weights are random, so errors say nothing and are not told. Each measurement runs in a
process of its own, plain fastai and ours in turn; a time is the median of the repeats. Rates and shares of the parts are
measured in runs of their own, by the card's clock; how long it is busy by torch's profiler, in another. The second form needs
no card: it shows that all of this runs, and its figures say nothing.
"""
import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import torch
from bench import Bench, Plan, WorkerError, say
from rows import Row, brief, mid, percent, smoothed
from two_cores import line, machine

from pet_classifier.data.datasets import draw_sample

NEEDS = ('this benchmark needs a GPU that torch can use (it is meant for one of 16 GB or more, with 16 processor cores '
         'and 5 GB of room for temporary files), and torch {} finds none here. `--device cpu --tiny` shows that it runs, no more')


@dataclass(frozen=True)
class Size:
    "How much is run"
    train: int = 5912
    valid: int = 1478
    sizes: tuple = (224, 299)  # of resnet34 and resnet50, in pixels
    epochs: tuple = ((4, 2), (5, 2))  # frozen and not, of resnet34 and resnet50
    steps: tuple = (60, 20)  # batches whose parts are timed; so many of them, at first, are not counted
    bs: int = 64
    curve: tuple = (224, 64, 60)  # size, images per batch, steps
    seeds: tuple = (2, 3, 4)
    side: int = 8192  # of the matrices whose multiplication is the card's limit


TINY = Size(train=60, valid=12, sizes=(64, 64), epochs=((1, 1), (1, 1)), steps=(3, 1), bs=16, curve=(64, 8, 3), seeds=(2,),
            side=512)


class GpuBench(Bench):
    "Runs workers on tiled images, beside a card with all cores"
    def __init__(self, images, work, size, repeats, card):
        super().__init__(images, work, Plan(), repeats)
        self.size, self.card, self.workers = size, card, min(16, os.cpu_count()) if card else 0
        self.folder, self.valid = self.tiled(size.train + size.valid, size.valid)

    def both(self, *jobs):
        "Results of each task, once for plain fastai and once for ours, as often as there are repeats"
        given = [(task, dict(images=self.folder, valid=self.valid, **options)) for task, options in jobs]
        peers = [(task, dict(options, workers=self.workers, fp16=self.card)) for task, options in given]
        return self.interleaved(lambda: self.run('plain_fastai.py', peers), lambda: self.run('ours.py', given))

    def run(self, script, jobs): return self.worker(script, jobs, threads=os.cpu_count() if self.card else 1)


def lessons(b, archs):
    "Both stages, from the files on (plain: from the loaders on)"
    for arch, size, epochs, asked in archs:
        runs = b.both(('lesson', dict(arch=arch, size=size, epochs=epochs)))
        plain, ours = ([run[side][0] for run in runs] for side in (0, 1))
        seen = epochs[1]*b.size.train
        what = (f'lesson: {arch}, {size} px, {b.size.train} + {b.size.valid} images, epochs frozen {epochs[0]}, not frozen '
                f'{epochs[1]}; time of head and body; images/s of the body, validation within')
        plain_said, ours_said = (f"{brief(mid(s, 'seconds'))}: {brief(mid(s, 'head'))} and {brief(mid(s, 'body'))}; "
                                 f"{seen/mid(s, 'body'):.0f}/s" for s in (plain, ours))
        yield Row(1, what, plain_said, ours_said, mid(plain, 'seconds')/mid(ours, 'seconds'), asked, dict(plain=plain, ours=ours))


def trainings(b):
    "Images a second of the unfrozen stage without validation, where the time goes, and how far that is from the card's limit"
    size, (steps, uncounted) = b.size.sizes[0], b.size.steps
    options = dict(size=size, bs=b.size.bs, steps=steps, uncounted=uncounted)
    archs = 'resnet34', 'resnet50'
    limits = b.run('ours.py', [('limit', dict(arch=arch, size=size, side=b.size.side)) for arch in archs])
    runs = b.both(*[('training', dict(arch=arch, **options)) for arch in archs])
    for i, (arch, limit) in enumerate(zip(archs, limits)):
        plain, ours = ([run[side][i] for run in runs] for side in (0, 1))
        what = (f'training: {arch}, {size} px, {b.size.bs} images per batch, images/s; shares of loading, gradients, step; '
                f"card busy (limit by bf16 matrices, {limit['tflops']:.3g} TFLOP/s, at {limit['gflop']:.3g} GFLOP an image: "
                f"{limit['rate']:.0f}/s)")
        yield Row(2, what, told(plain), f"{told(ours)}; {percent(mid(ours, 'rate')/limit['rate'])} of the limit",
                  mid(ours, 'rate')/mid(plain, 'rate'), 'busy at least 90 %' if i == 0 else 'at least 3000/s',
                  dict(plain=plain, ours=ours, limit=limit))


def told(runs):
    "Rate and shares in words"
    busy = 'not measured' if runs[0]['busy'] is None else percent(mid(runs, 'busy'))
    shares = ', '.join(percent(mid(runs, part)) for part in ('loading', 'gradients', 'step'))
    return f"{mid(runs, 'rate'):.0f}/s; {shares}; busy {busy}"


def curves(b):
    "Losses of the same steps in the usual precision and in fp32, seed by seed; ours only"
    size, bs, n = b.size.curve
    options = dict(images=b.folder, valid=b.valid, arch='resnet34', size=size, bs=bs, n=n, lr=(1e-3, 1e-2))
    runs = b.run('ours.py', [('curve', dict(options, seed=seed, precision=p)) for seed in b.size.seeds for p in ('auto', 'fp32')])
    auto, fp32 = ([list(smoothed(r['losses'])) for r in runs[i::2]] for i in (0, 1))
    apart = [abs(x - y)/y for a, f in zip(auto, fp32) for x, y in zip(a, f)]
    between = [(max(at) - min(at))/min(at) for at in zip(*fp32)]
    yield Row(3, f'smoothed loss over {n} steps: resnet34, {size} px, {bs} images; bf16 beside fp32, {len(auto)} seeds', '-',
              f'apart by {percent(max(apart))} at most, {percent(mean(apart))} in the mean; fp32 from seed to seed by '
              f'{percent(max(between))} at most', None, "within noise of fp32's", dict(auto=auto, fp32=fp32))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', default=os.environ.get('PETS_DIR') or None, help='a folder; default: PETS_DIR, or drawn')
    parser.add_argument('--resnet50', action='store_true', help='its lesson, too: 299 px, 5 + 2 epochs')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--json', type=Path, help='where to write all that was measured')
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--tiny', action='store_true', help='little of everything, once; its figures say nothing')
    args = parser.parse_args()
    if args.device == 'cpu' and not args.tiny: parser.error('--device cpu: only with --tiny; on a CPU it would take a day')
    if args.device == 'cuda' and not torch.cuda.is_available(): parser.error(NEEDS.format(torch.__version__))
    if args.images and not Path(args.images).is_dir(): parser.error(f"no folder '{args.images}' (--images or PETS_DIR)")
    if args.repeats < 1: parser.error(f'--repeats {args.repeats}: expected at least 1')
    if args.device == 'cpu': os.environ['CUDA_VISIBLE_DEVICES'] = ''  # for the workers
    return args


def measure(b, resnet50):
    "All rows, as dicts; and what failed"
    archs = [('resnet34', b.size.sizes[0], b.size.epochs[0], 'at most 35 s on an H100, at least 4 times'),
             ('resnet50', b.size.sizes[1], b.size.epochs[1], '-')]
    rows, failed = [], {}
    for name, measured in dict(lesson=lambda: lessons(b, archs[:1 + resnet50]), training=lambda: trainings(b),
                               curves=lambda: curves(b)).items():
        try:
            for row in map(asdict, measured()):
                rows.append(row)
                say(line(row))
        except WorkerError as e:
            failed[name] = str(e)
            say(str(e))
    return rows, failed


def markdown(result):
    "The rows as a table, and the machine"
    on = result['machine']
    where = (f"{on['device']}; {on['processor']}, {on['cores']} cores; torch {on['versions']['torch']}, fastai "
             f"{on['versions']['fastai']}; images: {result['images']}, {result['workers']} workers for plain fastai, "
             f"{result['repeats']} repeats, {result['seconds']} s in all")
    warning = ['', '**--tiny: this shows that it runs; the figures say nothing.**'] if result['tiny'] else []
    return '\n'.join(['| row | what | plain fastai | pet_classifier | ratio | asked |', '|---|---|---|---|---|---|',
                      *map(line, result['rows']), '', where, *warning])


def main():
    args, began = arguments(), time.perf_counter()
    card, repeats = args.device == 'cuda', 1 if args.tiny else args.repeats
    where = machine(os.cpu_count()) | dict(device=torch.cuda.get_device_name() if card else 'cpu, no GPU')
    with tempfile.TemporaryDirectory(prefix='gpu-') as work:
        images = Path(args.images).absolute() if args.images else draw_sample(Path(work)/'drawn', 2 if args.tiny else 7)
        b = GpuBench(images, Path(work), TINY if args.tiny else Size(), repeats, card)
        rows, failed = measure(b, args.resnet50)
    result = dict(machine=where, repeats=repeats, tiny=args.tiny, images='given' if args.images else 'drawn',
                  workers=b.workers, seconds=round(time.perf_counter() - began), rows=rows, failed=failed)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    print(markdown(result))
    return 1 if failed else 0


if __name__ == '__main__': sys.exit(main())
