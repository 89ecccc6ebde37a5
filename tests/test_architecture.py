"Packages import downwards only, prediction stays light, and modules stay short."
import statistics
import subprocess
import sys

import pytest
from import_graph import PACKAGE, PICTURE, draw, import_graph, targets
from PIL import Image

from pet_classifier import Predictor

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


# Packages that only development or an extra brings
NOT_NEEDED = ('IPython ipykernel ipywidgets nbdev nbformat jupyter pytest hypothesis openvino onnx onnxscript onnxruntime ray '
              'playwright psutil').split()
BUNDLE = PACKAGE.parent/'tests'/'fixtures'/'bundle_format_3'
SCRIPT = f"""
import sys
for name in {NOT_NEEDED}: sys.modules[name] = None # importing it is an error, as if it were not there
def say_loaded(): print(*[m for m in sys.modules if m not in {NOT_NEEDED}])
import pet_classifier
say_loaded()
from PIL import Image
from pet_classifier import Predictor
print(*Predictor({str(BUNDLE)!r}, precision='fp32').predict(Image.new('RGB', (40, 40))).probs.values())
say_loaded()
import pet_classifier.all, pet_classifier.cli
print('all')
"""


@pytest.fixture(scope='module')
def fresh():
    "What a fresh process says: modules after importing the package; probabilities; modules after predicting; 'all'; errors"
    done = subprocess.run([sys.executable, '-c', SCRIPT], capture_output=True, text=True, cwd=PACKAGE.parent)
    return [*map(str.split, done.stdout.splitlines()), [done.stderr]]


def modules_of(loaded): return [m.removeprefix('pet_classifier.') for m in loaded if m.removeprefix('pet_classifier.') in GRAPH]


def test_importing_the_package_loads_nothing_heavy(fresh):
    heavy = {'torch', 'fastai', 'pandas', 'numpy', 'huggingface_hub'}
    assert modules_of(fresh[0]) == ['core.telemetry'] and not heavy & set(fresh[0])


def test_predicting_loads_no_training_code(fresh):
    ours = modules_of(fresh[2])
    slow = 'fastai.', 'torch._dynamo', 'sympy', 'matplotlib', 'scipy', 'sklearn'  # to import, and not needed
    assert 'deploy.predictor' in ours and not [m for m in ours if m.startswith('training')]
    assert not [m for m in fresh[2] if m.startswith(slow)]
    assert len(ours) <= 15, ours


def test_a_fresh_process_predicts_the_same(fresh):
    here = Predictor(BUNDLE, precision='fp32').predict(Image.new('RGB', (40, 40))).probs.values()
    assert [*map(float, fresh[1])] == pytest.approx([*here], abs=1e-5) and len({*here}) > 1


def test_the_package_needs_nothing_that_only_development_or_an_extra_brings(fresh): assert fresh[3] == ['all'], fresh[-1][0]


def test_the_picture_is_drawn_from_the_source():
    assert PICTURE.read_text(encoding='utf-8') == draw(GRAPH), 'run: python tools/import_graph.py'
