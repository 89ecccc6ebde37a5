"""What the evidence is worth: planted wrong labels, planted duplicates, calibration, and images that show no known breed.

    python benchmarks/evidence.py [--images DIR] [--size 224] [--splits 10] [--json FILE]

DIR (or PETS_DIR in the environment) is a folder of `<breed>_<number>.jpg`, seven a breed. Everything is drawn with seeds
from 0; the features of efficientnet_lite0's frozen body are compared, and its head is trained as `fit_head` does.
"""
import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
from fastcore.basics import noop
from PIL import Image, ImageDraw, ImageOps
from sklearn.metrics import roc_auc_score

from pet_classifier.data.datasets import write_digits
from pet_classifier.data.images import list_images, open_image
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.data.loaders import loaders
from pet_classifier.data.splits import random_split
from pet_classifier.evaluation.calibration import calibrate
from pet_classifier.evaluation.interpretation import interpret
from pet_classifier.evaluation.label_issues import duplicate_pairs, find_label_issues
from pet_classifier.evaluation.ood import ood_threshold
from pet_classifier.model.pretrained import pretrained_features
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import pet_learner


def wrong_labels(table, size, n=40, seeds=5):
    "How many of `n` planted wrong labels stand among the first 40 and 60, seed by seed"
    features, breeds = pretrained_features(table.file, size=size), sorted(set(table.label))
    first = {40: [], 60: []}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        planted = rng.choice(len(table), n, replace=False)
        labels = table.label.to_numpy(object).copy()
        for i in planted: labels[i] = breeds[(breeds.index(labels[i]) + rng.integers(1, len(breeds))) % len(breeds)]
        ranked = find_label_issues(table.assign(label=labels), features, seed=seed).file
        wrong = set(table.file.iloc[planted])
        for k in first: first[k].append(len(wrong & set(ranked.head(k))))
    clean = find_label_issues(table, features)
    return dict(planted=n, first_40=first[40], mean_40=mean(first[40]), first_60=first[60], mean_60=mean(first[60]),
                marked_without_any_planted=int(clean.is_issue.sum()))


def altered(im, how):
    "`im`, as somebody might have saved it again"
    w, h = im.size
    if how == 'resized': return im.resize((round(0.7*w), round(0.7*h)), Image.Resampling.LANCZOS)
    if how == 'mirrored': return ImageOps.mirror(im)
    if how == 'cropped': return im.crop((round(0.05*w), round(0.05*h), w, h))
    return im


def duplicates(table, size, folder, n=30):
    "How many of `n` planted near-duplicates are found, by kind; and the pairs that are found among the images themselves"
    rng, kinds = np.random.default_rng(0), ('quality 60', 'resized', 'mirrored', 'cropped')
    planted = {}
    for i, row in enumerate(rng.choice(len(table), n, replace=False)):
        file = folder/f'copy_{i}.jpg'
        altered(open_image(table.file.iloc[row]), kinds[i % 4]).save(file, quality=60 if i % 4 == 0 else 90)
        planted[file] = table.file.iloc[row], kinds[i % 4]
    files = [*table.file, *planted]
    pairs = duplicate_pairs(files, pretrained_features(files, size=size))
    found = {frozenset(p) for p in zip(pairs.file, pairs.other)}
    hits = [kind for copy, (original, kind) in planted.items() if {copy, original} in found]
    among = [sorted(Path(f).name for f in p) for p in found if not p & planted.keys()]
    return dict(planted=n, found=len(hits), by_kind={k: f'{hits.count(k)} of {len(range(i, n, 4))}' for i, k in enumerate(kinds)},
                pairs_among_the_images=among)


def trained(table, size, seed):
    "A learner with a trained head, and what it says about its validation images"
    learn = pet_learner(loaders(table, size=size, seed=seed), 'efficientnet_lite0', seed=seed)
    with learn.no_logging(): fit_head(learn, seed=seed)
    return learn, interpret(learn)


