"The network in int8 agrees with the one in float32, says what it costs, and is refused if that is too much."
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from pet_classifier.cli import main
from pet_classifier.data.crops import load_crops
from pet_classifier.data.images import list_images
from pet_classifier.data.labels import label_by_name
from pet_classifier.deploy import quantization
from pet_classifier.deploy.onnx import onnx_bytes
from pet_classifier.deploy.quantization import compare, int8_bytes, quantize
from pet_classifier.model.bundle import load_bundle


def run(data, crops): return onnxruntime.InferenceSession(data).run(None, {'images': crops})


def negated(data):
    "The ONNX network `data` with the sign of its last weights and biases changed, so that it is wrong where it was right"
    model = onnx.load_from_string(data)
    names = next(n for n in model.graph.node if n.op_type == 'Gemm').input[1:]
    for tensor in model.graph.initializer:
        if tensor.name in names: tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    return model.SerializeToString()


@pytest.fixture(scope='module')
def loaded(bundle): return load_bundle(bundle)


@pytest.fixture(scope='module')
def whole(loaded): return onnx_bytes(loaded)


@pytest.fixture(scope='module')
def table(tiny_folder, loaded, whole):
    "The tiny images, labelled as the network in float32 does"
    files = list_images(tiny_folder)
    crops = load_crops(files, loaded.size).contiguous().numpy()
    return label_by_name(files).assign(label=[loaded.vocab[i] for i in run(whole, crops)[1].argmax(1)])


@pytest.fixture
def crops(loaded, table): return load_crops([*table.file], loaded.size).contiguous().numpy()


def test_int8_answers_as_float32_does(whole, crops):
    small = quantize(whole, crops[::2])
    expected, got = (run(d, crops) for d in (whole, small))
    assert abs(got[0] - expected[0]).max() < 0.1 and not np.array_equal(got[1], expected[1])
    model = onnx.load_from_string(small)
    onnx.checker.check_model(model)
    weights = [numpy_helper.to_array(t).astype(int) for t in model.graph.initializer if len(t.dims) == 4
               and t.data_type == onnx.TensorProto.INT8]
    assert len(weights) == sum(n.op_type == 'Conv' for n in model.graph.node) and len(small) < len(whole)/2
    assert max(abs(w).max() for w in weights) <= 64  # 7 bits: the sum of two products fits into 16 bits


def test_the_comparison_is_paired():
    before = np.repeat([0, 1], [88, 12])
    after = np.repeat([0, 1, 0, 2], [80, 8, 2, 10])  # 8 get worse, 2 get better, 10 are wrong in another way
    check = compare(before, after, np.zeros(100, int), 5)
    assert (check.error, check.error_int8, check.agreement, check.images, check.calibrated_on) == (.12, .18, .80, 100, 5)
    assert check.loss == pytest.approx(.06) and -.01 < check.low < .01 and .11 < check.high < .13
    assert 'agree on 80.0% of 100 images; error rate 18.0% instead of 12.0%, a difference of +6.0 points' in str(check)


def test_images_to_compare_on_are_not_calibrated_on(whole, table, crops, monkeypatch):
    seen = []
    monkeypatch.setattr(quantization, 'quantize', lambda data, images: seen.append(images) or data)
    monkeypatch.setattr(quantization, '_predicted', lambda data, images: seen.append(images) or np.zeros(len(images), int))
    held_out = np.arange(18) % 2 == 0
    def same(a, b): return sorted(map(bytes, a)) == sorted(map(bytes, b))
    int8_bytes(whole, table.assign(is_valid=held_out))
    assert same(seen[0], crops[~held_out]) and same(seen[1], crops[held_out])
    seen.clear()
    int8_bytes(whole, table)
    assert len(seen[0]) == 9 and same([*seen[0], *seen[1]], crops)


@pytest.mark.slow
def test_too_large_a_loss_is_refused_unless_forced(whole, table, monkeypatch):
    check = json.loads(metadata(int8_bytes(whole, table)[0])['int8'])
    assert check['error'] == 0 and check['agreement'] > .8
    monkeypatch.setattr(quantization, 'quantize', lambda data, images: negated(data))
    with pytest.raises(ValueError, match=r'instead of 0.0%, a difference of \+.* points.*; more than 2 points are refused'):
        int8_bytes(whole, table)
    data, check = int8_bytes(whole, table, force=True)
    assert check.loss > .5 and json.loads(metadata(data)['int8'])['error_int8'] == check.error_int8
    assert metadata(data)['classes'] == metadata(whole)['classes']


def metadata(data): return onnxruntime.InferenceSession(data).get_modelmeta().custom_metadata_map


def test_what_cannot_be_quantized_is_said(whole, table, crops, monkeypatch):
    with pytest.raises(ValueError, match='5 labelled images to calibrate int8 on, 5 others .*: expected at least 8 each'):
        int8_bytes(whole, table[:10])
    with pytest.raises(ValueError, match='0 others to compare on'): int8_bytes(whole, table.assign(is_valid=False))
    with pytest.raises(ValueError, match='no label is one of the 3 classes of this bundle'):
        int8_bytes(whole, table.assign(label='cat'))
    monkeypatch.setattr(quantization, 'find_spec', lambda name: None)
    said = r'onnxruntime not installed; pip install .pet-classifier\[onnx\]'
    with pytest.raises(ValueError, match=said): quantize(whole, crops)


@pytest.mark.slow
def test_the_command_writes_both_formats_and_says_what_int8_costs(bundle, whole, table, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('pet_classifier.deploy.onnx.onnx_bytes', lambda loaded: whole)
    labels = tmp_path/'labels.csv'
    table.to_csv(labels, index=False)
    model, words = str(bundle), ['--onnx', str(tmp_path/'a.onnx'), '--openvino', str(tmp_path/'a')]
    assert main(['export', model, *words, '--int8', str(labels)]) == 0
    out, err = capsys.readouterr()
    assert out.split() == [str(tmp_path/'a.onnx'), str(tmp_path/'a')] and 'int8 and float32 agree on' in err
    assert json.loads(metadata((tmp_path/'a.onnx').read_bytes())['int8'])['images'] == 9
    monkeypatch.setattr(quantization, 'quantize', lambda data, images: negated(data))
    refused = ['export', model, '--onnx', str(tmp_path/'b.onnx'), '--openvino', str(tmp_path/'b'), '--int8', str(labels)]
    assert main(refused) == 2 and 'more than 2 points are refused' in capsys.readouterr().err
    assert sorted(f.name for f in tmp_path.iterdir()) == ['a', 'a.onnx', 'labels.csv']
    assert main([*refused, '--force']) == 0
