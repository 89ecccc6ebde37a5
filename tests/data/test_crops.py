"Images from any source are read correctly, and their center crop is the one that Pillow computes."
import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageOps

from pet_classifier.data.crops import center_crop, check_sizes, load_crop, load_crops, read_pixels
from pet_classifier.data.drawing import draw_pet
from pet_classifier.data.images import ImageProblem, list_images, open_image


def pillows(file, size):
    "Return the center crop computed by Pillow, uint8, 3 x size x size"
    with Image.open(file) as im: im = ImageOps.exif_transpose(im).convert('RGB')
    side = min(im.size)
    left, top = (im.width - side)//2, (im.height - side)//2
    im = im.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    return torch.from_numpy(np.array(im)).permute(2, 0, 1)


def far(a, b): return (a.float() - b.float()).abs().mean().item()


def textured(width, height, seed=0):
    "Return an image of random texture"
    noise = np.random.default_rng(seed).integers(0, 255, (height//4, width//4, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_equals_pillow_on_generated_images(files):
    for f in files:
        for size in 16, 24, 37:
            ours, theirs = load_crop(f, size), pillows(f, size)
            assert ours.shape == (3, size, size) and ours.dtype == torch.uint8 and far(ours, theirs) < 2
            assert far(ours, theirs.flip(-1)) > 10 < far(ours, theirs.transpose(1, 2))


def test_equals_pillow_on_drawn_pets(tmp_path):
    for i, breed in enumerate(['pug', 'Bengal', 'samoyed']):
        draw_pet(breed, seed=i).save(file := tmp_path/f'{breed}.jpg')
        assert far(load_crop(file, 64), pillows(file, 64)) < 2


def test_equals_pillow_on_real_pets(pets_dir):
    files = list_images(pets_dir)[::12]
    for size in 64, 224: assert max(far(load_crop(f, size), pillows(f, size)) for f in files) < 2


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
    with Image.open(tmp_path/name) as im: assert torch.equal(load_crop(im, 32), center_crop(read_pixels(tmp_path/name), 32))


@pytest.mark.parametrize('mode', ['L', 'CMYK', 'RGB'])
def test_a_jpeg_of_any_mode_has_its_colours(tmp_path, mode):
    colour = dict(L=100, CMYK=(0, 255, 255, 0), RGB=(10, 200, 60))[mode]
    Image.new(mode, (40, 30), colour).save(tmp_path/'a.jpg', quality=95)
    expected = dict(L=(100,)*3, CMYK=(255, 0, 0), RGB=(10, 200, 60))[mode]
    x = load_crop(tmp_path/'a.jpg', 16)
    assert x.shape == (3, 16, 16) and far(x, torch.tensor(expected).view(3, 1, 1).expand_as(x)) < 4


@pytest.mark.parametrize('mode', ['L', 'CMYK', 'YCbCr', 'RGB'])
def test_a_jpeg_of_any_mode_is_read_like_open_image(tmp_path, mode):
    image, black = textured(64, 48), textured(64, 48, 1).convert('L')
    image = Image.merge('CMYK', [*image.split(), black]) if mode == 'CMYK' else image.convert(mode)
    image.save(tmp_path/'a.jpg')
    assert far(read_pixels(tmp_path/'a.jpg'), torch.from_numpy(np.array(open_image(tmp_path/'a.jpg'))).permute(2, 0, 1)) < 1


def test_transparent_pixels_become_white(tmp_path):
    im = Image.new('P', (40, 40), 1)
    im.putpalette([255, 0, 0, 0, 0, 255])
    im.paste(0, (0, 0, 40, 20))
    im.save(tmp_path/'palette.png', transparency=0)
    Image.new('RGBA', (40, 40), (0, 255, 0, 0)).save(tmp_path/'alpha.png')
    x = load_crop(tmp_path/'palette.png', 40)
    assert (x[:, :19] == 255).all() and (x[:, 21:] == torch.tensor([0, 0, 255]).view(3, 1, 1)).all()
    assert (load_crop(tmp_path/'alpha.png', 20) == 255).all()


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.full((30, 30), 257*100, np.uint16)).save(tmp_path/'a.png')
    assert (load_crop(tmp_path/'a.png', 20) == 100).all()


@pytest.mark.parametrize('format, name', [('PNG', 'a.jpg'), ('JPEG', 'a.png'), ('WEBP', 'a.jpeg'), ('GIF', 'a.jpg'), ('BMP', 'b'),
                                          ('TIFF', 'a.JPG')])
def test_the_format_is_identified_by_the_content(tmp_path, format, name):
    textured(60, 40).save(tmp_path/name, format)
    assert far(load_crop(tmp_path/name, 24), pillows(tmp_path/name, 24)) < 2
    assert torch.equal(load_crop(str(tmp_path/name), 24), load_crop(tmp_path/name, 24))


@pytest.mark.parametrize('share', [0.02, 0.3, 0.7, 0.95])
@pytest.mark.parametrize('kwargs', [{}, dict(progressive=True)])
def test_a_truncated_jpeg_is_named_with_its_reason(tmp_path, share, kwargs):
    textured(320, 240).save(file := tmp_path/'cut.jpg', **kwargs)
    data = file.read_bytes()
    file.write_bytes(data[:int(share*len(data))])
    with pytest.raises(ImageProblem, match='cut.jpg: (broken or cut off|not an image)'): load_crop(file, 32)
    with pytest.raises(ImageProblem, match='cut.jpg: '): load_crops([file], 32)


@pytest.mark.parametrize('make, reason', [
    (lambda f: None, 'not found'), (lambda f: f.touch(), 'empty'), (lambda f: f.mkdir(), 'a folder'),
    (lambda f: f.write_text('not an image'), 'not an image'),
    (lambda f: f.write_bytes(b'\xff\xd8\xff\xe0'), 'broken|not an image'),
    (lambda f: f.symlink_to('nowhere'), 'a broken link')])
def test_files_that_are_not_images_are_named_with_the_reason(tmp_path, make, reason):
    make(tmp_path/'a.jpg')
    with pytest.raises(ImageProblem, match=f'a.jpg: ({reason})'): read_pixels(tmp_path/'a.jpg')


@pytest.mark.parametrize('name', ['bomb.jpg', 'bomb.png'])
def test_a_decompression_bomb_is_refused_before_decoding(tmp_path, monkeypatch, name):
    Image.new('L', (11_000, 9_500)).save(tmp_path/name)
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', lambda *args, **kwargs: pytest.fail('decoded'))
    monkeypatch.setattr(Image.Image, 'convert', lambda *args: pytest.fail('decoded'))
    with pytest.raises(ImageProblem, match=f'{name}: too large'): load_crop(tmp_path/name, 32)


def test_a_crop_of_the_right_size_is_not_scaled():
    x = torch.randint(0, 255, (3, 20, 31), dtype=torch.uint8)
    assert torch.equal(center_crop(x, 20), x[:, :, 5:25])
    assert center_crop(x[:, :1, :1], 8).shape == (3, 8, 8) and (center_crop(x[:, :1, :1], 8) == x[:, :1, :1]).all()


def test_load_images_keeps_the_order(files):
    many = [files[i % 7] for i in np.random.default_rng(0).permutation(40)]
    x = load_crops(many, 16)
    assert x.shape == (40, 3, 16, 16) and x.dtype == torch.uint8
    assert torch.equal(x, torch.stack([load_crop(f, 16) for f in many]))
    assert load_crops([], 16).shape == (0, 3, 16, 16)


def test_the_first_broken_image_is_named(files):
    files[2].write_text('broken')
    files[4].write_text('broken too')
    with pytest.raises(ImageProblem, match='2.png'): load_crops(files, 16)


@pytest.mark.parametrize('format', ['PNG', 'JPEG', 'WEBP', 'GIF', 'BMP', 'TIFF'])
def test_bytes_are_read_like_the_file(tmp_path, format):
    exif = Image.Exif()
    exif[0x0112] = 6
    textured(60, 40).save(tmp_path/'a', format, **({} if format in ('GIF', 'BMP') else dict(exif=exif)))
    data = (tmp_path/'a').read_bytes()
    for wrapped in data, bytearray(data), memoryview(data): assert torch.equal(read_pixels(wrapped), read_pixels(tmp_path/'a'))


def test_bytes_that_are_not_an_image_are_refused(tmp_path, monkeypatch):
    textured(60, 40).save(tmp_path/'a.jpg')
    Image.new('L', (11_000, 9_500)).save(tmp_path/'bomb.png')
    monkeypatch.setattr(simplejpeg, 'decode_jpeg', lambda *args, **kwargs: pytest.fail('decoded'))
    for data, message in ((b'', 'empty'), (b'text', 'not an image'), ((tmp_path/'bomb.png').read_bytes(), 'too large'),
                       (b'%!PS-Adobe-3.0 EPSF-3.0', r'not an image \(JPEG')):
        with pytest.raises(ImageProblem, match=f'^this image: {message}'): read_pixels(data)
    monkeypatch.undo()
    with pytest.raises(ImageProblem, match='^this image: broken or cut off'): read_pixels((tmp_path/'a.jpg').read_bytes()[:-40])


def test_an_undecoded_pil_image_is_checked(tmp_path):
    textured(320, 240).save(tmp_path/'a.jpg')
    (tmp_path/'cut.jpg').write_bytes((tmp_path/'a.jpg').read_bytes()[:2000])
    Image.new('L', (11_000, 9_500)).save(tmp_path/'bomb.png')
    with pytest.raises(ImageProblem, match='this image: broken'): load_crop(Image.open(tmp_path/'cut.jpg'), 32)
    bomb = Image.open(tmp_path/'bomb.png')
    bomb.load = lambda: pytest.fail('decoded')
    with pytest.raises(ImageProblem, match='this image: too large: 11000 x 9500'): load_crop(bomb, 32)


def test_arrays_and_tensors_are_read():
    im = textured(60, 40)
    array, expected = np.array(im), torch.from_numpy(np.array(im)).permute(2, 0, 1)
    frozen = array.copy()
    frozen.flags.writeable = False
    for same in array, array[:, ::-1][:, ::-1], frozen, expected, expected.contiguous(), expected.numpy().transpose(1, 2, 0):
        assert torch.equal(read_pixels(same), expected)
    grey = np.array(im.convert('L'))
    assert torch.equal(read_pixels(grey), read_pixels(im.convert('L')))
    assert load_crop(np.zeros((1, 900, 3), np.uint8), 16).shape == load_crop(grey[:1, :1], 16).shape == (3, 16, 16)


@pytest.mark.parametrize('wrong, message', [
    (np.zeros((9, 8, 3), np.float32), r'this array: its dtype is float32, expected uint8.*\(255\*array\).round\(\)'),
    (torch.zeros(3, 9, 8), r'this tensor: its dtype is float32, expected uint8.*\(255\*tensor\).round\(\).to\(torch.uint8\)'),
    (np.zeros((9, 8, 3), object), 'its dtype is object'), (np.zeros((9, 8), bool), 'its dtype is bool'),
    (np.zeros((3, 9, 8), np.uint8), r'its shape is \(3, 9, 8\), expected height x width x 3.*array.transpose\(1, 2, 0\)'),
    (np.zeros((9, 8, 4), np.uint8), r'its shape is \(9, 8, 4\), expected height x width x 3.*leave out other channels'),
    (torch.zeros(9, 8, 3, dtype=torch.uint8), r'\(9, 8, 3\), expected 3 x height x width.*tensor.permute\(2, 0, 1\)'),
    (torch.zeros(9, 8, dtype=torch.uint8), r'its shape is \(9, 8\), expected 3 x height x width'),
    (np.zeros((2, 9, 8, 3), np.uint8), r'give several images as a list: list\(array\)'),
    (torch.zeros(2, 3, 9, 8, dtype=torch.uint8), r'give several images as a list: list\(tensor\)'),
    (np.zeros((9, 0, 3), np.uint8), 'it is empty'), (torch.zeros(3, 0, 4, dtype=torch.uint8), 'it is empty'),
    (None, 'this NoneType: not an image; expected a path'), (7, 'this int: not an image')], ids=str)
def test_invalid_input_is_refused_with_what_was_expected(wrong, message):
    with pytest.raises(ImageProblem, match=message): load_crop(wrong, 16)


@pytest.mark.parametrize('size, sizes', [
    (224, (224,)), ((224,), (224,)), ([352, 224], (224, 352)), ((8, 4096, 100), (8, 100, 4096))])
def test_sizes_are_a_tuple_that_ascends(size, sizes): assert check_sizes(size) == sizes


@pytest.mark.parametrize('size', [7, 4097, 0, -1, 224., '224', True, None, (), (224, 224), (224, 7), [224, '352'], [[]]])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ValueError, match='expected 8 to 4096 pixels, such as 224, or several different ones'): check_sizes(size)
