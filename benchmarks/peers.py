"""pet_classifier beside what people would use instead: plain fastai, timm's train.py, Ultralytics' `yolo classify train`.

    PETS_DIR=... python benchmarks/peers.py [--ultralytics PYTHON] [--steps N] [--json FILE] [--only NAME ...]

Each trains on the images of PETS_DIR (`<breed>_<number>.jpg`) in a process of its own, with an empty cache, one epoch frozen and
one unfrozen, on random weights, in batches of 32 images of 224 px, and otherwise with its own defaults (see trainers.py).
--steps N measures N batches of an epoch, the first four not counted. PYTHON: one that has the package ultralytics. A call is one
round; FILE keeps all rounds, and the table shows their medians. Linux only.
"""
import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from bench import SEED, say
from process import measured
from trainers import BS, SIZE
from two_cores import machine

from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.data.splits import random_split

TRAINERS = Path(__file__).with_name('trainers.py')
PEERS = {
    'pet_classifier, resnet34': ('ours', 'resnet34'),
    'plain fastai, resnet34': ('fastai', 'resnet34'),
    'timm, resnet34': ('timm', 'resnet34'),
    'timm, resnet34, bf16 and channels-last': ('timm_bf16', 'resnet34'),
    'Ultralytics, resnet34': ('ultralytics', 'resnet34'),
    'Ultralytics, yolo11n-cls': ('ultralytics', 'yolo11n-cls.yaml'),
    'pet_classifier, efficientnet_lite0': ('ours', 'efficientnet_lite0'),
    'timm, efficientnet_lite0': ('timm', 'efficientnet_lite0'),
}
COLUMNS = dict(gflop='GFLOP per image', frozen='frozen, images/s', unfrozen='unfrozen, images/s',
               first_result='seconds to first error rate', peak_mb='peak memory, MB')


def lay_out(images, folder):
    "Make train/ and val/ of links, a folder per class; return the numbers of images."
    table = random_split(label_by_name(list_images(images), PETS_PATTERN), .2, SEED)
    for file, label, is_valid in zip(table.file, table.label, table.is_valid):
        to = folder/('val' if is_valid else 'train')/label
        to.mkdir(parents=True, exist_ok=True)
        (to/file.name).symlink_to(file.absolute())
    return dict(train=int((~table.is_valid).sum()), valid=int(table.is_valid.sum()))


def measure(name, data, n_train, args):
    "Run a peer and return its figures; with `--steps`, the first error rate is expected at the end of the frozen epoch."
    trainer, arch = PEERS[name]
    for verified in data.glob('*.cache'): verified.unlink()  # Ultralytics' list of images that can be read
    with tempfile.TemporaryDirectory(dir=data.parent) as cache:
        env = dict(PET_CLASSIFIER_CACHE=cache, YOLO_CONFIG_DIR=cache, OMP_NUM_THREADS=None)
        python = args.ultralytics if trainer == 'ultralytics' else sys.executable
        run = measured([python, '-W', 'ignore', TRAINERS, trainer, arch, data, args.steps], env)
    res = json.loads(run['lines'][-1][1])
    began, first = res.pop('began'), res.pop('first')
    if args.steps and trainer != 'ours': first = began + n_train/res['frozen']
    return res | dict(first_result=first - run['began'], **{k: run[k] for k in ('peak_mb', 'seconds', 'cpu_seconds')})


def markdown(rounds):
    "Return the medians of `rounds` as a table."
    def cell(name, key):
        value = median(r[name][key] for r in rounds if name in r)
        return f'{value:.0f}' if value >= 100 else f'{value:.3g}'
    lines = [f"| | {' | '.join(COLUMNS.values())} |", '|---' * (1 + len(COLUMNS)) + '|']
    for name in (n for n in PEERS if any(n in r for r in rounds)):
        lines.append(f"| {name} | {' | '.join(cell(name, key) for key in COLUMNS)} |")
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ultralytics', metavar='PYTHON', help='default: leave Ultralytics out')
    parser.add_argument('--steps', type=int, default=0, help='batches of each epoch; default: all')
    parser.add_argument('--json', type=Path, help='where the round is added')
    parser.add_argument('--only', nargs='*', choices=PEERS, metavar='NAME', default=[*PEERS])
    args = parser.parse_args()
    names = [n for n in args.only if args.ultralytics or PEERS[n][0] != 'ultralytics']
    result = dict(rounds=[])
    if args.json and args.json.exists(): result = json.loads(args.json.read_text(encoding='utf-8'))
    with tempfile.TemporaryDirectory(prefix='peers-') as work:
        counts, this = lay_out(os.environ['PETS_DIR'], data := Path(work)/'data'), {}
        result |= dict(machine=machine(), images=counts, size=SIZE, bs=BS, steps=args.steps)
        result['rounds'].append(this)
        for name in names:
            this[name] = measure(name, data, counts['train'], args)
            say(f'{name}: {json.dumps(this[name])}')
            if args.json: args.json.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    print(markdown(result['rounds']))


if __name__ == '__main__': main()
