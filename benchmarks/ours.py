"""pet_classifier's side of the benchmark; the tasks of `plain_fastai.py` and some more, called as they are there.

    ours.py [--threads 2] TASK OPTIONS [TASK OPTIONS ...]

Neither the interpreter's start nor imports are timed. What is cold or warm is decided by the folder `PET_CLASSIFIER_CACHE`.
"""
import json
import os
import resource
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event, Thread

import numpy as np
import torch
from measure import (
    decode_rate,
    eager_classes,
    image_batches,
    loader_rate,
    names,
    normalized,
    parts,
    pil_square,
    run,
    same_network,
    timed,
    timed_steps,
)
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from pet_classifier.data.crops import load_crop
from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.data.loaders import loaders
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.model.backbone import build_model
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.training.fine_tuning import fine_tune
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import pet_learner


def data(images, valid, size=224, bs=None, seed=2):
    "Loaders, from the files on"
    held = names(valid)
    table = label_by_name(list_images(images), PETS_PATTERN)
    return loaders(table.assign(is_valid=[f.name in held for f in table.file]), size=size, bs=bs, seed=seed)


def trained(images, valid, arch, weights, size=224, epochs=None, seed=2):
    "A learner whose head is trained, from the files on"
    learn = pet_learner(data(images, valid, size, seed=seed), arch, weights=weights, seed=seed)
    fit_head(learn, epochs, seed=seed)
    return learn


def frozen(images, valid, arch, weights, size=224, epochs=None, seed=2, cache=None):
    "Seconds from the files to a trained head, and its error; `cache`: the folder for caches"
    if cache: os.environ['PET_CLASSIFIER_CACHE'] = cache
    seconds, learn = timed(trained, images, valid, arch, weights, size, epochs, seed)
    return dict(seconds=seconds, error=learn.validate()[1])


def lesson(images, valid, arch, size=224, epochs=(4, 2)):
    "Seconds of both stages, on random weights, the first from the files on"
    head, learn = timed(trained, images, valid, arch, 'none', size, epochs[0])
    body, _ = timed(lambda: fine_tune(learn, epochs[1], lr=slice(1e-6, 1e-4)))
    return dict(seconds=head+body, head=head, body=body)


def pixels(images, valid, size=224):
    "Images a second: decoding in one thread, and the training loader; how far the pixels are from Pillow's, in 1/255"
    files = list_images(images)
    apart = [(load_crop(f, size).float() - pil_square(f, size)).abs().mean().item() for f in files]
    return dict(decode=decode_rate(load_crop, files, size), loader=loader_rate(data(images, valid, size).train),
                apart=float(np.mean(apart)), farthest=max(apart))


def steps(images, valid, arch, size, bs, n):
    "Seconds of each of `n` training steps, everything trainable, on the same batch"
    learn = pet_learner(data(images, valid, size, bs), arch, weights='none')
    return timed_steps(learn, image_batches(images, 1, bs, size)*n, lambda: fine_tune(learn, 1))


def training(images, valid, arch, size=224, bs=None, steps=60, uncounted=20):
    "Images a second of the unfrozen stage, the shares of its parts, and how busy the card is"
    learn = pet_learner(data(images, valid, size, bs), arch, weights='none')
    return parts(learn, lambda: fine_tune(learn, 2, lr=slice(1e-6, 1e-4)), learn.dls.bs, steps, uncounted)


def limit(arch, size, side):
    "Images a second that could be trained if all of it were multiplication of matrices, `side` large, in bf16"
    with torch.device('meta'): model, x = build_model(arch, 37), torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter: model[1](model[0](x.expand(2, -1, -1, -1))).sum().backward()
    a = torch.randn(side, side, device='cuda' if torch.cuda.is_available() else 'cpu').bfloat16()
    seconds = median(timed(torch.mm, a, a)[0] for _ in range(10))
    flops = counter.get_total_flops()/2
    return dict(gflop=flops/1e9, tflops=2*side**3/seconds/1e12, rate=2*side**3/seconds/flops)


