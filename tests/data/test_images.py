"Listing images, opening them, reporting broken ones, and finding near-duplicates."
import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pet_classifier.data.images import (
    ImageProblem,
    check_images,
    check_suffixes,
    image_problem,
    list_images,
    listed,
    near_duplicates,
    open_image,
    other_files,
)


def scene(seed=0, size=(120, 90)):
    "Return an asymmetric image of soft colour blobs."
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def apart(a, b): return np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()


def png_header(width, height):
    "Return a PNG of a few bytes whose header says `width` x `height`."
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    head = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', zlib.compress(b'\0')) + chunk(b'IEND', b'')


@pytest.fixture(scope='module')
def real():
    if 'PETS_DIR' not in os.environ: pytest.skip('PETS_DIR is not set: the real images are not here')
    return list_images(os.environ['PETS_DIR'])


# listing

def test_listed():
    assert listed(range(3)) == '0, 1, 2'
    assert listed([Path('a/b.jpg'), 'c\nd.jpg', '柴犬.jpg']) == r"b.jpg, 'c\nd.jpg', 柴犬.jpg"
    assert listed(range(25)) == ', '.join(map(str, range(20))) + ', ... and 5 more'


NAMES = ['a b.jpg', 'b"q".JPEG', "c'.png", 'd.webp', 'e.Bmp', 'f.gif', 'g.tif', 'h.tiff', 'sub/deep/i.jpg',
         'z\n.jpg', 'z柴犬.jpg']


def test_list_images_is_sorted_and_leaves_out_other_files(tmp_path):
    other = ['x.mat', 'x.jpg.txt', 'README', '.hidden.jpg', '._a.jpg', '.git/x.jpg', 'sub/.thumbs/y.jpg']
    for name in NAMES[::-1] + other:
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).touch()
    (tmp_path/'folder.jpg').mkdir()
    assert [f.relative_to(tmp_path).as_posix() for f in list_images(tmp_path)] == NAMES


def test_a_hidden_folder_can_be_listed_explicitly(tmp_path):
    (tmp_path/'.mine').mkdir()
    (tmp_path/'.mine'/'a.jpg').touch()
    assert list_images(str(tmp_path/'.mine')) == [tmp_path/'.mine'/'a.jpg']


@pytest.mark.parametrize('holds, says', [([], 'contains no file'), (['.a.jpg'], 'contains no file'),
                                         (['a.mat', 'b.MAT', 'c.txt', 'd'], 'contains 2 x .mat, 1 x .txt, 1 x no suffix')])
def test_a_folder_without_images(tmp_path, holds, says):
    for name in holds: (tmp_path/name).touch()
    with pytest.raises(ValueError, match='no image in') as e: list_images(tmp_path)
    assert says in str(e.value)


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'): list_images(tmp_path/'none')
    (tmp_path/'a.jpg').touch()
    with pytest.raises(NotADirectoryError, match='is a file'): list_images(tmp_path/'a.jpg')


# opening

