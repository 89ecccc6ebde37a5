"One's own network is a beginning for the next; a file of others is read as tensors, or refused in one line."
import pickle
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from pet_classifier.data.loaders import loaders
from pet_classifier.model.bundle import load_bundle
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.model.features import fingerprint
from pet_classifier.model.pretrained import read_weights
from pet_classifier.training.learner import frozen_groups, pet_learner


@pytest.fixture(scope='module')
def bundle(tiny_dls, tmp_path_factory):
    learn = pet_learner(tiny_dls, 'test_resnet', 'none', seed=9)
    return save_bundle(learn, tmp_path_factory.mktemp('own')/'model')


@pytest.mark.parametrize('part', ['', 'model.safetensors'])
@pytest.mark.parametrize('head', ['linear', 'fastai'])
def test_the_body_of_a_bundle_is_taken_and_the_head_is_new(bundle, tiny_table, part, head):
    fewer = loaders(tiny_table[tiny_table.label != 'red'], size=64, bs=4)
    learn = pet_learner(fewer, 'test_resnet', bundle/part, head=head)
    assert fingerprint(learn.model[0]) == fingerprint(load_bundle(bundle).model[0])
    assert learn.model[1][-1].out_features == 2 and frozen_groups(learn) == 2
    assert learn.backbone.weights == 'bundle of 3 classes (from none)'


def test_the_bundle_of_a_torchvision_network_is_taken_too(tiny_dls, tmp_path):
    folder = save_bundle(pet_learner(tiny_dls, 'resnet18', 'none', seed=9), tmp_path/'model')
    assert fingerprint(pet_learner(tiny_dls, 'resnet18', folder).model[0]) == fingerprint(load_bundle(folder).model[0])


def test_the_bundle_of_another_architecture_is_refused_with_its_name(bundle, tiny_dls):
    with pytest.raises(ValueError, match="is of test_resnet, not resnet18; use arch='test_resnet'"):
        pet_learner(tiny_dls, 'resnet18', bundle)


def test_a_folder_that_is_no_bundle_and_a_changed_bundle_are_refused(bundle, tiny_dls, tmp_path):
    with pytest.raises(FileNotFoundError, match='is not a bundle: it has no model'):
        pet_learner(tiny_dls, 'test_resnet', tmp_path)
    for f in bundle.iterdir(): (tmp_path/f.name).write_bytes(f.read_bytes())
    data = bytearray((tmp_path/'model.safetensors').read_bytes())
    data[-1] ^= 1
    (tmp_path/'model.safetensors').write_bytes(data)
    with pytest.raises(ValueError, match='its hash differs'): pet_learner(tiny_dls, 'test_resnet', tmp_path)


def test_a_folder_with_the_name_of_weights_does_not_hide_them(tiny_dls, tmp_path, monkeypatch):
    (tmp_path/'imagenet').mkdir()
    monkeypatch.chdir(tmp_path)
    assert 'lite0' in pet_learner(tiny_dls, 'efficientnet_lite0', 'imagenet').backbone.weights


PICKLES = [b'\x80\x02h\x09.', b'\x80\x02', b'', b'.', b'N.', b'(', b'\x80\x05K\x01.', b'\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01u.',
           b'\x80\x02ctorch\nzeros\n.', b'\x80\x02cos\nsystem\n(S"x"\ntR.', b'PK\x03\x04', b'\xff'*100, b'\x80\x02G@.',
           b'\x80\x02X\xff\xff\xff\x7fa.', b'\x80\x02]' + b'a'*50, b'(' * 1000, b'\x80\x02J\xff\xff.', pickle.dumps(range(3)),
           pickle.dumps({'a': 1}), pickle.dumps('x'*1000), struct.pack('<Q', 10**15), b'\x80\x02R.', b'\x80\x02b.', b'\x80\x021.',
           b'\x80\x02q.', b'\x80\x02\x85.', b'\x80\x02Q.', b'\x80\x02t.', b'\x80\x02s.', b'\x80\x02u.', b'\x80\x02\x81.']


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.safetensors'])
@pytest.mark.parametrize('data', PICKLES, ids=range(len(PICKLES)))
def test_bytes_that_are_no_state_dict_are_refused_in_one_line(tmp_path, data, suffix):
    file = tmp_path/f'w{suffix}'
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f'w{suffix} ') as e: read_weights(file)
    assert '\n' not in str(e.value) and len(str(e.value)) < 600


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('content', [
    {1: torch.zeros(1)}, {'a': torch.zeros(2, 2).to_sparse()}, {'a': torch.zeros(1, dtype=torch.complex64)},
    {'a': {'b': torch.zeros(1)}}, {'a': torch.empty(2, device='meta')}, {'a': None}, None, ()], ids=str)
def test_a_dict_of_something_else_than_plain_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path/'a.pth')
    with pytest.raises(ValueError, match='a.pth'): read_weights(tmp_path/'a.pth')


@pytest.mark.parametrize('number', [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_refused(tiny_dls, tiny_weights, tmp_path, number):
    state = load_file(tiny_weights)
    state['layer2.0.conv1.weight'].view(-1)[5] = number
    save_file(state, tmp_path/'a.safetensors')
    with pytest.raises(ValueError, match='these weights are damaged: .*layer2.0.conv1.weight contains NaN or infinity'):
        pet_learner(tiny_dls, 'test_resnet', tmp_path/'a.safetensors')
