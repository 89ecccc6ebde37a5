"The OpenVINO model says what the bundle says, and carries what is needed to use it."
import json

import pytest

from pet_classifier.data.crops import load_crops
from pet_classifier.data.images import list_images
from pet_classifier.deploy import openvino as openvino_module
from pet_classifier.deploy.onnx import onnx_bytes
from pet_classifier.deploy.openvino import write_openvino
from pet_classifier.deploy.predictor import Predictor


@pytest.mark.slow
def test_it_answers_as_torch_does_with_classes_and_size(bundle, tiny_folder, tmp_path):
    openvino = pytest.importorskip('openvino')
    predictor = Predictor(bundle, 'torch', 'fp32')
    data = onnx_bytes(predictor.bundle)
    for _ in range(2): folder = write_openvino(data, tmp_path/'new'/'model')
    core = openvino.Core()
    model = core.read_model(folder/'model.xml')
    crops = load_crops(list_images(tiny_folder), predictor.bundle.size).contiguous()
    logits = predictor.logits([*crops])
    compiled = core.compile_model(model, 'CPU', dict(INFERENCE_PRECISION_HINT='f32'))
    for got in compiled(crops.numpy()), compiled(crops[:1].numpy()):
        n = len(got['logits'])
        assert got['probabilities'] == pytest.approx(predictor.probabilities(logits)[:n], abs=.01)
        assert got['logits'] == pytest.approx(logits[:n], abs=.05)
    text = {k: v.astype(str) for k, v in model.rt_info['model_info'].items()}
    assert json.loads(text['classes']) == predictor.bundle.vocab
    assert (int(text['size']), text['sha256']) == (predictor.bundle.size, predictor.bundle.config['sha256'])


def test_what_cannot_be_written_is_said_and_nothing_changes(tmp_path, monkeypatch):
    (tmp_path/'thesis.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'is not an OpenVINO model \(thesis.txt\)'): write_openvino(b'', tmp_path)
    monkeypatch.setattr(openvino_module, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'openvino not installed; pip install .pet-classifier\[onnx,openvino\]'):
        write_openvino(b'', tmp_path/'new')
    assert [f.name for f in tmp_path.iterdir()] == ['thesis.txt']
