"Every engine gives the same answers; the one that is not installed says so, and is never chosen by itself."
import json
import os
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import softmax

from pet_classifier.cli import main
from pet_classifier.data.crops import load_crops
from pet_classifier.data.loaders import loaders
from pet_classifier.deploy import engines
from pet_classifier.deploy.engines import (
    ENGINES,
    REQUIRED_PACKAGES,
    Engines,
    check_engine,
    engine_precision,
)
from pet_classifier.deploy.onnx import export_onnx
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.model.bundle import load_bundle
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.model.features import fingerprint
from pet_classifier.model.inference import InferenceModel
from pet_classifier.model.network import set_precision

needs_onnx = pytest.mark.skipif(not all(map(find_spec, REQUIRED_PACKAGES['onnx'])), reason='ONNX Runtime is not installed')
needs_openvino = pytest.mark.skipif(find_spec('openvino') is None, reason='OpenVINO is not installed')
any_bundle = pytest.mark.parametrize('folder', ['linear'], indirect=True)  # where the head and the sizes make no difference
OTHERS = pytest.param('openvino', marks=needs_openvino), pytest.param('onnx', marks=needs_onnx)


@pytest.fixture(scope='module', params=['linear', 'fastai', 'two sizes'])
def folder(request, tiny_dls, tiny_table, tiny_weights, tmp_path_factory):
    "A bundle whose answers are not all alike"
    from pet_classifier.training.learner import pet_learner
    head = 'fastai' if request.param == 'fastai' else 'linear'
    dls = loaders(tiny_table, size=(24, 32)) if request.param == 'two sizes' else tiny_dls
    learn = pet_learner(dls, 'test_resnet', str(tiny_weights), head=head)
    torch.manual_seed(0)
    torch.nn.init.normal_(learn.model[1][-1].weight, std=dict(linear=0.5, fastai=0.01)[head])
    return save_bundle(learn, tmp_path_factory.mktemp('saved')/'model')


@pytest.fixture
def bundle(folder): return load_bundle(folder)


@pytest.fixture(scope='module')
def crops(): return torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def expected(bundle, crops):
    "What the network says of images on a scale of 0 to 1, normalised, one by one"
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in (bundle.mean, bundle.std))
    with torch.no_grad(): probs = torch.cat([bundle.model((x[None]/255 - mean)/std).softmax(1) for x in crops]).numpy()
    assert probs.std() > 0.05 and np.ptp(probs, axis=0).max() > 0.02  # of each image others
    return probs


def torch_engine(bundle, precision='auto'):
    "As the engine, but it answers with probabilities"
    answer = engines.torch_engine(bundle, precision)
    return lambda crops: softmax(answer(crops), 1)


def openvino_engine(bundle, precision='auto'):
    "As the engine, but it answers with probabilities"
    answer = engines.openvino_engine(bundle, precision)
    return lambda crops: softmax(answer(crops), 1)


def absent(monkeypatch): monkeypatch.setattr(engines, 'find_spec', lambda name: None)
def present(monkeypatch): monkeypatch.setattr(engines, 'find_spec', lambda name: SimpleNamespace(name=name))


def test_answers_are_the_scores_of_what_the_network_sees(bundle, crops, expected):
    with torch.no_grad(): logits = InferenceModel(bundle).eval()(crops)
    assert np.allclose(logits.softmax(1).numpy(), expected, atol=1e-5)
    assert not torch.allclose(logits.sum(1), torch.ones(6), atol=0.1)


def test_torch_gives_the_networks_answers_in_batches_of_any_size(bundle, crops, expected):
    answer = torch_engine(bundle, 'fp32')
    for n in 6, 1, 2:
        probs = np.concatenate([answer(crops[i:i+n]) for i in range(0, 6, n)])
        assert probs.dtype == np.float32 and np.allclose(probs, expected, atol=1e-5)
    assert np.allclose(answer(crops.contiguous(memory_format=torch.channels_last)), expected, atol=1e-5)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def numbers_of(bundle):
    "A list that gets, at each answer, whether the body of the network that answers computed in bfloat16, and its head after it"
    seen = []
    bundle.model[0].model.layer1.register_forward_hook(lambda m, x, out: seen.append(out.dtype == torch.bfloat16))
    bundle.model[1].register_forward_hook(lambda m, x, out: seen.append(torch.bfloat16 in (x[0].dtype, out.dtype)))
    return seen


@pytest.mark.parametrize('precision, able, fast', [('auto', True, True), ('auto', False, False), ('bf16', False, True),
                                                   ('fp32', True, False)])
