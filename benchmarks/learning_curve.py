"""Does the learning curve foretell? A power law fitted on 2 to 4 images per class, against the errors that 5 and more gave.

    python benchmarks/learning_curve.py IMAGES [--arch efficientnet_lite0] [--size 224] [--draws 20]

IMAGES is a folder of `<class>_<number>.jpg`, seven per class. Prints measured and predicted error rates, with the 95 % interval.
"""
import argparse

import numpy as np

from pet_classifier.data.groups import folds
from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.model.pretrained import pretrained_features
from pet_classifier.training.learning_curve import bootstrap_laws, fit_power_law, power_law, subsampled_errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('images')
    parser.add_argument('--arch', default='efficientnet_lite0')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--draws', type=int, default=20)
    args = parser.parse_args()
    table = label_by_name(list_images(args.images), PETS_PATTERN)
    targets = np.unique(table.label, return_inverse=True)[1]
    x = pretrained_features(table.file, args.arch, args.size)
    used, wrong = subsampled_errors(x, targets, [folds(table, 7, seed) for seed in range(args.draws)], [2, 3, 4, 5, 6])
    error = wrong.mean((1, 2))
    predicted = power_law(used, *fit_power_law(used[:3], error[:3]))
    low, high = np.quantile(power_law(used[:, None], *bootstrap_laws(used[:3], wrong[:3], 200, 2).T), (0.025, 0.975), axis=1)
    print(f'{args.arch}, {args.size} px, 7 folds, {args.draws} draws')
    for row in zip(used, *(100*v for v in (error, predicted, low, high))):
        print('{:.1f} per class: measured {:.1f}, law {:.1f} ({:.1f} to {:.1f})'.format(*row))


if __name__ == '__main__': main()