def curve(images, valid, arch, size, bs, n, lr, precision='auto', seed=2):
    "Losses of `n` training steps on as many batches, with `same_network`; `lr`: of the first parameters and the last"
    learn = pet_learner(data(images, valid, size, bs), arch, weights='none', precision=precision)
    learn.model.load_state_dict(same_network(arch, len(learn.dls.vocab), seed).state_dict())
    return timed_steps(learn, image_batches(images, n, bs, size, seed), lambda: fine_tune(learn, 1, lr=slice(*lr)))


def bundle(images, valid, arch, weights, to, size=224):
    "A bundle with a trained head, saved to `to`"
    return dict(folder=str(save_bundle(trained(images, valid, arch, weights, size), to)))


def agreement(images, bundle, engines, bs=32):
    "For each engine the share of images for which it says what fp32 eager torch says: of Pillow's pixels, and of the same"
    config = json.loads((Path(bundle)/'config.json').read_text(encoding='utf-8'))
    model = build_model(config['arch'], len(config['vocab']), config['head']).eval()
    model.load_state_dict(load_file(Path(bundle)/'model.safetensors'))
    files = list_images(images)

    def exact(read):
        batches = (normalized([read(f, config['size']) for f in files[i:i+bs]], config['mean'], config['std'])
                   for i in range(0, len(files), bs))
        return np.array(config['vocab'])[eager_classes(model, batches).numpy()]
    pil, same = exact(pil_square), exact(load_crop)
    said = {engine: Predictor(bundle, engine).predict_files(files).label.to_numpy() for engine in engines}
    return {engine: {name: float(np.mean(labels == right)) for name, right in dict(pil_pixels=pil, same_pixels=same).items()}
            for engine, labels in said.items()}


def folder(images, bundle, engine='auto'):
    "Images a second, after 32 that are not counted; seconds until those were answered, loading included"
    files = list_images(images)
    ready, predictor = timed(lambda: (p := Predictor(bundle, engine), p.predict_files(files[:32]))[0])
    return dict(rate=len(files)/timed(predictor.predict_files, files)[0], ready=ready)


def single(images, bundle, engine='auto', n=20):
    "Median seconds for an image, over `n` after three that are not counted"
    predictor = Predictor(bundle, engine)
    seconds = [timed(predictor.predict, f)[0] for f in list_images(images)[:n+3]]
    return dict(seconds=median(seconds[3:]))


def status(key):
    "MB that Linux says under `key` of this process, or None"
    file = Path('/proc/self/status')
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1])/1024 for line in lines if line.startswith(f'{key}:')), None)


@contextmanager
def watched(key):
    "A list that `status(key)` is added to fifty times a second"
    stop, seen = Event(), [status(key)]

    def look():
        while not stop.wait(.02): seen.append(status(key))
    thread = Thread(target=look)
    thread.start()
    try: yield seen
    finally:
        stop.set()
        thread.join()


def memory(images, valid, arch, weights, size=224, epochs=1):
    "Peak MB of this process: frozen stage and prediction of the folder; and MB of the features, one row per image, in fp32"
    files, imported = list_images(images), status('VmRSS')
    with watched('RssAnon') as seen, tempfile.TemporaryDirectory() as to:
        learn = trained(images, valid, arch, weights, size, epochs)
        Predictor(save_bundle(learn, to)).predict_files(files)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
    width = next(learn.model[1].parameters()).shape[-1]  # what the head is given for an image
    return dict(imported=imported, peak=peak, high_water=status('VmHWM'), anonymous=seen[0] and max(seen),
                features=len(files)*width*4/2**20)


if __name__ == '__main__':
    tasks = frozen, lesson, pixels, steps, training, limit, curve, bundle, agreement, folder, single, memory
    run({f.__name__: f for f in tasks}, __doc__)
