"""What the rows are measured with: worker processes, and folders of images."""
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle, islice, zip_longest
from pathlib import Path

from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.data.splits import random_split

HERE = Path(__file__).parent
SEED, THREADS = 2, 2


@dataclass(frozen=True)
class Plan:
    "How much is run"
    small: int = 592  # images of the smaller tiled folder
    large: int = 5912
    epochs: tuple = (4, 2)  # frozen, not frozen
    splits: int = 10
    steps: int = 2  # the first is not counted
    curve: tuple = (96, 16, 50)  # size, images per batch, steps


QUICK = Plan(small=100, large=200, epochs=(1, 1), splits=2, curve=(64, 16, 3))


class WorkerError(RuntimeError): "A measurement that ended with an error"

def say(text): print(text, file=sys.stderr, flush=True)


class Bench:
    "Runs workers on `images`; folders and caches lie in `work`"
    def __init__(self, images, work, plan, repeats):
        self.work, self.plan, self.repeats, self.began = work, plan, repeats, time.perf_counter()
        self.table = label_by_name(list_images(images), PETS_PATTERN)
        if plan is QUICK: self.table = self.table.groupby('label').head(4)
        self.count = len(self.table)
        self.images = images if plan is not QUICK else self.tiled(self.count)[0]

    def split(self, seed=SEED):
        "The file with the names of the validation images: two of seven, drawn with `seed`"
        table = random_split(label_by_name(list_images(self.images), PETS_PATTERN), 2/7, seed)
        return self.listed(f'valid-{seed}', [f.name for f in table.file[table.is_valid]])

    def options(self, seed=SEED, **more):
        "Options for a task on the images, with the split drawn with `seed`"
        return dict(images=self.images, valid=self.split(seed), **more)

    def tiled(self, n, n_valid=0):
        "A folder of `n` images, copied, the breeds in turn; and the file that names the first `n_valid` of them"
        turns = zip_longest(*[list(files) for _, files in self.table.groupby('label').file])
        files = list(islice(cycle([f for turn in turns for f in turn if f is not None]), n))
        names = [f"{f.stem.rpartition('_')[0]}_{i}.jpg" for i, f in enumerate(files)]
        folder = self.work/f'tiled-{n}'
        folder.mkdir(exist_ok=True)
        for i, (file, name) in enumerate(zip(files, names)):  # the number at the end, which decoders pass over, makes it another
            (folder/name).write_bytes(file.read_bytes() + str(i).encode())
        return folder, self.listed(f'tiled-{n}-valid', names[:n_valid])

    def listed(self, name, lines):
        "A file with these lines"
        file = self.work/f'{name}.txt'
        file.write_text('\n'.join(lines), encoding='utf-8')
        return file

    def cache(self): return tempfile.TemporaryDirectory(prefix='cache-', dir=self.work)

    def worker(self, script, jobs, threads=THREADS, cache=None):
        "Results of `jobs`, pairs of a task and its options, in a process of its own; with an empty cache if `cache` names none"
        if cache is None:
            with self.cache() as empty: return self.worker(script, jobs, threads, empty)
        words = [w for task, options in jobs for w in (task, json.dumps(options, default=str))]
        command = [sys.executable, '-W', 'ignore', HERE/script, '--threads', str(threads), *words]
        env = {**os.environ, 'PET_CLASSIFIER_CACHE': str(cache)}
        done = subprocess.run(command, env=env, capture_output=True, text=True)  # noqa: S603
        what = f"{script} {', '.join(dict.fromkeys(task for task, _ in jobs))}"
        if done.returncode: raise WorkerError(f'{what} ended with {done.returncode}:\n{done.stderr[-3000:]}')
        say(f'{time.perf_counter() - self.began:6.0f} s  {what}')
        return json.loads(done.stdout.splitlines()[-1])

    def peer(self, task, options): return self.worker('plain_fastai.py', [(task, options)])[0]

    def ours(self, task, options, cache=None): return self.worker('ours.py', [(task, options)], cache=cache)[0]

    def interleaved(self, *sides): return [[side() for side in sides] for _ in range(self.repeats)]
