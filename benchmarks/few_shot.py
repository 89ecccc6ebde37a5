"""Error of the frozen stage with few images a breed: mean over ten stratified splits of five to train and two to validate.

    python benchmarks/few_shot.py IMAGES [--arch efficientnet_lite0] [--size 224] [--splits 10]

IMAGES is a folder of `<breed>_<number>.jpg`, seven a breed. Prints a line a split, then one line of JSON.
"""
import argparse
import json
import platform
import time
from statistics import mean, median, stdev

import torch

from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.data.loaders import loaders
from pet_classifier.data.splits import random_split
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import pet_learner


def one_split(table, arch, size, seed):
    "Seconds and error rate of the frozen stage on the split drawn with `seed`, from files to a trained head"
    start = time.perf_counter()
    learn = pet_learner(loaders(random_split(table, 2/7, seed), size=size, seed=seed), arch, seed=seed)
    fit_head(learn, seed=seed)
    seconds = time.perf_counter() - start
    return seconds, learn.validate()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('images')
    parser.add_argument('--arch', default='efficientnet_lite0')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--splits', type=int, default=10)
    args = parser.parse_args()
    table = label_by_name(list_images(args.images), PETS_PATTERN)
    runs = []
    for seed in range(args.splits):
        runs.append(one_split(table, args.arch, args.size, seed))
        print(f'split {seed}: error {runs[-1][1]:.3f} in {runs[-1][0]:.1f} s', flush=True)
    seconds, errors = zip(*runs)
    print(json.dumps(dict(arch=args.arch, size=args.size, splits=args.splits, mean_error=round(mean(errors), 4),
                          stdev=round(stdev(errors), 4), median_seconds=round(median(seconds), 2),
                          threads=torch.get_num_threads(), machine=f'{platform.machine()} {platform.system()}')))


if __name__ == '__main__': main()
