"""Kills trainings with SIGKILL, resumes each, and compares its weights with those of the run that was never killed.

    python tools/kill_and_resume.py [--kills 50] [--seed 0]

Every second run is killed at a random moment, the others at a random call that writes: when a file is flushed or moved into
place, before or after it. Each run has seven epochs over both stages and a cache of its own; one thread, for then the same
sums are added in the same order. Exit code 1 if a run ended elsewhere or a file cannot be loaded. POSIX only.
"""
import os

os.environ['OMP_NUM_THREADS'] = '1'  # before torch is imported

import argparse
import json
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from safetensors import safe_open

from pet_classifier import run as run_module
from pet_classifier.model.bundle import load_bundle
from pet_classifier.run import train_run
from pet_classifier.training.checkpoint import Checkpoint

COLORS = dict(red=(210, 50, 50), green=(50, 200, 60), blue=(50, 60, 210))


def images(folder):
    "A folder of coloured noise, ten images a label"
    folder.mkdir()
    for n, (label, color) in enumerate(COLORS.items()):
        for i in range(10):
            pixels = np.random.default_rng(10*n + i).normal(color, 120, (6, 7, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((48, 60)).save(folder/f'{label}_{i}.jpg')
    return folder


def watched(die, calls):
    "Count the calls that write in `calls`, and kill this process at number `die`: before the call if that is even, else after it"
    def watch(name):
        real = getattr(os, name)
        def call(*args, **kwargs):
            calls.value += 1
            mine = calls.value
            if mine == die and die % 2 == 0: os.kill(os.getpid(), signal.SIGKILL)
            done = real(*args, **kwargs)
            if mine == die: os.kill(os.getpid(), signal.SIGKILL)
            return done
        setattr(os, name, call)
    for name in 'fsync', 'replace': watch(name)


def train(data, work, resume, die, calls):
    os.environ['PET_CLASSIFIER_CACHE'] = str(work/'cache')
    sys.stdout = open(os.devnull, 'w')  # the table of epochs
    watched(die, calls)
    run_module.Checkpoint = partial(Checkpoint, every=0)  # one a minute would be none in this short run
    train_run(data, work/'run', 'test_resnet', weights='none', size=32, head_epochs=3, epochs=4, lr=1e-4, resume=resume,
              say=lambda text: None)


def run(data, work, resume=False, die=None, after=None):
    "A training in a process of its own, killed at its call `die` or `after` so many seconds: (exit code, seconds, calls)"
    context = multiprocessing.get_context('fork')  # nothing is imported again
    calls, began = context.Value('i', 0), time.perf_counter()
    process = context.Process(target=train, args=(data, work, resume, die, calls))
    process.start()
    process.join(after)
    if process.is_alive(): process.kill()
    process.join()
    return process.exitcode, time.perf_counter() - began, calls.value


def load(file):
    "Read all of `file`, whatever it is"
    if file.suffix == '.safetensors':
        with safe_open(file, 'pt') as f: return [f.get_tensor(k) for k in f.keys()]
    if file.suffix == '.json': return json.loads(file.read_text())
    if file.suffix == '.csv': return pd.read_csv(file)
    if file.suffix in ('.npy', '.npz'): return list(np.atleast_1d(np.load(file)))
    if file.suffix == '.png': return Image.open(file).load()
    if file.suffix == '.html' and not file.read_text().rstrip().endswith('</html>'): raise ValueError('the page is cut off')


def unloadable(work):
    "The files in `work` that cannot be loaded, with the reason; hidden ones are nobody's yet"
    broken = []
    for file in sorted(work.rglob('*')):
        if file.is_dir() or any(part.startswith('.') for part in file.relative_to(work).parts): continue
        try: load_bundle(file.parent) if file.name == 'config.json' else load(file)
        except Exception as e: broken.append(f'{file.relative_to(work)}: {e}')  # whatever it is, it is what is looked for
    return broken


def reached(work):
    "What a run ended with: the hash of its weights, and the losses and errors of all its epochs"
    history = pd.read_csv(work/'run'/'history.csv').drop(columns='seconds')
    return load_bundle(work/'run'/'model').config['sha256'], history.to_csv()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    rng, wrong, where = np.random.default_rng(args.seed), [], Counter()
    with tempfile.TemporaryDirectory() as tmp:
        data = images(Path(tmp)/'images')
        code, seconds, calls = run(data, Path(tmp)/'whole')
        if code: sys.exit(f'the run that is not killed ended with exit code {code}')
        expected = reached(Path(tmp)/'whole')
        print(f'never killed: {seconds:.1f} s, {calls} calls that write, weights {expected[0][:12]}\n{expected[1]}', flush=True)
        for i in range(args.kills):
            work = Path(tmp)/f'{i}'
            how = dict(after=rng.uniform(0, seconds)) if i % 2 == 0 else dict(die=int(rng.integers(1, calls+1)))
            killed = run(data, work, **how)[0]
            there = sorted(f.name for f in (work/'run').glob('checkpoints/[!.]*')) if work.exists() else []
            where[('ended before' if killed == 0 else ', '.join(there) or 'nothing yet')] += 1
            broken = unloadable(work) if work.exists() else []
            resumed = run(data, work, resume=True)[0]
            same = resumed == 0 and reached(work) == expected
            left = [str(f.relative_to(work)) for f in (work/'run').rglob('.*') if f.name != '.lock']
            if broken or left or not same: wrong.append((how, broken, left, resumed))
            verdict = 'the same' if same else 'NOT THE SAME'
            print(f'{i+1:3} {how} exit {killed}, then {resumed}: {verdict} {broken} {left}', flush=True)
            shutil.rmtree(work)
    print(f'checkpoints at the kill: {dict(where)}')
    print(f'{args.kills - len(wrong)} of {args.kills} ended with the weights and losses of the run that was never killed, '
          'and all files loaded')
    return 1 if wrong else 0


if __name__ == '__main__': sys.exit(main())