@pytest.mark.parametrize('turn', range(1, 9))
def test_exif_is_put_upright(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    im = scene()
    im.save(tmp_path/'a.jpg', exif=exif, quality=95)
    got = open_image(tmp_path/'a.jpg')
    with Image.open(tmp_path/'a.jpg') as raw: assert apart(got, ImageOps.exif_transpose(raw)) == 0
    assert (got.size == im.size) == (turn < 5)


def test_an_invalid_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    scene().save(tmp_path/'a.jpg', exif=exif)
    assert open_image(tmp_path/'a.jpg').size == scene().size


MODES = {'PNG': '1 L LA P RGB RGBA I;16', 'JPEG': '1 L RGB CMYK YCbCr', 'TIFF': '1 L LA P RGB RGBA CMYK I;16',
         'WEBP': 'L RGB RGBA', 'GIF': '1 L P RGB RGBA', 'BMP': '1 L P RGB RGBA'}


@pytest.mark.parametrize('fmt, mode', [(f, m) for f, modes in MODES.items() for m in modes.split()])
def test_every_mode_becomes_rgb(tmp_path, fmt, mode):
    im = scene()
    im = Image.fromarray(np.asarray(im.convert('L')).astype(np.uint16) * 257) if mode == 'I;16' else im.convert(mode)
    im.save(tmp_path/'a.jpg', fmt, **({'lossless': True} if fmt == 'WEBP' else {}))
    got = open_image(tmp_path/'a.jpg')
    assert got.mode == 'RGB' and got.size == im.size
    want = scene() if mode in ('RGB', 'RGBA', 'CMYK', 'YCbCr') else scene().convert('L').convert('RGB')
    if mode not in ('1', 'P') and fmt != 'GIF': assert apart(got, want) < 8
    assert image_problem(tmp_path/'a.jpg') is None


def test_cmyk_has_the_right_colours(tmp_path):
    Image.new('RGB', (8, 8), (250, 20, 20)).convert('CMYK').save(tmp_path/'a.jpg', quality=100)
    assert apart(open_image(tmp_path/'a.jpg'), Image.new('RGB', (8, 8), (250, 20, 20))) < 6


def test_16_bits_are_scaled_and_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(tmp_path/'a.png')
    assert [p[0] for p in np.asarray(open_image(tmp_path/'a.png'))[0]] == [0, 1, 128, 255]


@pytest.mark.parametrize('kind', ['RGBA', 'LA', 'P', 'P bytes', 'RGB colour'])
def test_transparency_is_white(tmp_path, kind):
    im, extra = Image.new('RGBA', (4, 4), (0, 0, 0, 0)), {}
    im.putpixel((1, 1), (0, 0, 0, 255))
    if kind == 'LA': im = im.convert('LA')
    if kind == 'P': im, extra = Image.new('P', (4, 4), 0), {'transparency': 0}
    if kind == 'P bytes': im, extra = Image.new('P', (4, 4), 0), {'transparency': b'\x00\xff'}
    if kind == 'RGB colour': im, extra = Image.new('RGB', (4, 4), 'red'), {'transparency': (255, 0, 0)}
    if im.mode == 'P': im.putpalette([0, 0, 0] * 2)
    if im.mode == 'P': im.putpixel((1, 1), 1)
    if kind == 'RGB colour': im.putpixel((1, 1), (0, 0, 0))
    im.save(tmp_path/'a.png', **extra)
    got = open_image(tmp_path/'a.png')
    assert got.getpixel((0, 0)) == (255, 255, 255) and got.getpixel((1, 1)) == (0, 0, 0)


@pytest.mark.parametrize('fmt', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_the_first_frame_of_an_animation_is_used(tmp_path, fmt):
    scene(0).save(tmp_path/'a.jpg', fmt, save_all=True, append_images=[scene(1), scene(2)])
    got = open_image(tmp_path/'a.jpg')
    assert apart(got, scene(0)) < 12 < apart(got, scene(1))


@pytest.mark.parametrize('size', [(1, 1), (1, 20_000), (20_000, 1)])
def test_unusual_shapes(tmp_path, size):
    Image.new('RGB', size).save(tmp_path/'a.png')
    assert open_image(tmp_path/'a.png').size == size


@pytest.mark.parametrize('name', ['a b.jpg', 'quote".jpg', "it's.jpg", 'line\nend.jpg', '柴犬.jpg', 'über.JPG', '%s {x}.jpg',
                                  '-r.jpg'])
def test_unusual_names(tmp_path, name):
    scene().save(tmp_path/name, 'JPEG')
    assert open_image(tmp_path/name).size == scene().size
    (tmp_path/name).write_bytes(b'')
    with pytest.raises(ImageProblem, match='empty') as e: open_image(tmp_path/name)
    assert '\n' not in str(e.value) and (e.value.file, e.value.reason) == (tmp_path/name, 'empty')


def test_a_str_is_a_path(tmp_path):
    scene().save(tmp_path/'a.png')
    assert open_image(str(tmp_path/'a.png')).size == scene().size
    with pytest.raises(ImageProblem, match='none.png: not found'): open_image(str(tmp_path/'none.png'))


# what is wrong

def make(kind, file):
    "Create a broken file of the given `kind`."
    jpeg, png, progressive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    scene(size=(400, 300)).save(progressive, 'JPEG', progressive=True)
    scene(size=(400, 300)).save(jpeg, 'JPEG')
    scene(size=(400, 300)).save(png, 'PNG')
    if kind == 'folder': file.mkdir()
    elif kind == 'dangling': file.symlink_to(file.with_name('gone.jpg'))
    elif kind == 'loop': file.symlink_to(file)
    elif kind == 'pipe': os.mkfifo(file)
    elif kind == 'eps': Image.new('RGB', (8, 8)).save(file, 'EPS')
    elif kind == 'ppm': Image.new('RGB', (8, 8)).save(file, 'PPM')
    elif kind == 'float': Image.fromarray(np.ones((4, 4), np.float32)).save(file, 'TIFF')
    elif kind != 'missing':
        file.write_bytes({'empty': b'', 'zeros': bytes(5000),
                          'text': b'not an image\n' * 50, 'html': b'<!DOCTYPE html><title>404</title>',
                          'jpeg cut in the header': jpeg.getvalue()[:100], 'jpeg cut': jpeg.getvalue()[:-300],
                          'progressive cut': progressive.getvalue()[:-300],
                          'png cut': png.getvalue()[:len(png.getvalue())//2], 'png bomb': png_header(60_000, 60_000),
                          'png over the limit': png_header(10_001, 10_000), 'png lies': png_header(300, 300)}[kind])


BROKEN = {
    'missing': 'not found', 'dangling': 'a broken link', 'loop': 'cannot be reached', 'folder': 'a folder',
    'pipe': 'not a regular file', 'empty': 'empty',
    'text': 'not an image (JPEG', 'html': 'not an image', 'zeros': 'not an image',
    'eps': 'not an image', 'ppm': 'not an image',
    'float': '32-bit grey', 'jpeg cut in the header': 'broken or cut off', 'png cut': 'broken or cut off',
    'png lies': 'broken or cut off',
    'jpeg cut': 'broken or cut off: Premature end of JPEG file', 'progressive cut': 'broken or cut off',
    'png bomb': 'too large: more than 100,000,000 pixels',
    'png over the limit': 'too large: 10001 x 10000 is more than 100,000,000'}


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('kind', BROKEN)
def test_problems_are_described(tmp_path, kind):
    if kind == 'pipe' and not hasattr(os, 'mkfifo'): pytest.skip('no pipes here')
    file = tmp_path/'bad.jpg'
    make(kind, file)
    assert image_problem(file).startswith(BROKEN[kind])
    with pytest.raises(ImageProblem) as e: open_image(file)
    assert str(e.value).startswith(f'bad.jpg: {BROKEN[kind]}')


def test_a_decompression_bomb_is_refused_before_decoding(tmp_path, monkeypatch):
    scene().save(tmp_path/'a.png')
    monkeypatch.setattr(Image.Image, 'load', lambda self: pytest.fail('decoded'))
    with pytest.raises(ImageProblem, match='too large: 120 x 90 is more than 10,799 pixels'):
        open_image(tmp_path/'a.png', max_pixels=10_799)


def test_exactly_the_limit_is_allowed(tmp_path):
    scene().save(tmp_path/'a.png')
    assert open_image(tmp_path/'a.png', max_pixels=10_800).size == (120, 90)
    assert image_problem(tmp_path/'a.png', max_pixels=10_800) is None


def test_no_permission(tmp_path, monkeypatch):
    scene().save(tmp_path/'a.png')
    def refuse(*args, **kwargs): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(Path, 'read_bytes', refuse)
    assert image_problem(tmp_path/'a.png') == 'no permission to read it'


def test_an_image_problem_can_be_pickled():
    e = pickle.loads(pickle.dumps(ImageProblem(Path('a/b.jpg'), 'empty')))  # noqa: S301 made here
    assert (str(e), e.file, e.reason) == ('b.jpg: empty', Path('a/b.jpg'), 'empty')
    assert isinstance(e, ValueError) and str(ImageProblem('message only')) == 'message only'


def test_check_images_names_the_broken_ones_only(tmp_path):
    for i in range(3): scene(i).save(tmp_path/f'good_{i}.jpg')
    for kind in 'empty', 'text', 'jpeg cut': make(kind, tmp_path/f'bad {kind}.jpg')
    found = check_images(list_images(tmp_path))
    assert list(found) == ['file', 'problem']
    assert [f.name for f in found.file] == ['bad empty.jpg', 'bad jpeg cut.jpg', 'bad text.jpg']
    assert [p.split()[0] for p in found.problem] == ['empty', 'broken', 'not']


def test_check_images_of_nothing(): assert list(check_images([])) == ['file', 'problem']


def test_the_real_images_can_be_opened(real): assert len(real) == 259 and check_images(real).empty


# copies

def planted(folder, name, im):
    "Save four copies of `im`: unchanged, at quality 60, at 70 % of the size, flipped."
    folder.mkdir(exist_ok=True)
    im.save(folder/f'{name}.png')
    im.save(folder/f'{name}_q60.jpg', quality=60)
    im.resize((im.width * 7 // 10, im.height * 7 // 10)).save(folder/f'{name}_small.jpg', quality=90)
    im.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder/f'{name}_mirror.jpg', quality=90)


def test_copies_are_found_and_others_are_not(tmp_path):
    planted(tmp_path, 'a', scene(0, (300, 240)))
    for i in range(1, 9): scene(i, (300, 240)).save(tmp_path/f'b{i}.jpg')
    found = near_duplicates(list_images(tmp_path))
    assert {(f.name, o.name) for f, o in zip(found.file, found.other)} == {
        ('a.png', 'a_mirror.jpg'), ('a.png', 'a_q60.jpg'), ('a.png', 'a_small.jpg')}
    assert list(found) == ['file', 'other', 'distance'] and found.distance.is_monotonic_increasing and found.distance.max() <= 24


def test_a_phone_image_and_its_upright_copy(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(3, (300, 200)).transpose(Image.Transpose.ROTATE_90).save(tmp_path/'phone.jpg', exif=exif)
    scene(3, (300, 200)).save(tmp_path/'upright.jpg')
    assert len(near_duplicates(list_images(tmp_path))) == 1


def test_broken_files_have_no_near_duplicates(tmp_path):
    for name in 'ab': make('jpeg cut', tmp_path/f'{name}.jpg')
    assert near_duplicates(list_images(tmp_path)).empty
    assert list(near_duplicates([])) == ['file', 'other', 'distance']


def test_pairs_across_blocks(tmp_path, monkeypatch):
    "Pairs are found once, also across blocks of the comparison."
    bits = np.where(np.random.default_rng(0).random((1100, 1, 256)) < .5, -1., 1.).repeat(2, 1)
    bits[1050] = bits[3]
    bits[700, 1] = bits[600, 0]
    monkeypatch.setattr('pet_classifier.data.images._bits', lambda f: bits[int(f.name)])
    found = near_duplicates(map(str, range(1100)))
    pairs = {(f.name, o.name) for f, o in zip(found.file, found.other)}
    assert pairs == {('3', '1050'), ('600', '700')} and (found.distance == 0).all()


@pytest.mark.slow
def test_copies_among_the_real_images(real, tmp_path):
    assert near_duplicates(real).empty
    for f in real[::37]: planted(tmp_path/'copies', f.stem, open_image(f))
    found = near_duplicates(real + list_images(tmp_path/'copies'))
    def pet(f): return '_'.join(f.stem.split('_')[:-1] if f.stem.endswith(('q60', 'small', 'mirror')) else f.stem.split('_'))
    assert all(pet(f) == pet(o) for f, o in zip(found.file, found.other))
    assert len(found) == len(real[::37]) * 4  # five of each, joined by four pairs


def test_a_wrong_suffix_is_reported_and_the_image_opened(tmp_path):
    for name, fmt in {'a.jpg': 'GIF', 'b.JPG': 'WEBP', 'c.jpeg': 'JPEG', 'd.png': 'BMP', 'e.tif': 'TIFF'}.items():
        scene().save(tmp_path/name, fmt)
    (tmp_path/'f.jpg').write_text('no image')
    found = check_suffixes(list_images(tmp_path))
    assert [(f.name, p) for f, p in found.values] == [
        ('a.jpg', 'a GIF, though its name ends in .jpg'), ('b.JPG', 'a WEBP, though its name ends in .JPG'),
        ('d.png', 'a BMP, though its name ends in .png')]
    assert list(check_suffixes([])) == ['file', 'problem'] and image_problem(tmp_path/'a.jpg') is None


def test_other_files_are_all_that_are_left_out(tmp_path):
    scene().save(tmp_path/'a.jpg')
    for name in '.hidden/b.jpg', '.c.jpg', 'd.mat', 'e/f.txt':
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).touch()
    assert {f.relative_to(tmp_path).as_posix() for f in other_files(tmp_path)} == {'.hidden/b.jpg', '.c.jpg', 'd.mat', 'e/f.txt'}


def test_linked_folders_are_followed_once(tmp_path):
    for name in 'store/cat/1.jpg', 'data/dog/2.jpg', 'data/__MACOSX/3.jpg', 'data/.ipynb_checkpoints/4.jpg':
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).touch()
    data = tmp_path/'data'
    (data/'cat').symlink_to(tmp_path/'store'/'cat')
    (data/'a_dog').symlink_to(data/'dog')  # under its own name
    (data/'dog'/'up').symlink_to(data)
    (tmp_path/'store'/'cat'/'back').symlink_to(data)
    assert [f.relative_to(data).as_posix() for f in list_images(data)] == ['cat/1.jpg', 'dog/2.jpg']
    assert [f.relative_to(data).as_posix() for f in other_files(data)] == ['.ipynb_checkpoints/4.jpg', '__MACOSX/3.jpg']


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_listed(tmp_path, monkeypatch):
    for name in 'cat/1.jpg', 'locked/2.jpg':
        (tmp_path/name).parent.mkdir()
        (tmp_path/name).touch()
    really = os.listdir
    def listdir(path):
        if Path(path).name == 'locked': raise PermissionError(13, 'Permission denied')
        return really(path)
    monkeypatch.setattr(os, 'listdir', listdir)
    with pytest.warns(UserWarning, match='left out because they cannot be read: 1 folders: locked'):
        assert [f.name for f in list_images(tmp_path)] == ['1.jpg']


def test_names_that_are_not_utf8_are_listed_opened_and_printed(tmp_path):
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b'/br\xe9.jpg'))
    scene().save(str(file), 'JPEG')
    assert list_images(tmp_path) == [file] and open_image(file).size == scene().size and listed([file]).isprintable()
    file.write_bytes(b'x')
    with pytest.raises(ImageProblem) as e: open_image(file)
    assert str(e.value).isprintable() and str(e.value).encode()


@pytest.mark.parametrize('make', [lambda i: b'', lambda i: bytes([i])*(i + 1)], ids=['equal bytes', 'equal pixels'])
def test_many_copies_are_a_group(tmp_path, make):
    scene().save(b := io.BytesIO(), 'JPEG')
    for i in range(60): (tmp_path/f'{i:02}.jpg').write_bytes(b.getvalue() + make(i))
    found = near_duplicates(list_images(tmp_path))
    assert len(found) == 59 and sorted(f.name for f in found.other) == [f'{i:02}.jpg' for i in range(1, 60)]


def test_pairs_hold_each_group_together(monkeypatch):
    "The returned pairs connect the same groups as all pairs within the distance."
    rng = np.random.default_rng(0)
    bits = np.where(rng.random((300, 256)) < .5, -1., 1.)
    for i in range(40, 300):
        bits[i] = bits[rng.integers(0, i)]
        bits[i, rng.choice(256, 20, replace=False)] *= -1
    both = np.stack([bits, np.where(rng.random((300, 256)) < .5, -1., 1.)], 1)
    monkeypatch.setattr('pet_classifier.data.images._bits', lambda f: both[int(f.name)])
    found = near_duplicates(map(str, range(300)))
    assert len(found) == 260 and (found.distance <= 24).all()
