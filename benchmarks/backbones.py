"""One small network of each family all the way: train, report, predict, export. Prints a table; random weights, made-up photos.

    python benchmarks/backbones.py [NAME:SIZE ...]
"""
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from PIL import Image

from pet_classifier.deploy.onnx import export_onnx
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.report import write_report
from pet_classifier.run import train_run

FAMILIES = '''
resnet18:64 vgg11:64 test_byobnet:64 test_convnext:64 test_efficientnet:64 test_mambaout:64 test_nfnet:64
test_coatnet:160 test_maxvit:160 test_vit:64 test_vit_relpos:160 vit_tiny_patch16_224:96 vit_small_patch14_dinov2:56
eva02_tiny_patch14_224:56 swin_tiny_patch4_window7_224:64 hiera_tiny_224:224 levit_128s:224 xcit_nano_12_p8_224:64
pit_ti_224:224 gmlp_ti16_224:224 lcnet_035:64 regnetx_002:64 ghostnet_050:64 edgenext_xx_small:64 repvit_m0_9:64
pvt_v2_b0:64 mobilevit_xxs:64
'''.split()


def photos(folder, n=6):
    "Write `n` made-up photos of each of two classes."
    rng = np.random.default_rng(0)
    for label in 'cat', 'dog':
        (folder/label).mkdir(parents=True)
        for i in range(n):
            dots = rng.integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(dots).resize((64, 64)).save(folder/label/f'{i}.jpg')
    return folder


def row(name, size, data, out):
    "Return what became of each step, and the seconds of all."
    begun, files = time.perf_counter(), sorted(data.rglob('*.jpg'))
    how = dict(size=size, weights='none', head_epochs=1, epochs=1, say=lambda text: None)
    steps = dict(train=lambda: train_run(data, out, name, **how),
                 report=lambda: write_report(out), predict=lambda: Predictor(out/'model').predict_files(files),
                 export=lambda: export_onnx(out/'model', out/'model.onnx'))
    said = []
    for step in steps.values():
        try:
            with redirect_stdout(StringIO()): step()  # which prints its epochs
            said.append('yes')
        except (ValueError, OSError) as e: said.append(f'refused: {e}')
        except Exception as e: said.append(f'FAULT {type(e).__name__}: {e}'.splitlines()[0])
        if said[0] != 'yes': break
    return [f'{name} ({size})', *said, *[''] * (4 - len(said)), f'{time.perf_counter()-begun:.0f}']


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        data = photos(Path(folder)/'photos')
        print('| name (px) | train | report | predict | export | seconds |\n|---|---|---|---|---|---|')
        for i, (name, size) in enumerate(words.split(':') for words in sys.argv[1:] or FAMILIES):
            print('|', ' | '.join(row(name, int(size), data, Path(folder)/f'run-{i}')), '|', flush=True)
