"""Error of the frozen stage with few images per class: mean over stratified splits, with paired differences to one-cycle SGD.

    python benchmarks/few_shot.py [IMAGES] [--arch efficientnet_lite0] [--splits 40] [--per-class 2,3,4] [--cold]

IMAGES is a folder of `<breed>_<number>.jpg`, seven per breed; default: the environment variable PETS_DIR. Of each class, two
images are validated on and five are trained on, or fewer with --per-class. Prints a table for the first ten and for all splits,
and one line of JSON. ECE and log loss are those of the network's own probabilities; the discriminant finds its temperature by
five folds on the training images. With --cold also the seconds of the first split, from files to a trained head, nothing
cached.
"""
import argparse
import json
import os
import platform
import time
from statistics import mean
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.metrics import log_loss

from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.data.loaders import loaders
from pet_classifier.data.splits import random_split
from pet_classifier.evaluation.calibration import calibration_error
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import pet_learner
from pet_classifier.training.learner_features import training_features

SETTINGS = [('sgd', 288), ('discriminant', 288), ('discriminant', 352), ('discriminant', (224, 352))]


def few(table, per_class, seed):
    "`table` with at most `per_class` training images of each class"
    order = np.random.default_rng(seed).permutation(len(table))
    rank = table.iloc[order].groupby(['label', 'is_valid']).cumcount().reindex(table.index)
    return table[table.is_valid | (rank < per_class)].reset_index(drop=True)


def one_split(table, arch, method, size, seed, per_class=5):
    "Error rate, ECE and log loss on the split drawn with `seed`"
    part = few(random_split(table, 2/7, seed), per_class, seed)
    learn = pet_learner(loaders(part, size=size, seed=seed), arch, seed=seed)
    with learn.no_logging(): fit_head(learn, seed=seed, method=method)
    features, targets = (t.cpu() for t in training_features(learn)[1].tensors)
    with torch.inference_mode(): probs = learn.model[1][-1].cpu()(features).double().softmax(1).numpy()
    targets = targets.numpy()
    return (probs.argmax(1) != targets).mean(), calibration_error(probs, targets), \
        log_loss(targets, probs, labels=range(probs.shape[1]))


def cold(table, arch, method, size):
    "Seconds of the first split, from files to a trained head, with an empty cache"
    before = os.environ.get('PET_CLASSIFIER_CACHE')
    with TemporaryDirectory() as os.environ['PET_CLASSIFIER_CACHE']:
        start = time.perf_counter()
        one_split(table, arch, method, size, 0)
        seconds = time.perf_counter() - start
    if before is None: del os.environ['PET_CLASSIFIER_CACHE']
    else: os.environ['PET_CLASSIFIER_CACHE'] = before
    return seconds


def row(name, runs, base, n):
    "A line of the table: means over the first `n` splits, and the paired difference of the error to `base`"
    error, ece, loss = np.array(runs[:n]).T
    diff = 100*(error - np.array(base[:n])[:, 0])
    apart = '' if runs is base else f'{diff.mean():+5.1f} +- {diff.std(ddof=1)/n**0.5:.1f}'
    print(f'  {name:30} {100*error.mean():5.1f} %  {apart:14} ECE {ece.mean():.3f}  log loss {loss.mean():.3f}', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('images', nargs='?', default=os.environ.get('PETS_DIR'))
    parser.add_argument('--arch', default='efficientnet_lite0')
    parser.add_argument('--splits', type=int, default=40)
    parser.add_argument('--per-class', default='', metavar='2,3,4', help='fewer training images per class, too')
    parser.add_argument('--cold', action='store_true', help='measure the time from files to a trained head')
    args = parser.parse_args()
    if not args.images: parser.error('give a folder of images, or set PETS_DIR')
    table = label_by_name(list_images(args.images), PETS_PATTERN)
    found = dict(arch=args.arch, splits=args.splits, threads=torch.get_num_threads(), load=os.getloadavg()[0],
                 machine=f'{platform.machine()} {platform.system()}', results=[])
    for per_class in [5, *map(int, filter(None, args.per_class.split(',')))]:
        results = {}
        for method, size in SETTINGS:
            name = f'{method}, {size} px'
            results[name] = [one_split(table, args.arch, method, size, seed, per_class) for seed in range(args.splits)]
            seconds = round(cold(table, args.arch, method, size), 1) if args.cold and per_class == 5 else None
            found['results'].append(dict(per_class=per_class, method=method, size=size, cold_seconds=seconds,
                                         error=round(mean(r[0] for r in results[name]), 4),
                                         first_ten=round(mean(r[0] for r in results[name][:10]), 4)))
            print(f'{name}: done' + (f', {seconds} s cold' if seconds else ''), flush=True)
        for n in sorted({min(10, args.splits), args.splits}):
            print(f'{per_class} training images per class, {n} splits')
            for name, runs in results.items(): row(name, runs, next(iter(results.values())), n)
    print(json.dumps(found))


if __name__ == '__main__': main()
