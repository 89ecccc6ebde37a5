"Packages import downwards only, prediction stays light, and modules stay short."
import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]/'pet_classifier'
IMAGES = ['data.images', 'data.formats', 'data.decode', 'data.crops', 'data.image_ids'] # image files and their pixels
MAY_IMPORT = dict(core=[], data=['core'], model=['core', *IMAGES], evaluation=['core', 'data', 'model'],
                  training=['core', 'data', 'model', 'evaluation'],
                  deploy=['core', 'model', 'evaluation', *IMAGES, 'data.drawing', 'data.breeds']) # the demo draws its examples
FILES = sorted(f for f in PACKAGE.rglob('*.py') if f.name not in ('__init__.py', '_modidx.py', 'all.py'))


def name_of(file): return '.'.join(file.relative_to(PACKAGE).with_suffix('').parts)


def imports(file):
    "Yield (module, name) for each import of a module of ours in `file`, those inside functions included"
    here = file.relative_to(PACKAGE).with_suffix('').parts
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.ImportFrom): continue
        if node.level: module = '.'.join([*here[:len(here)-node.level], node.module or '']).strip('.')
        elif (node.module or '').startswith('pet_classifier.'): module = node.module.removeprefix('pet_classifier.')
        else: continue
        yield from ((module, alias.name) for alias in node.names)


def targets(found): return {m if m in GRAPH else f'{m}.{n}' for m, n in found} & GRAPH.keys()


def lies_in(module, packages): return any(module == p or module.startswith(f'{p}.') for p in packages)


GRAPH = {name_of(f): set(imports(f)) for f in FILES}
MODULES = pytest.mark.parametrize('module', GRAPH)


@MODULES
def test_no_import_runs_upwards(module):
    package = module.split('.')[0]
    if package not in MAY_IMPORT: return # run, report, check, cli and runs may import everything
    allowed = [package, *MAY_IMPORT[package]]
    assert not [m for m in targets(GRAPH[module]) if not lies_in(m, allowed)]


def test_no_circle():
    edges = {m: targets(found) for m, found in GRAPH.items()}
    assert sum(map(len, edges.values())) > 150
    while free := [m for m, below in edges.items() if not below & edges.keys()]:
        for m in free: del edges[m]
    assert not edges, f'modules that import each other: {sorted(edges)}'


@MODULES
def test_no_module_imports_a_private_name(module):
    assert not [f'{m}.{n}' for m, n in GRAPH[module] if n.startswith('_') and not n.startswith('__')]


def test_modules_are_short():
    lines = {m: len(f.read_text(encoding='utf-8').splitlines()) for m, f in zip(GRAPH, FILES)}
    assert not {m: n for m, n in lines.items() if n > 250 and m != 'cli'}
    assert statistics.median(lines.values()) <= 130


def loaded_after(code):
    "Return the modules that a fresh process has loaded after `code`"
    script = f'{code}\nimport sys; print("\\n".join(sys.modules))'
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return done.stdout.splitlines()


def modules_of(loaded): return [m.removeprefix('pet_classifier.') for m in loaded if m.removeprefix('pet_classifier.') in GRAPH]


def test_predicting_loads_no_training_code():
    bundle, image = PACKAGE.parent/'tests'/'fixtures'/'bundle_format_3', "Image.new('RGB', (40, 40))"
    code = f"from PIL import Image; from pet_classifier import Predictor; Predictor({str(bundle)!r}).predict({image})"
    loaded = loaded_after(code)
    ours = modules_of(loaded)
    assert 'deploy.predictor' in ours and not [m for m in ours if m.startswith('training')]
    training_code = 'fastai.learner', 'fastai.callback', 'fastai.optimizer', 'fastai.vision', 'fastai.data'
    assert not [m for m in loaded if m.startswith(training_code)]
    assert len(ours) <= 12, ours


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_after('import pet_classifier')
    assert modules_of(loaded) == ['core.telemetry'] and not {'torch', 'fastai', 'pandas', 'numpy'} & set(loaded)
