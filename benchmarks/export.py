"""Exported networks beside torch in float32: agreement, error rate, size and speed, with heads cross-validated on real photos.

    python benchmarks/export.py [IMAGES] [--arch efficientnet_lite0] [--size 224] [--folds 5] [--time]

IMAGES is a folder of `<breed>_<number>.jpg`; default: the environment variable PETS_DIR. In each fold the head is trained, and
int8 is calibrated, on training images; all are compared on the images held out. With --time only the speed is measured, on 32
images in one batch, by one and by two threads: the median of three rounds, in which all take turns. Prints Markdown.
"""
import argparse
import os
import time
from functools import partial
from io import BytesIO
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import openvino
import torch
from sklearn.model_selection import StratifiedKFold

from pet_classifier.data.crops import load_crops
from pet_classifier.data.images import list_images
from pet_classifier.data.labels import PETS_PATTERN, label_by_name
from pet_classifier.data.loaders import loaders
from pet_classifier.deploy.engines import engine_precision, torch_engine
from pet_classifier.deploy.onnx import onnx_bytes, write_openvino
from pet_classifier.deploy.quantization import compare, quantize
from pet_classifier.model.bundle import load_bundle
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import pet_learner


def onnx_engine(data):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
    return lambda images: session.run(['logits'], {'images': images.numpy()})[0]


def openvino_engine(data, precision='f32'):
    config = dict(PERFORMANCE_HINT='LATENCY', INFERENCE_NUM_THREADS=torch.get_num_threads(), INFERENCE_PRECISION_HINT=precision)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(BytesIO(data)), 'CPU', config)
    return lambda images: compiled(images.numpy())['logits'].copy()


def engines(bundle, whole, small):
    "By name: a function from nothing to the engine"
    auto = engine_precision('torch', 'auto')
    made = {'torch fp32': partial(torch_engine, bundle, 'fp32'), 'ONNX Runtime fp32': partial(onnx_engine, whole),
            'ONNX Runtime int8': partial(onnx_engine, small), 'OpenVINO fp32': partial(openvino_engine, whole),
            'OpenVINO int8': partial(openvino_engine, small)}
    if auto == 'fp32': return made  # this CPU has no bf16
    made[f'torch {auto}'] = partial(torch_engine, bundle, auto)
    return made | {f'OpenVINO {auto}': partial(openvino_engine, whole, auto)}


def trained(table, held_out, arch, size, folder):
    "The bundle of a head trained without the rows `held_out`"
    learn = pet_learner(loaders(table.assign(is_valid=np.isin(np.arange(len(table)), held_out)), size=size, seed=2), arch, seed=2)
    with learn.no_logging(): fit_head(learn, seed=2)
    return load_bundle(save_bundle(learn, folder))


def exported(bundle, crops, train):
    "ONNX in float32 and in int8, calibrated on 64 of the rows `train`"
    whole = onnx_bytes(bundle)
    return whole, quantize(whole, crops[np.random.default_rng(2).permutation(train)[:64]].numpy())


def sizes(whole, small):
    "Bytes of the exported files"
    with TemporaryDirectory() as folder:
        written = sum(f.stat().st_size for f in write_openvino(whole, f'{folder}/openvino').iterdir())
    return {'ONNX fp32': len(whole), 'ONNX int8': len(small), 'OpenVINO fp32': written}


def accuracy(table, crops, folds, arch, size):
    targets, predicted = table.label.astype('category').cat.codes.to_numpy(), {}
    for train, held in StratifiedKFold(folds, shuffle=True, random_state=2).split(table, targets):
        with TemporaryDirectory() as folder: bundle = trained(table, held, arch, size, f'{folder}/model')
        for name, make in engines(bundle, *exported(bundle, crops, train)).items():
            engine = make()
            logits = np.concatenate([engine(crops[held[i:i+32]]) for i in range(0, len(held), 32)])
            predicted.setdefault(name, np.empty(len(table), int))[held] = logits.argmax(1)
    print('| engine | top-1 as torch fp32 | error rate | difference, 95 % confidence interval |\n|---|---|---|---|')
    for name, classes in predicted.items():
        c = compare(predicted['torch fp32'], classes, targets)
        print(f'| {name} | {c.agreement:.1%} | {c.error_int8:.1%} | {100*c.loss:+.1f} points '
              f'({100*c.low:+.1f} to {100*c.high:+.1f}) |')


def speed(table, crops, arch, size):
    held, batch, rates = np.arange(0, len(table), 5), crops[:32].contiguous(), {}
    with TemporaryDirectory() as folder: bundle = trained(table, held, arch, size, f'{folder}/model')
    files = exported(bundle, crops, np.setdiff1d(np.arange(len(table)), held))
    for threads in 1, 2:
        torch.set_num_threads(threads)
        made = {name: make() for name, make in engines(bundle, *files).items()}
        for engine in made.values(): engine(batch)
        for _ in range(3):
            for name, engine in made.items():
                start = time.perf_counter()
                for _ in range(2): engine(batch)
                rates.setdefault((name, threads), []).append(2*len(batch)/(time.perf_counter() - start))
    print('| engine | images/s, one thread | two threads |\n|---|---|---|')
    for name in made: print(f'| {name} | {median(rates[name, 1]):.1f} | {median(rates[name, 2]):.1f} |')
    print(', '.join(f'{name} {size/1e6:.1f} MB' for name, size in sizes(*files).items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('images', nargs='?', default=os.environ.get('PETS_DIR'))
    parser.add_argument('--arch', default='efficientnet_lite0')
    parser.add_argument('--size', default='224')
    parser.add_argument('--folds', type=int, default=5)
    parser.add_argument('--time', action='store_true', help='measure speed instead of agreement')
    args = parser.parse_args()
    if not args.images: parser.error('no images: give a folder, or set PETS_DIR')
    table, size = label_by_name(list_images(args.images), PETS_PATTERN), [int(s) for s in args.size.split(',')]
    crops, size = load_crops([*table.file], max(size)).contiguous(), size if size[1:] else size[0]
    if args.time: speed(table, crops, args.arch, size)
    else: accuracy(table, crops, args.folds, args.arch, size)


if __name__ == '__main__': main()
