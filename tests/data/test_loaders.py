"Batches hold the right images and labels, in an order fixed by the seed."
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.augment import aug_transforms
from PIL import Image

from pet_classifier.data.augment import default_augment
from pet_classifier.data.crops import load_crop
from pet_classifier.data.decoded_images import DecodedImages
from pet_classifier.data.images import ImageProblem
from pet_classifier.data.loaders import loaders, presize


def images(dl): return torch.cat([x for x, _ in dl])


@pytest.fixture
def small(tiny_table):
    def small(table=tiny_table, **kwargs): return loaders(table, **{'size': 32, 'bs': 4, **kwargs})
    return small


@pytest.mark.parametrize('n, bs, sizes', [(12, 64, [12]), (12, 12, [12]), (12, 5, [5, 5]), (13, 4, [4, 4, 4]), (13, 12, [12])])
def test_training_batches_are_all_of_one_size_and_never_of_one_image(small, tiny_table, n, bs, sizes):
    table = tiny_table.copy()
    table.loc[table.index[table.is_valid][:n-12], 'is_valid'] = False
    assert [len(x) for x, _ in small(table, bs=bs).train] == sizes


def test_validation_images_are_in_the_order_of_the_table(small, tiny_table):
    dls = small(bs=5)
    valid = tiny_table[tiny_table.is_valid]
    assert [dls.vocab[i] for _, y in dls.valid for i in y] == valid.label.tolist()
    assert dls.vocab == ['blue', 'green', 'red'] and len(dls.valid_ds) + len(dls.train_ds) == len(tiny_table)


def test_validation_images_are_the_same_in_each_epoch(tiny_dls):
    first = images(tiny_dls.valid)
    assert torch.equal(first, images(tiny_dls.valid)) and first.std() > 0.05


def test_training_images_differ_in_each_epoch(small):
    dl = small(bs=12).train.new(shuffle=False)
    one, two = images(dl), images(dl)
    assert one.shape == two.shape == (12, 3, 32, 32) and ((one - two).abs().mean((1, 2, 3)) > 1e-3).all()


def test_without_augmentation_training_images_do_not_change(small):
    dl = small(bs=12, augment=[]).train.new(shuffle=False)
    one = images(dl)
    assert one.shape == (12, 3, 32, 32)
    assert torch.equal(one, images(dl))


@pytest.mark.parametrize('augment, side', [(None, 37), (default_augment(32, do_flip=False), 37), (aug_transforms(size=32), 37),
                                           (aug_transforms(), 32), ([], 32)], ids='default no-flip fastai unsized none'.split())
def test_transforms_that_crop_get_larger_images(small, augment, side):
    dls = small(augment=augment)
    assert all(dl.one_batch()[0].shape[1:] == (3, 32, 32) for dl in dls.loaders)  # sets the split_idx of the transforms
    crops = [next(dl.create_batches(range(4)))[0] for dl in dls.loaders]  # before any batch transform
    assert [x.shape for x in crops] == [(4, 3, side, side), (4, 3, 32, 32)] and all(x.dtype == torch.uint8 for x in crops)


def test_without_augmentation_no_colour_is_changed(tmp_path, small, tiny_table):
    for i in range(12): Image.new('RGB', (40, 40), (200, 100, 50)).save(tmp_path/f'{i}.png')
    table = tiny_table.assign(file=[tmp_path/f'{i % 12}.png' for i in range(len(tiny_table))])
    plain = images(small(table, augment=[]).train)
    assert torch.allclose(plain, torch.tensor([200, 100, 50.]).view(3, 1, 1)/255, atol=1e-5)
    assert not torch.allclose(images(small(table).train), torch.tensor([200, 100, 50.]).view(3, 1, 1)/255, atol=1e-2)


@pytest.mark.parametrize('orientation, turned', [(1, None), (3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90),
                                                 (8, Image.Transpose.ROTATE_270)])
def test_a_phone_photo_arrives_upright(small, tiny_table, tmp_path, orientation, turned):
    upright = Image.new('RGB', (60, 60), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, 60, 30))  # red sky, blue ground
    exif = Image.Exif()
    exif[0x0112] = orientation
    (upright.transpose(turned) if turned is not None else upright).save(tmp_path/'photo.jpg', exif=exif)
    table = tiny_table.assign(file=[tmp_path/'photo.jpg' if v else f for f, v in zip(tiny_table.file, tiny_table.is_valid)])
    red, _, blue = images(small(table).valid)[0]
    assert red[:15].mean() > 0.9 > 0.1 > red[-15:].mean() and blue[-15:].mean() > 0.9 > 0.1 > blue[:15].mean()


def test_a_table_without_a_split_is_refused(tiny_table):
    with pytest.raises(ValueError, match="no column 'is_valid'; random_split"): loaders(tiny_table.drop(columns='is_valid'))


def test_a_class_without_training_images_is_refused(tiny_table):
    with pytest.raises(ValueError, match='1 of 3 classes have validation but no training images: red'):
        loaders(tiny_table.assign(is_valid=tiny_table.label == 'red'))


