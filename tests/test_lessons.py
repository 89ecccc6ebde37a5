"The lessons keep their form, and they and the answers of their exercises run."
import html
import json
import re
from collections import Counter

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from readme import ROOT

LESSONS = ['2_resnet50', '3_formats', '4_evidence', '5_share']
APPENDIX = ['appendix_deployment']
ALL = sorted(p.stem for p in (ROOT/'nbs'/'lessons').glob('*.ipynb'))
OLD_CODE = ['appendix_fastai1']  # keeps the long lines of the 2018 course
RUN = ['1_resnet34', *LESSONS]  # here, with the answers of their exercises, and therefore not by `nbdev-test`, see the Makefile
ASSERTIONS = {
    '1_resnet34': "assert {'Bengal', 'Egyptian_Mau'} <= set(hardest.breed)\n"
                  'assert learn.validate()[1] < few_error < 0.4 and max(errors) < 0.2',
    '2_resnet50': "assert keep == 'stage-1-50' and both.targets.tolist() == one.targets.tolist()",
    '3_formats': 'assert by_file(again) == by_file(pets) and len(tidied) == len(df)',
    '4_evidence': 'assert won + lost <= len(interp.files) and answer.label in interp.vocab',
    '5_share': 'assert 0 <= second <= wrong.sum()'}


def cells(name, kind):
    notebook = json.loads((ROOT/'nbs'/'lessons'/f'{name}.ipynb').read_text(encoding='utf-8'))
    return [''.join(c['source']) for c in notebook['cells'] if c['cell_type'] == kind]


def answers(name):
    return [html.unescape(c) for c in re.findall('<pre><code>(.*?)</code></pre>', '\n'.join(cells(name, 'markdown')), re.DOTALL)]


@pytest.mark.parametrize('name', LESSONS + APPENDIX)
def test_the_first_cell_says_what_data(name):
    "After the one that installs the package"
    assert cells(name, 'code')[1] == "DATA = 'sample'"


@pytest.mark.parametrize('name', ALL)
def test_the_package_is_installed_where_it_is_missing(name):
    "By the first code cell, folded: Colab and Kaggle begin with an empty environment"
    notebook = json.loads((ROOT/'nbs'/'lessons'/f'{name}.ipynb').read_text(encoding='utf-8'))
    first = next(c for c in notebook['cells'] if c['cell_type'] == 'code')
    assert first['metadata'] == {'cellView': 'form', 'jupyter': {'source_hidden': True}}
    extras = {'5_share': '[demo,onnx]', 'appendix_deployment': '[onnx,scale]'}.get(name, '')
    assert ''.join(first['source']).splitlines()[2:] == [
        'try: import pet_classifier', 'except ImportError:', f'    %pip install -q "pet-classifier{extras}"']


def test_all_lessons_are_here():
    assert {*LESSONS, *APPENDIX, *OLD_CODE, '1_resnet34', 'appendix_39_steps'} == {*ALL}


@pytest.mark.parametrize('name', ALL)
def test_no_widget_is_committed(name):
    "Its state is not committed, so JupyterLab would show `Error displaying widget: model not found`"
    notebook = nbformat.read(ROOT/'nbs'/'lessons'/f'{name}.ipynb', 4)
    shown = [kind for c in notebook.cells for o in c.get('outputs', []) for kind in o.get('data', {})]
    assert 'application/vnd.jupyter.widget-view+json' not in shown and 'widgets' not in notebook.metadata


@pytest.mark.parametrize('name', [n for n in ALL if n not in OLD_CODE])
def test_lines_of_code_fit(name):
    code = cells(name, 'code') + answers(name)
    assert [line for cell in code for line in cell.splitlines() if len(line) > 90] == []


@pytest.mark.parametrize('name', [n for n in ALL if n not in OLD_CODE])
def test_no_test_machinery(name):
    assert [c for c in cells(name, 'code') if re.search(r'\bexec\(|html\.unescape|os\.environ', c)] == []


@pytest.mark.parametrize('name', [n for n in ALL if not n.startswith('appendix')])
def test_questions_and_exercises_with_folded_answers(name):
    text = '\n'.join(cells(name, 'markdown'))
    asked = re.findall(r'<details><summary><b>(\d+)\.</b> .+\?</summary>.+</details>', text)
    assert asked == [str(i+1) for i in range(len(asked))] and 15 <= len(asked) <= 20
    assert len(answers(name)) == 3 and text.count('<details>') == text.count('</details>') == len(asked) + 3


@pytest.mark.parametrize('name', ALL)
def test_exported_html_stands_alone_and_folds_the_answers(name):
    "nbconvert embeds images from beside the notebook only, and ends `<details>` at an empty line"
    page, _ = HTMLExporter(embed_images=True).from_filename(ROOT/'nbs'/'lessons'/f'{name}.ipynb')
    assert not re.search(r'</summary>\s*</details>', page)
    assert [src for src in re.findall(r'<img[^>]* src="([^"]+)"', page) if not src.startswith('data:')] == []


@pytest.mark.parametrize('name', LESSONS + APPENDIX)
def test_words(name):
    text = '\n'.join(cells(name, 'markdown')).lower()
    counts = Counter({w: len(re.findall(w, text)) for w in ('bad sign', 'the original', 'picture', 'photograph', 'labelled')})
    assert counts['bad sign'] <= 1 and counts['the original'] <= 2
    assert not counts['picture'] and not counts['photograph'] and not counts['labelled']


def test_nbdev_test_leaves_out_what_is_run_here_and_nothing_else():
    pattern = re.search(r"--skip-file-re '(.+)'", (ROOT/'Makefile').read_text(encoding='utf-8'))[1].replace('$$', '$')
    assert [p.stem for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if re.search(pattern, p.name)] == RUN


@pytest.mark.slow
@pytest.mark.parametrize('name', RUN)
def test_a_lesson_and_the_answers_of_its_exercises_run(name):
    "And what must hold after them does, in one kernel"
    notebook = nbformat.read(ROOT/'nbs'/'lessons'/f'{name}.ipynb', 4)
    run = [c for c in notebook.cells if c.cell_type == 'code' and not re.match(r'#\| (slow|gpu|network)', c.source)]
    assert len(answers(name)) == 3 and ('rmtree' in run[-1].source or name == '1_resnet34')
    added = [nbformat.v4.new_code_cell(code) for code in (*answers(name), ASSERTIONS[name])]
    at = len(run) - ('rmtree' in run[-1].source)  # before what the lesson wrote is cleared away
    notebook.cells = [*run[:at], *added, *run[at:]]
    where = dict(metadata=dict(path=ROOT/'nbs'/'lessons'))
    NotebookClient(notebook, timeout=600, kernel_name='python3', resources=where).execute()