def test_torch_computes_the_body_in_the_precision_asked_for(bundle, crops, expected, monkeypatch, precision, able, fast):
    monkeypatch.setattr('pet_classifier.model.network.has_bf16', lambda device='cpu': able)
    seen = numbers_of(bundle)  # the hooks go with the network wherever the engine takes it
    answer = torch_engine(bundle, precision)
    seen.clear()  # the image that `fold_batch_norm` tries
    probs = [answer(crops[:n]) for n in (1, 2, 6)]
    assert seen == ([fast]*2 if len(bundle.model.sizes) > 1 else [fast, False])*3  # the body runs once per size
    assert all(p.dtype == np.float32 and np.allclose(p, expected[:len(p)], atol=0.1 if fast else 1e-5) for p in probs)


def test_bfloat16_in_torch_is_that_of_the_learners_network(bundle, crops):
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in (bundle.mean, bundle.std))
    with torch.no_grad(): theirs = set_precision(bundle.model, 'bf16')((crops/255 - mean)/std).softmax(1).numpy()
    slow = torch_engine(bundle, 'fp32')(crops)
    assert np.abs(torch_engine(bundle, 'bf16')(crops) - theirs).max() < np.abs(slow - theirs).max() + 1e-4 < 0.1


@pytest.mark.parametrize('precision', ['auto', 'bf16', 'fp32'])
def test_the_bundle_stays_as_it_was(bundle, crops, precision):
    kept, flags = fingerprint(bundle.model), (bundle.model.runs_in, bundle.model.trains_in)
    torch_engine(bundle, precision)(crops)
    assert fingerprint(bundle.model) == kept and (bundle.model.runs_in, bundle.model.trains_in) == flags
    assert {p.dtype for p in bundle.model.parameters()} == {torch.float32}


@pytest.mark.parametrize('make', ENGINES.values())
def test_an_unknown_precision_is_refused(bundle, make):
    with pytest.raises(ValueError, match="precision='fp8': expected one of auto, bf16, fp16, fp32"): make(bundle, 'fp8')


@pytest.mark.parametrize('name', ['caffe', '', 'OpenVINO', None])
def test_an_unknown_engine_is_refused_before_the_bundle_is_opened(name):
    said = f'engine={name!r}: expected one of auto, torch, openvino, onnx'
    with pytest.raises(ValueError, match=said): check_engine(name)
    with pytest.raises(ValueError, match=said): Predictor('nowhere', engine=name)


def test_openvino_that_is_not_installed_is_refused_with_what_to_do(folder, monkeypatch, tmp_path, capsys):
    absent(monkeypatch)
    said = r"engine='openvino': openvino not installed; pip install 'pet-classifier\[openvino\]', or use 'torch'"
    with pytest.raises(ValueError, match=said): check_engine('openvino')
    with pytest.raises(ValueError, match=said): Predictor(folder, engine='openvino')
    assert main(['predict', str(folder), str(tmp_path/'a.jpg'), '--engine', 'openvino']) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: engine='openvino': openvino not installed")


def clocked(monkeypatch, **seconds):
    "Replace the engines by some that take `seconds` per image on a clock of their own; return what is made and asked"
    made, asked, now = [], [], [0.]
    def fake(name):
        def make(bundle, precision, *device):
            made.append((name, precision))
            def answer(images):
                asked.append((name, len(images)))
                now[0] += seconds[name]*len(images)
                return np.full((len(images), 3), 1/3, np.float32)
            return answer
        return make
    for name in ENGINES: monkeypatch.setitem(ENGINES, name, fake(name))
    monkeypatch.setattr(engines.time, 'perf_counter', lambda: now[0])
    return made, asked


def engines_of(asked): return [name for name, _ in asked]


@pytest.mark.parametrize('torch_seconds, there, chosen', [
    (1.9, True, ['torch']*3), (2.1, True, ['torch', 'openvino', 'openvino']), (2.1, False, ['torch']*3)])
def test_auto_takes_openvino_where_torch_would_take_ten_seconds(folder, tiny_table, monkeypatch, torch_seconds, there, chosen):
    (present if there else absent)(monkeypatch)
    _, asked = clocked(monkeypatch, torch=torch_seconds, openvino=0.5)
    Predictor(folder).predict_files(tiny_table.file.tolist()[:5], bs=2)
    assert engines_of(asked) == chosen


