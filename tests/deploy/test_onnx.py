"The ONNX file says what the bundle says, and carries what is needed to use it."
import json

import numpy as np
import onnx
import onnxruntime
import pytest

from pet_classifier.data.crops import load_crops
from pet_classifier.data.images import list_images
from pet_classifier.deploy import onnx as onnx_module
from pet_classifier.deploy.onnx import export_onnx, write_openvino
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.model.bundle import load_bundle
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.training.learner import pet_learner


@pytest.fixture(scope='module')
def bundle(tiny_dls, tiny_weights, tmp_path_factory):
    learn = pet_learner(tiny_dls, 'test_resnet', str(tiny_weights))
    return save_bundle(learn, tmp_path_factory.mktemp('saved')/'model', temperature=0.5, none_below=-1.)


@pytest.fixture(scope='module')
def exported(bundle, tmp_path_factory):
    "The file of the bundle, written into a new folder, and whether the loaded bundle stayed as it was: exporting takes seconds"
    loaded = load_bundle(bundle)
    network, fast = loaded.model, loaded.model.runs_in
    file = export_onnx(loaded, tmp_path_factory.mktemp('exported')/'new'/'a.onnx')
    return file, loaded.model is network and network.runs_in == fast and not network.training


@pytest.mark.slow
def test_it_answers_as_torch_does_one_by_one_and_many(bundle, exported, tiny_folder):
    session = onnxruntime.InferenceSession(exported[0])
    files = list_images(tiny_folder)
    images = load_crops(files, 32).contiguous().numpy()
    probs, logits = session.run(None, {'images': images})
    assert [o.name for o in session.get_outputs()] == ['probabilities', 'logits']
    assert np.allclose(np.exp(logits/0.5)/np.exp(logits/0.5).sum(1, keepdims=True), probs, atol=1e-5)
    expected = Predictor(bundle, 'torch', 'fp32').predict_files(files)
    vocab = load_bundle(bundle).vocab
    assert [vocab[i] for i in probs.argmax(1)] == expected.label.tolist()
    assert probs.max(1) == pytest.approx(expected.probability, abs=1e-4) and probs.sum(1) == pytest.approx(1)
    for i in 0, 7: assert np.allclose(session.run(None, {'images': images[i:i+1]})[0], probs[i], atol=1e-5)


@pytest.mark.slow
def test_classes_size_and_threshold_stand_in_it(exported):
    notes = onnxruntime.InferenceSession(exported[0]).get_modelmeta().custom_metadata_map
    assert json.loads(notes['classes']) == ['blue', 'green', 'red']
    assert (notes['size'], json.loads(notes['none_below'])) == ('32', -1)
    onnx.checker.check_model(onnx.load(exported[0]), full_check=True)


@pytest.mark.slow
def test_the_bundle_is_left_as_it_was(exported): assert exported[1]


def test_what_cannot_be_done_is_said_and_nothing_is_written(bundle, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'a.pt': expected a name that ends in .onnx"): export_onnx(bundle, tmp_path/'a.pt')
    with pytest.raises(FileNotFoundError, match='is not a bundle'): export_onnx(tmp_path, tmp_path/'a.onnx')
    monkeypatch.setattr(onnx_module, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'onnx and onnxscript not installed; pip install .pet-classifier\[onnx\]'):
        export_onnx(bundle, tmp_path/'a.onnx')
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_openvino_answers_as_torch_does_with_classes_and_size(bundle, exported, tiny_folder, tmp_path):
    openvino = pytest.importorskip('openvino')
    predictor = Predictor(bundle, 'torch', 'fp32')
    for _ in range(2): folder = write_openvino(exported[0].read_bytes(), tmp_path/'new'/'model')
    core = openvino.Core()
    model = core.read_model(folder/'model.xml')
    crops = load_crops(list_images(tiny_folder), predictor.bundle.size).contiguous()
    logits = predictor.logits([*crops])
    compiled = core.compile_model(model, 'CPU', dict(INFERENCE_PRECISION_HINT='f32'))
    for got in compiled(crops.numpy()), compiled(crops[:1].numpy()):
        n = len(got['logits'])
        assert got['probabilities'] == pytest.approx(predictor.probabilities(logits)[:n], abs=1e-4)
        assert got['logits'] == pytest.approx(logits[:n], abs=1e-3)
    text = {k: v.astype(str) for k, v in model.rt_info['model_info'].items()}
    assert json.loads(text['classes']) == predictor.bundle.vocab
    assert (int(text['size']), text['sha256']) == (predictor.bundle.size, predictor.bundle.config['sha256'])


def test_a_folder_of_something_else_is_left_alone(tmp_path, monkeypatch):
    (tmp_path/'thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'is not an OpenVINO model \(thesis.txt\)'): write_openvino(b'', tmp_path)
    monkeypatch.setattr(onnx_module, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'openvino not installed; pip install .pet-classifier\[onnx,openvino\]'):
        write_openvino(b'', tmp_path/'new')
    assert [f.name for f in tmp_path.iterdir()] == ['thesis.txt']
