"The square is the one that Pillow would cut, whatever the file is; and what is kept of it is right or made anew."
import os
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageOps

from pet_classifier.core.cache import clear_cache
from pet_classifier.data import decoded_images
from pet_classifier.data.crops import center_crop, check_sizes, load_image, load_images, read_pixels
from pet_classifier.data.decoded_images import DecodedImages
from pet_classifier.data.drawing import draw_pet
from pet_classifier.data.images import ImageProblem, list_images, open_image


def pillows(file, size):
    "The square in the middle as Pillow makes it, uint8, 3 x size x size"
    with Image.open(file) as im: im = ImageOps.exif_transpose(im).convert('RGB')
    side = min(im.size)
    left, top = (im.width - side)//2, (im.height - side)//2
    im = im.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    return torch.from_numpy(np.array(im)).permute(2, 0, 1)


def far(a, b): return (a.float() - b.float()).abs().mean().item()


def textured(width, height, seed=0):
    "An image of which no two parts are alike"
    noise = np.random.default_rng(seed).integers(0, 255, (height//4, width//4, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def files(tmp_path):
    "Seven images of their own, each of another kind"
    made = []
    for i, (w, h) in enumerate([(60, 40), (40, 60), (50, 50), (33, 90), (91, 34), (16, 16), (200, 150)]):
        made.append(tmp_path/'own'/f'{i}{(".png", ".jpg")[i % 2]}')
        made[-1].parent.mkdir(exist_ok=True)
        textured(w, h, i).save(made[-1])
    return made


def test_fits_what_pillow_does_on_made_up_images(files):
    for f in files:
        for size in 16, 24, 37:
            ours, theirs = load_image(f, size), pillows(f, size)
            assert ours.shape == (3, size, size) and ours.dtype == torch.uint8 and far(ours, theirs) < 2
            assert far(ours, theirs.flip(-1)) > 10 < far(ours, theirs.transpose(1, 2))


def test_fits_what_pillow_does_on_drawn_pets(tmp_path):
    for i, breed in enumerate(['pug', 'Bengal', 'samoyed']):
        draw_pet(breed, seed=i).save(file := tmp_path/f'{breed}.jpg')
        assert far(load_image(file, 64), pillows(file, 64)) < 2


def test_fits_what_pillow_does_on_real_pets(pets_dir):
    files = list_images(pets_dir)[::12]
    for size in 64, 224: assert max(far(load_image(f, size), pillows(f, size)) for f in files) < 2


@pytest.mark.parametrize('name, tolerance', [('a.png', 0), ('a.jpg', 3)])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_phone_photo_is_put_upright(tmp_path, name, tolerance, orientation):
    upright, exif = textured(64, 48), Image.Exif()
    back = {1: None, 2: 'FLIP_LEFT_RIGHT', 3: 'ROTATE_180', 4: 'FLIP_TOP_BOTTOM', 5: 'TRANSPOSE', 6: 'ROTATE_90', 7: 'TRANSVERSE',
            8: 'ROTATE_270'}[orientation]
    exif[0x0112] = orientation
    lying = upright if back is None else upright.transpose(Image.Transpose[back])
    lying.save(tmp_path/name, exif=exif, **(dict(quality=95, subsampling=0) if name == 'a.jpg' else {}))
    expected = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    assert read_pixels(tmp_path/name).shape == (3, 48, 64) and far(read_pixels(tmp_path/name), expected) <= tolerance
    with Image.open(tmp_path/name) as im: assert torch.equal(load_image(im, 32), center_crop(read_pixels(tmp_path/name), 32))


@pytest.mark.parametrize('mode', ['L', 'CMYK', 'RGB'])
def test_a_jpeg_of_any_mode_has_its_colours(tmp_path, mode):
    colour = dict(L=100, CMYK=(0, 255, 255, 0), RGB=(10, 200, 60))[mode]
    Image.new(mode, (40, 30), colour).save(tmp_path/'a.jpg', quality=95)
    expected = dict(L=(100,)*3, CMYK=(255, 0, 0), RGB=(10, 200, 60))[mode]
    x = load_image(tmp_path/'a.jpg', 16)
    assert x.shape == (3, 16, 16) and far(x, torch.tensor(expected).view(3, 1, 1).expand_as(x)) < 4


@pytest.mark.parametrize('mode', ['L', 'CMYK', 'YCbCr', 'RGB'])
def test_a_jpeg_of_any_mode_is_read_as_open_image_reads_it(tmp_path, mode):
    image, black = textured(64, 48), textured(64, 48, 1).convert('L')
    image = Image.merge('CMYK', [*image.split(), black]) if mode == 'CMYK' else image.convert(mode)
    image.save(tmp_path/'a.jpg')
    assert far(read_pixels(tmp_path/'a.jpg'), torch.from_numpy(np.array(open_image(tmp_path/'a.jpg'))).permute(2, 0, 1)) < 1


def test_what_is_transparent_is_white(tmp_path):
    im = Image.new('P', (40, 40), 1)
    im.putpalette([255, 0, 0, 0, 0, 255])
    im.paste(0, (0, 0, 40, 20))
    im.save(tmp_path/'palette.png', transparency=0)
    Image.new('RGBA', (40, 40), (0, 255, 0, 0)).save(tmp_path/'alpha.png')
    x = load_image(tmp_path/'palette.png', 40)
    assert (x[:, :19] == 255).all() and (x[:, 21:] == torch.tensor([0, 0, 255]).view(3, 1, 1)).all()
    assert (load_image(tmp_path/'alpha.png', 20) == 255).all()


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.full((30, 30), 257*100, np.uint16)).save(tmp_path/'a.png')
    assert (load_image(tmp_path/'a.png', 20) == 100).all()


@pytest.mark.parametrize('format, name', [('PNG', 'a.jpg'), ('JPEG', 'a.png'), ('WEBP', 'a.jpeg'), ('GIF', 'a.jpg'), ('BMP', 'b'),
                                          ('TIFF', 'a.JPG')])
def test_the_content_decides_and_not_the_suffix(tmp_path, format, name):
    textured(60, 40).save(tmp_path/name, format)
    assert far(load_image(tmp_path/name, 24), pillows(tmp_path/name, 24)) < 2
    assert torch.equal(load_image(str(tmp_path/name), 24), load_image(tmp_path/name, 24))


@pytest.mark.parametrize('share', [0.02, 0.3, 0.7, 0.95])
@pytest.mark.parametrize('kwargs', [{}, dict(progressive=True)])
def test_a_truncated_jpeg_is_named_with_its_reason(tmp_path, share, kwargs):
    textured(320, 240).save(file := tmp_path/'cut.jpg', **kwargs)
    data = file.read_bytes()
    file.write_bytes(data[:int(share*len(data))])
    with pytest.raises(ImageProblem, match='cut.jpg: (broken or cut off|not an image)'): load_image(file, 32)
    with pytest.raises(ImageProblem, match='cut.jpg: '): load_images([file], 32)


@pytest.mark.parametrize('make, reason', [
    (lambda f: None, 'not there'), (lambda f: f.touch(), 'empty'), (lambda f: f.mkdir(), 'a folder'),
    (lambda f: f.write_text('not an image'), 'not an image'),
    (lambda f: f.write_bytes(b'\xff\xd8\xff\xe0'), 'broken|not an image'),
    (lambda f: f.symlink_to('nowhere'), 'a link to a file that is not there')])
def test_what_is_no_image_is_named_with_its_reason(tmp_path, make, reason):
    make(tmp_path/'a.jpg')
    with pytest.raises(ImageProblem, match=f'a.jpg: ({reason})'): read_pixels(tmp_path/'a.jpg')


@pytest.mark.parametrize('name', ['bomb.jpg', 'bomb.png'])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch, name):
    Image.new('L', (11_000, 9_500)).save(tmp_path/name)
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', lambda *args, **kwargs: pytest.fail('decoded'))
    monkeypatch.setattr(Image.Image, 'convert', lambda *args: pytest.fail('decoded'))
    with pytest.raises(ImageProblem, match=f'{name}: too large'): load_image(tmp_path/name, 32)


