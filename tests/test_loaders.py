"Batches are what was asked for, in an order that a seed fixes."
import pytest
import torch
from fastai.vision.augment import aug_transforms
from PIL import Image

from pet_classifier.loaders import default_augment, loaders


def pictures(dl): return torch.cat([x for x, _ in dl])


@pytest.fixture
def small(tiny_table):
    def small(table=tiny_table, **kwargs): return loaders(table, **{'size': 32, 'bs': 4, **kwargs})
    return small


@pytest.mark.parametrize('n, bs, sizes', [(12, 64, [12]), (12, 12, [12]), (12, 5, [5, 5]), (13, 4, [4, 4, 4]), (13, 12, [12])])
def test_training_batches_are_all_of_one_size_and_never_of_one_picture(small, tiny_table, n, bs, sizes):
    table = tiny_table.copy()
    table.loc[table.index[table.is_valid][:n-12], 'is_valid'] = False
    assert [len(x) for x, _ in small(table, bs=bs).train] == sizes


def test_all_validation_pictures_are_there_in_the_order_of_the_table(small, tiny_table):
    dls = small(bs=5)
    valid = tiny_table[tiny_table.is_valid]
    assert [dls.vocab[i] for _, y in dls.valid for i in y] == valid.label.tolist()
    assert dls.vocab == ['blue', 'green', 'red'] and len(dls.valid_ds) + len(dls.train_ds) == len(tiny_table)


def test_validation_pictures_are_the_same_on_each_pass(tiny_dls):
    first = pictures(tiny_dls.valid)
    assert torch.equal(first, pictures(tiny_dls.valid)) and first.std() > 0.05


def test_training_pictures_are_another_view_on_each_pass(small):
    dl = small(bs=12).train.new(shuffle=False)
    one, two = pictures(dl), pictures(dl)
    assert one.shape == two.shape == (12, 3, 32, 32) and ((one - two).abs().mean((1, 2, 3)) > 1e-3).all()


def test_without_augmentation_training_pictures_are_size_by_size_and_stay_as_they_are(small):
    dl = small(bs=12, augment=[]).train.new(shuffle=False)
    one = pictures(dl)
    assert one.shape == (12, 3, 32, 32)
    assert torch.equal(one, pictures(dl))


@pytest.mark.parametrize('augment, side', [(None, 48), (default_augment(32, do_flip=False), 48), (aug_transforms(size=32), 48),
                                           (aug_transforms(), 32), ([], 32)], ids='default no-flip fastai unsized none'.split())
def test_transforms_that_make_the_size_get_pictures_to_cut_from(small, augment, side):
    dls = small(augment=augment)
    assert all(dl.one_batch()[0].shape[1:] == (3, 32, 32) for dl in dls.loaders)  # which tells the transforms whose they are
    assert dls.train.after_item(dls.train_ds[0])[0].shape == (3, side, side)
    assert dls.valid.after_item(dls.valid_ds[0])[0].shape == (3, 32, 32)


def test_without_augmentation_no_colour_is_changed(tmp_path, small, tiny_table):
    for i in range(12): Image.new('RGB', (40, 40), (200, 100, 50)).save(tmp_path/f'{i}.png')
    table = tiny_table.assign(file=[tmp_path/f'{i % 12}.png' for i in range(len(tiny_table))])
    plain = pictures(small(table, augment=[]).train)
    assert torch.allclose(plain, torch.tensor([200, 100, 50.]).view(3, 1, 1)/255, atol=1e-5)
    assert not torch.allclose(pictures(small(table).train), torch.tensor([200, 100, 50.]).view(3, 1, 1)/255, atol=1e-2)


@pytest.mark.parametrize('orientation, turned', [(1, None), (3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90),
                                                 (8, Image.Transpose.ROTATE_270)])
def test_a_phone_photo_arrives_upright(small, tiny_table, tmp_path, orientation, turned):
    upright = Image.new('RGB', (60, 60), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, 60, 30))  # red sky, blue ground
    exif = Image.Exif()
    exif[0x0112] = orientation
    (upright.transpose(turned) if turned is not None else upright).save(tmp_path/'photo.jpg', exif=exif)
    table = tiny_table.assign(file=[tmp_path/'photo.jpg' if v else f for f, v in zip(tiny_table.file, tiny_table.is_valid)])
    red, _, blue = pictures(small(table).valid)[0]
    assert red[:15].mean() > 0.9 > 0.1 > red[-15:].mean() and blue[-15:].mean() > 0.9 > 0.1 > blue[:15].mean()


def test_a_table_without_a_split_is_refused(tiny_table):
    with pytest.raises(ValueError, match="no column 'is_valid'; random_split"): loaders(tiny_table.drop(columns='is_valid'))


def test_a_class_that_is_only_validated_on_is_refused(tiny_table):
    with pytest.raises(ValueError, match='1 of 3 classes are validated on but never trained on: red'):
        loaders(tiny_table.assign(is_valid=tiny_table.label == 'red'))


def test_a_class_that_is_only_trained_on_keeps_its_place_in_the_vocabulary(small, tiny_table):
    table = tiny_table.assign(is_valid=tiny_table.is_valid & (tiny_table.label != 'green'))
    assert small(table).vocab == ['blue', 'green', 'red']


def test_the_seed_fixes_the_order_of_the_training_pictures(small):
    def order(seed): return [y.tolist() for _, y in small(seed=seed, augment=[]).train]
    assert order(1) == order(1) != order(3)


def test_loaders_leave_the_random_state(small, same_random_state):
    with same_random_state(): small(seed=5)


def test_the_order_is_another_on_each_pass(small):
    dl = small().train
    assert [y.tolist() for _, y in dl] != [y.tolist() for _, y in dl]


@pytest.mark.parametrize('size', [24, 40])
def test_size_is_kept_and_is_that_of_both_kinds_of_pictures(small, size):
    dls = small(size=size)
    assert dls.size == size
    assert all(dl.one_batch()[0].shape[1:] == (3, size, size) for dl in dls.loaders)


def test_a_worker_process_gives_the_same_validation_pictures(small):
    dls = small(num_workers=1)
    assert dls.valid.fake_l.num_workers == 1
    assert torch.equal(pictures(dls.valid), pictures(small(num_workers=0).valid))


@pytest.mark.parametrize('kwargs', [dict(bs=0), dict(size=0)])
def test_a_batch_or_a_picture_of_nothing_is_refused(tiny_table, kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))): loaders(tiny_table, **kwargs)
