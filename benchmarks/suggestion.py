"""Are suggested images worth more than random ones? Error on held-out images after adding either, with paired differences.

    python benchmarks/suggestion.py IMAGES [--arch efficientnet_lite0] [--size 224] [--start 2] [--held-out 2] [--seeds 10]

IMAGES is a folder of `<class>_<number>.jpg`. Of each class --start images are labelled, --held-out are for testing, and the
others are unlabelled. Heads are trained after adding as many images as there are classes, and twice as many: suggested ones, and
20 random choices of as many.
"""
import argparse

import numpy as np
import torch
from scipy.special import softmax

from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.deploy.suggestion import uncertain_and_diverse, uncertainty
from pet_classifier.model.pretrained import pretrained_features
from pet_classifier.training.discriminant import discriminant_temperature, fit_discriminant


def error(x, y, rows, test):
    "Error rate on the rows `test` of a head fitted on `rows`"
    weight, bias = fit_discriminant(x[rows], y[rows], int(y.max()) + 1)
    return ((x[test]@weight.T + bias).argmax(1) != y[test]).float().mean().item()


def one_seed(x, y, start, held_out, counts, seed):
    "Errors with no more images, and for each of `counts` with suggested and with random ones"
    rng, k = np.random.default_rng(seed), int(y.max()) + 1
    rank, numbers = np.empty(len(y), int), y.numpy()
    for c in range(k): rank[rng.permutation(np.flatnonzero(numbers == c))] = np.arange((numbers == c).sum())
    labelled, rest = np.flatnonzero(rank < start), np.flatnonzero(rank >= start)
    test, pool = rest[rank[rest] < start+held_out], rest[rank[rest] >= start+held_out]
    weight, bias = fit_discriminant(x[labelled], y[labelled], k)
    temperature = discriminant_temperature(x[labelled], y[labelled], k)
    unsure = uncertainty(softmax((x[pool]@weight.T + bias).numpy()/temperature, 1))
    found = []
    for n in counts:
        suggested = pool[uncertain_and_diverse(x[pool].numpy(), unsure, n, seed)]
        random = [error(x, y, np.r_[labelled, rng.choice(pool, n, replace=False)], test) for _ in range(20)]
        found.append((error(x, y, np.r_[labelled, suggested], test), np.mean(random)))
    return error(x, y, labelled, test), found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('images')
    parser.add_argument('--arch', default='efficientnet_lite0')
    for name, default in dict(size=224, start=2, held_out=2, seeds=10).items():
        parser.add_argument(f'--{name.replace("_", "-")}', type=int, default=default)
    args = parser.parse_args()
    table = label_by_name(list_images(args.images), PETS_PATTERN)
    y = torch.tensor(np.unique(table.label, return_inverse=True)[1])
    x = pretrained_features(table.file, args.arch, args.size)
    counts = [int(y.max()) + 1, 2*int(y.max()) + 2]
    runs = [one_seed(x, y, args.start, args.held_out, counts, seed) for seed in range(args.seeds)]
    print(f'{args.arch}, {args.size} px, {args.start} images per class: error {100*np.mean([r[0] for r in runs]):.1f} %')
    for i, n in enumerate(counts):
        suggested, random = 100*np.array([r[1][i] for r in runs]).T
        difference = suggested - random
        print(f'+ {n}: suggested {suggested.mean():.1f} %, random {random.mean():.1f} %, difference {difference.mean():+.2f} '
              f'+- {difference.std(ddof=1)/len(runs)**0.5:.2f}', flush=True)


if __name__ == '__main__': main()
