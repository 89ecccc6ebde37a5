"""Feeds made-up bytes to everything that reads what came from elsewhere, and looks for crashes, hangs and escapes.

    python tools/fuzz.py [--minutes 10]

Images, a bundle's config, a bundle's weights and label patterns, in turn. An answer is an `ImageProblem` or a `ValueError`,
within seconds; any other exception, or a call that takes longer, is a finding. tests/test_fuzz.py runs a hundred of each.
"""
import argparse
import io
import json
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pet_classifier.data.crops import load_crop
from pet_classifier.data.images import ImageProblem, image_problem
from pet_classifier.data.labels import preview_pattern
from pet_classifier.model.bundle import check_config, load_network


def image(kind, size=(40, 30)):
    data, im = io.BytesIO(), Image.effect_noise(size, 60).convert('P' if kind == 'GIF' else 'RGB')
    im.getexif()[0x0112] = 6  # turned
    im.save(data, kind, exif=im.getexif())
    return data.getvalue()


IMAGES = [image(kind) for kind in ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'AVIF')]
IMAGES += [(Path(__file__).parents[1]/'tests'/'fixtures'/'two_colours.heic').read_bytes()]
NUMBERS = st.integers(-2**70, 2**70) | st.floats() | st.booleans() | st.none()
JSON = st.recursive(NUMBERS | st.text(max_size=9),
                    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=9), part, max_size=4))
PIECES = st.sampled_from(['(', ')', '[', ']', '{', '}', '?', '*', '+', '|', '\\', '^', '$', '.', 'a', '_', r'\d', r'\1', '(?:',
                          '(?P<label>', '(?=', '(?<=', '{2,}', '{9999}', '(a|aa)+', '[^a]', '(?i)', r'\p{L}', '(?R)', '\n', '\0'])

ATOMS = st.sampled_from(['a', '_', r'\d', '.', '[^a]', r'\w', 'jpg', '(?=a)', r'\p{L}', '^', '$'])
TIMES = st.sampled_from(['', '*', '+', '?', '{2,}', '*?', '{20}'])
PATTERNS = st.lists(PIECES, max_size=12).map(''.join) | st.recursive(ATOMS, lambda part: (
    st.builds('({}){}'.format, part, TIMES) | st.builds('({}|{}){}'.format, part, part, TIMES)
    | st.builds('{}{}'.format, part, part)), max_leaves=8).map('({})'.format)


@st.composite
def spoilt(draw, originals):
    "One of `originals`, with bytes changed, cut out, doubled or put in"
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 8))):
        at, what = draw(st.integers(0, max(len(data)-1, 0))), draw(st.integers(0, 3))
        if what == 0 and data: data[at] = draw(st.integers(0, 255))
        elif what == 1: del data[at:at+draw(st.integers(1, 200))]
        elif what == 2: data[at:at] = data[at:at+draw(st.integers(1, 200))]
        else: data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


def config():
    "The config of a bundle that is as it should be"
    return dict(format_version=4, arch='test_resnet', head='linear', weights='none', vocab=['a', 'b'], size=32,
                sizes=[32], mean=[.5]*3, std=[.5]*3, temperature=1., none_below=None, sha256='0'*64, versions={},
                facts={}, created='')


@st.composite
def spoilt_config(draw):
    "A config in which some values are others, or text that is none"
    if draw(st.booleans()): return draw(spoilt([json.dumps(config()).encode()]))
    res = config()
    for key in draw(st.lists(st.sampled_from([*res, 'more']), max_size=4)): res[key] = draw(JSON)
    return json.dumps(res).encode()


@st.composite
def spoilt_weights(draw):
    "A safetensors file with a header that is wrong in some way"
    entry = st.fixed_dictionaries(dict(
        dtype=st.sampled_from(['F32', 'I64', 'F8', 'X']), shape=st.lists(st.integers(-1, 2**64), max_size=4),
        data_offsets=st.lists(st.integers(-1, 2**40), min_size=1, max_size=3)))
    names = st.sampled_from(['0.conv1.weight', '1.0.weight', '../../evil', '__metadata__', ''])
    header = draw(st.dictionaries(names, entry | JSON, max_size=3))
    text = json.dumps(header).encode()
    length = draw(st.just(len(text)) | st.integers(0, 2**64-1))
    return struct.pack('<Q', length) + draw(spoilt([text]) | st.just(text)) + draw(st.binary(max_size=64))


def open_image_file(folder, data):
    (file := folder/'a.jpg').write_bytes(data)
    image_problem(file)
    load_crop(file, 16)


def read_config(folder, data):
    (file := folder/'config.json').write_bytes(data)
    check_config(file)


def read_weights(folder, data):
    (file := folder/'model.safetensors').write_bytes(data)
    load_network(file, config())


def search(folder, pattern): preview_pattern(['a'*30 + '_1.jpg', 'Birman_12.jpg', 'é\n.png'], pattern)


TARGETS = dict(images=(open_image_file, spoilt(IMAGES) | st.binary(max_size=200)), configs=(read_config, spoilt_config()),
               weights=(read_weights, spoilt_weights()), patterns=(search, PATTERNS))
SECONDS = 15  # a pattern may take three by its own clock


def answered(read, folder, data):
    "What `read` said to `data`: 'accepted' or 'refused'; anything else than an answer is raised"
    began = time.perf_counter()
    try: read(folder, data)
    except (ImageProblem, ValueError): said = 'refused'
    else: said = 'accepted'
    if (took := time.perf_counter() - began) > SECONDS: raise TimeoutError(f'{took:.1f} s')
    return said


def fuzz(name, n, counts):
    "Try `n` inputs on the target `name`; raises on the first finding, made as small as it can be"
    read, inputs = TARGETS[name]

    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs)
    def tried(data): counts[f'{name} {answered(read, folder, data)}'] += 1
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)/'in'
        folder.mkdir()
        tried()
        if (there := {f.name for f in Path(tmp).rglob('*')} - {'in', 'a.jpg', 'config.json', 'model.safetensors'}):
            raise RuntimeError(f'files were written: {there}')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=10)
    args, counts, began = parser.parse_args(), Counter(), time.perf_counter()
    while time.perf_counter() - began < 60*args.minutes:
        for name in TARGETS: fuzz(name, 1000 if name != 'patterns' else 200, counts)
    print(f'{time.perf_counter()-began:.0f} s, no findings; {dict(counts)}')


if __name__ == '__main__': sys.exit(main())
