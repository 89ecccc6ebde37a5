"Packages import downwards only, prediction stays light, and modules stay short."
import statistics
import subprocess
import sys

import pytest
from import_graph import PACKAGE, PICTURE, draw, import_graph, targets

IMAGES = ['data.images', 'data.formats', 'data.decode', 'data.crops', 'data.image_ids'] # image files and their pixels
MAY_IMPORT = dict(core=[], data=['core'], model=['core', *IMAGES], evaluation=['core', 'data', 'model'],
                  training=['core', 'data', 'model', 'evaluation'],
                  deploy=['core', 'model', 'evaluation', *IMAGES, 'data.drawing', 'data.breeds']) # the demo draws its examples
GRAPH = import_graph()
MODULES = pytest.mark.parametrize('module', GRAPH)


def lies_in(module, packages): return any(module == p or module.startswith(f'{p}.') for p in packages)


@MODULES
def test_no_import_runs_upwards(module):
    package = module.split('.')[0]
    if package not in MAY_IMPORT: return # run, report, check, cli, runs and review may import everything
    allowed = [package, *MAY_IMPORT[package]]
    assert not [m for m in targets(GRAPH[module], GRAPH) if not lies_in(m, allowed)]


def test_no_circle():
    edges = {m: targets(found, GRAPH) for m, found in GRAPH.items()}
    assert sum(map(len, edges.values())) > 150
    while free := [m for m, below in edges.items() if not below & edges.keys()]:
        for m in free: del edges[m]
    assert not edges, f'modules that import each other: {sorted(edges)}'


@MODULES
def test_no_module_imports_a_private_name(module):
    assert not [f'{m}.{n}' for m, n in GRAPH[module] if n.startswith('_') and not n.startswith('__')]


def test_modules_are_short():
    lines = {m: len((PACKAGE/(m.replace('.', '/') + '.py')).read_text(encoding='utf-8').splitlines()) for m in GRAPH}
    assert not {m: n for m, n in lines.items() if n > 250 and m != 'cli'}
    assert statistics.median(lines.values()) <= 140


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
    slow = 'fastai.', 'torch._dynamo', 'sympy', 'matplotlib', 'scipy', 'sklearn'  # to import, and not needed
    assert not [m for m in loaded if m.startswith(slow)]
    assert len(ours) <= 15, ours


def test_importing_the_package_loads_nothing_heavy():
    loaded = loaded_after('import pet_classifier')
    assert modules_of(loaded) == ['core.telemetry'] and not {'torch', 'fastai', 'pandas', 'numpy'} & set(loaded)


def test_the_picture_is_drawn_from_the_source():
    assert PICTURE.read_text(encoding='utf-8') == draw(GRAPH), 'run: python tools/import_graph.py'