def no_pets(folder, n=50):
    "Images of digits, noise, clouds of colour, textures and drawn scenes: kind -> files"
    rng, x, y = np.random.default_rng(0), *np.mgrid[:224, :224]
    def texture():
        f, (a, b) = rng.uniform(0.03, 0.6, 3), rng.uniform(0, 255, (2, 3))
        t = ((np.sin(x*f[0] + y*f[1])*np.sin(y*f[2]) + 1)/2)[..., None]
        return Image.fromarray(np.clip(a*t + b*(1-t) + rng.normal(0, 20, (224, 224, 3)), 0, 255).astype(np.uint8))
    def clouds():
        grid = rng.integers(0, 256, (*[int(2**rng.integers(2, 6))]*2, 3), dtype=np.uint8)
        return Image.fromarray(grid).resize((224, 224), Image.Resampling.BICUBIC)
    def scene():
        im = Image.new('RGB', (224, 224), tuple(map(int, rng.integers(100, 256, 3))))
        draw = ImageDraw.Draw(im)
        draw.rectangle((0, int(rng.integers(90, 170)), 224, 224), fill=tuple(map(int, rng.integers(0, 160, 3))))
        for _ in range(rng.integers(2, 6)):
            left, top, w, h = map(int, rng.integers((0, 0, 20, 20), (170, 170, 80, 80)))
            shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            shape((left, top, left+w, top+h), fill=tuple(map(int, rng.integers(0, 256, 3))))
        return im
    def noise(): return Image.fromarray(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8))
    kinds = dict(digits=list_images(write_digits(folder/'digits'))[::1797//n][:n])
    for make in noise, clouds, texture, scene:
        files = [folder/f'{make.__name__}_{i}.jpg' for i in range(n)]
        for file in files: make().save(file, quality=90)
        kinds[make.__name__] = files
    return kinds


def max_logits(learn, files):
    "The highest score of each image"
    rows = pd.DataFrame(dict(file=files, label=learn.dls.vocab[0]))
    return learn.get_preds(dl=learn.dls.test_dl(rows), act=noop)[0].amax(1).numpy()


def auroc(known, others): return roc_auc_score([1]*len(known) + [0]*len(others), np.r_[known, others])


def calibration_and_none(table, size, splits, kinds):
    "Over the splits: calibration, and how pets and others come apart; the threshold is chosen on half of the validation images"
    rows = []
    for seed in range(splits):
        learn, interp = trained(random_split(table, 2/7, seed), size, seed)
        c, others = calibrate(interp.probs, interp.targets, seed), {k: max_logits(learn, f) for k, f in kinds.items()}
        half = np.random.default_rng(seed).permutation(len(interp.max_logits))
        chosen, evaluated = np.array_split(interp.max_logits[half], 2)
        threshold, every = ood_threshold(chosen), np.concatenate(list(others.values()))
        rows.append(dict(error=interp.error_rate, **asdict(c), auroc=auroc(interp.max_logits, every),
                         pets_turned_away=(evaluated < threshold).mean(), others_turned_away=(every < threshold).mean(),
                         **{f'auroc_{k}': auroc(interp.max_logits, s) for k, s in others.items()}))
    return {k: round(float(v), 4) for k, v in pd.DataFrame(rows).mean().items()}


def strangers(table, size, draws=5, out=7):
    "The AUROC of breeds that were left out of the training, draw by draw"
    res, breeds = [], sorted(set(table.label))
    for seed in range(draws):
        unseen = np.random.default_rng(seed).choice(breeds, out, replace=False)
        known = table[~table.label.isin(unseen)].reset_index(drop=True)
        learn, interp = trained(random_split(known, 2/7, seed), size, seed)
        res.append(auroc(interp.max_logits, max_logits(learn, table.file[table.label.isin(unseen)].tolist())))
    return dict(auroc=[round(float(a), 3) for a in res], mean=round(float(mean(res)), 4))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', default=os.environ.get('PETS_DIR'), help='the folder; default: PETS_DIR')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--splits', type=int, default=10)
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    if not args.images: parser.error('no images: give --images DIR, or set PETS_DIR')
    table = label_by_name(list_images(args.images), PETS_PATTERN)
    with tempfile.TemporaryDirectory() as folder:
        kinds = no_pets(Path(folder))
        (Path(folder)/'copies').mkdir()
        result = dict(size=args.size, images=len(table), wrong_labels=wrong_labels(table, args.size),
                      duplicates=duplicates(table, args.size, Path(folder)/'copies'),
                      calibration_and_none=calibration_and_none(table, args.size, args.splits, kinds),
                      strangers=strangers(table, args.size))
    text = json.dumps(result, indent=1)
    if args.json: args.json.write_text(text + '\n', encoding='utf-8')
    print(text)


if __name__ == '__main__': main()
