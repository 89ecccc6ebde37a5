"Every source of labels makes the same table, and what is wrong with labels is caught there."
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pet_classifier.data.labels import (
    PETS_PATTERN,
    label_by_folder,
    label_by_function,
    label_by_name,
    label_by_path,
    label_from_csv,
    label_from_df,
    label_from_lists,
    preview_pattern,
)

FILES = ['p/pug_1.jpg', 'p/pug_2.jpg', 'p/english_setter_12.jpg', 'p/British_Shorthair_3.jpg']
V1 = r'/([^/]+)_\d+.jpg$'


def touch(root, names):
    for n in names:
        (root/n).parent.mkdir(parents=True, exist_ok=True)
        (root/n).touch()


@pytest.fixture
def mnist(tmp_path):
    touch(tmp_path, ['train/3/0.png', 'train/7/1.png', 'valid/3/2.png', 'valid/7/3.png'])
    return tmp_path


def frame(**more): return pd.DataFrame({'name': ['train/3/0.png', 'train/7/1.png', 'valid/3/2.png'], 'label': [0, 1, 0], **more})


# the table

def test_the_table():
    table = label_by_name(FILES)
    assert list(table) == ['file', 'label'] and table.index.tolist() == [0, 1, 2, 3]
    assert table.file.tolist() == [Path(f) for f in FILES]
    assert table.label.tolist() == ['pug', 'pug', 'english_setter', 'British_Shorthair']


def test_all_sources_make_the_same_table(mnist):
    files = sorted(mnist.rglob('*.png'))
    by_folder = label_by_folder(mnist)
    same = [label_by_path(files, r'/(\d)/\d+\.png$'), label_by_function(files, lambda f: f.parent.name),
            label_from_lists(files, [int(f.parent.name) for f in files])]
    df = pd.DataFrame({'name': [f.relative_to(mnist).as_posix() for f in files], 'label': [3., 7., 3., 7.]})
    df.to_csv(mnist/'labels.csv', index=False)
    same += [label_from_df(df, mnist), label_from_csv(mnist/'labels.csv')]
    for table in same: pd.testing.assert_frame_equal(table, by_folder[['file', 'label']])
    assert by_folder.is_valid.tolist() == [False, False, True, True] and by_folder.is_valid.dtype == bool


@pytest.mark.parametrize('label, text', [('a', 'a'), (3, '3'), (3., '3'), (np.int64(3), '3'), (np.float32(3), '3'), (3.5, '3.5'),
                                         (True, 'True'), ('007', '007'), ('柴犬', '柴犬'), (10**20, '1' + '0' * 20)])
def test_labels_become_text(label, text):
    table = label_from_lists(['a.jpg', 'b.jpg'], [label, 'other'])
    assert table.label.tolist() == [text, 'other']


@pytest.mark.parametrize('missing', [None, float('nan'), np.nan, pd.NA, pd.NaT, '', '  '])
def test_missing_labels_are_refused(missing):
    with pytest.raises(ValueError, match='1 of 3 images have no label: b.jpg'):
        label_from_lists(['a.jpg', 'b.jpg', 'c.jpg'], ['x', missing, 'y'])


def test_long_lists_are_shortened():
    files = [f'{i}.jpg' for i in range(30)]
    with pytest.raises(ValueError, match=r'29 of 30 .*: 0.jpg, 1.jpg, .*, 19.jpg, ... and 9 more; add labels'):
        label_from_lists(files, [''] * 29 + ['x'])


def test_nothing_to_label():
    for call in (lambda: label_by_name([]), lambda: label_from_lists([], []), lambda: label_by_function([], str)):
        with pytest.raises(ValueError, match='no images to label'): call()


def test_an_image_listed_twice_is_refused():
    with pytest.raises(ValueError, match='1 of 3 images are listed more than once: b.jpg'):
        label_from_lists(['a/b.jpg', './a/b.jpg', 'c.jpg'], ['x', 'x', 'y'])


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="2 images and one label, 'pug'; .*two classes; preview_pattern"):
        label_by_name(FILES[:2])
    with pytest.raises(ValueError, match="one label, '7'"): label_from_lists(['a', 'b'], [7, 7.])


# patterns

def test_the_pets_pattern():
    names = {'Egyptian_Mau_139.jpg': 'Egyptian_Mau', 'a_1_2.jpg': 'a_1', '柴犬_1.jpg': '柴犬', "o'dog x_1.jpg": "o'dog x"}
    assert label_by_name(names).label.tolist() == list(names.values())
    for bad in 'pug.jpg', 'pug_.jpg', '_1.jpg', 'pug_1.jpeg', 'pug_1.JPG', 'pug_1xjpg', 'pug_1.jpg.bak', 'pug_1a.jpg':
        with pytest.raises(ValueError, match='1 of 3 names do not match'): label_by_name([*FILES[1:3], bad], PETS_PATTERN)