def test_a_square_of_the_right_size_is_left_as_it_is():
    x = torch.randint(0, 255, (3, 20, 31), dtype=torch.uint8)
    assert torch.equal(center_crop(x, 20), x[:, :, 5:25])
    assert center_crop(x[:, :1, :1], 8).shape == (3, 8, 8) and (center_crop(x[:, :1, :1], 8) == x[:, :1, :1]).all()


def test_the_order_is_kept(files):
    many = [files[i % 7] for i in np.random.default_rng(0).permutation(40)]
    x = load_images(many, 16)
    assert x.shape == (40, 3, 16, 16) and x.dtype == torch.uint8
    assert torch.equal(x, torch.stack([load_image(f, 16) for f in many]))
    assert load_images([], 16).shape == (0, 3, 16, 16)


def test_the_first_that_is_no_image_is_named(files):
    files[2].write_text('broken')
    files[4].write_text('broken too')
    with pytest.raises(ImageProblem, match='2.png'): load_images(files, 16)


@pytest.fixture
def counted(monkeypatch, fresh_cache):
    "How many crops were decoded, call by call"
    seen, really = [], load_images
    def count(files, size):
        seen.append(len(files))
        return really(files, size)
    monkeypatch.setattr(decoded_images, 'load_images', count)
    return seen


