"""Seconds, memory and cache of commands at several numbers of images: what grows how.

    python benchmarks/growth.py IMAGES [--counts 370 7400 37000] [--only check train ...] [--json FILE]

IMAGES: the drawn sample with 200 images per breed (`pet-classifier sample IMAGES --per-breed 200`). Fewer are the first of each
breed; more are made from them by rotation and inversion, so that none are duplicates. Each command is a process of its own;
of one number of images, the commands share a cache that was empty before the first. Results are added to FILE. Linux only.
"""
import argparse
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from joblib import Parallel, delayed
from PIL import Image, ImageOps
from process import measured

from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name

PROGRAM = 'from pet_classifier.entry import run; run()'
COMMANDS = {
    'check': ['check', '{images}', '--out', '{work}/check.csv'],
    'check --full': ['check', '{images}', '--full', '--out', '{work}/full.csv'],
    'train --epochs 0': ['train', '{images}', '--epochs', '0', '--size', '224', '--out', '{work}/run'],
    'predict': ['predict', '{work}/run/model', '{images}', '--out', '{work}/predictions.csv'],
    'compare': ['compare', '{images}', '--out', '{work}/compare.csv'],
    'train resnet34': ['train', '{images}', '--arch', 'resnet34', '--weights', 'none', '--head-epochs', '1', '--epochs', '1',
                       '--out', '{work}/resnet34'],
}
VARIANTS = [partial(Image.Image.transpose, method=m) for m in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180,
                                                               Image.Transpose.ROTATE_270)] + [ImageOps.invert]


def write_variant(file, to, change):
    with Image.open(file) as im: change(im.convert('RGB')).save(to, quality=90)


def make_images(source, folder, n):
    "Fill `folder` with `n` images: those of `source` or fewer as links, more as variants."
    table = label_by_name(list_images(source), PETS_PATTERN)
    folder.mkdir(exist_ok=True)
    per_class = n//table.label.nunique()
    for file in table.groupby('label').head(per_class).file: (folder/file.name).symlink_to(file.absolute())
    more = [(file, folder/f"{file.stem}{i}.jpg", change) for i, change in enumerate(VARIANTS) for file in table.file]
    if n > len(table): Parallel(-1)(delayed(write_variant)(*job) for job in more[:n - len(table)])
    return len(list_images(folder))


def megabytes(folder): return round(sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())/1e6)


def measure(name, images, work):
    "Run the command `name` and return its figures."
    cache = work/'cache'
    words = [w.format(images=images, work=work) for w in COMMANDS[name]]
    env = dict(PET_CLASSIFIER_CACHE=str(cache), OMP_NUM_THREADS=None)
    res = measured([sys.executable, '-c', PROGRAM, *words], env, accept=(0, 1))
    del res['began']
    return res | dict(cache_mb=megabytes(cache) if cache.exists() else 0, load=round(os.getloadavg()[0], 1))


def markdown(rows):
    "Return the figures as a table, one column per number of images."
    counts = sorted({r['images'] for r in rows})
    lines = ['| command | ' + ' | '.join(f'{n:,} images' for n in counts) + ' |', '|---' * (1 + len(counts)) + '|']
    for name in COMMANDS:
        cells = {r['images']: f"{r['seconds']:.0f} s ({r['cpu_seconds']:.0f} on CPUs), {r['peak_mb']:,} MB, "
                              f"cache {r['cache_mb']:,} MB" for r in rows if r['command'] == name}
        if cells: lines.append(f'| {name} | ' + ' | '.join(cells.get(n, '-') for n in counts) + ' |')
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, metavar='IMAGES')
    parser.add_argument('--counts', type=int, nargs='+', default=[370, 7400, 37_000])
    parser.add_argument('--only', nargs='+', choices=COMMANDS, default=[*COMMANDS])
    parser.add_argument('--work', type=Path, help='folder for images, caches and runs, kept; default: a temporary one')
    parser.add_argument('--json', type=Path, help='where results are added')
    args = parser.parse_args()
    from two_cores import machine, say
    result = json.loads(args.json.read_text()) if args.json and args.json.exists() else dict(rows=[])
    with tempfile.TemporaryDirectory(prefix='growth-') as temporary:
        for n in args.counts:
            work = (args.work or Path(temporary))/str(n)
            work.mkdir(parents=True, exist_ok=True)
            if not (images := work/'images').exists(): say(f'{make_images(args.source, images, n):,} images made')
            for name in args.only:
                row = dict(command=name, images=n) | measure(name, images, work)
                say(json.dumps({k: v for k, v in row.items() if k != 'lines'}))
                result['rows'] = [r for r in result['rows'] if (r['command'], r['images']) != (name, n)] + [row]
                result['machine'] = machine()
                if args.json: args.json.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    print(markdown(result['rows']))


if __name__ == '__main__': main()