def test_auto_goes_back_to_torch_if_that_is_faster(folder, tiny_table, monkeypatch):
    present(monkeypatch)
    made, asked = clocked(monkeypatch, torch=3., openvino=4.)
    predictor = Predictor(folder, precision='fp32')
    predictor.predict_files(tiny_table.file.tolist()[:6], bs=2)
    assert engines_of(asked) == ['torch', 'openvino', 'torch'] and made == [('torch', 'fp32'), ('openvino', 'fp32')]
    assert str(predictor.engines) == '4 images by torch, 2 images by openvino'


def test_an_engine_is_made_once_when_an_image_comes_and_the_one_named_is_used(folder, tiny_table, monkeypatch):
    present(monkeypatch)
    made, asked = clocked(monkeypatch, torch=100., openvino=1.)
    predictor, files = Predictor(folder, 'torch'), tiny_table.file.tolist()
    assert not made
    predictor.predict_files(files[:4], bs=3)
    predictor.predict(files[0])
    predictor.evaluate(tiny_table.iloc[:6], bs=4)
    assert asked == [('torch', n) for n in (3, 1, 1, 4, 2)] and len(made) == 1


def test_the_command_line_passes_the_engine_on(folder, tiny_folder, monkeypatch, capsys):
    seen, really = [], Predictor.__init__
    def init(self, bundle, engine='auto', precision='auto', device=None):
        seen.append(engine)
        really(self, bundle, 'torch', precision, device)
    monkeypatch.setattr(Predictor, '__init__', init)
    for words in [], ['--engine', 'openvino']: assert main(['predict', str(folder), str(tiny_folder/'red_0.jpg'), *words]) == 0
    assert seen == ['auto', 'openvino'] and capsys.readouterr().out.count('red_0.jpg') == 2


@needs_openvino
@pytest.mark.slow
def test_openvino_gives_the_networks_answers_in_batches_of_any_size(bundle, crops, expected, fresh_cache):
    answer = openvino_engine(bundle, 'fp32')
    for n in 6, 1, 2:
        probs = np.concatenate([answer(crops[i:i+n]) for i in range(0, 6, n)])
        assert probs.dtype == np.float32 and np.allclose(probs, expected, atol=1e-4)
    plain = engines.openvino_engine(bundle, 'fp32')
    first = plain(crops[:2])
    kept = first.copy()
    plain(crops[2:4])
    assert np.array_equal(first, kept)  # and is no window on the engine's own memory
    assert np.allclose(answer(crops.contiguous(memory_format=torch.channels_last)), expected, atol=1e-4)


@needs_openvino
@pytest.mark.parametrize('precision', ['auto', 'bf16'])
def test_openvino_in_the_other_precisions_is_near(bundle, crops, expected, precision):
    assert np.allclose(openvino_engine(bundle, precision)(crops), expected, atol=0.1)


@needs_openvino
def test_both_engines_of_a_bundle_leave_each_other_alone(bundle, crops, expected):
    one = torch_engine(bundle, 'bf16')
    fast = one(crops)
    other = openvino_engine(bundle, 'fp32')
    assert np.array_equal(one(crops), fast) and np.allclose(other(crops), expected, atol=1e-4)
    assert np.allclose(torch_engine(bundle, 'fp32')(crops), expected, atol=1e-5)


@pytest.fixture
def conversions(monkeypatch, fresh_cache):
    "A list with an entry for each network that was converted"
    seen, really = [], engines._to_openvino
    def convert(bundle):
        seen.append(bundle.config['sha256'])
        return really(bundle)
    monkeypatch.setattr(engines, '_to_openvino', convert)
    return seen


@any_bundle
@needs_openvino
@pytest.mark.slow
def test_a_network_is_converted_once(folder, crops, expected, conversions, fresh_cache):
    for _ in range(2): assert np.allclose(openvino_engine(load_bundle(folder), 'fp32')(crops), expected, atol=1e-4)
    assert len(conversions) == 1
    kept, = fresh_cache.iterdir()
    assert kept.name.startswith('openvino-')
    kept.write_bytes(kept.read_bytes()[:-10])
    assert np.allclose(openvino_engine(load_bundle(folder), 'fp32')(crops), expected, atol=1e-4)
    assert len(conversions) == 2 and len(list(fresh_cache.iterdir())) == 1


