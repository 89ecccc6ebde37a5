"Which images must stay on one side of a split, and the folds that keep them there."
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from PIL import Image

from pet_classifier.data.groups import folds, group_split, image_groups, lone_classes, time_taken
from pet_classifier.data.labels import label_from_lists
from pet_classifier.data.splits import check_split, random_split

stratifies = pytest.mark.skipif(tuple(map(int, sklearn.__version__.split('.')[:2])) < (1, 8), # the last one for Python 3.10
                                reason='StratifiedGroupKFold(shuffle=True) stratifies from scikit-learn 1.8 on')


def table(**sizes):
    files = [f'pets/{label}_{i}.jpg' for label, n in sizes.items() for i in range(n)]
    return label_from_lists(files, [label for label, n in sizes.items() for _ in range(n)])


def pairs(*names): return pd.DataFrame([[f'pets/{a}.jpg', f'pets/{b}.jpg'] for a, b in names], columns=['file', 'other'])


def together(t, groups): return {frozenset(f.stem for f in g.file) for _, g in t.groupby(groups.to_numpy()) if len(g) > 1}


# image_groups

def test_alone_each_image_is_its_own_group(): assert image_groups(table(a=3, b=2)).nunique() == 5


def test_pairs_chain_up():
    t = table(a=5, b=2)
    assert together(t, image_groups(t, pairs(('a_4', 'a_1'), ('a_1', 'b_0')))) == {frozenset({'a_4', 'a_1', 'b_0'})}


def test_pairs_of_files_that_are_not_in_the_table_are_ignored():
    assert image_groups(table(a=2, b=1), pairs(('a_0', 'z_1'))).nunique() == 3


def test_features_do_not_make_a_class_one_group():
    t, alike = table(a=3, b=3), pairs(('a_0', 'a_1'), ('a_1', 'a_2'), ('b_0', 'b_1'))
    assert together(t, image_groups(t, alike.assign(seen_by='features'))) == {frozenset({'b_0', 'b_1'})}
    certain = together(t, image_groups(t, alike.assign(seen_by='hash')))
    assert certain == {frozenset({'a_0', 'a_1', 'a_2'}), frozenset({'b_0', 'b_1'})}


def test_a_column_joins_equal_values_and_nothing_that_is_missing():
    t = table(a=4, b=2).assign(group=['x', '', None, float('nan'), 'x', ''])
    assert together(t, image_groups(t)) == {frozenset({'a_0', 'b_0'})}


def test_sources_are_merged():
    t = table(a=4, b=1).assign(group=['x', 'x', '', '', ''])
    assert together(t, image_groups(t, pairs(('a_1', 'a_3')))) == {frozenset({'a_0', 'a_1', 'a_3'})}


def test_a_pattern_without_a_slash_sees_the_name_and_one_with_it_the_path():
    t = label_from_lists(['pets/1/x_1.jpg', 'pets/1/y_1.jpg', 'pets/2/x_2.jpg'], ['a', 'a', 'b'])
    assert together(t, image_groups(t, pattern='^(.)_')) == {frozenset({'x_1', 'x_2'})}
    assert together(t, image_groups(t, pattern='/([^/]+)/[^/]+$')) == {frozenset({'x_1', 'y_1'})}


def test_a_pattern_that_matches_some_leaves_the_others_alone():
    t = table(a=3, b=1)
    assert together(t, image_groups(t, pattern='^(a)_[01]')) == {frozenset({'a_0', 'a_1'})}


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match='matches none of 3 images'): image_groups(table(a=2, b=1), pattern='z(.)')


def test_names_do_not_depend_on_the_order_of_the_rows():
    t, twins = table(a=4, b=3), pairs(('a_3', 'a_1'), ('b_2', 'b_0'))
    again = t.sample(frac=1, random_state=1)
    pd.testing.assert_series_equal(image_groups(again, twins).sort_index(), image_groups(t, twins))


@pytest.fixture
def photos(tmp_path):
    def photo(name, taken):
        exif = Image.Exif()
        if taken: exif.get_ifd(0x8769)[0x9003] = taken
        Image.new('RGB', (8, 8)).save(tmp_path/name, exif=exif)
        return tmp_path/name
    times = '2024:01:01 00:00:10', '2024:01:01 00:00:00', None, '2024:01:01 00:00:05', 'no time', '2024:01:01 00:01:00'
    return label_from_lists([photo(f'{i}.jpg', t) for i, t in enumerate(times)], list('ababab'))


def test_a_burst_is_a_chain_of_photos(photos):
    assert together(photos, image_groups(photos, seconds=5)) == {frozenset('013')}
    assert image_groups(photos, seconds=4).nunique() == 6