def test_a_class_without_validation_images_stays_in_the_vocabulary(small, tiny_table):
    table = tiny_table.assign(is_valid=tiny_table.is_valid & (tiny_table.label != 'green'))
    assert small(table).vocab == ['blue', 'green', 'red']


def test_the_seed_fixes_the_order_of_the_training_images(small):
    def order(seed): return [y.tolist() for _, y in small(seed=seed, augment=[]).train]
    assert order(1) == order(1) != order(3)


def test_loaders_do_not_change_the_random_state(small, same_random_state):
    with same_random_state(): small(seed=5)


def test_the_order_differs_in_each_epoch(small):
    dl = small().train
    assert [y.tolist() for _, y in dl] != [y.tolist() for _, y in dl]


@pytest.mark.parametrize('size', [24, 40])
def test_size_is_that_of_training_and_validation_images(small, size):
    dls = small(size=size)
    assert dls.size == size
    assert all(dl.one_batch()[0].shape[1:] == (3, size, size) for dl in dls.loaders)


def test_a_worker_process_gives_the_same_validation_images(small):
    dls = small(num_workers=1)
    assert dls.valid.fake_l.num_workers == 1
    assert torch.equal(images(dls.valid), images(small(num_workers=0).valid))
    assert len(images(dls.train)) == 12


@pytest.mark.parametrize('kwargs', [dict(bs=0), dict(size=0)])
def test_empty_batches_and_images_are_refused(tiny_table, kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))): loaders(tiny_table, **kwargs)


@pytest.mark.parametrize('size', [16, 32, 224])
def test_presize_is_larger_by_a_seventh(size): assert size*1.1 < presize(size) < size*1.2


def test_batches_equal_fetching_image_by_image(small, tiny_table):
    for dl, of_valid in zip(small(augment=[], bs=5).loaders, (False, True)):
        rows = tiny_table[tiny_table.is_valid == of_valid].reset_index(drop=True)
        expected = torch.stack([load_crop(f, 32) for f in rows.file])
        for numbers in [0, 3, 2, 5, 1], [4, 4, 0, 1, 2]:
            x, y = next(dl.create_batches(numbers))
            assert torch.equal(x, expected[numbers]) and [dl.vocab[i] for i in y] == rows.label[numbers].tolist()
            dl.decoded = None  # decoded again
        x, y = next(iter(dl.new(shuffle=False)))
        assert torch.equal(x, expected[:5]/255) and [dl.vocab[i] for i in y] == rows.label[:5].tolist()
        slowly = dl.new(shuffle=False)
        slowly.side = None  # image by image, as in fastai
        theirs, labels = next(iter(slowly))
        assert (x - theirs).abs().mean() < 2/255 and torch.equal(labels, y)


def test_training_batches_hold_each_image_once_with_its_own_label(small, tiny_table):
    rows = tiny_table[~tiny_table.is_valid]
    expected = {load_crop(f, 32).numpy().tobytes(): label for f, label in zip(rows.file, rows.label)}
    dls = small(augment=[])
    seen = [((x*255).round().byte().numpy().tobytes(), dls.vocab[i]) for xs, ys in dls.train for x, i in zip(xs, ys)]
    assert sorted(seen) == sorted(expected.items())


def test_unlabelled_images_are_batches_of_images_only(small, tiny_table):
    dl = small().test_dl(tiny_table[['file']].iloc[:7])
    assert dl.targets is None and not dl.decoded
    batches = list(dl)
    assert all(len(b) == 1 for b in batches)
    assert torch.equal(torch.cat([x for x, in batches]), torch.stack([load_crop(f, 32) for f in tiny_table.file[:7]])/255)


def test_labelled_test_images_have_their_labels(small, tiny_table):
    rows = tiny_table.iloc[5:14]
    dl = small().test_dl(rows, with_labels=True)
    assert [dl.vocab[i] for _, y in dl for i in y] == rows.label.tolist()
    assert torch.equal(images(dl), torch.stack([load_crop(f, 32) for f in rows.file])/255)


def test_an_unknown_label_is_named(small, tiny_table):
    rows = tiny_table.iloc[:3].assign(label=['red', 'mauve', 'ecru'])
    with pytest.raises(ValueError, match='none of the 3 classes: ecru, mauve; .* blue, green, red'):
        small().test_dl(rows, with_labels=True).targets  # noqa: B018


def test_new_loaders_share_decoded_images_of_the_same_images_only(small):
    dls = small()
    assert (dls.train.side, dls.valid.side) == (37, 32) and isinstance(dls.train.decoded, DecodedImages)
    again = dls.train.new(shuffle=False)
    assert again.side == 37 and again.decoded is dls.train.decoded and again.bs == 4
    other = dls.train.new(dls.valid_ds)
    assert other.side == 37 and other.decoded is None
    assert len(list(other)) and len(other.dataset) == 6
    assert len(other.targets) == 6  # not those of the other images


def test_an_image_broken_later_is_named(small, tiny_table, tmp_path):
    file = tmp_path/'later.png'
    Image.new('RGB', (40, 40)).save(file)
    dls = small(tiny_table.assign(file=[file if v else f for f, v in zip(tiny_table.file, tiny_table.is_valid)]))
    file.write_text('no image any more')
    with pytest.raises(ImageProblem, match='later.png: not an image'): images(dls.valid)