def right(crops, numbers=(3, 0, 3, 6)):
    return torch.equal(crops[list(numbers)], load_images([crops.files[i] for i in numbers], crops.size))


def test_squares_are_decoded_once_and_right(files, counted, fresh_cache):
    crops = DecodedImages(files, 16)
    assert len(crops) == 7 and not counted  # nothing before it is asked for
    assert right(crops) and sum(counted) == 7
    counted.clear()
    again = DecodedImages([str(f) for f in files], 16)
    assert right(again) and again.path == crops.path and sum(counted) == 3  # three are tried
    assert crops[[]].shape == (0, 3, 16, 16)
    assert [f.name for f in fresh_cache.iterdir()] == [crops.path.name] and crops.path.name.startswith('crops-')


def test_more_than_one_block_is_written_in_order(files, fresh_cache):
    many = [files[i % 7] for i in np.random.default_rng(1).permutation(150)]
    crops = DecodedImages(many, 8)
    assert torch.equal(crops[list(range(150))], load_images(many, 8)) and crops.path is not None


def test_what_the_squares_are_of_makes_the_name(files, fresh_cache):
    names = [DecodedImages(files, 16).path, DecodedImages(files, 17).path, DecodedImages(files[:-1], 16).path,
             DecodedImages(files[::-1], 16).path]
    stat = files[0].stat()
    textured(60, 40, 99).save(files[0])
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    edited = DecodedImages(files, 16)
    assert len({*names, edited.path}) == 5 and right(edited, [0, 1])


@pytest.mark.parametrize('spoilt', [
    lambda data: b'', lambda data: data[:100], lambda data: data[:-1], lambda data: b'no numpy' + data,
    lambda data: data[:128] + bytes(len(data) - 128)])
def test_a_truncated_or_foreign_file_is_made_anew(files, fresh_cache, spoilt):
    path = DecodedImages(files, 16).path
    path.write_bytes(spoilt(path.read_bytes()))
    assert right(DecodedImages(files, 16), range(7))


@pytest.mark.parametrize('kept', [np.zeros((7, 16, 16, 3), np.uint16), np.zeros((7, 3, 16, 16), np.uint8),
                                  np.zeros((6, 16, 16, 3), np.uint8), np.array([None])],
                         ids=['dtype', 'order', 'count', 'object'])
def test_an_array_of_another_kind_is_made_anew(files, fresh_cache, kept):
    path = DecodedImages(files, 16).path
    with open(path, 'wb') as f: np.save(f, kept, allow_pickle=True)
    assert right(DecodedImages(files, 16), range(7))


def test_without_room_there_is_a_warning_and_the_right_pixels(files, counted, monkeypatch, fresh_cache):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', '0.000001')
    crops = DecodedImages(files, 16)
    with pytest.warns(UserWarning, match='7 decoded images are not kept.* no room .*PET_CLASSIFIER_CACHE_GB'):
        assert right(crops)
    counted.clear()
    assert right(crops, [1, 2]) and sum(counted) == 2 and not list(fresh_cache.iterdir())


