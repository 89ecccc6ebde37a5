"Folders of every layout and label files of every dialect become the labelled table."
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pet_classifier.data.corrections import Corrections
from pet_classifier.data.sources import labelled_images
from pet_classifier.data.splits import random_split
from pet_classifier.run import labelled_table

NFC, NFD = (unicodedata.normalize(form, 'Käfer') for form in ('NFC', 'NFD'))
INNERMOST = '/([^/]+)/[^/]+$'


def lay(folder, *files):
    "Create images of a few pixels, each of another colour"
    for i, f in enumerate(files):
        (folder/f).parent.mkdir(parents=True, exist_ok=True)
        fmt = 'PNG' if f.lower().endswith('.png') else 'WEBP' if f.endswith('.webp') else 'JPEG'
        Image.fromarray(np.full((4, 4, 3), 40*i % 256, np.uint8)).save(folder/f, fmt)
    return folder


def labels(found, folder): return {f.relative_to(folder).as_posix(): l for f, l in zip(found.table.file, found.table.label)}


def noted(found, *words): return any(all(w in note for w in words) for note in found.notes)


# layouts

LAYOUTS = {  # files, their labels, what a note must say
    'folders': (['cat/1.jpg', 'dog/1.jpg'], {'cat/1.jpg': 'cat', 'dog/1.jpg': 'dog'}, ()),
    'deeper': (
        ['cat/in/1.jpg', 'cat/out/1.jpg', 'dog/in/1.jpg'],
        {'cat/in/1.jpg': 'cat', 'cat/out/1.jpg': 'cat', 'dog/in/1.jpg': 'dog'},
        ('cat/in', '--pattern', INNERMOST),
    ),
    'deeper here and there': (
        ['cat/1.jpg', 'cat/old/2.jpg', 'dog/1.jpg'],
        {'cat/1.jpg': 'cat', 'cat/old/2.jpg': 'cat', 'dog/1.jpg': 'dog'},
        ('cat/old',),
    ),
    'a lone folder around': (
        ['pets/cat/1.jpg', 'pets/dog/1.jpg'],
        {'pets/cat/1.jpg': 'cat', 'pets/dog/1.jpg': 'dog'},
        ("in 'pets'",),
    ),
    'flat': (
        ['cat_1.JPG', 'cat (3).png', 'dog-2.jpeg', 'dog.4.webp'],
        {'cat_1.JPG': 'cat', 'cat (3).png': 'cat', 'dog-2.jpeg': 'dog', 'dog.4.webp': 'dog'},
        ('names', '--pattern'),
    ),
    'flat without separators': (
        ['cat1.jpg', 'cat2.jpg', 'dog1.jpg', 'dog2.jpg'],
        {'cat1.jpg': 'cat', 'cat2.jpg': 'cat', 'dog1.jpg': 'dog', 'dog2.jpg': 'dog'},
        ('names',),
    ),
    'flat in a lone folder': (['all/cat_1.jpg', 'all/dog_1.jpg'], {'all/cat_1.jpg': 'cat', 'all/dog_1.jpg': 'dog'}, ('names',)),
    'cameras': (
        ['cat/IMG_1.jpg', 'cat/DSC_2.jpg', 'dog/IMG_3.jpg'],
        {'cat/IMG_1.jpg': 'cat', 'cat/DSC_2.jpg': 'cat', 'dog/IMG_3.jpg': 'dog'},
        (),
    ),
    'hidden': (
        ['cat/1.jpg', 'dog/1.jpg', '.trash/2.jpg', '__MACOSX/cat/1.jpg', 'cat/.ipynb_checkpoints/1.jpg', 'cat/._1.jpg'],
        {'cat/1.jpg': 'cat', 'dog/1.jpg': 'dog'},
        (),
    ),
    'a class called train': (['train/1.jpg', 'plane/1.jpg'], {'train/1.jpg': 'train', 'plane/1.jpg': 'plane'}, ()),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(tmp_path, layout):
    files, expected, words = LAYOUTS[layout]
    found = labelled_images(lay(tmp_path/'photos', *files))
    assert labels(found, tmp_path/'photos') == expected and 'is_valid' not in found.table and not len(found.test)
    assert bool(found.notes) == bool(words) and (not words or noted(found, *words))
    assert not len(found.broken) and found.root == tmp_path/'photos' and all(f.is_absolute() for f in found.table.file)


@pytest.mark.parametrize('train', ['train', 'Train', 'TRAINING'])
@pytest.mark.parametrize('valid', ['val', 'valid', 'Validation'])
@pytest.mark.parametrize('test', [None, 'test', 'Testing'])
@pytest.mark.parametrize('inner', ['{c}/{i}.jpg', '{c}_{i}.jpg', '{c}/indoor/{i}.jpg'])
@pytest.mark.parametrize('around', ['', 'pets/'])
def test_the_folders_are_the_split(tmp_path, train, valid, test, inner, around):
    lay(tmp_path, *[f'{around}{part}/' + inner.format(c=c, i=1) for part in (train, valid, test) if part for c in ('cat', 'dog')])
    found = labelled_images(tmp_path)
    part = [f.relative_to(tmp_path/around).parts[0] for f in found.table.file]
    assert sorted(found.table.label) == ['cat', 'cat', 'dog', 'dog'] and found.table.is_valid.dtype == bool
    assert found.table.is_valid.tolist() == [p == valid for p in part] and set(part) == {train, valid}
    assert found.test.label.tolist() == (['cat', 'dog'] if test else []) and list(found.test) == ['file', 'label']
    assert noted(found, f'{train}/ and {valid}/ are used as the split', *[f'{test}/ is a test set'] * bool(test))


def test_a_test_folder_beside_train_is_not_trained_on(tmp_path):
    lay(tmp_path, *[f'{part}/{c}/{i}.jpg' for part in ('train', 'test') for c in ('cat', 'dog') for i in range(4)])
    found = labelled_images(tmp_path)
    table = random_split(found.table, .25, 2)
    assert (
        {f.relative_to(tmp_path).parts[0] for f in table.file} == {'train'} and table.is_valid.sum() == 2 and len(found.test) == 8
    )
    assert noted(found, 'a random part of train/ is used for validation', 'test/ is a test set', 'renamed to valid/')


@pytest.mark.parametrize('where', ['test/{}.jpg', 'test/unknown/{}.jpg'])
@pytest.mark.parametrize('parts', [['train'], ['train', 'val']])
def test_an_unlabelled_test_folder_is_left_out_with_a_note(tmp_path, where, parts):
    lay(tmp_path, *[f'{part}/{c}/1.jpg' for part in parts for c in ('cat', 'dog')], *map(where.format, range(3)))
    found = labelled_images(tmp_path)
    assert set(found.table.label) == {'cat', 'dog'} and not len(found.test) and ('is_valid' in found.table) == ('val' in parts)
    assert noted(found, 'left out: 3 images') and len(found.skipped) == 3


@pytest.mark.parametrize('files, says', [
    (['cat/1.jpg', 'dog/1.jpg', 'IMG_9.jpg'], "1 of 3 images are in no class folder: IMG_9.jpg"),
    (['cat/1.jpg', 'dog/1.jpg', 'IMG_9.jpg', 'cover.png'], "2 of 4 images are in no class folder: IMG_9.jpg, cover.png"),
    (['train/cat/1.jpg', 'train/dog/1.jpg', 'val/cat/1.jpg', 'val/s.jpg'], "1 of 4 images are in no class folder: s.jpg"),
    (['train/cat/1.jpg', 'train/dog/1.jpg', 'val/cat/1.jpg', 'fox/s.jpg'], 'but beside train/ and val/: s.jpg; move them'),
    (['train/cat/1.jpg', 'train/dog/1.jpg', 'val/cat/1.jpg', 's.jpg'], 'but beside train/ and val/: s.jpg; move them'),
    (['cat_1.jpg', 'dog_1.jpg', 'cover.jpg'], '1 of 3 names do not match LABEL_NUMBER'),
    (['a3f9.jpg', '77b2.jpg', 'c0ffee1.jpg'], '3 of 3 names do not match LABEL_NUMBER'),
])
def test_unlabelled_images_are_named_and_collected(tmp_path, files, says):
    lay(tmp_path, *files)
    with pytest.raises(ValueError) as e: labelled_images(tmp_path)
    assert says in str(e.value) and '--pattern' in str(e.value)
    found = labelled_images(tmp_path, strict=False)
    assert set(found.problems.kind) >= {'name'} and len(found.table) + (found.problems.kind == 'name').sum() == len(files)


def test_a_pattern_takes_precedence_and_may_match_the_path(tmp_path):
    lay(tmp_path, 'cat/in_1.jpg', 'dog/out_2.jpg')
    assert labelled_images(tmp_path, '^(.+)_').table.label.tolist() == ['in', 'out']
    assert labelled_images(tmp_path, '^/(.)').table.label.tolist() == ['c', 'd']
    assert labelled_images(tmp_path, r'/([^/]+)_\d+.jpg$').table.label.tolist() == ['in', 'out']  # fastai 1's pattern
    with pytest.raises(ValueError, match=r"'\^\(in\)': out_2.jpg; the pattern is matched against the file name"):
        labelled_images(tmp_path, '^(in)')
    assert labelled_images(tmp_path, '^(in)', strict=False).problems.kind.tolist() == ['name', 'class']
    with pytest.raises(ValueError, match='is not a regular expression'): labelled_images(tmp_path, '(', strict=False)


def test_a_pattern_keeps_the_split_of_the_folders(tmp_path):
    lay(tmp_path, *[f'{part}/{c}/x_{i}.jpg' for part in ('train', 'val') for c in 'ab' for i in range(2)])
    assert labelled_images(tmp_path, r'_(\d)').table.is_valid.tolist() == [False]*4 + [True]*4
    lay(tmp_path, 'plane/x_0.jpg')
    found = labelled_images(tmp_path, '^/([^/]+)')
    assert set(found.table.label) == {'train', 'val', 'plane'} and 'is_valid' not in found.table
    assert noted(found, 'are not used as a split')


def test_empty_classes_and_broken_ones_are_named(tmp_path):
    lay(tmp_path, 'cat/1.jpg', 'dog/1.jpg')
    for f in 'bird/1.xyz', 'owl/1.jpg': lay(tmp_path, f) and (tmp_path/f).write_text('no image')
    (tmp_path/'fox').mkdir()
    found = labelled_images(tmp_path)
    assert set(found.table.label) == {'cat', 'dog'} and [f.name for f in found.broken.file] == ['1.jpg']
    assert noted(found, "'bird' contains no image", '1 x .xyz')
    assert noted(found, "'fox'", 'empty') and noted(found, "'owl'", 'not a class')
    assert found.problems.kind.tolist().count('class') == 3
    for label in 'cat', 'dog': (tmp_path/label/'1.jpg').write_text('no image')
    with pytest.raises(ValueError, match='no images to label: none can be opened'): labelled_images(tmp_path)


@pytest.mark.parametrize('names, by', [(['Cat', 'cat'], 'case'), (['cat', 'cat '], 'whitespace'), (['a  b', 'a b'], 'whitespace'),
                                       ([NFC, NFD], 'Unicode form')])
def test_similar_labels_are_reported_and_kept(tmp_path, names, by):
    found = labelled_images(lay(tmp_path, *[f'{n}/1.jpg' for n in [*names, 'dog']]))
    assert set(found.table.label) == {*names, 'dog'} and found.problems.kind.tolist() == ['label']
    assert noted(found, *map(repr, names), by)


@pytest.mark.parametrize('name, label', [(b'caf\xe9', r'caf\xe9'), (b'a\x1b[2J', r'a\x1b[2J'), (b'a\nb', r'a\nb'),
                                         ('a\u202eb'.encode(), r'a\u202eb'), (b'$a$', '$a$'), ('柴犬'.encode(), '柴犬')])
def test_unprintable_labels_are_escaped(tmp_path, name, label):
    found = labelled_images(lay(tmp_path, f'{os.fsdecode(name)}/1.jpg', 'dog/1.jpg'))
    assert sorted(found.table.label) == sorted([label, 'dog']) and all(f.is_file() for f in found.table.file)
    assert bool(found.notes) == (os.fsencode(label) != name)
    for text in found.notes: assert text.isprintable() and text.encode()


def test_one_class_is_enough_to_evaluate(tmp_path):
    lay(tmp_path, 'cat/1.jpg', 'cat/2.jpg')
    with pytest.raises(ValueError, match="2 images and one label, 'cat'; a classifier needs at least two classes"):
        labelled_images(tmp_path)
    assert labelled_images(tmp_path, min_classes=1).table.label.tolist() == ['cat', 'cat']
    assert labelled_images(tmp_path, strict=False).problems.kind.tolist() == ['class']


# paths

def test_links_are_followed_and_keep_their_names(tmp_path):
    lay(tmp_path, 'photos/cat/1.jpg', 'photos/dog/1.jpg', 'elsewhere/fox/1.jpg')
    (tmp_path/'photos'/'bird').symlink_to(tmp_path/'elsewhere'/'fox')
    (tmp_path/'photos'/'dog'/'loop').symlink_to(tmp_path/'photos')
    (tmp_path/'photos'/'gone').symlink_to(tmp_path/'nowhere')
    (tmp_path/'linked').symlink_to(tmp_path/'photos')
    for folder in tmp_path/'photos', tmp_path/'linked':
        found = labelled_images(folder)
        assert labels(found, folder) == {'cat/1.jpg': 'cat', 'dog/1.jpg': 'dog', 'bird/1.jpg': 'bird'}
        assert noted(found, "'loop' links to a folder") and [f.name for f in found.broken.file] == ['gone']


@pytest.mark.parametrize('form', ['photos', './photos', '../w/photos', '~/photos', 'photos/'])
def test_relative_paths(tmp_path, monkeypatch, form):
    lay(tmp_path/'w'/'photos', 'cat/1.jpg', 'dog/1.jpg')
    monkeypatch.chdir(tmp_path/'w')
    monkeypatch.setenv('HOME', str(tmp_path/'w'))
    for data in form, Path(form):
        found = labelled_images(data)
        assert found.table.file.tolist() == [tmp_path/'w'/'photos'/c/'1.jpg' for c in ('cat', 'dog')]


def test_a_deleted_current_folder(tmp_path, monkeypatch):
    lay(tmp_path, 'photos/cat/1.jpg', 'photos/dog/1.jpg')
    (tmp_path/'gone').mkdir()
    monkeypatch.chdir(tmp_path/'gone')
    (tmp_path/'gone').rmdir()
    assert len(labelled_images(tmp_path/'photos').table) == 2
    with pytest.raises(FileNotFoundError, match="'photos' is relative to the current folder, which no longer exists: .*absolute"):
        labelled_images('photos')


def test_a_run_in_the_folder_is_skipped(tmp_path):
    lay(tmp_path, 'cat/1.jpg', 'dog/1.jpg', 'run/figures/lr.png', 'cat/run2/x.png')
    for run in 'run', 'cat/run2': (tmp_path/run/'run.json').touch()
    found = labelled_images(tmp_path)
    assert (
        set(found.table.label) == {'cat', 'dog'}
        and noted(found, "'run' is the folder of a run")
        and tmp_path / 'run' in found.skipped
    )
    with pytest.raises(ValueError, match='is the folder of a training run, not of images'): labelled_images(tmp_path/'run')


def test_an_unreadable_folder_does_not_stop_the_scan(tmp_path, monkeypatch):
    lay(tmp_path, 'cat/1.jpg', 'dog/1.jpg', 'fox/1.jpg')
    scandir = os.scandir
    def refuse(path):
        if Path(path).name == 'fox': raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', refuse)
    found = labelled_images(tmp_path)
    assert set(found.table.label) == {'cat', 'dog'}
    assert found.broken.values.tolist() == [
        [tmp_path / 'fox', 'cannot be read: Permission denied']
    ] and found.problems.kind.tolist() == ['broken']


@pytest.mark.parametrize('make, error, says', [
    (lambda p: None, NotADirectoryError, 'is neither a folder nor a data set'),
    (lambda p: p.write_text('x'), NotADirectoryError, 'is a file, not a folder'),
    (lambda p: p.symlink_to('nowhere'), NotADirectoryError, 'is a broken link'),
    (lambda p: (p.mkdir(), (p/'a.txt').touch()), ValueError, 'no image in .*, which contains 1 x .txt'),
    (lambda p: p.mkdir(), ValueError, 'no image in .*, which contains no file')])
@pytest.mark.parametrize('strict', [True, False])
def test_invalid_data(tmp_path, make, error, says, strict):
    make(tmp_path/'data')
    with pytest.raises(error, match=says): labelled_images(tmp_path/'data', strict=strict)


def test_a_folder_named_like_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(lay(tmp_path, 'digits/cat/1.jpg', 'digits/dog/1.jpg'))
    assert len(labelled_images('./digits').table) == 2
    found = labelled_images('digits')
    assert set(found.table.label) == {'3', '7'}
    assert noted(found, "'digits' is the data set of that name; for the folder, give ./digits")


def test_labelled_images_begins_with_the_table(tmp_path):
    table, broken = labelled_table(lay(tmp_path, 'cat/1.jpg', 'dog/1.jpg'))
    assert table.label.tolist() == ['cat', 'dog'] and not len(broken)


# files of labels

IMAGES = ['cat/1.jpg', 'cat/2.png', 'dog/3.JPG', 'dog/4.jpg']
LABELS = ['Käfer', '001', 'Käfer', '1']


def rows(names=IMAGES, sep=',', header=('image', 'breed')):
    return '\n'.join([sep.join(header), *[f'{n}{sep}{l}' for n, l in zip(names, LABELS)]]) + '\n'


DIALECTS = {
    'plain': rows().encode(),
    'BOM': rows().encode('utf-8-sig'),
    'CRLF': rows().replace('\n', '\r\n').encode(),
    'semicolon': rows(sep=';').encode(),
    'tab': rows(sep='\t').encode(),
    'bar': rows(sep='|').encode(),
    'sep=': b'sep=;\r\n' + rows(sep=';').encode(),
    'blank after comma': rows(sep=', ').encode(),
    'cp1252': rows(sep=';').encode('cp1252'),
    'UTF-16': rows(sep='\t').encode('utf-16'),
    'UTF-16 BE without BOM': rows().encode('utf-16-be'),
    'quotes': rows().replace('Käfer', '"Käfer"').encode(),
    'backslashes': rows([n.replace('/', '\\') for n in IMAGES]).encode(),
    'no suffix': rows([n.rsplit('.')[0] for n in IMAGES]).encode(),
    'case': rows([n.upper() for n in IMAGES]).encode(),
    './': rows(['./' + n for n in IMAGES]).encode(),
    'another machine': rows(['/home/me/pets/' + n for n in IMAGES]).encode(),
    'Windows': rows(['C:\\pets\\' + n for n in IMAGES]).encode(),
    'Label Studio, local': rows(['/data/local-files/?d=' + n for n in IMAGES]).encode(),
    'no header': rows().split('\n', 1)[1].encode(),
    'blank lines': rows().replace('\n', '\n\n').encode(),
    'trailing comma': rows().replace('\n', ',\n').encode(),
}


@pytest.mark.parametrize('dialect', DIALECTS)
def test_csv_dialects(tmp_path, dialect):
    lay(tmp_path, *IMAGES)
    (tmp_path/'labels.csv').write_bytes(DIALECTS[dialect])
    found = labelled_images(tmp_path/'labels.csv')
    assert labels(found, tmp_path) == dict(zip(IMAGES, LABELS)) and found.root == tmp_path and not len(found.problems)
    assert noted(found, 'cp1252') == (dialect == 'cp1252')
    assert any('files were found' in n for n in found.notes) == (dialect in (
        'backslashes', 'no suffix', 'case', 'another machine', 'Windows', 'Label Studio, local'))


@pytest.mark.parametrize(
    'header',
    [
        ('file', 'label'),
        ('Filename', 'Class'),
        ('file_name', 'category'),
        ('path', 'species'),
        ('fname', 'target'),
        ('image_path', 'Breed'),
        ('id', 'label'),
        ('Bild', 'Tier'),
        ('name', 'class_name'),
    ],
)
def test_columns_are_detected(tmp_path, header):
    lay(tmp_path, *IMAGES)
    (tmp_path/'l.csv').write_text(rows(header=header), encoding='utf-8')
    found = labelled_images(tmp_path/'l.csv')
    assert labels(found, tmp_path) == dict(zip(IMAGES, LABELS)) and noted(found, repr(header[0]), repr(header[1]))


def test_ambiguous_columns_must_be_given(tmp_path):
    lay(tmp_path, *IMAGES)
    frame = pd.DataFrame({'a': IMAGES, 'b': IMAGES[::-1], 'x': list('pqpq'), 'y2': list('rstu')})
    frame.to_csv(tmp_path/'l.csv', index=False)
    with pytest.raises(
        ValueError, match="'l.csv': cannot tell which column has the labels; there are 'a', 'b', 'x', 'y2': .*--label-col"
    ):
        labelled_images(tmp_path/'l.csv')
    assert labelled_images(tmp_path / 'l.csv', file_col='b', label_col='x').table.file.tolist() == [
        tmp_path / f for f in IMAGES[::-1]
    ]
    with pytest.raises(ValueError, match=r"no column 'z' \(--file-col\)"): labelled_images(tmp_path/'l.csv', file_col='z')
    for how in dict(pattern='(x)'), dict(pattern='(x)', strict=False):
        with pytest.raises(ValueError, match='a pattern is for a folder'): labelled_images(tmp_path/'l.csv', **how)
    with pytest.raises(ValueError, match='is a folder; columns and a root are for'): labelled_images(tmp_path, label_col='x')


KINDS = {
    'l.csv': lambda f, p: f.to_csv(p, index=False),
    'l.tsv': lambda f, p: f.to_csv(p, sep='\t', index=False),
    'l.txt': lambda f, p: f.to_csv(p, sep=' ', index=False, header=False),
    'l.parquet': lambda f, p: f.to_parquet(p),
    'l.jsonl': lambda f, p: f.to_json(p, orient='records', lines=True),
    'l.json': lambda f, p: f.to_json(p, orient='records'),
    'map.json': lambda f, p: p.write_text(json.dumps(dict(zip(f.file, f.label)))),
    'L.CSV': lambda f, p: f.to_csv(p, index=False),
}


@pytest.mark.parametrize('kind', KINDS)
def test_kinds_of_files(tmp_path, kind, monkeypatch):
    lay(tmp_path/'images', *IMAGES)
    KINDS[kind](pd.DataFrame({'file': IMAGES, 'label': LABELS}), tmp_path/kind)
    monkeypatch.chdir(tmp_path)
    found = labelled_images(kind, root='images')
    assert labels(found, tmp_path/'images') == dict(zip(IMAGES, LABELS)) and found.root == tmp_path/'images'


@pytest.mark.parametrize(
    'column, values, valid, test',
    [
        ('is_valid', ['False', 'true', '0', '1'], [False, True, False, True], 0),
        ('split', ['train', 'val', 'train', 'valid'], [False, True, False, True], 0),
        ('Set', ['Train', 'Test', 'Train', 'Validation'], [False, False, True], 1),
        ('split', ['train', 'train', 'test', 'test'], None, 2),
    ],
)
def test_a_column_is_the_split(tmp_path, column, values, valid, test):
    lay(tmp_path, *IMAGES)
    pd.DataFrame({'file': IMAGES, 'label': list('abab'), column: values}).to_csv(tmp_path/'l.csv', index=False)
    found = labelled_images(tmp_path/'l.csv')
    assert (found.table.is_valid.tolist() if valid else None) == valid and ('is_valid' in found.table) == bool(valid)
    assert len(found.test) == test and noted(found, 'defines the split')


def test_an_invalid_split_column_is_refused(tmp_path):
    lay(tmp_path, *IMAGES)
    pd.DataFrame({'file': IMAGES, 'label': list('abab'), 'split': ['train', 'x', '', 'val']}).to_csv(
        tmp_path / 'l.csv', index=False
    )
    with pytest.raises(ValueError, match="'l.csv': the column 'split' must contain train, valid or test; got also '', 'x'"):
        labelled_images(tmp_path/'l.csv')


@pytest.mark.parametrize(
    'change, kind, says',
    [
        (
            lambda d: d.assign(file=[f'gone{i}.jpg' for i in range(30)]),
            'missing',
            '30 of 30 files are not in .*gone0.jpg, .*gone4.jpg, ... and 25 more.*--root',
        ),
        (lambda d: d.assign(label=['', *d.label[1:]]), 'label', '1 of 30 images have no label: 0.jpg'),
        (lambda d: pd.concat([d, d[:1].assign(label='other')]), 'twice', '1 of 30 images are listed with several labels: 0.jpg'),
    ],
)
def test_problems_in_a_label_file_are_raised_or_collected(tmp_path, change, kind, says):
    frame = pd.DataFrame({'file': [f'{i}.jpg' for i in range(30)], 'label': list('ab')*15})
    lay(tmp_path, *frame.file)
    change(frame).to_csv(tmp_path/'l.csv', index=False)
    with pytest.raises((ValueError, OSError), match=says): labelled_images(tmp_path/'l.csv')
    assert set(labelled_images(tmp_path/'l.csv', strict=False).problems.kind) >= {kind}


def test_a_repeated_row_is_used_once(tmp_path):
    lay(tmp_path, *IMAGES)
    (tmp_path/'l.csv').write_text(rows() + rows().split('\n', 1)[1], encoding='utf-8')
    found = labelled_images(tmp_path/'l.csv')
    assert len(found.table) == 4 and noted(found, '4 rows repeat an image')


@pytest.mark.parametrize(
    'content, says',
    [
        (b'', 'it is empty'),
        (b'file,label\na.jpg,b,c\n', 'its line 2 has 3 fields, the first has 2'),
        (b'\xff\xfea', 'is not valid utf-16'),
        (b'file,label\n', 'no images to label'),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, says):
    (tmp_path/'l.csv').write_bytes(content)
    with pytest.raises(ValueError, match=says): labelled_images(tmp_path/'l.csv')


@pytest.mark.parametrize('content', ['', '{', '[]', '3', '[1]', '{"a": {"b": 1}}', '[{"a": 1}]'])
@pytest.mark.parametrize('name', ['l.json', 'l.jsonl'])
def test_invalid_json(tmp_path, content, name):
    (tmp_path/name).write_text(content)
    with pytest.raises(ValueError, match=f"'{name}'"): labelled_images(tmp_path/name)


# Hugging Face, Label Studio

@pytest.mark.parametrize('kind', ['csv', 'jsonl', 'parquet'])
@pytest.mark.parametrize('parts', [[''], ['train', 'test'], ['train', 'validation']])
def test_hugging_face_imagefolder(tmp_path, kind, parts):
    for part in parts:
        lay(tmp_path/part, 'x/1.jpg', 'x/2.jpg')
        frame = pd.DataFrame({'file_name': ['x/1.jpg', 'x/2.jpg'], 'label': ['cat', 'dog'], 'text': ['a', 'b']})
        KINDS['l.' + kind](frame, tmp_path/part/f'metadata.{kind}')
    found = labelled_images(tmp_path)
    assert set(found.table.label) == {'cat', 'dog'} and noted(found, f'labels are taken from metadata.{kind}')
    assert (len(found.table), len(found.test), 'is_valid' in found.table) == (
        4 if 'validation' in parts else 2,
        2 * ('test' in parts),
        'validation' in parts,
    )


def test_metadata_without_labels_leaves_them_to_the_folders(tmp_path):
    lay(tmp_path, 'cat/1.jpg', 'dog/1.jpg')
    pd.DataFrame({'file_name': ['cat/1.jpg', 'dog/1.jpg'], 'text': ['a', 'b'], 'n': [1, 2]}).to_csv(
        tmp_path / 'metadata.csv', index=False
    )
    found = labelled_images(tmp_path)
    assert found.table.label.tolist() == ['cat', 'dog'] and noted(
        found, 'cannot tell which column has the labels', 'taken from the folders'
    )
    assert labelled_images(tmp_path, label_col='text').table.label.tolist() == ['a', 'b']


def tasks(choices):
    def result(c): return dict(type='choices', from_name='choice', to_name='image', value=dict(choices=[c]))

    return [
        dict(id=i, data=dict(image=f'/data/upload/1/{i:08x}-{Path(f).name}'), annotations=[dict(result=[result(c)]) for c in cs])
        for i, (f, cs) in enumerate(zip(IMAGES, choices))
    ]


@pytest.mark.parametrize('form', ['tasks', 'min', 'csv'])
def test_exports_of_label_studio(tmp_path, form):
    lay(tmp_path/'images', *[Path(f).name for f in IMAGES])
    made = tasks([['cat'], ['cat', 'cat'], ['dog'], []])
    flat = [
        dict(
            annotation_id=t['id'],
            annotator=1,
            choice=t['annotations'][0]['result'][0]['value']['choices'][0],
            created_at='2026-11-26',
            id=t['id'],
            image=t['data']['image'],
            lead_time=1.5,
        )
        for t in made[:3]
    ]
    if form == 'csv': pd.DataFrame(flat).to_csv(tmp_path/'e.csv', index=False)
    else: (tmp_path/'e.json').write_text(json.dumps(made if form == 'tasks' else flat))
    found = labelled_images(tmp_path/('e.csv' if form == 'csv' else 'e.json'), root=tmp_path/'images')
    assert labels(found, tmp_path / 'images') == {'1.jpg': 'cat', '2.png': 'cat', '3.JPG': 'dog'} and noted(
        found, "Label Studio's digits"
    )
    assert noted(found, '1 of 4 tasks have no label') == (form == 'tasks')


def test_contradictory_annotations(tmp_path):
    lay(tmp_path, *[Path(f).name for f in IMAGES])
    (tmp_path/'e.json').write_text(json.dumps(tasks([['cat', 'dog'], ['cat'], ['dog'], ['dog']])))
    with pytest.raises(ValueError, match='1 of 4 images are listed with several labels: 1.jpg'):
        labelled_images(tmp_path / 'e.json')
    found = labelled_images(tmp_path/'e.json', strict=False)
    assert len(found.table) == 3 and found.problems.kind.tolist() == ['twice']


def test_ambiguous_names_are_missing(tmp_path):
    lay(tmp_path, 'a/1.jpg', 'a/1.png', 'b/2.jpg')
    (tmp_path/'l.csv').write_text('file,label\na/1,x\nb/2,y\n')
    with pytest.raises(FileNotFoundError, match='1 of 2 files are not in'): labelled_images(tmp_path/'l.csv')


def test_names_that_are_not_utf8_are_found(tmp_path):
    lay(tmp_path, os.fsdecode(b'caf\xe9.jpg'), 'b.jpg')
    for content in b'file,label\ncaf\xe9.jpg,x\nb.jpg,y\n', b'file,label\ncaf\xe9.jpg,K\xc3\xa4\nb.jpg,y\n':
        (tmp_path/'l.csv').write_bytes(content)
        assert set(labelled_images(tmp_path/'l.csv').table.label) in ({'x', 'y'}, {'Kä', 'y'})


@pytest.mark.parametrize('pattern', [None, r'^(\w+)_\d'])
def test_a_file_that_cannot_be_opened_needs_no_label(tmp_path, draw, pattern):
    for n, label in enumerate(('red', 'blue')): draw(tmp_path/f'{label}_{n}.jpg', label, n)
    (tmp_path/'notes.jpg').write_text('no image')
    found = labelled_images(tmp_path, pattern)
    assert sorted(found.table.label) == ['blue', 'red'] and [f.name for f in found.broken.file] == ['notes.jpg']


# corrections

@pytest.fixture
def corrected(tmp_path):
    "A folder of five images, and a corrections file beside them"
    folder = lay(tmp_path, 'cat/1.jpg', 'cat/2.jpg', 'cat/3.jpg', 'dog/1.jpg', 'dog/2.jpg')
    log = Corrections(tmp_path/'corrections.csv', tmp_path)
    log.append('cat/1.jpg', 'cat', 'relabel', 'a new class')
    log.append('dog/1.jpg', 'dog', 'exclude')
    return folder, log


def test_corrections_are_applied_and_counted(corrected):
    folder, log = corrected
    found = labelled_images(folder, corrections=log.path)
    assert labels(found, folder) == {'cat/1.jpg': 'a new class', 'cat/2.jpg': 'cat', 'cat/3.jpg': 'cat', 'dog/2.jpg': 'dog'}
    assert "'corrections.csv': 1 label corrected, 1 image excluded" in found.notes and not noted(found, 'is not read')
    assert str(found.corrections) == '1 label corrected, 1 image excluded' and not len(found.problems)
    assert labelled_images(folder).corrections is None and len(labelled_images(folder).table) == 5


def test_corrections_of_a_label_file_and_of_a_test_set(tmp_path):
    lay(tmp_path/'img', 'train/cat/1.jpg', 'train/dog/1.jpg', 'test/cat/2.jpg')
    Corrections(tmp_path/'c.csv', tmp_path/'img').append('test/cat/2.jpg', 'cat', 'relabel', 'dog')
    assert labelled_images(tmp_path/'img', corrections=tmp_path/'c.csv').test.label.tolist() == ['dog']
    (tmp_path/'l.csv').write_text('file,label\ntrain/cat/1.jpg,cat\ntrain/dog/1.jpg,dog\ntest/cat/2.jpg,cat\n')
    found = labelled_images(tmp_path/'l.csv', root=tmp_path/'img', corrections=tmp_path/'c.csv')
    assert found.table.label.tolist() == ['cat', 'dog', 'dog']


def test_stale_corrections_are_problems(corrected):
    folder, log = corrected
    (folder/'dog'/'1.jpg').unlink()
    log.append('cat/2.jpg', 'horse', 'relabel', 'dog')
    found = labelled_images(folder, corrections=log.path)
    assert [(p.kind, p.file, p.problem) for p in found.problems.itertuples()] == [
        ('correction', 'cat/2.jpg', 'not applied: labeled cat, but horse when the decision was relabel'),
        ('correction', 'dog/1.jpg', 'a correction of an image that is not in the data')]
    assert noted(found, '1 corrections are not applied, because the data have changed', 'cat/2.jpg')


def test_corrections_that_leave_one_class(corrected):
    folder, log = corrected
    for i in (1, 2, 3): log.append(f'cat/{i}.jpg', 'cat', 'exclude')
    with pytest.raises(ValueError, match="one label, 'dog'"): labelled_images(folder, corrections=log.path)


def test_a_corrected_label_is_printable_and_compared_with_the_others(corrected):
    folder, log = corrected
    log.append('cat/1.jpg', 'cat', 'relabel', 'Dog\x1b')
    log.append('cat/2.jpg', 'cat', 'relabel', 'Dog')
    found = labelled_images(folder, corrections=log.path)
    assert set(found.table.label) == {'cat', 'dog', 'Dog', 'Dog\\x1b'} and noted(found, "'Dog', 'dog'", 'differ only by case')


def test_a_corrections_file_that_is_none(corrected):
    folder, _ = corrected
    with pytest.raises(FileNotFoundError, match='no file of corrections'): labelled_images(folder, corrections=folder/'none.csv')
