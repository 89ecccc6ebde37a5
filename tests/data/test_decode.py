"Every format becomes upright RGB, damage is reported, and expensive files are refused before decoding."
import io
import os
import struct
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pet_classifier.data import decode as decoding
from pet_classifier.data.crops import load_crop
from pet_classifier.data.decode import decode
from pet_classifier.data.formats import FORMATS, MAX_SCANS, ImageProblem, image_format
from pet_classifier.data.images import SUFFIXES, check_images, check_suffixes, image_problem, open_image

HEIC = Path(__file__).parents[1]/'fixtures'/'two_colours.heic'


def textured(width=64, height=48, seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (max(height//4, 1), max(width//4, 1), 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(fmt, im=None, **kwargs):
    (im or textured()).save(b := io.BytesIO(), fmt, **kwargs)
    return b.getvalue()


def pillows(data):
    with Image.open(io.BytesIO(data)) as im: return np.array(im.convert('RGB'))


def segment(marker, content): return struct.pack('>BBH', 0xff, marker, len(content) + 2) + content


# formats

@pytest.mark.parametrize('suffix', SUFFIXES)
def test_every_listed_suffix_can_be_decoded(suffix, tmp_path):
    fmt = next(f for f, suffixes in FORMATS.items() if suffix in suffixes)
    fmt = 'MPO' if suffix == '.mpo' else fmt
    file = tmp_path/f'a{suffix}'
    if fmt == 'HEIC': file.write_bytes(HEIC.read_bytes())
    else: textured().save(file, fmt)
    try: shape = decode(file).shape
    except ImageProblem as e:
        assert fmt == 'HEIC' and 'pet-classifier[heic]' in str(e)
    else: assert shape == (48, 64, 3)
    assert check_suffixes([file]).empty


def test_heic_has_its_colours():
    pytest.importorskip('pi_heif', reason='the extra heic is not installed')
    x = decode(HEIC).astype(int)
    for at, colour in {(3, 3): (240, 240, 240), (-3, 3): (200, 40, 40), (-3, -3): (40, 60, 200)}.items():
        assert np.abs(x[at] - colour).max() < 12
    assert np.array_equal(decode(HEIC.read_bytes()), x) and image_problem(HEIC) is None


def test_heic_without_the_extra_names_it(monkeypatch, tmp_path):
    for module in 'pi_heif', 'pillow_heif': monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageProblem, match=r"two_colours.heic: HEIC .* pip install 'pet-classifier\[heic\]'"): decode(HEIC)
    assert 'heic' in image_problem(HEIC)


def test_the_first_image_of_an_mpo_is_used():
    data = encoded('MPO', textured(seed=1), save_all=True, append_images=[textured(seed=2)])
    assert image_format(data) == 'JPEG' and np.array_equal(decode(data), pillows(encoded('JPEG', textured(seed=1))))


@pytest.mark.parametrize('data, fmt', [
    (b'\x00\x00\x00\x18ftypmif1\0\0\0\0mif1avif', 'AVIF'), (b'\x00\x00\x00\x14ftypheic\0\0\0\0mif1', 'HEIC'),
    (b'\x00\x00\x00\x10ftypisom\0\0\0\0avif', None), (b'RIFF....WAVE', None), (b'RIFF....WEBP', 'WEBP')])
def test_the_format_is_identified_by_the_first_bytes(data, fmt): assert image_format(data) == fmt


@pytest.mark.parametrize('fmt, turned', [('JPEG', True), ('PNG', True), ('WEBP', True), ('TIFF', True), ('AVIF', True)])
def test_every_format_is_put_upright(fmt, turned):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(fmt, exif=exif)).shape == (64, 48, 3)


def test_an_orientation_in_xmp_is_followed():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded('JPEG')
    data = data[:2] + segment(0xe1, b'http://ns.adobe.com/xap/1.0/\0' + xmp) + data[2:]
    assert decode(data).shape == (64, 48, 3)


@pytest.mark.parametrize('kwargs', [{}, dict(progressive=True), dict(quality=100, subsampling=0), dict(keep_rgb=True),
                                    dict(subsampling=1)])
@pytest.mark.parametrize('mode', ['L', 'RGB', 'CMYK'])
def test_a_jpeg_has_the_pixels_that_pillow_decodes(mode, kwargs):
    data = encoded('JPEG', textured(131, 77).convert(mode), **kwargs)
    assert np.abs(decode(data).astype(int) - pillows(data)).mean() <= (1 if mode == 'CMYK' else 0)


MODES = [('PNG', m) for m in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')] + [('WEBP', m) for m in ('L', 'RGB', 'RGBA')]


@pytest.mark.parametrize('fmt, mode', MODES)
def test_with_and_without_torchcodec_the_pixels_are_the_same(fmt, mode, monkeypatch):
    im = textured(130, 71)
    wide = np.random.default_rng(0).integers(0, 65536, (71, 130), np.uint16)
    im = Image.fromarray(wide) if mode == 'I;16' else im.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 3
    for data in encoded(fmt, im), encoded(fmt, im, exif=exif):
        x = decode(data)
        with monkeypatch.context() as patch:
            patch.setattr(decoding, '_torchcodec', dict)
            assert np.array_equal(decode(data), x)
    if mode == 'I;16': assert np.array_equal(decode(encoded(fmt, im))[..., 0], (wide/257).round())


@pytest.mark.parametrize('broken', [None, 'raises'])
def test_where_torchcodec_cannot_be_loaded_pillow_decodes(broken, monkeypatch):
    decoding._torchcodec.cache_clear()
    monkeypatch.setitem(sys.modules, 'torchcodec.decoders', None)
    try: assert decoding._torchcodec() == {} and np.array_equal(decode(encoded('PNG')), np.array(textured()))
    finally: decoding._torchcodec.cache_clear()


def test_many_threads_decode_the_same():
    pytest.importorskip('torchcodec')
    data = [encoded(fmt, textured(200, 150, i)) for i, fmt in enumerate(['JPEG', 'PNG', 'WEBP', 'GIF', 'AVIF', 'TIFF']*6)]
    alone = [decode(d) for d in data]
    with ThreadPoolExecutor(8) as pool: together = list(pool.map(decode, data*3))
    assert all(np.array_equal(a, b) for a, b in zip(alone*3, together))


# large photos

@pytest.mark.parametrize('size, at_least, short', [
    ((1600, 1200), None, 1200), ((1600, 1200), 1200, 1200), ((1600, 1200), 601, 1200), ((1600, 1200), 600, 600),
    ((1600, 1200), 512, 600), ((1600, 1200), 299, 300), ((1600, 1200), 1, 150), ((1601, 1203), 1, 151),
    ((7, 5), 9, 5)])
def test_a_jpeg_is_decoded_at_the_smallest_size_that_is_enough(size, at_least, short):
    for kwargs in {}, dict(progressive=True):
        assert decode(encoded('JPEG', textured(*size), **kwargs), at_least).shape[0] == short


def test_the_crop_of_a_large_photo_is_nearly_that_of_the_whole(monkeypatch):
    data = encoded('JPEG', textured(400, 300).resize((2400, 1800), Image.Resampling.BICUBIC), quality=92)
    x = load_crop(data, 224).float()
    monkeypatch.setattr('pet_classifier.data.decode._fraction', lambda *args: 1)
    whole = load_crop(data, 224).float()
    assert 0 < (x - whole).abs().mean() < .5


def test_a_small_photo_is_decoded_whole():
    data = encoded('JPEG', textured(500, 375))
    for size in 16, 64, 224: assert np.array_equal(load_crop(data, size), load_crop(open_image(data), size))


# damage

JPEGS = {'baseline': {}, 'progressive': dict(progressive=True), 'restarts': dict(restart_marker_blocks=4),
         'full colour': dict(subsampling=0)}


@pytest.mark.parametrize('kind', JPEGS)
@pytest.mark.parametrize('at', [.3, .5])
def test_a_jpeg_damaged_in_the_middle_is_named(tmp_path, kind, at, capfd):
    textured(320, 240).save(file := tmp_path/'holiday.jpg', quality=90, **JPEGS[kind])
    data = bytearray(file.read_bytes())
    middle = int(at*len(data))
    for i in range(middle, middle + 60): data[i] = (data[i]*7 + 13) % 255
    file.write_bytes(data)
    for refused in open_image, lambda f: load_crop(f, 32):
        with pytest.raises(ImageProblem, match='holiday.jpg: (damaged: Corrupt JPEG data|broken or cut off)'): refused(file)
    assert [f.name for f in check_images([file]).file] == ['holiday.jpg'] and capfd.readouterr().err == ''


def test_harmless_libjpeg_warnings_are_ignored():
    data = encoded('JPEG')
    at = data.index(b'JFIF\0') + 5
    odd = data[:at] + b'\x09' + data[at+1:]  # an unknown version
    with pytest.raises(ValueError, match='JFIF'): simplejpeg.decode_jpeg(odd)
    assert np.array_equal(decode(odd), pillows(data)) and image_problem(odd) is None


def test_data_after_the_image_are_ignored():
    "The video appended to a motion photo contains the marker of a scan by chance."
    assert np.array_equal(decode(encoded('JPEG') + b'\xff\xda\0'*500), pillows(encoded('JPEG')))
    thumbnail = segment(0xed, b'\xff\xda\xff\xd9'*500)
    assert np.array_equal(decode(b'\xff\xd8' + thumbnail*3 + encoded('JPEG')[2:]), pillows(encoded('JPEG')))


# what would cost too much

def scans(n, progressive):
    "Return a grey JPEG of a thousand pixels with `n` scans"
    data = encoded('JPEG', textured(40, 30).convert('L'), progressive=progressive)
    first, end = data.index(b'\xff\xda'), data.rindex(b'\xff\xd9')
    last = data[data.rindex(b'\xff\xda'):end] if progressive else data[first:end]
    return data[:end] + last*(n - data.count(b'\xff\xda')) + data[end:]


@pytest.mark.parametrize('progressive', [True, False])
def test_many_scans_are_refused_before_they_are_decoded(progressive, monkeypatch):
    assert decode(scans(6 if progressive else 1, progressive)).shape == (30, 40, 3)
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', lambda *args, **kwargs: pytest.fail('decoded'))
    with pytest.raises(ImageProblem, match=f'too costly: more than {MAX_SCANS} scans'):
        decode(scans(MAX_SCANS + 1, progressive))


def test_jpeg_segments_are_parsed_once_and_not_by_pillow(monkeypatch):
    data, exif = encoded('JPEG'), segment(0xe1, b'Exif\0\0' + b'x'*10)
    monkeypatch.setattr(Image, 'open', lambda *args, **kwargs: pytest.fail('Pillow joins the segments, in quadratic time'))
    many = data[:2] + exif*20_000 + data[2:]
    assert np.array_equal(decode(many), decode(data)) and image_problem(many) is None


def directory(n, size, order='<', big=False, tag=0x9286):
    "Return a directory whose `n` entries refer to the same `size` bytes"
    numbers = (43, 8, 0, 16) if big else (42, 8)
    head = (b'II' if order == '<' else b'MM') + struct.pack(order + ('HHHQ' if big else 'HI'), *numbers)
    entries = b''.join(struct.pack(order + ('HHQQ' if big else 'HHII'), tag + i, 7, size, 0) for i in range(n))
    return (head + struct.pack(order + ('Q' if big else 'H'), n) + entries).ljust(size, b'\0')


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('big', [False, True])
def test_a_tiff_that_names_the_same_bytes_many_times_is_refused_before_it_is_opened(order, big, monkeypatch):
    monkeypatch.setattr(Image, 'open', lambda *args, **kwargs: pytest.fail('opened'))
    with pytest.raises(ImageProblem, match='too costly: its directory refers to more bytes'):
        decode(directory(300, 100_000, order, big))


def test_nested_directories_are_counted(monkeypatch):
    outer = struct.pack('<2sHIH', b'II', 42, 8, 1) + struct.pack('<HHII', 0x8769, 4, 1, 26) + bytes(4)
    inner = struct.pack('<H', 50) + b''.join(struct.pack('<HHII', 0x9286 + i, 7, 90_000, 0) for i in range(50))
    monkeypatch.setattr(Image, 'open', lambda *args, **kwargs: pytest.fail('opened'))
    with pytest.raises(ImageProblem, match='too costly'): decode((outer + inner).ljust(100_000, b'\0'))


@pytest.mark.parametrize('fmt', ['PNG', 'WEBP', 'JPEG', 'AVIF'])
def test_exif_that_names_the_same_bytes_many_times_costs_nothing(fmt):
    exif = directory(1500, 60_000)
    if fmt == 'AVIF':  # Pillow reads its EXIF when it writes one: a harmless one is replaced
        data = encoded(fmt, exif=b'II*\0' + struct.pack('<IHHHII', 8, 1, 0x9286, 7, 60_000, 26) + b'x'*60_040)
        at = data.index(b'II*\0')
        data = data[:at] + exif + data[at+len(exif):]
    else: data = encoded(fmt, exif=exif)
    tracemalloc.start()
    try:
        decode(data)
    except ImageProblem as e: assert fmt == 'AVIF' and 'too costly' in str(e)
    else: assert fmt != 'AVIF'
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 5_000_000


@pytest.mark.parametrize('quick', [True, False])
def test_16_bit_images_need_little_extra_memory(quick, monkeypatch):
    if not quick: monkeypatch.setattr(decoding, '_torchcodec', dict)
    data = encoded('PNG', Image.fromarray(np.zeros((3000, 3000), np.uint16)))
    tracemalloc.start()
    try: decode(data)
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 8*9_000_000


def test_a_file_of_many_bytes_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path/'a.tif', 'wb') as f: f.truncate(500_000_001)
    monkeypatch.setattr(Path, 'read_bytes', lambda self: pytest.fail('read'))
    assert image_problem(tmp_path/'a.tif') == 'too large: more than 500,000,000 bytes'


@pytest.mark.skipif(not os.environ.get('PETS_DIR'), reason='PETS_DIR is not set')
def test_real_photos_have_the_pixels_that_pillow_decodes():
    for f in sorted(Path(os.environ['PETS_DIR']).glob('*.jpg'))[::9]: assert np.array_equal(decode(f), pillows(f.read_bytes()))