def test_search_not_match(): assert label_by_name(['x_cat1', 'x_dog2'], '(cat|dog)').label.tolist() == ['cat', 'dog']


def test_a_group_named_label_takes_precedence():
    assert label_by_name(['1_a.jpg', '2_b.jpg'], r'(\d)_(?P<label>.)').label.tolist() == ['a', 'b']


def test_unmatched_names_are_all_listed():
    bad = [f'README {i}.md' for i in range(40)]
    with pytest.raises(ValueError) as e: label_by_name(FILES + bad)
    assert str(e.value).startswith(f"40 of 44 names do not match '{PETS_PATTERN}': README 0.md, ")
    assert all(b in str(e.value) for b in bad) and 'more' not in str(e.value)
    assert str(e.value).endswith("the pattern is searched in the file name, not in the path")


def test_the_pattern_of_fastai_1_is_explained():
    with pytest.raises(ValueError) as e: label_by_name(FILES, V1)
    assert "never contains '/'" in str(e.value) and str(e.value).endswith(f"is now '{PETS_PATTERN}'")
    assert label_by_path(FILES, V1).label.tolist() == label_by_name(FILES).label.tolist()


@pytest.mark.parametrize('func', [label_by_name, label_by_path, preview_pattern])
@pytest.mark.parametrize('pattern, says', [(r'^.+_\d+\.jpg$', 'has no group'), (r'^(?:.+)_\d+', 'has no group'),
                                           (r'^(.+_\d+', 'is not a regular expression: missing )'),
                                           ('*(a)', 'is not a regular expression')])
def test_invalid_patterns(func, pattern, says):
    with pytest.raises(ValueError) as e: func(FILES, pattern)
    assert str(e.value).startswith(f"'{pattern}' {says}")


def test_an_empty_label_is_not_a_class():
    with pytest.raises(ValueError, match='1 of 2 .* no label: _1.jpg'): label_by_name(['_1.jpg', 'a_1.jpg'], r'^(.*)_')
    with pytest.raises(ValueError, match='1 of 2 .* no label: b.jpg'): label_by_name(['a.jpg', 'b.jpg'], r'^(?:(a)|b)')


def test_label_by_path_searches_the_whole_path():
    with pytest.raises(ValueError, match=r"1 of 3 names do not match .*: p/9/a.gif; the pattern is searched in the path"):
        label_by_path(['p/3/a.png', 'p/7/a.png', 'p/9/a.gif'], r'/(\d)/a\.png$')


def test_preview_shows_the_unmatched_first_then_one_of_each_label():
    names = ['a_1.jpg', 'a_2.jpg', 'a_3.jpg', 'b_1.jpg', 'x.txt', 'c_1.jpg', 'y.txt', 'b_2.jpg']
    seen = preview_pattern([Path('deep')/n for n in names], n=99)
    assert list(seen) == ['name', 'label', 'matched'] and seen.matched.dtype == bool
    assert seen.name.tolist() == ['x.txt', 'y.txt', 'a_1.jpg', 'b_1.jpg', 'c_1.jpg', 'a_2.jpg', 'b_2.jpg', 'a_3.jpg']
    assert seen.label.tolist() == ['', '', 'a', 'b', 'c', 'a', 'b', 'a']
    assert preview_pattern(names, n=3).equals(seen[:3]) and len(preview_pattern(names * 9)) == 10


def test_preview_of_the_path():
    seen = preview_pattern(['p/3/a.png', 'p/x.png'], r'/(\d)/', by_path=True)
    assert seen.to_dict('list') == {'name': ['p/x.png', 'p/3/a.png'], 'label': ['', '3'], 'matched': [False, True]}


def test_preview_of_nothing(): assert list(preview_pattern([])) == ['name', 'label', 'matched']


# a function, lists

def test_a_function_is_called_with_the_whole_path():
    got = []
    label_by_function(FILES, lambda f: got.append(f) or f.name)
    assert got == [Path(f) for f in FILES]


def test_a_function_that_makes_one_class():
    with pytest.raises(ValueError, match=r"one label, '7'.*called with the whole path, such as 'm/3/1.png'"):
        label_by_function(['m/3/1.png', 'm/7/2.png'], lambda f: '3' if '/3/' in f.name else '7')


