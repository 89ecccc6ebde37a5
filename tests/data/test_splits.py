"Splits are stratified, reproducible, and saved and loaded unchanged."
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pet_classifier.data.images import list_images
from pet_classifier.data.labels import label_by_name, label_from_lists
from pet_classifier.data.splits import check_split, load_split, random_split, save_split, split_summary


def table(folder='pets', **sizes):
    "Return a labelled table with `sizes` images per class."
    files = [f'{folder}/{label}_{i}.jpg' for label, n in sizes.items() for i in range(n)]
    return label_from_lists(files, [label for label, n in sizes.items() for _ in range(n)])


def counts(split): return dict(split_summary(split).set_index('label').valid)


def chosen(split): return {f.name for f in split.file[split.is_valid]}


BREEDS = {f'breed{i}': 7 for i in range(37)}


# drawing lots

@pytest.mark.parametrize('sizes, pct, valid', [
    (dict(a=10, b=10), .2, dict(a=2, b=2)),
    (dict(a=100, b=50, c=3, d=2), .2, dict(a=20, b=10, c=1, d=1)),
    (dict(a=2, b=2), .01, dict(a=1, b=1)),          # at least one validation image
    (dict(a=2, b=3), .99, dict(a=1, b=2)),          # and one training image
    (dict(a=14, b=11), .5, dict(a=7, b=5)),         # 12.5 is rounded to even
    (dict(a=7, b=13), .2, dict(a=1, b=3)),          # 1.4 and 2.6: the larger remainder is rounded up
    (dict(a=100, **{f'x{i}': 2 for i in range(10)}), .2, dict(a=20, **{f'x{i}': 1 for i in range(10)})),
    (dict(a=7, b=7), 2 / 7, dict(a=2, b=2)),
    (dict(a=10, b=10), .1 + .2, dict(a=3, b=3)),
])
def test_counts_per_class(sizes, pct, valid): assert counts(random_split(table(**sizes), pct)) == valid


@pytest.mark.parametrize('pct', [.1, .2, .25, .3, .5, .8])
@pytest.mark.parametrize('seed', range(3))
def test_the_split_is_stratified_and_the_total_is_right(pct, seed):
    sizes = dict(zip([f'c{i}' for i in range(40)], np.random.default_rng(seed).integers(10, 60, 40).tolist(), strict=True))
    valid = counts(random_split(table(**sizes), pct, seed))
    assert all(abs(valid[c] - n * pct) < 1 for c, n in sizes.items())
    assert sum(valid.values()) == round(sum(sizes.values()) * pct)


def test_equal_remainders_are_ordered_at_random():
    given = [frozenset(c for c, n in counts(random_split(table(**BREEDS), seed=s)).items() if n == 2) for s in range(5)]
    assert [len(g) for g in given] == [15] * 5 and len(set(given)) == 5


def test_the_same_seed_is_the_same_split():
    t = table(**BREEDS)
    pd.testing.assert_frame_equal(random_split(t, seed=5), random_split(t, seed=5))
    assert chosen(random_split(t, seed=5)) != chosen(random_split(t, seed=6))


def test_the_split_of_seed_2_does_not_change():
    "Published results depend on it."
    assert chosen(random_split(table(a=5, b=5, c=10))) == {'a_2.jpg', 'b_4.jpg', 'c_3.jpg', 'c_8.jpg'}


def test_row_order_folder_and_random_state_do_not_matter():
    t = table(**BREEDS)
    want = chosen(random_split(t))
    shuffled = t.sample(frac=1, random_state=0)
    np.random.seed(99)
    assert chosen(random_split(shuffled)) == want
    assert chosen(random_split(table('/else/where', **BREEDS))) == want
    pd.testing.assert_frame_equal(random_split(shuffled).sort_index(), random_split(t))


def test_numpys_random_state_is_not_changed():
    np.random.seed(1)
    want = np.random.random()
    np.random.seed(1)
    random_split(table(a=9, b=9))
    assert np.random.random() == want


def test_an_index_with_duplicates():
    t = pd.concat([table(a=5, b=5), table('more', a=5, b=5)])
    assert counts(random_split(t)) == dict(a=2, b=2)


def test_a_new_table_is_made_and_an_old_split_replaced():
    t = table(a=5, b=5)
    split = random_split(t)
    assert list(t) == ['file', 'label'] and list(split) == ['file', 'label', 'is_valid'] and split.is_valid.dtype == bool
    assert chosen(random_split(split.assign(is_valid=True))) == chosen(split)


