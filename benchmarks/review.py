"""What reviewing is worth: planted wrong labels, labeling from nothing, and how fast 10,000 images open and follow each other.

    python benchmarks/review.py [--images DIR] [--seeds 3] [--only planted|nothing|many] [--json FILE]

DIR (or PETS_DIR in the environment) is a folder of `<breed>_<number>.jpg`. The last part needs chromium and Playwright.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch

from pet_classifier.data.corrections import Corrections
from pet_classifier.data.image_ids import image_ids
from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.model.features import write_features
from pet_classifier.model.pretrained import pretrained_extractor, pretrained_features
from pet_classifier.review.retraining import compare_labels
from pet_classifier.review.session import ReviewSession
from pet_classifier.review.source import ReviewData
from pet_classifier.training.discriminant import fit_discriminant


def review_of(files, labels, features, folder):
    data = ReviewData(files, labels, ['']*len(files), [], files[0].parent, features, [], '')
    return ReviewSession(data, Corrections(Path(folder)/'corrections.csv', data.root))


def next_of(session, queue):
    "The image that the page shows next; None if the queue is empty. The page learns of a new order with its next answer"
    while session.busy: time.sleep(.01)
    return next(iter(session.state()['queues'][queue]), None)


def planted(files, truth, features, seeds, n=40, decisions=60):
    "Fixed labels of `n` planted ones after so many decisions in the order of the page, and the errors on the clean labels"
    breeds, rows = sorted(set(truth)), []
    for seed in range(seeds):
        rng, labels = np.random.default_rng(seed), truth.copy()
        wrong = rng.choice(len(truth), n, replace=False)
        for i in wrong: labels[i] = breeds[(breeds.index(labels[i]) + rng.integers(1, len(breeds))) % len(breeds)]
        with tempfile.TemporaryDirectory() as folder:
            session = review_of(files, labels, features, folder)
            suggested = 0
            while session.version < decisions and (row := next_of(session, 'label issues')) is not None:
                suggested += labels[row] != truth[row] == session.item(row)['predicted']
                session.decide(row, 'relabel', truth[row])
            corrected = session.labels()
        clean = compare_labels(labels, truth, features, files)
        after = compare_labels(corrected, truth, features, files)
        rows.append(dict(seed=seed, decisions=session.version, fixed=int((corrected == truth)[wrong].sum()),
                         by_suggestion=suggested,
                         error_before=clean.before, error_after=after.before, error_clean=clean.after))
    return rows


def error_on_rest(features, truth, labeled):
    classes, targets = np.unique(truth.astype(str), return_inverse=True)
    x, y, rest = torch.as_tensor(features), torch.as_tensor(targets), np.setdiff1d(np.arange(len(truth)), labeled)
    weight, bias = fit_discriminant(x[labeled], y[labeled], len(classes))
    return float(((x[rest] @ weight.T + bias).argmax(1) != y[rest]).double().mean())


def from_nothing(files, truth, features, seeds, per_class=3):
    "Error on the other images after three labels per class: in the order of the page, and in random order"
    n, rows = per_class*len(set(truth)), []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        turn = rng.permutation(len(files))
        with tempfile.TemporaryDirectory() as folder:
            session = review_of([files[i] for i in turn], np.full(len(files), '', dtype=object), features[turn], folder)
            while session.version < n:
                row = next_of(session, 'to label')
                session.decide(row, 'relabel', truth[turn][row])
            order = turn[list(session.decided)]
        random = rng.choice(len(files), n, replace=False)
        rows.append(dict(seed=seed, labels=n, page=error_on_rest(features, truth, order),
                         random=error_on_rest(features, truth, random),
                         classes_page=len(set(truth[order])), classes_random=len(set(truth[random]))))
    return rows


def many(files, features, n=10_000, keys=60):
    "Seconds to open `n` images with cached features, peak memory, and milliseconds from key to next image in chromium"
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder)/'images'
        images.mkdir()
        for i in range(n):
            f = files[i % len(files)]
            shutil.copy(f, images/f'{f.stem.rsplit("_", 1)[0]}_{i}.jpg')
        copies, extractor = list_images(images), pretrained_extractor()
        rows = [int(f.stem.rsplit('_', 1)[1]) % len(files) for f in copies]
        os.environ['PET_CLASSIFIER_CACHE'] = folder # of this process and of the one that serves
        write_features(extractor.name, image_ids(copies), torch.from_numpy(features[rows]))
        res: dict = dict(images=n)
        code = ('import sys, time, resource; from pathlib import Path\n'
                'from pet_classifier.data.corrections import Corrections\n'
                'from pet_classifier.review.session import ReviewSession\n'
                'from pet_classifier.review.source import open_data; from pet_classifier.review.page import review_server\n'
                's = time.perf_counter(); data = open_data(sys.argv[1], say=lambda t: None); t = time.perf_counter()\n'
                'session = ReviewSession(data, Corrections(sys.argv[2], data.root)); u = time.perf_counter()\n'
                'server, address = review_server(session, 7863); print(t - s, u - t, address, flush=True); server.start()\n'
                'sys.stdin.readline(); d = time.perf_counter() - u\n'
                'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024, session.busy, flush=True)\n')
        process = subprocess.Popen([sys.executable, '-c', code, images, Path(folder)/'c.csv'], text=True, stdin=subprocess.PIPE, # noqa: S603
                                   stdout=subprocess.PIPE)
        read, queues, address = process.stdout.readline().split()
        res |= dict(read_seconds=float(read), queue_seconds=float(queues), open_seconds=float(read) + float(queues))
        try: res |= in_browser(address, keys)
        finally:
            memory, busy = process.communicate('\n')[0].split()
            res |= dict(peak_mb=float(memory), duplicates_still_searched=busy == '1')
    return res


PRESS = """async key => {
  const before = current, start = performance.now()
  document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))
  while (current === before || !$('photo').firstChild || !$('photo').firstChild.complete) await new Promise(requestAnimationFrame)
  await new Promise(requestAnimationFrame)
  return performance.now() - start
}"""


def in_browser(address, keys):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox', '--disable-gpu'])
        page, start = browser.new_page(viewport=dict(width=1280, height=900)), time.perf_counter()
        page.goto(address)
        page.wait_for_selector('#main[data-ready]')
        res = dict(page_seconds=time.perf_counter() - start)
        for busy in True, False:
            if not busy: page.wait_for_function('() => !busy', timeout=600_000)
            times = []
            for i in range(keys):
                times.append(page.evaluate(PRESS, '1' if i % 3 else 'x'))
                page.wait_for_timeout(400) # a fast reviewer
            name = 'while_searching_duplicates' if busy else 'afterwards'
            res[f'ms_{name}'] = dict(median=median(times), p95=float(np.percentile(times, 95)), highest=max(times))
        browser.close()
    return res


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--images', default=os.environ.get('PETS_DIR'))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--only', choices=['planted', 'nothing', 'many'])
    parser.add_argument('--json')
    args = parser.parse_args()
    table = label_by_name(list_images(args.images), PETS_PATTERN)
    files, truth = [Path(f) for f in table.file], table.label.to_numpy(object)
    features, result = pretrained_features(files).numpy(), {}
    if args.only in (None, 'planted'): result['planted'] = planted(files, truth, features, args.seeds)
    if args.only in (None, 'nothing'): result['nothing'] = from_nothing(files, truth, features, args.seeds)
    if args.only in (None, 'many'): result['many'] = many(files, features)
    for name in ('planted', 'nothing'):
        if name in result: result[f'{name}_mean'] = {k: mean(r[k] for r in result[name]) for k in result[name][0]}
    print(json.dumps(result, indent=1))
    if args.json: Path(args.json).write_text(json.dumps(result, indent=1) + '\n')