def test_a_file_that_is_no_image_has_no_time(tmp_path):
    (tmp_path/'x.jpg').write_bytes(b'no image')
    assert time_taken(tmp_path/'x.jpg') is None and time_taken(tmp_path/'nowhere.jpg') is None


@pytest.mark.parametrize('seconds', [0, -1, float('nan')])
def test_seconds_are_above_0(photos, seconds):
    with pytest.raises(ValueError, match='expected a number above 0'): image_groups(photos, seconds=seconds)


# folds

BREEDS = table(**{f'breed{i}': 7 for i in range(37)})


def test_each_class_is_in_each_fold_in_its_share():
    counts = pd.crosstab(BREEDS.label, folds(BREEDS))
    assert counts.shape == (37, 5) and set(counts.to_numpy().ravel()) == {1, 2}


@stratifies
@pytest.mark.parametrize('seed', range(5))
def test_groups_are_never_divided_and_shares_stay_about_right(seed):
    rng = np.random.default_rng(seed)
    names = [f.stem for f in BREEDS.file]
    twins = image_groups(BREEDS, pairs(*[rng.choice(names, 2, replace=False) for _ in range(30)]))
    fold = folds(BREEDS, seed=seed, groups=twins)
    assert (pd.Series(fold).groupby(twins).nunique() == 1).all()
    assert np.ptp(np.bincount(fold)) <= 8 and set(pd.crosstab(BREEDS.label, fold).to_numpy().ravel()) <= {0, 1, 2, 3, 4}


def test_the_same_seed_is_the_same_folds_in_any_order():
    again = BREEDS.sample(frac=1, random_state=3)
    assert (folds(again) == folds(BREEDS)[again.index]).all() and (folds(BREEDS, seed=3) != folds(BREEDS)).any()


def test_the_column_is_used_unless_groups_are_given():
    t = table(a=6, b=6).assign(group=[0, 0, 0, 1, 1, 1]*2)
    assert (pd.Series(folds(t)).groupby(t.group).nunique() == 1).all()
    assert pd.Series(folds(t, groups=range(12))).groupby(t.group).nunique().max() > 1


def test_small_classes_neither_warn_nor_fail():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert set(folds(table(a=9, b=2, c=1))) == set(range(5))
        assert set(folds(table(a=3, b=2, c=1))) == {0, 1, 2}
        folds(table(a=9, b=2, c=1).assign(group=['x', 'x', *range(10)]))


@stratifies
def test_a_class_that_can_be_separated_is_never_left_without_training_images():
    t = table(a=20, b=2, c=3)
    for seed in range(20):
        for groups in None, image_groups(t, pairs(('a_1', 'a_2'), ('c_0', 'c_1'))):
            assert pd.Series(folds(t, seed=seed, groups=groups)).groupby(t.label).nunique().min() > 1


def test_what_cannot_be_dealt_is_refused():
    with pytest.raises(ValueError, match='at least 2 folds'): folds(BREEDS, 1)
    with pytest.raises(ValueError, match='no class of 2 images has two'): folds(table(a=1, b=1))
    with pytest.raises(ValueError, match='3 groups for 259 images'): folds(BREEDS, groups=[1, 2, 3])


def test_classes_of_one_image_or_one_group_are_named():
    t = table(a=3, b=2, c=1)
    assert lone_classes(t) == ['c'] and lone_classes(t, image_groups(t, pairs(('b_0', 'b_1')))) == ['b', 'c']


# one split

@pytest.mark.parametrize('pct', [0.1, 0.2, 0.3, 0.5, 0.8])
def test_a_split_has_its_share_and_divides_no_group(pct):
    t = BREEDS.assign(group=[f'{l}{n % 2}' if n % 7 < 2 else n for n, l in enumerate(BREEDS.label)])
    split = random_split(t, pct)
    assert split.groupby('group').is_valid.nunique().max() == 1 and abs(split.is_valid.mean() - pct) < 0.05
    assert check_split(split) is split


@pytest.mark.parametrize('seed', range(10))
def test_each_class_that_can_be_divided_is_in_both_parts(seed):
    t = table(a=20, b=2, c=3, d=1)
    held_out = group_split(t, 0.2, seed, image_groups(t, pairs(('a_1', 'a_2'), ('c_0', 'c_1'))))
    assert set(t.label[held_out]) == {'a', 'b', 'c'} and set(t.label[~held_out]) == {'a', 'b', 'c', 'd'}


def test_a_class_of_one_group_is_trained_on():
    t = table(a=10, b=4)
    assert not group_split(t, groups=[*range(10), *'xxxx'])[10:].any()


def test_a_table_without_groups_is_split_as_before():
    assert random_split(BREEDS).equals(random_split(BREEDS.assign(group=range(259))).drop(columns='group'))
