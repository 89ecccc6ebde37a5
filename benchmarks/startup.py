"""Seconds that a process of its own takes, imports included: the help page, the names of a notebook, one photo predicted.

    python benchmarks/startup.py BUNDLE PHOTO

Prints a row for each, with the median of three runs. `import torch` is there for comparison.
"""
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

PYTHON, PROGRAM = [sys.executable, '-W', 'ignore', '-c'], str(Path(sys.executable).with_name('pet-classifier'))


def seconds(command):
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)  # noqa: S603
    return time.perf_counter() - start


def main(bundle, photo):
    rows = {'import torch': [*PYTHON, 'import torch'], 'pet-classifier --help': [PROGRAM, '--help'],
            'pet-classifier predict, one photo': [PROGRAM, 'predict', bundle, photo],
            'from pet_classifier.all import *': [*PYTHON, 'from pet_classifier.all import *']}
    for what, command in rows.items():
        seconds(command)  # which fills the page cache
        print(f'| `{what}` | {median(seconds(command) for _ in range(3)):.2f} s |')


if __name__ == '__main__': main(*sys.argv[1:])
