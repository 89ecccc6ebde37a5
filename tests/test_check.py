"`check`: everything that is wrong, in one table; groups instead of pairs; long lists cut, with a count."
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pet_classifier import check
from pet_classifier.check import (
    ATTENTION,
    COLUMNS,
    KINDS,
    check_report,
    check_summary,
    cut_report,
    duplicate_groups,
    evaluation_lines,
    needs_attention,
    write_check,
)


@pytest.fixture
def found(tiny_table):
    "As `labelled_images` finds them, with one problem of each kind that it knows, and two files that it left out"
    kinds = 'name', 'class', 'broken', 'twice', 'label', 'missing', 'correction'
    problems = pd.DataFrame([(k, Path(f'/data/{k}.jpg'), f'{k}!') for k in kinds], columns=COLUMNS)
    skipped = [Path('/data/.x.jpg'), Path('/data/notes.txt')]
    return SimpleNamespace(table=tiny_table, test=tiny_table[:0], problems=problems, skipped=skipped)


def test_all_kinds_stand_in_one_table_in_their_order(found, monkeypatch, draw, tmp_path):
    first = found.table.file[0]
    copy = Path(tmp_path/'copy.jpg')
    copy.write_bytes(Path(first).read_bytes())
    gif = tmp_path/'gif.jpg'
    from PIL import Image
    Image.new('RGB', (40, 40), 'red').save(gif, 'GIF')
    found.table = pd.concat([found.table, pd.DataFrame(dict(file=[copy, gif], label='red', is_valid=False))], ignore_index=True)
    columns = ['file', 'label', 'self_confidence', 'predicted_label', 'predicted_probability', 'is_issue']
    suspect = pd.DataFrame([(first, 'red', .01, 'blue', .9, True)], columns=columns)
    monkeypatch.setattr(check, 'find_label_issues', lambda table, features: suspect)
    report = check_report(found, np.eye(len(found.table), dtype=np.float32))
    assert list(report) == COLUMNS and report.kind.drop_duplicates().tolist() == KINDS
    assert report.file.map(type).eq(str).all() and report.problem.map(type).eq(str).all()
    assert report.kind.value_counts()['count'] == 3 and report.kind.value_counts()['left out'] == 2
    summary = check_summary(report, found.table)
    assert summary.startswith('20 images of 3 classes, ') and 'label issue: 1' in summary


def test_nothing_usable_is_a_report_too(found):
    found.table = found.table[:0]
    report = check_report(found)
    assert set(report.kind) == {'broken', 'missing', 'name', 'label', 'class', 'twice', 'correction', 'left out'}
    assert check_summary(report, found.table).startswith('0 images of 0 classes; broken: 1, missing: 1, ')


def test_a_copy_in_the_test_set_is_found(found, tmp_path):
    copy = tmp_path/'copy.jpg'
    copy.write_bytes(Path(found.table.file[0]).read_bytes())
    found.test = pd.DataFrame(dict(file=[copy], label=[found.table.label[0]]))
    report = check_report(found)
    assert str(copy) in ' '.join(report.query('kind == "duplicate"')[['file', 'problem']].to_numpy().ravel())
    assert report.query('kind == "count"').problem.str.extract(r'(\d+) image')[0].astype(int).sum() == 19


@pytest.mark.parametrize('kind', KINDS)
def test_what_needs_attention(kind):
    report = pd.DataFrame([('count', '', 'red: 1 image'), (kind, 'x', 'y')], columns=COLUMNS)
    assert needs_attention(report) == (kind in ATTENTION) and not needs_attention(report[:1]) and not needs_attention(report[:0])


def pairs(*rows): return pd.DataFrame(rows, columns=['file', 'other'])


def test_pairs_become_groups():
    assert duplicate_groups(pairs()) == []
    assert duplicate_groups(pairs(('b', 'a'))) == [['a', 'b']]
    assert duplicate_groups(pairs(('a', 'b'), ('c', 'd'), ('b', 'c'), ('x', 'y'))) == [['a', 'b', 'c', 'd'], ['x', 'y']]
    n = 40
    all_pairs = pairs(*((i, j) for i in range(n) for j in range(i+1, n)))
    assert duplicate_groups(all_pairs.sample(frac=1, random_state=0)) == [list(range(n))]


def test_n_equal_images_are_one_row_fewer_than_they_are(found, tmp_path):
    for i in range(7): (tmp_path/f'{i}.jpg').write_bytes(Path(found.table.file[0]).read_bytes())
    found.table = pd.DataFrame(dict(file=sorted(tmp_path.glob('*.jpg')), label=['a']*4 + ['b']*3))
    rows = check_report(found).query('kind == "duplicate"')
    assert rows.file.tolist() == [str(tmp_path/f'{i}.jpg') for i in range(1, 7)]
    assert set(rows.problem[:3]) == {f'looks the same as {tmp_path/"0.jpg"}'}
    assert set(rows.problem[3:]) == {f'looks the same as {tmp_path/"0.jpg"}, which is labelled a, not b'}


@pytest.mark.parametrize('n, shown', [(0, 0), (20, 20), (21, 21), (3000, 21)])
def test_long_lists_are_cut_by_kind(n, shown, tmp_path):
    report = pd.DataFrame([('broken', f'{i}', 'empty') for i in range(n)] + [('count', '', 'red: 1 image')], columns=COLUMNS)
    cut = cut_report(report)
    assert len(cut) == shown + 1 and cut.problem.iloc[-1] == 'red: 1 image'
    if n > 20: assert cut.file[20] == f'... and {n-20:,} more'
    for name in 'all.csv', 'all.json': write_check(report, tmp_path/name)
    assert len(pd.read_csv(tmp_path/'all.csv')) == n + 1 == len(json.loads((tmp_path/'all.json').read_text()))


def test_what_is_said_of_a_network_that_answers_one_class_only():
    interp = SimpleNamespace(error_rate=.05, error_interval=(.02, .11), files=range(100), majority_error=.05,
                             never_predicted=['dog'], unknown=pd.DataFrame(dict(file=['a', 'b'], label=['emu', 'emu'])))
    said = evaluation_lines(interp, 3)
    assert said == ['error rate 5.0% on 100 images (95 % confidence interval: 2.0% to 11.0%), 3 left out',
                    'always answering the most frequent class would be wrong on 5.0%',
                    '2 images are not counted: their labels are not classes of this bundle: emu', 'never predicted: dog']