def test_classes_with_a_single_image_are_named():
    with pytest.raises(ValueError, match='2 of 4 classes have a single image.*: b, d; add'):
        random_split(table(a=5, b=1, c=2, d=1))


@pytest.mark.parametrize('pct', [0, 1, 20, -.1, float('nan')])
def test_valid_pct_must_be_between_0_and_1(pct):
    with pytest.raises(ValueError, match=f'valid_pct={pct} must be between 0 and 1'): random_split(table(a=5, b=5), pct)


# a look at it

def test_summary():
    split = table(b=3, a=2).assign(is_valid=[True, False, False, True, True])
    assert split_summary(split).to_dict('list') == {'label': ['a', 'b'], 'train': [0, 2], 'valid': [2, 1]}
    assert split_summary(split.assign(is_valid=False)).valid.tolist() == [0, 0]


def test_check_split_returns_the_table():
    split = random_split(table(a=5, b=5))
    assert check_split(split) is split


@pytest.mark.parametrize('flags, says', [
    ([True] * 4, '0 training and 4 validation images'), ([False] * 4, '4 training and 0 validation images'),
    ([True, True, False, False], '1 of 2 classes have validation but no training images: a'),
    ([0, 1, 0, 1], 'must be True or False in each row, not int64'),
    ([True, None, False, False], 'must be True or False in each row, not object')])
def test_check_split_refuses(flags, says):
    with pytest.raises(ValueError) as e: check_split(table(a=2, b=2).assign(is_valid=flags))
    assert says in str(e.value)


def test_check_split_needs_a_split():
    with pytest.raises(ValueError, match="no column 'is_valid'; random_split"): check_split(table(a=2, b=2))


# kept in a file

ODD = ['a b_1.jpg', 'quote"_1.jpg', "it's_1.jpg", 'comma,_1.jpg', 'line\nend_1.jpg', 'return\r_1.jpg', '柴犬_1.jpg',
       'caf\udce9_1.jpg', 'NA_1.jpg']


def test_saving_and_loading_round_trips(tmp_path):
    files = [Path('/data/pets')/sub/n for sub in ('x', 'y/z') for n in ODD]
    split = random_split(label_from_lists(files, ['007' if '_1' in f.name and f.parent.name == 'x' else 'NA' for f in files]))
    assert save_split(split, tmp_path/'new'/'split.csv') == tmp_path/'new'/'split.csv'
    pd.testing.assert_frame_equal(load_split(split[['file', 'label']], tmp_path/'new'/'split.csv'), split)


def test_the_saved_split_is_plain_csv(tmp_path):
    save_split(table('/data/pets', a=2, b=2).assign(is_valid=[True, False, False, True]), tmp_path/'split.csv')
    want = b'file,label,is_valid\na_0.jpg,a,True\na_1.jpg,a,False\nb_0.jpg,b,False\nb_1.jpg,b,True\n'
    assert (tmp_path/'split.csv').read_bytes() == want


def test_a_saved_split_fits_another_order_and_folder(tmp_path):
    split = random_split(table('/data/pets/images', **BREEDS))
    save_split(split, tmp_path/'split.csv')
    back = load_split(table('elsewhere', **BREEDS).sample(frac=1, random_state=1), tmp_path/'split.csv')
    assert chosen(back) == chosen(split)


def test_a_given_root(tmp_path):
    split = random_split(table('/data/pets', a=3, b=3))
    save_split(split, tmp_path/'split.csv', root='/data')
    assert (tmp_path/'split.csv').read_text().splitlines()[1].startswith('pets/a_0.jpg,')
    pd.testing.assert_frame_equal(load_split(split, tmp_path/'split.csv', root='/data'), split)
    with pytest.raises(ValueError, match='only in the split'): load_split(split, tmp_path/'split.csv')
    with pytest.raises(ValueError, match="6 of 6 images are not in .*other"): save_split(split, tmp_path/'s.csv', root='/other')


def test_no_common_root(tmp_path):
    mixed = label_from_lists(['/a/1.jpg', 'b/2.jpg', '/a/3.jpg', 'b/4.jpg'], list('xxyy')).assign(is_valid=[True, False] * 2)
    with pytest.raises(ValueError, match='no common folder.*give it as root='): save_split(mixed, tmp_path/'s.csv')