@any_bundle
@needs_openvino
@pytest.mark.slow
def test_other_weights_are_converted_anew(folder, crops, conversions, tmp_path):
    from hashlib import sha256

    from safetensors.torch import save_file
    one = openvino_engine(load_bundle(folder), 'fp32')(crops)
    state = load_file(folder/'model.safetensors')
    last = sorted(k for k in state if k.startswith('1.') and k.endswith('.weight'))[-1]
    other = tmp_path/'other'
    other.mkdir()
    save_file(state | {last: -state[last]}, other/'model.safetensors')
    config = json.loads((folder/'config.json').read_text())
    digest = sha256((other/'model.safetensors').read_bytes()).hexdigest()
    (other/'config.json').write_text(json.dumps(config | dict(sha256=digest)))
    two = openvino_engine(load_bundle(other), 'fp32')(crops)
    assert len(conversions) == 2 and not np.allclose(one, two, atol=1e-2)


@any_bundle
@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize('change', [dict(mean=[0.1, 0.2, 0.3]), dict(std=[1.5, 1.2, 1.1]), dict(size=48)], ids=str)
def test_the_same_weights_with_other_numbers_in_the_config_are_another_network(folder, conversions, tmp_path, change):
    import shutil
    openvino_engine(load_bundle(folder), 'fp32')
    other = shutil.copytree(folder, tmp_path/'other')
    config = json.loads((other/'config.json').read_text())
    config |= change
    config['sizes'] = [config['size']]
    (other/'config.json').write_text(json.dumps(config))
    bundle = load_bundle(other)
    x = torch.randint(0, 256, (3, 3, bundle.size, bundle.size), dtype=torch.uint8)
    assert np.allclose(openvino_engine(bundle, 'fp32')(x), torch_engine(bundle, 'fp32')(x), atol=1e-4)


@any_bundle
@needs_openvino
@pytest.mark.slow
def test_without_room_it_answers_all_the_same(bundle, crops, expected, conversions, fresh_cache, monkeypatch):
    monkeypatch.setenv('PET_CLASSIFIER_CACHE_GB', '0')
    assert np.allclose(openvino_engine(bundle, 'fp32')(crops), expected, atol=1e-4) and not list(fresh_cache.iterdir())


@pytest.mark.parametrize('name', OTHERS)
@pytest.mark.slow
def test_a_predictor_says_the_same_by_any(folder, tiny_table, name):
    ours, theirs = (Predictor(folder, engine=e, precision='fp32').evaluate(tiny_table, bs=4) for e in ('torch', name))
    assert ours.files == theirs.files and np.allclose(ours.probs, theirs.probs, atol=1e-4)


@needs_onnx
@pytest.mark.slow
def test_onnx_gives_the_networks_scores_and_its_file_is_made_once(folder, bundle, crops, expected, monkeypatch):
    made, really = [], engines._to_onnx
    monkeypatch.setattr(engines, '_to_onnx', lambda bundle: made.append(bundle) or really(bundle))
    logits = engines.torch_engine(bundle, 'fp32')(crops)
    for _ in range(2):
        answer = engines.onnx_engine(load_bundle(folder))
        for n in 6, 1, 2: assert np.allclose(np.concatenate([answer(crops[i:i+n]) for i in range(0, 6, n)]), logits, atol=1e-3)
    assert answer(crops).dtype == np.float32 and np.allclose(softmax(logits, 1), expected, atol=1e-5)
    assert len(made) <= 1  # none if the test above made it


@needs_onnx
def test_onnx_in_bf16_is_refused(bundle):
    with pytest.raises(ValueError, match='ONNX Runtime computes in fp32 here'): engines.onnx_engine(bundle, 'bf16')


def test_the_precision_that_is_computed_in(monkeypatch):
    for able in True, False:
        monkeypatch.setattr('pet_classifier.model.network.has_bf16', lambda device, able=able: able)
        assert engine_precision('torch', 'auto') == ('bf16' if able else 'fp32')
        assert (engine_precision('openvino', 'bf16'), engine_precision('onnx', 'auto')) == ('bf16', 'fp32')


def test_on_a_gpu_auto_is_torch_and_the_other_engines_are_refused(bundle, crops, monkeypatch):
    monkeypatch.setattr(engines, 'find_spec', lambda name: True)
    for device, chosen in dict(cpu='openvino', cuda='torch', mps='torch').items():
        _, asked = clocked(monkeypatch, torch=100., openvino=1.)
        some = Engines(bundle, device=device)
        for _ in range(2): some('auto', crops, n=12)
        assert engines_of(asked) == ['torch', chosen]
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    monkeypatch.setattr('torch.cuda.current_device', lambda: 0)
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    assert str(Predictor(bundle).device) == 'cuda:0' and str(Predictor(bundle, 'onnx').device) == 'cpu'
    with pytest.raises(ValueError, match="engine='openvino', device='cuda': this engine computes on the CPU"):
        Predictor(bundle, 'openvino', device='cuda')


