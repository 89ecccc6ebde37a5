"""Seconds, memory and cache of commands at several numbers of images: what grows how.

    python benchmarks/growth.py IMAGES [--counts 370 7400 37000] [--only check train ...] [--json FILE] [--work DIR]

IMAGES: the drawn sample with 200 images per breed (`pet-classifier sample IMAGES --per-breed 200`). Fewer are the first of each
breed; more are made from them by rotation and inversion. Each command is a process of its own with an empty cache. FILE keeps the
last figures of each command, DIR the images and what the commands wrote. Linux only.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench import say
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from process import measured
from two_cores import machine

from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name

PROGRAM = 'from pet_classifier.entry import run; run()'
COMMANDS = {  # name -> words; {out}: a new folder of the command, {model}: the bundle that 'train' wrote
    'check': 'check {images} --quick --out {out}/check.csv',
    'check --full': 'check {images} --full --out {out}/check.csv',
    'train': 'train {images} --epochs 0 --size 224 --out {out}/run',
    'predict': 'predict {model} {images} --out {out}/predictions.csv',
    'compare': 'compare {images} --out {out}/compare.csv',
    'train resnet34': 'train {images} --arch resnet34 --weights none --head-epochs 1 --epochs 1 --out {out}/run',
}
TURNS = Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270
VARIANTS = [ImageOps.invert, *(partial(Image.Image.transpose, method=turn) for turn in TURNS)]


def variant(file, i):
    "Return the name of the `i`-th variant of `file`, which no image of the source has: its number has seven digits"
    breed, number = file.stem.rsplit('_', 1)
    return f'{breed}_{i}{int(number):06}.jpg'


def write_variant(file, to, change):
    with Image.open(file) as im, to.open('xb') as new: change(im.convert('RGB')).save(new, 'JPEG', quality=90)


def make_images(source, folder, n):
    "Fill `folder` with `n` images: those of `source` as links, and variants where these are too few."
    table = label_by_name(list_images(source), PETS_PATTERN)
    folder.mkdir()
    for file in table.groupby('label').head(n//table.label.nunique()).file: (folder/file.name).symlink_to(file.absolute())
    more = [(file, folder/variant(file, i), change) for i, change in enumerate(VARIANTS, 1) for file in table.file]
    if n > len(table): Parallel(-1)(delayed(write_variant)(*job) for job in more[:n - len(table)])
    say(f'{len(list_images(folder)):,} images in {folder}')


def measure(name, images, work):
    "Run the command `name` on `images` and return its figures, and what it printed when."
    out, cache = work/name.replace(' ', '_'), work/'cache'
    for folder in (out, cache):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    words = [w.format(images=images, out=out, model=work/'train'/'run'/'model') for w in COMMANDS[name].split()]
    env = dict(PET_CLASSIFIER_CACHE=str(cache), OMP_NUM_THREADS=None)
    res = measured([sys.executable, '-c', PROGRAM, *words], env, accept=(0, 1))  # 1: `check` found something
    del res['began']
    res['lines'] = [(seconds, text.replace(f'{work}/', '')) for seconds, text in res['lines']]
    cached = sum(f.stat().st_size for f in cache.rglob('*') if f.is_file())
    shutil.rmtree(cache)
    return res | dict(cache_mb=round(cached/1e6), load=round(os.getloadavg()[0], 1))


def markdown(rows):
    "Return the figures as a table, one column per number of images."
    counts = sorted({r['images'] for r in rows})
    lines = [f"| | {' | '.join(f'{n:,} images' for n in counts)} |", '|---' * (1 + len(counts)) + '|']
    for name in COMMANDS:
        mine = {r['images']: r for r in rows if r['command'] == name}
        cells = {n: f"{r['seconds']:.0f} s, {r['peak_mb']:,} MB, {r['cache_mb']:,} MB" for n, r in mine.items()}
        if cells: lines.append(f"| `{name}` | {' | '.join(cells.get(n, '-') for n in counts)} |")
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, metavar='IMAGES')
    parser.add_argument('--counts', type=int, nargs='+', default=[370, 7400, 37_000], metavar='N')
    parser.add_argument('--only', nargs='*', choices=COMMANDS, default=[*COMMANDS], metavar='COMMAND')
    parser.add_argument('--json', type=Path, metavar='FILE')
    parser.add_argument('--work', type=Path, metavar='DIR')
    args = parser.parse_args()
    result = dict(rows=[])
    if args.json and args.json.exists(): result = json.loads(args.json.read_text(encoding='utf-8'))
    with tempfile.TemporaryDirectory(prefix='growth-') as temporary:
        for n in args.counts:
            work = (args.work or Path(temporary))/str(n)
            work.mkdir(parents=True, exist_ok=True)
            if not (images := work/'images').exists(): make_images(args.source, images, n)
            for name in args.only:
                row = dict(command=name, images=n) | measure(name, images, work)
                say(json.dumps({k: v for k, v in row.items() if k != 'lines'}))
                others = [r for r in result['rows'] if (r['command'], r['images']) != (name, n)]
                result = dict(machine=machine(), rows=[*others, row])
                if args.json: args.json.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    print(markdown(result['rows']))


if __name__ == '__main__': main()
