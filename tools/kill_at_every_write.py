"""Kills a process at every system call that writes, and looks what is there: the old or the new, whole, never neither.

    python tools/kill_at_every_write.py [--only bundle,table] [--every 1]

Each kind of thing that is written (bundle, Space, cache entry, file of a run, split, table) is written anew over an old one,
once for each call of `mkdir`, `write`, `rename` and so on that this makes; strace sends SIGKILL as that call begins. Afterwards
the thing is loaded, then written once more, without a kill, after which nothing hidden may be left. Exit code 1 if anything was
lost. Linux, with strace.
"""
import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'  # before torch is imported

import numpy as np
import pandas as pd
from PIL import Image

CALLS = ('write pwrite64 writev ftruncate fsync fdatasync rename renameat renameat2 unlink unlinkat rmdir mkdir mkdirat chmod '
         'fchmod fchmodat chown fchown fchownat lchown link linkat symlink symlinkat utimensat copy_file_range sendfile').split()


def prepared(folder):
    "Images, their table, and a bundle, made once: what the writers below write from"
    from pet_classifier.data.labels import label_by_name
    from pet_classifier.data.loaders import loaders
    from pet_classifier.data.splits import random_split
    from pet_classifier.model.bundle import load_bundle
    from pet_classifier.model.bundle_writer import save_bundle
    from pet_classifier.training.learner import pet_learner
    (folder/'images').mkdir()
    for n, label in enumerate(('red', 'green')):
        for i in range(6):
            pixels = np.random.default_rng(10*n + i).integers(0, 256, (40, 48, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder/'images'/f'{label}_{i}.png')
    table = random_split(label_by_name(sorted((folder/'images').iterdir()), r'^(.+)_\d+.png$'), valid_pct=0.34)
    learn = pet_learner(loaders(table, size=32, bs=4), 'test_resnet', 'none')
    return table, learn, save_bundle(learn, folder/'model'), load_bundle(folder/'model')


def writers(table, learn, folder, bundle):
    "name -> (write it into a folder the `n`-th time, read what there is: an `n`, or an error)"
    from pet_classifier.core.cache import computed_dir, read_entry, write_entry
    from pet_classifier.core.files import write_json
    from pet_classifier.data.splits import save_split
    from pet_classifier.deploy.predictor import Predictor
    from pet_classifier.deploy.tables import predict_table
    from pet_classifier.model.bundle import load_bundle
    from pet_classifier.model.bundle_writer import save_bundle
    predictors = [Predictor(bundle, 'torch', 'fp32') for _ in range(2)]
    files = sorted((folder.parent/'images').iterdir())

    def cache(at, n):
        os.environ['PET_CLASSIFIER_CACHE'] = str(at)
        if read_entry('numbers-0.bin') is None or n: write_entry('numbers-0.bin', [bytes([n])*50_000]*3, 50_000, 3)

    def cached(at):  # a damaged entry would be none
        os.environ['PET_CLASSIFIER_CACHE'] = str(at)
        return int(read_entry('numbers-0.bin')[0]) if list(computed_dir().glob('[!.]*')) else None

    def space(at, n):
        from pet_classifier.deploy.space import write_space
        write_space(folder, at/'space')
        if n == 0: (at/'space'/'README.md').write_text('old')

    return {
        'bundle': (lambda at, n: save_bundle(learn, at/'model', n=n), lambda at: load_bundle(at/'model').config['facts']['n']),
        'cache entry': (cache, cached),
        'run file': (lambda at, n: write_json(at/'metrics.json', dict(n=n)),
                     lambda at: pd.read_json(at/'metrics.json', typ='series')['n']),
        'table': (lambda at, n: predict_table(predictors[n], files, at/'a.csv', top=n+1, chunk=5, say=lambda text: None),
                  lambda at: (len(pd.read_csv(at/'a.csv').columns) - 5)//2),
        'Space': (space, lambda at: int(load_bundle(at/'space'/'model') and (at/'space'/'README.md').read_text() != 'old')),
        'split': (lambda at, n: save_split(table.assign(is_valid=table.is_valid != bool(n)), at/'split.csv'),
                  lambda at: int(pd.read_csv(at/'split.csv').is_valid.tolist() != table.is_valid.tolist()))}


def traced(write, at, inject=(), log='/dev/null'):
    "`write(at, 1)` in a child process under strace, which counts or kills; the child's exit status"
    if (pid := os.fork()) == 0:
        os.kill(os.getpid(), signal.SIGSTOP)  # until strace is there
        try: write(at, 1)
        except BaseException as e: os.write(2, f'{e!r}\n'.encode()), os._exit(3)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    strace = subprocess.Popen(['strace', '-f', '-qq', '-o', log, '-p', str(pid), '-e', f'trace={",".join(CALLS)}', *inject],  # noqa: S607
                              stderr=subprocess.DEVNULL)
    while f'TracerPid:\t{strace.pid}' not in Path(f'/proc/{pid}/status').read_text():
        if strace.poll() is not None: sys.exit('strace cannot attach here')
    os.kill(pid, signal.SIGCONT)
    _, status = os.waitpid(pid, 0)
    strace.wait()
    return status


def calls(write, at, folder):
    "Which calls that write `write` makes: name -> how often"
    if traced(write, at, log=str(folder/'log')): sys.exit('it does not even work without a kill')
    return Counter(re.findall(r'^\d+ +(\w+)\(', (folder/'log').read_text(), re.M))


def hidden(at):
    "What writers left in `at`"
    return [f.name for f in at.rglob('.*') if f.name.startswith('.pet_classifier') or f.name.endswith('.parts')]


def check(write, read, at, call, n):
    "Kill `write` at its `n`-th `call`; what is wrong then, or None"
    status = traced(write, at, ['-e', f'inject={call}:signal=KILL:when={n}'])
    if not os.WIFSIGNALED(status): return None  # it makes this call less often this time
    try: found = read(at)
    except Exception as e: return f'{call} {n}: {type(e).__name__}: {e}'  # whatever it is, it is what is looked for
    if found not in (0, 1): return f'{call} {n}: neither old nor new: {found}'
    status = traced(write, at)
    if status or read(at) != 1 or hidden(at): return f'{call} {n}: then {status}, {read(at)}, left {hidden(at)}'
    return None


def kill_everywhere(name, write, read, folder, every=1):
    "(kills, what was wrong) for one kind of thing"
    old = folder/name/'old'
    old.mkdir(parents=True)
    write(old, 0)
    fresh = partial(shutil.copytree, old, symlinks=True)
    points = [(call, n) for call, times in calls(write, fresh(folder/name/'count'), folder).items() for n in range(1, times+1)]
    wrong = [w for i, (call, n) in enumerate(points[::every]) if (w := check(write, read, fresh(folder/name/f'{i}'), call, n))]
    return len(points[::every]), wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', default='', help='kinds, with commas between')
    parser.add_argument('--every', type=int, default=1, help='only every so many-th call')
    args, lost = parser.parse_args(), 0
    with tempfile.TemporaryDirectory() as tmp:
        for name, (write, read) in writers(*prepared(Path(tmp))).items():
            if args.only and name not in args.only.split(','): continue
            kills, wrong = kill_everywhere(name, write, read, Path(tmp)/'work', args.every)
            print(f'{name}: {kills} kills, {len(wrong)} times something was lost or left', *wrong[:5], sep='\n  ', flush=True)
            lost += len(wrong)
    return 1 if lost else 0


if __name__ == '__main__': sys.exit(main())