def test_eight_threads_make_an_engine_once_and_are_let_in_one_at_a_time(bundle, crops, monkeypatch):
    made, inside, most = [], [], []
    def slow(bundle, precision, device):
        made.append(precision)
        time.sleep(0.05)
        def answer(images):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.005)
            inside.pop()
            return images.float().mean((2, 3)).numpy()
        return answer
    monkeypatch.setitem(ENGINES, 'torch', slow)
    shared = Engines(bundle, 'fp32')
    with ThreadPoolExecutor(8) as pool: found = list(pool.map(lambda i: shared('torch', crops[i % 6][None]), range(24)))
    assert made == ['fp32'] and max(most) == 1
    assert all(np.allclose(x, crops[i % 6].float().mean((1, 2))) for i, x in enumerate(found))


@any_bundle
@pytest.mark.parametrize('name', ['torch', *OTHERS])
def test_eight_threads_get_the_answers_that_one_gets(folder, tiny_folder, name):
    files = sorted(tiny_folder.iterdir())*4
    one, shared = (Predictor(folder, engine=name, precision='fp32') for _ in range(2))
    expected = {f: one.predict(f).probs for f in set(files)}
    with ThreadPoolExecutor(8) as pool: found = list(pool.map(shared.predict, files))
    for f, p in zip(files, found): assert [p.probs[c] for c in expected[f]] == pytest.approx(list(expected[f].values()), abs=1e-5)


def test_a_predictor_goes_to_another_process_without_its_engines(folder, tiny_folder):
    predictor, file = Predictor(folder, precision='fp32'), tiny_folder/'red_0.jpg'
    before = predictor.predict(file)
    other = pickle.loads(pickle.dumps(predictor))  # noqa: S301  our own
    assert not other.engines.engines and other.predict(file) == before


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "Of each backbone: the bundle, and the ONNX file of it"
    from pet_classifier.data.datasets import draw_sample
    from pet_classifier.data.images import list_images
    from pet_classifier.data.labels import label_by_name
    from pet_classifier.data.loaders import loaders
    from pet_classifier.data.splits import random_split
    from pet_classifier.training.learner import pet_learner
    path = os.environ.get('PETS_DIR') or draw_sample(tmp_path_factory.mktemp('drawn')/'pets', per_breed=2)
    crops = load_crops(list_images(path)[::6], 64)
    dls, folder = loaders(random_split(label_by_name(list_images(path)), 0.5), size=64), tmp_path_factory.mktemp('exported')
    def make(arch):
        learn = pet_learner(dls, arch, 'imagenet' if arch == 'efficientnet_lite0' else 'none')
        torch.manual_seed(0)
        last = torch.nn.init.normal_(learn.model[1][-1].weight, std=0.5)
        logits = torch.tensor(engines.torch_engine(load_bundle(save_bundle(learn, folder/arch)), 'fp32')(crops))
        with torch.no_grad():  # of random layers all images look alike: what they share is taken off, what is left made larger
            larger = 2/logits.std(0).mean()
            last *= larger
            learn.model[1][-1].bias -= larger*logits.mean(0)
        bundle = load_bundle(save_bundle(learn, folder/arch, temperature=1.5))
        return bundle, export_onnx(bundle, folder/f'{arch}.onnx'), crops
    return make


@needs_onnx
@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize('arch', ['resnet18', 'efficientnet_lite0'])
def test_onnx_runtime_and_openvino_give_torchs_answers_by_the_exported_file(exported, arch):
    import onnxruntime
    import openvino
    bundle, file, crops = exported(arch)
    logits = engines.torch_engine(bundle, 'fp32')(crops)
    ours = softmax(logits/np.float32(1.5), 1)
    assert ours.std() > 0.01 and len(set(ours.argmax(1))) > 5
    by_onnx = onnxruntime.InferenceSession(file).run(None, {'images': crops.contiguous().numpy()})
    compiled = openvino.Core().compile_model(file, 'CPU', dict(INFERENCE_PRECISION_HINT='f32'))
    answer = compiled(crops.contiguous().numpy())
    for probs, theirs in (by_onnx, (answer['probabilities'], answer['logits'])):
        print(f'{arch}: {np.abs(probs-ours).max():.1e}')
        assert (probs.argmax(1) == ours.argmax(1)).all() and np.abs(probs-ours).max() < 1e-3
        assert np.allclose(theirs, logits, atol=1e-2)