def test_other_images_are_named(tmp_path):
    save_split(random_split(table(a=3, b=3, c=3)), tmp_path/'split.csv')
    other = table(a=2, b=4, c=3)
    other.loc[other.label == 'c', 'label'] = 'd'
    with pytest.raises(ValueError) as e: load_split(other, tmp_path/'split.csv')
    assert str(e.value) == ("'split.csv' is not the split of these images: 1 only in the split: a_2.jpg; "
                            '1 only in the table: b_3.jpg; 3 with another label: c_0.jpg, c_1.jpg, c_2.jpg')


@pytest.mark.parametrize('text, says', [('file,label\na_0.jpg,a\n', "not a split: it has no column is_valid, only file, label"),
                                        ('file,label,is_valid\npets/a_0.jpg,a,perhaps\n', "got also 'perhaps'"),
                                        ('file,label,is_valid\n' + 'a_0.jpg,a,True\n' * 2, '1 listed twice: a_0.jpg')])
def test_a_broken_split_file(tmp_path, text, says):
    (tmp_path/'split.csv').write_text(text)
    with pytest.raises(ValueError) as e: load_split(table(a=2, b=2), tmp_path/'split.csv')
    assert says in str(e.value)


def test_a_split_file_without_validation_images(tmp_path):
    (tmp_path/'split.csv').write_text('file,label,is_valid\n' + ''.join(f'{x}_0.jpg,{x},False\n' for x in 'ab'))
    with pytest.raises(ValueError, match='2 training and 0 validation images'):
        load_split(table(a=1, b=1), tmp_path/'split.csv')


def test_only_a_split_is_saved(tmp_path):
    with pytest.raises(ValueError, match='random_split'): save_split(table(a=2, b=2), tmp_path/'split.csv')
    assert not (tmp_path/'split.csv').exists()


def test_the_real_images(tmp_path):
    import os
    if 'PETS_DIR' not in os.environ: pytest.skip('PETS_DIR is not set: the real images are not here')
    real = label_by_name(list_images(os.environ['PETS_DIR']))
    split = random_split(real, 2 / 7, seed=0)
    assert set(counts(split).values()) == {2} and len(counts(split)) == 37
    save_split(split, tmp_path/'split.csv')
    pd.testing.assert_frame_equal(load_split(real, tmp_path/'split.csv'), split)


# a split and corrections

def corrected(table, *decisions):
    "Return `table` after decisions about its rows, and the changes"
    changes = [(table.file[i], table.label[i], label) for i, label in decisions]
    now = table.copy()
    for i, label in decisions: now.loc[i, 'label'] = label
    changes = pd.DataFrame(changes, columns=['file', 'given_label', 'label'])
    return now[now.label != ''].drop(columns='is_valid').reset_index(drop=True), changes


@pytest.fixture
def split(tmp_path):
    "A table of eight images in two folders with a split, and the file of the split"
    table = pd.DataFrame({'file': [tmp_path/'img'/l/f'{i}.jpg' for l in ('cat', 'dog') for i in range(4)],
                          'label': ['cat']*4 + ['dog']*4, 'is_valid': [False, False, True, True]*2})
    return table, save_split(table, tmp_path/'split.csv')


def test_a_split_fits_labels_that_were_corrected_since(split):
    table, file = split
    now, changes = corrected(table, (0, 'dog'), (6, ''), (5, 'cat and dog'))
    with pytest.raises(ValueError, match='1 only in the split: dog/2.jpg; 2 with another label'): load_split(now, file)
    loaded = load_split(now, file, changes=changes)
    assert loaded.label.tolist() == now.label.tolist() and loaded.is_valid.tolist() == table.is_valid.drop(6).tolist()


def test_a_split_fits_where_a_whole_folder_was_excluded(split):
    table, file = split
    now, changes = corrected(table, *((i, '') for i in range(4, 8)))
    assert load_split(now, file, changes=changes).is_valid.tolist() == [False, False, True, True]


def test_other_differences_from_a_split_are_still_refused(split):
    table, file = split
    now, changes = corrected(table, (0, 'dog'))
    with pytest.raises(ValueError, match='1 with another label: cat/1.jpg'):
        load_split(now.assign(label=['dog', 'dog', *now.label[2:]]), file, changes=changes)
    with pytest.raises(ValueError, match='1 only in the split: cat/0.jpg'): load_split(now[1:], file, changes=changes)


def test_a_corrected_split_is_loaded_with_the_same_corrections(split, tmp_path):
    table, file = split
    now, changes = corrected(table, (0, 'dog'), (6, ''))
    again = save_split(load_split(now, file, changes=changes), tmp_path/'again.csv')
    assert load_split(now, again, changes=changes).equals(load_split(now, file, changes=changes))
