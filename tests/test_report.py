"The report says what evaluate says, stands alone, and lets nothing that is written in names run."
import json
import re
import shutil

import pandas as pd
import pytest

from pet_classifier.cli import main
from pet_classifier.core.files import write_csv
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.evaluation.interpretation import load_predictions
from pet_classifier.report import read_run, write_report

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tiny_run, tmp_path): return shutil.copytree(tiny_run.out, tmp_path/'run')


def page(run): return write_report(run).read_text(encoding='utf-8')


def cells(text): return [re.findall(r'<td[^>]*>(.*?)</td>', row) for row in re.findall(r'<tr>(.*?)</tr>', text)]


def test_every_figure_is_that_of_evaluate(run, tiny_run):
    split = pd.read_csv(run/'split.csv').query('is_valid')
    said = Predictor(run/'model').evaluate(split.assign(file=[tiny_run.data/f for f in split.file]))
    text = page(run)
    low, high = said.error_interval
    assert f'<b>{said.error_rate:.1%}</b>' in text and f'<b>{low:.1%} to {high:.1%}</b>' in text
    table = [[r.breed, f'{r.precision:.2f}', f'{r.recall:.2f}', str(r.support), str(r.errors)]
             for r in said.per_breed().itertuples()]
    assert [row for row in cells(text) if row and row[0] in said.vocab] == table
    for row in said.top_losses().itertuples():
        assert re.search(rf'{row.predicted}</b> \({row.probability:.2f}\).*loss {row.loss:.2f}<br><code>{row.file.name}', text)
    for actual, predicted, n in said.most_confused():
        assert f'<b>{actual}</b> predicted as <b>{predicted}</b>: {n}' in text


def test_it_is_red_when_the_predictions_are_others(run, tiny_run):
    before = page(run)
    interp = load_predictions(run/'predictions.csv', tiny_run.data)
    rows = pd.read_csv(run/'predictions.csv')
    rows.iloc[0, 3:] = [float(i != interp.targets[0])/2 for i in range(3)]
    write_csv(run/'predictions.csv', rows)
    assert page(run) != before


def test_it_needs_nothing_from_elsewhere(run):
    text = page(run)
    assert re.findall(r'(?:src|href)="(?!data:image/|#)', text) == [] and 'http' not in text and '@import' not in text
    assert (run/'report.html').stat().st_size < 3e6 and text.count('data:image/') > 5


def test_names_are_shown_and_do_nothing(run):
    evil = '<script>alert(1)</script>'
    metrics = json.loads((run/'metrics.json').read_text())
    (run/'metrics.json').write_text(json.dumps(metrics | dict(data=evil, command=evil, arch=evil)))
    twice = pd.DataFrame(dict(file=[evil], other=['"><img src=x>'], seen_by='hash', across_split=[True]))
    write_csv(run/'duplicates.csv', twice)
    text = page(run)
    assert evil not in text and '<img src=x' not in text and text.count('&lt;script&gt;alert(1)') >= 3
    assert '1 pairs look the same, 1 of them' in text


def test_images_that_moved_are_said_and_found_again(run, tiny_run, tmp_path):
    moved = shutil.copytree(tiny_run.data, tmp_path/'moved')
    metrics = json.loads((run/'metrics.json').read_text())
    (run/'metrics.json').write_text(json.dumps(metrics | dict(root=str(tmp_path/'gone'), root_from_run='gone')))
    before = (run/'report.html').read_bytes()
    with pytest.raises(FileNotFoundError, match='not changed; give their folder'): page(run)
    assert (run/'report.html').read_bytes() == before  # nothing good is replaced by something worse
    with pytest.raises(FileNotFoundError, match='none of the 4 images is in'): write_report(run, tmp_path)
    assert 'could not be opened any more' not in write_report(run, moved).read_text()
    (run/'report.html').unlink()
    with pytest.warns(UserWarning, match='could not be opened any more'): assert 'could not be opened any more' in page(run)


@pytest.mark.parametrize('change, said', [
    (dict(temperature='1'), 'temperature that is str'), (dict(size=10**400), 'out of range: size'),
    (dict(created='?'), 'as created'),
    (dict(versions=None), 'versions that is NoneType'), (dict(temperature=-1), 'the temperature -1')])
def test_changed_metrics_are_one_line(run, change, said, capsys):
    metrics = json.loads((run/'metrics.json').read_text())
    (run/'metrics.json').write_text(json.dumps(metrics | change))
    assert main(['report', str(run)]) == 2
    line = capsys.readouterr().err
    assert line.startswith('error: metrics.json in') and said in line and line.count('\n') == 1


@pytest.mark.parametrize('name', ['history.csv', 'duplicates.csv', 'label_issues.csv', 'predictions.csv'])
def test_damaged_tables_are_one_line(run, name, capsys):
    (run/name).write_text('a,b\n1,2\n')
    assert main(['report', str(run)]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f'error: {name} in') and line.count('\n') == 1


@pytest.mark.parametrize('name', ['metrics.json', 'predictions.csv', 'history.csv'])
def test_what_is_missing_is_named(run, name, capsys):
    (run/name).unlink()
    with pytest.raises(FileNotFoundError, match=f'missing {name}'): read_run(run)
    assert main(['report', str(run)]) == 2 and name in capsys.readouterr().err