def test_a_disk_that_refuses_is_a_warning_and_leaves_nothing(files, monkeypatch, fresh_cache):
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.replace', full)
    with pytest.warns(UserWarning, match='not kept.*No space left'): assert right(DecodedImages(files, 16))
    assert not list(fresh_cache.iterdir())


def test_cleared_while_in_use_the_pixels_are_right(files, fresh_cache):
    crops = DecodedImages(files, 16)
    assert right(crops) and clear_cache() > 0
    with pytest.warns(UserWarning, match='were damaged or deleted, and are made anew'): assert right(crops)
    assert right(crops, range(7)) and right(DecodedImages(files, 16)) and len(list(fresh_cache.iterdir())) == 1


def make_a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {'cut': lambda f: f.write_bytes(f.read_bytes()[:900]), 'emptied': lambda f: f.write_bytes(b''),
          'deleted': lambda f: f.unlink(), 'a folder': make_a_folder, 'zeroed': lambda f: f.write_bytes(bytes(f.stat().st_size)),
          'one bit': lambda f: f.write_bytes(f.read_bytes()[:700] + b'x' + f.read_bytes()[701:])}


@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize('device', [None, torch.device('cpu')])
def test_damaged_in_the_middle_of_a_training_the_pixels_are_right(files, fresh_cache, damage, device):
    crops = DecodedImages(files, 16, device)
    path = crops.path
    DAMAGE[damage](path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        for _ in range(2): assert torch.equal(crops[list(range(7))], load_images(files, 16))
    said = [str(w.message) for w in said if w.category is UserWarning]
    assert 1 <= len(said) <= 2 and 'made anew' in said[0]
    if damage != 'a folder': assert right(DecodedImages(files, 16)) and path.is_file()


def test_entries_that_changed_places_are_noticed(files, fresh_cache):
    a, b = DecodedImages(files, 16), DecodedImages(files[::-1], 16)
    one, other = a.path.read_bytes(), b.path.read_bytes()
    a.path.write_bytes(other)
    b.path.write_bytes(one)
    with pytest.warns(UserWarning, match='made anew'): assert right(a, range(7)) and right(b, range(7))


@pytest.mark.parametrize('bad', ['file/cache', '~nobody-of-this-name/cache'])
def test_without_a_cache_folder_there_is_one_warning_and_the_right_pixels(files, tmp_path, monkeypatch, bad):
    (tmp_path/'file').touch()
    monkeypatch.setenv('PET_CLASSIFIER_CACHE', str(tmp_path/bad) if bad[0] != '~' else bad)
    crops = DecodedImages(files, 16)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        assert right(crops) and right(crops, range(7))
    said, = [str(w.message) for w in said if w.category is UserWarning]
    assert '7 decoded images are not kept' in said and 'PET_CLASSIFIER_CACHE' in said and '\n' not in said


def test_a_broken_image_is_named_and_leaves_no_file(files, fresh_cache):
    files[5].write_bytes(files[5].read_bytes()[:60])
    with pytest.raises(ImageProblem, match='5.jpg'): DecodedImages(files, 16)[[0]]
    assert not list(fresh_cache.iterdir())


def test_fetching_a_few_does_not_load_the_whole_file(files, fresh_cache):
    crops = DecodedImages(files*30, 64)
    crops[[0]]
    tracemalloc.start()
    try:
        x = crops[[5, 100]]
        _, most = tracemalloc.get_traced_memory()
    finally: tracemalloc.stop()
    assert x.shape == (2, 3, 64, 64) and most < crops.path.stat().st_size/10


PROCESS = '''
import os, sys, time
from pathlib import Path
from pet_classifier.data import decoded_images
folder, me, others = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
files = sorted((folder/'own').iterdir())*20
really, calls = decoded_images.load_images, []
def load_images(files, size):
    calls.append(1)
    if me == 'killed' and len(calls) == 2: os.kill(os.getpid(), 9)
    return really(files, size)
decoded_images.load_images = load_images
(folder/f'ready-{me}').touch()
while len(list(folder.glob('ready-*'))) < others: time.sleep(0.01)
x = decoded_images.DecodedImages(files, 32)[list(range(len(files)))]
import torch
assert torch.equal(x, really(files, 32))
print('right')
'''


def process(tmp_path, me, others):
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', PROCESS, tmp_path, me, str(others)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def test_two_processes_that_make_it_at_once_both_get_the_right_pixels(files, tmp_path, fresh_cache):
    both = [process(tmp_path, me, 2) for me in ('one', 'other')]
    said = [p.communicate(timeout=120) for p in both]
    assert [out for out, _ in said] == ['right\n']*2, said
    assert len(list(fresh_cache.iterdir())) == 1 and right(DecodedImages(sorted(files)*20, 32), range(140))


def test_a_process_killed_in_the_middle_leaves_no_file_of_that_name(files, tmp_path, fresh_cache):
    killed = process(tmp_path, 'killed', 1)
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    left, = fresh_cache.iterdir()
    assert left.name.startswith('.')  # it was in the middle of it
    crops = DecodedImages(sorted(files)*20, 32)
    assert right(crops, range(140)) and crops.path.exists()


@pytest.mark.parametrize('format', ['PNG', 'JPEG', 'WEBP', 'GIF', 'BMP', 'TIFF'])
def test_the_bytes_of_a_file_are_read_as_the_file_is(tmp_path, format):
    exif = Image.Exif()
    exif[0x0112] = 6
    textured(60, 40).save(tmp_path/'a', format, **({} if format in ('GIF', 'BMP') else dict(exif=exif)))
    data = (tmp_path/'a').read_bytes()
    for wrapped in data, bytearray(data), memoryview(data): assert torch.equal(read_pixels(wrapped), read_pixels(tmp_path/'a'))


def test_bytes_that_are_no_image_are_refused_as_files_are(tmp_path, monkeypatch):
    textured(60, 40).save(tmp_path/'a.jpg')
    Image.new('L', (11_000, 9_500)).save(tmp_path/'bomb.png')
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', lambda *args, **kwargs: pytest.fail('decoded'))
    for data, said in ((b'', 'empty'), (b'text', 'not an image'), ((tmp_path/'bomb.png').read_bytes(), 'too large'),
                       (b'%!PS-Adobe-3.0 EPSF-3.0', r'not an image \(JPEG')):
        with pytest.raises(ImageProblem, match=f'^this image: {said}'): read_pixels(data)
    monkeypatch.undo()
    with pytest.raises(ImageProblem, match='^this image: broken or cut off'): read_pixels((tmp_path/'a.jpg').read_bytes()[:-40])


def test_a_pil_image_that_was_not_decoded_yet_is_checked_as_files_are(tmp_path):
    textured(320, 240).save(tmp_path/'a.jpg')
    (tmp_path/'cut.jpg').write_bytes((tmp_path/'a.jpg').read_bytes()[:2000])
    Image.new('L', (11_000, 9_500)).save(tmp_path/'bomb.png')
    with pytest.raises(ImageProblem, match='this image: broken'): load_image(Image.open(tmp_path/'cut.jpg'), 32)
    bomb = Image.open(tmp_path/'bomb.png')
    bomb.load = lambda: pytest.fail('decoded')
    with pytest.raises(ImageProblem, match='this image: too large: 11000 x 9500'): load_image(bomb, 32)


def test_arrays_and_tensors_are_the_image_they_hold():
    im = textured(60, 40)
    array, expected = np.array(im), torch.from_numpy(np.array(im)).permute(2, 0, 1)
    frozen = array.copy()
    frozen.flags.writeable = False
    for same in array, array[:, ::-1][:, ::-1], frozen, expected, expected.contiguous(), expected.numpy().transpose(1, 2, 0):
        assert torch.equal(read_pixels(same), expected)
    grey = np.array(im.convert('L'))
    assert torch.equal(read_pixels(grey), read_pixels(im.convert('L')))
    assert load_image(np.zeros((1, 900, 3), np.uint8), 16).shape == load_image(grey[:1, :1], 16).shape == (3, 16, 16)


@pytest.mark.parametrize('wrong, said', [
    (np.zeros((9, 8, 3), np.float32), r'this array: its numbers are float32, expected uint8.*\(255\*array\).round\(\)'),
    (torch.zeros(3, 9, 8), r'this tensor: its numbers are float32, expected uint8.*\(255\*tensor\).round\(\).to\(torch.uint8\)'),
    (np.zeros((9, 8, 3), object), 'its numbers are object'), (np.zeros((9, 8), bool), 'its numbers are bool'),
    (np.zeros((3, 9, 8), np.uint8), r'its shape is \(3, 9, 8\), expected height x width x 3.*array.transpose\(1, 2, 0\)'),
    (np.zeros((9, 8, 4), np.uint8), r'its shape is \(9, 8, 4\), expected height x width x 3.*leave out other channels'),
    (torch.zeros(9, 8, 3, dtype=torch.uint8), r'\(9, 8, 3\), expected 3 x height x width.*tensor.permute\(2, 0, 1\)'),
    (torch.zeros(9, 8, dtype=torch.uint8), r'its shape is \(9, 8\), expected 3 x height x width'),
    (np.zeros((2, 9, 8, 3), np.uint8), r'many images are given as a list: list\(array\)'),
    (torch.zeros(2, 3, 9, 8, dtype=torch.uint8), r'many images are given as a list: list\(tensor\)'),
    (np.zeros((9, 0, 3), np.uint8), 'there is no image in it'), (torch.zeros(3, 0, 4, dtype=torch.uint8), 'no image in it'),
    (None, 'this NoneType: no image; expected its path'), (7, 'this int: no image')], ids=str)
def test_what_is_no_image_of_any_kind_is_named_with_what_was_expected(wrong, said):
    with pytest.raises(ImageProblem, match=said): load_image(wrong, 16)


CPU = torch.device('cpu')


def test_squares_kept_on_a_device_are_those_of_the_file(files, fresh_cache):
    mapped, kept = DecodedImages(files, 24), DecodedImages(files, 24, CPU)
    for numbers in [3, 0, 6], [2, 2], [5]:
        for asked in numbers, torch.tensor(numbers):
            assert torch.equal(kept[asked], mapped[numbers]) and kept[asked].stride() == mapped[numbers].stride()
    assert kept.kept.shape == (7, 24, 24, 3) and kept.kept.dtype == torch.uint8 and mapped.kept is None


def test_squares_kept_on_a_device_need_no_file_any_more(files, fresh_cache):
    kept, expected = DecodedImages(files, 24, CPU), load_images(files, 24)
    assert torch.equal(kept[[1, 2]], expected[[1, 2]])
    kept.path.unlink()
    for f in files: f.unlink()
    assert torch.equal(kept[[6, 0]], expected[[6, 0]])


def test_squares_are_kept_on_a_device_where_the_cache_has_no_room(files, fresh_cache, monkeypatch):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', '0')
    with pytest.warns(UserWarning, match='will be decoded each time'): crops = DecodedImages(files, 24, CPU)[[6, 0]]
    assert torch.equal(crops, load_images([files[6], files[0]], 24))


def test_squares_that_do_not_fit_come_from_the_file(files, fresh_cache, monkeypatch):
    monkeypatch.setattr(decoded_images, 'has_room', lambda n_bytes, device: n_bytes < 7*24*24*3)
    assert DecodedImages(files[:6], 24, CPU).fits
    decoded = DecodedImages(files, 24, CPU)
    assert not decoded.fits and decoded.kept is None
    assert torch.equal(decoded[[6, 0]], load_images([files[6], files[0]], 24))


@pytest.mark.parametrize('size, sizes', [
    (224, (224,)), ((224,), (224,)), ([352, 224], (224, 352)), ((8, 4096, 100), (8, 100, 4096))])
def test_sizes_are_a_tuple_that_ascends(size, sizes): assert check_sizes(size) == sizes


@pytest.mark.parametrize('size', [7, 4097, 0, -1, 224., '224', True, None, (), (224, 224), (224, 7), [224, '352']])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match='expected 8 to 4096 pixels, such as 224, or several different ones'): check_sizes(size)