@pytest.mark.parametrize('part', ['train', 'valid'])
def test_show_batch_shows_images_with_their_labels(small, part):
    from matplotlib import pyplot as plt
    plt.close('all')
    getattr(small(bs=6), part).show_batch(max_n=4)
    axes = plt.gcf().axes
    titles = [ax.get_title() for ax in axes if ax.images]
    assert len(titles) == 4 and set(titles) <= {'red', 'green', 'blue'}
    assert all(ax.images[0].get_array().shape == (32, 32, 3) for ax in axes if ax.images)
    plt.close('all')


def test_show_batch_unique_shows_one_image_with_several_augmentations(small):
    from matplotlib import pyplot as plt
    plt.close('all')
    small(bs=6).show_batch(max_n=4, unique=True)
    shown = [ax for ax in plt.gcf().axes if ax.images]
    assert len(shown) == 4 and len({ax.get_title() for ax in shown}) == 1
    assert len({ax.images[0].get_array().tobytes() for ax in shown}) == 4
    plt.close('all')


def test_a_custom_index_does_not_mix_up_images(small, tiny_table):
    shuffled = tiny_table.sample(frac=1, random_state=3).set_index(pd.Index(range(100, 118)))
    dls = small(shuffled, augment=[])
    rows = shuffled[shuffled.is_valid]
    assert [dls.vocab[i] for _, y in dls.valid for i in y] == rows.label.tolist()
    assert torch.equal(images(dls.valid), torch.stack([load_crop(f, 32) for f in rows.file])/255)


def epochs(dls, n=2): return [(x, y) for _ in range(n) for dl in dls.loaders for x, y in dl]


@pytest.mark.parametrize('fits', [True, False])
def test_batches_are_the_same_wherever_images_are_stored(small, fits, monkeypatch):
    monkeypatch.setattr('pet_classifier.data.decoded_images.fits_on_device', lambda n_bytes, device: fits)
    there, here = small(keep=True, bs=5, device='cpu'), small(keep=False, bs=5, device='cpu')
    assert there.train.decoded.fits == fits and not here.train.decoded.fits
    for seed, (one, two) in enumerate([(there, here), (there.valid, here.valid)]):
        torch.manual_seed(seed)
        ours = epochs(one) if seed == 0 else list(one)
        torch.manual_seed(seed)
        theirs = epochs(two) if seed == 0 else list(two)
        assert len(ours) == len(theirs)
        for (x, y), (x2, y2) in zip(ours, theirs):
            assert torch.equal(x, x2) and torch.equal(y, y2) and type(x) is type(x2) and type(y) is type(y2)
            assert x.stride() == x2.stride()


def test_stored_images_are_not_used_for_other_rows(small, tiny_table):
    dls = small(keep=True, device='cpu')
    others = dls.test_dl(tiny_table[~tiny_table.is_valid].head(3), with_labels=True)
    assert others.decoded is None
    assert torch.equal(others.one_batch()[0], small(augment=[]).train.new(shuffle=False).one_batch()[0][:3])


def test_show_batch_unique_works_with_stored_images(small):
    small(keep=True, device='cpu').show_batch(unique=True, max_n=3)


def test_keep_with_workers_is_refused(small):
    with pytest.raises(ValueError, match='num_workers=2: workers cannot use images on a device'): small(keep=True, num_workers=2)


@pytest.mark.parametrize('label', ['cost_$5^_to_$10', '$$', r'$\frac{', 'a_$_b_$', '${}$', r'\$x$', '%$#$&'])
@pytest.mark.slow
def test_a_class_name_that_looks_like_a_formula_is_shown_literally(tiny_table, label, tmp_path):
    from matplotlib import pyplot as plt

    from pet_classifier.evaluation.interpretation import PetInterpretation
    table = tiny_table.assign(label=tiny_table.label.replace('red', label))
    dls = loaders(table, size=32, bs=12)
    dls.show_batch(max_n=12)
    assert label in [ax.get_title() for ax in plt.gcf().axes]
    valid = dls.valid.items
    targets = np.array([dls.vocab.o2i[v] for v in valid.label])
    wrong = np.eye(3, dtype=np.float32)[(targets + 1) % 3]
    interp = PetInterpretation(list(valid.file), list(dls.vocab), targets, wrong)
    figures = [plt.gcf(), interp.plot_confusion_matrix(), interp.plot_top_losses(6), interp.plot_most_confused()]
    for i, fig in enumerate(figures): fig.savefig(tmp_path/f'{i}.png', dpi=20)
    plt.close('all')


def test_several_sizes_load_the_largest_and_are_remembered(tiny_table):
    dls = loaders(tiny_table, size=(48, 32), bs=4)
    assert (dls.size, dls.sizes) == (48, (32, 48)) and dls.one_batch()[0].shape[-1] == 48
    assert loaders(tiny_table, size=32).sizes == (32,)
    with pytest.raises(ValueError, match=r'size=\(32, 32\): expected'): loaders(tiny_table, size=(32, 32))
