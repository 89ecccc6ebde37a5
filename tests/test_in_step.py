"Notebooks, package and README say the same, and the notebooks are clean."
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from readme import ROOT, render

from pet_classifier import __version__

NOTEBOOKS = sorted((ROOT/'nbs').rglob('*.ipynb'))


@pytest.fixture(scope='module')
def redone(tmp_path_factory):
    "A copy of the project after nbdev-export and nbdev-clean."
    copy = tmp_path_factory.mktemp('copy')
    for name in ('nbs', 'pet_classifier'):
        shutil.copytree(ROOT/name, copy/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '.last_checked'))
    shutil.copy(ROOT/'pyproject.toml', copy)
    bin_dir = Path(sys.executable).parent
    for tool in ('nbdev-export', 'nbdev-clean'): subprocess.run([bin_dir/tool], cwd=copy, check=True)
    return copy


def files(folder, pattern): return {str(p.relative_to(folder)): p.read_text(encoding='utf-8') for p in folder.rglob(pattern)}


def test_package_is_exported_from_the_notebooks(redone):
    assert files(redone/'pet_classifier', '*.py') == files(ROOT/'pet_classifier', '*.py')


def test_notebooks_are_clean(redone):
    now, cleaned = files(ROOT/'nbs', '*.ipynb'), files(redone/'nbs', '*.ipynb')
    assert [n for n in now if now[n] != cleaned[n]] == []


def test_every_module_has_its_notebook():
    exported = {json.loads(re.search(r'"#\| default_exp ([\w.]+)', n.read_text(encoding='utf-8')).expand(r'"\1"'))
                for n in NOTEBOOKS if 'default_exp' in n.read_text(encoding='utf-8')}
    modules = {'.'.join(p.relative_to(ROOT/'pet_classifier').with_suffix('').parts) for p in (ROOT/'pet_classifier').rglob('*.py')
               if p.name not in ('__init__.py', '_modidx.py', 'all.py')}
    assert exported == modules == {n.stem for n in NOTEBOOKS if n.parent.name == 'api'}


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda n: n.stem)
def test_nothing_stands_in_the_cell_that_nbdev_test_leaves_out(notebook):
    cells = [''.join(c['source']) for c in json.loads(notebook.read_text(encoding='utf-8'))['cells']]
    assert {c for c in cells if 'nbdev_export()' in c} <= {'#| hide\nimport nbdev; nbdev.nbdev_export()'}


def outputs(notebook):
    return [o for c in json.loads(notebook.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])]


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda n: n.stem)
def test_outputs_are_fit_to_keep(notebook):
    kept = outputs(notebook)
    text = json.dumps(kept)
    assert not [o for o in kept if o['output_type'] == 'error']
    words, paths = re.sub(r'"image/\w+": "[^"]*"', '', text), r'/home/|/root/|/tmp/|/Users/|[A-Z]:\\\\|site-packages'
    assert not re.search(paths, words), "a machine's path"
    assert not re.search(r'\d+%\|█|<progress', text), 'residue of a progress bar'
    lesson = notebook.parent.name == 'lessons'
    assert notebook.stat().st_size < (1_000_000 if lesson else 500_000)


def test_readme_is_made_from_the_index():
    text, images = render(ROOT)
    assert (ROOT/'README.md').read_text(encoding='utf-8') == text, 'run: make readme'
    for name, data in images.items(): assert (ROOT/name).read_bytes() == data, name


def test_citation_and_constraints_are_in_step():
    "CITATION.cff has the version; what `make docs` and `make dist` install is pinned"
    assert re.search(r'^version: (.+)$', (ROOT/'CITATION.cff').read_text(encoding='utf-8'), re.M)[1] == __version__
    pinned = set(re.findall(r'^([\w.-]+)==', (ROOT/'constraints.txt').read_text(encoding='utf-8'), re.M))
    settings = (ROOT/'settings.ini').read_text(encoding='utf-8')
    wanted = ' '.join(re.findall(r'^(?:\w+_)?requirements = (.+)$', settings, re.M)).lower()
    assert {re.split(r'[\[>]', r)[0] for r in wanted.split()} <= pinned
