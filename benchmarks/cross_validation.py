"""How far can the cross-validated error be trusted? Coverage of its intervals, near-duplicates, and calibration, on real photos.

    PETS_DIR=FOLDER python benchmarks/cross_validation.py [--arch efficientnet_lite0] [--size 224] [--resamplings 200]

PETS_DIR holds seven photos of each of the 37 breeds; prints one table per question."""
import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss

from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.evaluation.calibration import at_temperature, calibration_error
from pet_classifier.model.pretrained import pretrained_features
from pet_classifier.training.cross_validation import cross_validate
from pet_classifier.training.discriminant import fit_discriminant


def per_class(targets, k, seed):
    "Return a mask of `k` images of each class, drawn at random."
    rng, drawn = np.random.default_rng(seed), np.zeros(len(targets), bool)
    for c in np.unique(targets): drawn[rng.permutation(np.flatnonzero(targets == c))[:k]] = True
    return drawn


def head_logits(train, targets, others):
    "Return the logits of a head fitted on all of `train`."
    weight, bias = fit_discriminant(torch.as_tensor(train).float(), torch.as_tensor(targets), targets.max() + 1)
    return others @ weight.numpy().T + bias.numpy()


def coverage(name, features, targets, k, resamplings, folds=5):
    "Return how often the intervals contain the error of the final head on the images left out."
    table = pd.DataFrame(dict(file=[f'{i:06}' for i in range(len(targets))], label=[f'{t:03}' for t in targets]))
    rows = []
    for seed in range(resamplings):
        drawn = per_class(targets, k, seed)
        cv = cross_validate(table[drawn], features=features[drawn], groups=None, folds=folds, seed=seed)
        left_out = np.mean(head_logits(features[drawn], targets[drawn], features[~drawn]).argmax(1) != targets[~drawn])
        (low, high), (lowest, highest) = cv.error_interval, cv.expected(int((~drawn).sum()))
        rows.append((cv.error_rate, left_out, low <= left_out <= high, lowest <= left_out <= highest))
    error, left_out, inside, expected = np.mean(rows, 0)
    return dict(data=name, per_class=k, drawn=int(drawn.sum()), left_out=int((~drawn).sum()), cv_error=error,
                left_out_error=left_out, confidence_interval=inside, prediction_interval=expected)


def changed(im, way):
    "Return a copy of a photo as people make them."
    w, h = im.size
    if way == 'saved again': return im
    if way == 'resized': return im.resize((w*2//3, h*2//3))
    if way == 'mirrored': return im.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return im.crop((w//12, h//12, w - w//12, h - h//12))


def plant(table, folder, n, seed):
    "Return the table of `n` copies of images of `table`, written to `folder`."
    chosen = table.iloc[np.random.default_rng(seed).choice(len(table), n, replace=False)]
    ways = ['saved again', 'resized', 'mirrored', 'cropped']
    for i, file in enumerate(chosen.file):
        changed(Image.open(file).convert('RGB'), ways[i % 4]).save(folder/f'{Path(file).stem}000.jpg', quality=85)
    return label_by_name(list_images(folder), PETS_PATTERN)


def duplicates(table, arch, size, seed, n=30, repeats=10):
    "Return the error without copies, and with them, grouped and not."
    with TemporaryDirectory() as folder:
        both = pd.concat([table, plant(table, Path(folder), n, seed)], ignore_index=True)
        cv = cross_validate(both, arch, size, repeats=repeats, seed=seed)
    alone = cross_validate(table, arch, size, repeats=repeats, seed=seed)
    copies, of = np.arange(len(table), len(both)), {Path(f).stem: i for i, f in enumerate(table.file)}
    found = sum(cv.groups[i] == cv.groups[of[Path(both.file[i]).stem[:-3]]] for i in copies)
    return dict(seed=seed, planted=n, found=found, without=alone.error_rate, grouped=cv.error_rate, ungrouped=cv.ungrouped_error,
                grouped_originals=cv.wrong[:len(table)].mean(), effective=cv.effective_images)


def calibration(table, features, targets, seed):
    "Return ECE and log loss on the images left out, without and with the temperature of the out-of-fold logits."
    drawn = per_class(targets, 5, seed)
    cv = cross_validate(table[drawn], features=features[drawn], groups=None, seed=seed)
    probs, truth = softmax(head_logits(features[drawn], targets[drawn], features[~drawn]), 1), targets[~drawn]
    scaled, classes = at_temperature(probs, cv.temperature), range(targets.max() + 1)
    return dict(error=(probs.argmax(1) != truth).mean(), temperature=cv.temperature, ece=calibration_error(probs, truth),
                ece_scaled=calibration_error(scaled, truth), log_loss=log_loss(truth, probs, labels=classes),
                log_loss_scaled=log_loss(truth, scaled, labels=classes))


def show(title, rows):
    print(f'\n{title}\n{pd.DataFrame(rows).to_string(index=False, float_format="%.3f")}', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='efficientnet_lite0')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--resamplings', type=int, default=200)
    args = parser.parse_args()
    table = label_by_name(list_images(os.environ['PETS_DIR']), PETS_PATTERN)
    targets = np.unique(table.label, return_inverse=True)[1]
    features = pretrained_features(table.file, args.arch, args.size).numpy()
    show('Calibration, ten splits of five and two images per class', [
        pd.DataFrame([calibration(table, features, targets, s) for s in range(10)]).mean().to_dict()])
    show('Planted near-duplicates', [duplicates(table, args.arch, args.size, s) for s in range(5)])
    digits = load_digits()
    show('Coverage of the 95 % intervals', [
        *(coverage('digits', digits.data/16, digits.target, k, args.resamplings) for k in (10, 20, 40)),
        *(coverage('pets', features, targets, k, args.resamplings) for k in (4, 5))])


if __name__ == '__main__': main()