def test_errors_of_the_function_pass_through():
    with pytest.raises(ZeroDivisionError): label_by_function(FILES, lambda f: 1 // 0)


@pytest.mark.parametrize('n', [0, 3, 5])
def test_lists_of_unequal_length(n):
    with pytest.raises(ValueError, match=f'4 files but {n} labels'): label_from_lists(FILES, list('ababa')[:n])


def test_lists_may_be_any_iterable():
    assert len(label_from_lists(iter(FILES), itertools.islice(itertools.cycle('ab'), 4))) == 4


# folders

def test_folders(tmp_path):
    touch(tmp_path, ['cat/1.jpg', 'dog/1.jpg', 'dog/old/2.jpg', 'cat/notes.txt'])
    with pytest.warns(UserWarning, match='dog/old belong to the class above'): table = label_by_folder(str(tmp_path))
    assert table.label.tolist() == ['cat', 'dog', 'dog'] and 'is_valid' not in table


def test_other_names_of_the_split(tmp_path):
    touch(tmp_path, [f'{part}/{c}/1.jpg' for part in ('learn', 'val') for c in 'ab'])
    assert label_by_folder(tmp_path, train='learn', valid='val').is_valid.tolist() == [False, False, True, True]
    with pytest.warns(UserWarning, match='learn/a, learn/b, val/a, val/b'): assert 'is_valid' not in label_by_folder(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, ['train/1.jpg', 'plane/1.jpg'])
    assert label_by_folder(tmp_path).label.tolist() == ['plane', 'train']


@pytest.mark.parametrize('extra, says', [('x.png', "1 of 5 images are in no class folder: x.png"),
                                         ('valid/x.png', "1 of 5 images are in no class folder: x.png"),
                                         ('test/3/x.png', 'there are images beside train/ and valid/, in test; move them')])
def test_images_in_the_wrong_place(mnist, extra, says):
    touch(mnist, [extra])
    with pytest.raises(ValueError) as e: label_by_folder(mnist)
    assert says in str(e.value)


# DataFrames and CSV files

@pytest.mark.parametrize('flags', [[True, False, True], [1, 0, 1], [1., 0., 1.], ['True', 'False', 'true'], ['1', ' 0', '1 '],
                                   np.array([1, 0, 1], bool)])
def test_is_valid_is_kept(mnist, flags):
    df = frame(is_valid=flags)
    for table in label_from_df(df, mnist), label_from_csv_of(df, mnist):
        assert table.is_valid.tolist() == [True, False, True] and table.is_valid.dtype == bool
        assert list(table) == ['file', 'label', 'is_valid']


def label_from_csv_of(df, folder, **kwargs):
    df.to_csv(folder/'labels.csv', index=False)
    return label_from_csv(folder/'labels.csv', **kwargs)


@pytest.mark.parametrize('flags, odd', [([True, None, False], 'None'), (['yes', 'no', 'yes'], "'no', 'yes'"), ([0, 1, 2], '2'),
                                        ([.5, 0, 1], '0.5')])
def test_is_valid_must_be_boolean(mnist, flags, odd):
    with pytest.raises(ValueError) as e: label_from_df(frame().assign(is_valid=pd.Series(flags, dtype=object)), mnist)
    assert str(e.value).startswith('is_valid must be True or False, 1 or 0; got also') and odd in str(e.value)


@pytest.mark.parametrize('cols, lost', [(dict(file_col='file'), "no column 'file'"),
                                        (dict(label_col='breed'), "no column 'breed'"),
                                        (dict(file_col='f', label_col='b'), "no column 'f', 'b'")])
def test_missing_columns_name_the_ones_there(mnist, cols, lost):
    for source in label_from_df, label_from_csv_of:
        with pytest.raises(ValueError) as e: source(frame(), mnist, **cols)
        assert str(e.value) == f"{lost}; there are 'name', 'label'"


def test_missing_files_are_all_named(mnist):
    df = pd.DataFrame({'name': [f'gone {i}.png' for i in range(25)] + ['train/3/0.png'], 'label': range(26)})
    with pytest.raises(FileNotFoundError) as e: label_from_df(df, mnist)
    assert str(e.value).startswith(f"25 of 26 files are not in '{mnist}'")
    assert all(f'gone {i}.png' in str(e.value) for i in range(25))


def test_missing_names_and_labels(mnist):
    for source in label_from_df, label_from_csv_of:
        with pytest.raises(FileNotFoundError, match='1 of 3 files'): source(frame().assign(name=[*frame().name[:2], None]), mnist)
        with pytest.raises(ValueError, match='1 of 3 .* no label: 1.png'): source(frame().assign(label=['a', None, 'b']), mnist)


@pytest.mark.parametrize('written, read', [(['007', '7', '07'], ['007', '7', '07']),
                                           (['NA', 'None', 'nan'], ['NA', 'None', 'nan']),
                                           ([0., 1., 0.], ['0', '1', '0']), (['1.0', '1.10', '1.0'], ['1.0', '1.10', '1.0'])])
def test_a_csv_is_read_as_text(mnist, written, read):
    assert label_from_csv_of(frame().assign(label=written), mnist).label.tolist() == read


def test_a_csv_elsewhere(mnist, tmp_path_factory):
    csv = tmp_path_factory.mktemp('elsewhere')/'l.csv'
    frame().rename(columns={'name': 'f', 'label': 'c'}).to_csv(csv, index=False)
    table = label_from_csv(csv, mnist, file_col='f', label_col='c')
    assert table.file.tolist() == [mnist/n for n in frame().name]
    with pytest.raises(FileNotFoundError, match='3 of 3'): label_from_csv(csv, file_col='f', label_col='c')


def test_a_csv_from_a_spreadsheet(mnist):
    (mnist/'l.csv').write_bytes('\ufeffname,label\r\ntrain/3/0.png,柴犬\r\ntrain/7/1.png,b\r\n'.encode())
    assert label_from_csv(mnist/'l.csv').label.tolist() == ['柴犬', 'b']


@pytest.mark.parametrize('encoding, told', [('utf-8', False), ('utf-8-sig', False), ('utf-16', False), ('cp1252', True)])
@pytest.mark.parametrize('sep', [',', ';', '\t', '|'])
def test_encodings_and_delimiters(mnist, encoding, told, sep, recwarn):
    rows = ['name,label', 'train/3/0.png,Käfer', 'train/7/1.png,001']
    (mnist/'l.csv').write_bytes('\n'.join(rows).replace(',', sep).encode(encoding))
    assert label_from_csv(mnist/'l.csv').label.tolist() == ['Käfer', '001']
    assert [str(w.message).split(',')[0] for w in recwarn] == ["'l.csv' is not UTF-8"] * told


@pytest.mark.parametrize(
    'names, how',
    [
        (['train\\3\\0.png', 'train/7/1.png'], 'with / for'),
        (['train/3/0', 'train/7/1'], 'suffix'),
        (['/data/train/3/0.png', '/data/train/7/1.png'], 'folder'),
    ],
)
def test_differently_written_names_are_found_with_a_warning(mnist, names, how):
    df = pd.DataFrame({'name': names, 'label': [3, 7]})
    for source in label_from_df, label_from_csv_of:
        with pytest.warns(UserWarning, match=f'of 2 files were found .*{how}'): table = source(df, mnist)
        assert table.file.tolist() == [mnist/'train/3/0.png', mnist/'train/7/1.png']


def test_a_single_folder_around_the_classes_is_entered(tmp_path):
    touch(tmp_path, [f'pets/{part}/{c}/1.jpg' for part in ('train', 'valid') for c in 'ab'])
    table = label_by_folder(tmp_path)
    assert table.label.tolist() == ['a', 'b']*2 and table.is_valid.tolist() == [False]*2 + [True]*2


@pytest.mark.parametrize('name', ['a b.jpg', 'quote".jpg', 'comma,.jpg', 'line\nend.jpg', '柴犬.jpg'])
def test_unusual_names_in_a_csv(tmp_path, name):
    touch(tmp_path, [name, 'b.jpg'])
    df = pd.DataFrame({'name': [name, 'b.jpg'], 'label': ['x', 'y']})
    assert label_from_csv_of(df, tmp_path).file.tolist() == [tmp_path/name, tmp_path/'b.jpg']


def test_the_input_is_not_changed(mnist):
    df = frame(is_valid=[0, 1, 1])
    before = df.copy()
    label_from_df(df, mnist)
    pd.testing.assert_frame_equal(df, before)


@pytest.mark.parametrize('pattern', ['^((a|aa)+)$', '^(.*?a){20}P', '(?R)(a|aa)+'])
def test_exponential_backtracking_is_stopped(pattern, monkeypatch):
    monkeypatch.setattr('pet_classifier.data.labels._TIMEOUT', 0.2)
    with pytest.raises(ValueError, match='takes longer than 0.2 s, or all memory, at .aaaa'):
        label_by_name(['a'*60 + '.jpg'], pattern)


def test_names_that_are_not_utf8_are_labelled():
    table = label_by_name(['p/caf\udce9_1.jpg', 'p/pug_2.jpg'])
    assert table.label.tolist() == ['caf\udce9', 'pug'] and sorted(set(table.label)) == sorted(table.label)
