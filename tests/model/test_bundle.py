"A bundle is data: whole or not there, and looked at before it is used."
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.torch_core import no_random
from PIL import Image
from safetensors.torch import load_file, save_file

from pet_classifier.core.html import escape_markup
from pet_classifier.data.labels import label_by_name
from pet_classifier.data.loaders import loaders
from pet_classifier.data.splits import random_split
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.model.bundle import bundle_id, check_config, load_bundle
from pet_classifier.model.bundle_writer import model_card, save_bundle
from pet_classifier.training.learner import pet_learner


@pytest.fixture(scope='module')
def learn(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for name in (f'{c}_{i}.jpg' for c in ('red', 'green', 'blue') for i in range(3)):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(folder/name)
    return pet_learner(loaders(random_split(label_by_name(sorted(folder.iterdir())), 0.34), size=32), 'resnet18', weights='none')


@pytest.fixture(scope='module')
def saved(learn, tmp_path_factory): return save_bundle(learn, tmp_path_factory.mktemp('saved')/'model', error_rate=0.5, seed=2)


@pytest.fixture
def bundle(saved, tmp_path): return shutil.copytree(saved, tmp_path/'model')


def config_with(bundle, **changed):
    config = json.loads((bundle/'config.json').read_text()) | changed
    (bundle/'config.json').write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    return bundle


def weights_with(bundle, change):
    "The bundle with weights that `change` has made of its own, and the hash that belongs to them"
    from hashlib import sha256
    file = bundle/'model.safetensors'
    save_file(change(load_file(file)), file)
    return config_with(bundle, sha256=sha256(file.read_bytes()).hexdigest())


def test_comes_back_as_it_was(learn, saved):
    state, loaded = learn.model.state_dict(), load_bundle(saved)
    assert all(torch.equal(t, state[k]) for k, t in loaded.model.state_dict().items())
    assert not any(m.training for m in loaded.model.modules())
    assert loaded.vocab == ['blue', 'green', 'red'] and loaded.size == 32
    assert (loaded.mean, loaded.std) == (learn.backbone.mean, learn.backbone.std)
    assert loaded.config['facts'] == dict(error_rate=0.5, seed=2)
    assert {'pet_classifier', 'torch', 'torchvision', 'timm', 'fastai', 'python'} <= loaded.config['versions'].keys()


@pytest.fixture(scope='module')
def with_fastais_head(learn, tmp_path_factory):
    "A learner with fastai's head, whose answers are not all alike, and its bundle"
    old = pet_learner(learn.dls, 'test_resnet', 'none', head='fastai', precision='fp32')
    with no_random(0): torch.nn.init.normal_(old.model[1][-1].weight, std=0.5)
    return old, save_bundle(old, tmp_path_factory.mktemp('old')/'model')


@pytest.mark.parametrize('version', [1, 2, 3, 4])
def test_a_bundle_with_fastais_head_answers_what_its_learner_did(with_fastais_head, tmp_path, version):
    learn, saved = with_fastais_head
    bundle = shutil.copytree(saved, tmp_path/'model')
    if version < 4: config_with(bundle, format_version=version, sizes=...)
    if version < 3: config_with(bundle, temperature=..., none_below=...)
    if version == 1: config_with(bundle, head=...)  # as it was written before there was another head
    loaded = load_bundle(bundle)
    assert loaded.config['head'] == 'fastai' and len(loaded.model[1]) == len(learn.model[1]) > 5
    answers = Predictor(loaded, precision='fp32').evaluate(learn.dls.valid_ds.items).probs
    assert answers.std() > 0.02 and answers == pytest.approx(learn.get_preds()[0].numpy(), abs=1e-5)


def test_the_format_is_4_and_says_which_head_it_is(saved, with_fastais_head):
    configs = [json.loads((folder/'config.json').read_text()) for folder in (saved, with_fastais_head[1])]
    assert [(c['format_version'], c['head']) for c in configs] == [(4, 'linear'), (4, 'fastai')]


def test_holds_three_files_and_no_pickle(saved):
    assert sorted(f.name for f in saved.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    load_file(saved/'model.safetensors')
    json.loads((saved/'config.json').read_text())


def test_saving_and_loading_leave_the_random_state_and_the_learner(learn, bundle):
    torch.manual_seed(3)
    before, training = torch.get_rng_state(), learn.model.training
    load_bundle(save_bundle(learn, bundle))
    assert torch.equal(torch.get_rng_state(), before) and learn.model.training == training


def test_a_failed_write_keeps_the_old_bundle(learn, bundle, monkeypatch):
    before = {f.name: f.read_bytes() for f in bundle.iterdir()}
    def full(fd): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(OSError, match='No space left'): save_bundle(learn, bundle)
    assert {f.name: f.read_bytes() for f in bundle.iterdir()} == before
    assert [f.name for f in bundle.parent.iterdir()] == ['model']
    monkeypatch.undo()
    load_bundle(bundle)


def test_a_folder_that_is_no_bundle_is_not_replaced(learn, tmp_path):
    (tmp_path/'thesis.txt').write_text('three years of work')
    with pytest.raises(FileExistsError, match='thesis.txt'): save_bundle(learn, tmp_path)
    assert (tmp_path/'thesis.txt').read_text() == 'three years of work'


@pytest.mark.parametrize('value', [float('nan'), torch.tensor(0.1), np.float32(0.1), object()])
def test_facts_that_json_cannot_hold_are_refused(learn, tmp_path, value):
    with pytest.raises(ValueError, match='cannot be written as JSON'): save_bundle(learn, tmp_path/'model', error_rate=value)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('changed, said', [
    (dict(size=...), 'config.json.* lacks size'),
    (dict(vocab=..., arch=...), 'lacks arch, vocab'),
    (dict(size='32'), 'size that is str, expected int'),
    (dict(size=True), 'size that is bool, expected int'),
    (dict(size=0), 'and size 0, expected ascending ones that end with size'),
    (dict(size=10**9), 'expected ascending ones that end with size'),
    (dict(vocab=['a', 'b', 'a']), 'repeats classes in its vocab: a'),
    (dict(vocab=['a', 1, 'c']), 'vocab of two names'),
    (dict(vocab=['a', '', 'c']), 'vocab of two names'),
    (dict(vocab=['a']), 'vocab of two names'),
    (dict(vocab=['a', 'b']), 'is not resnet18 for 2 classes; of its tensors 2 differ: 1.3.weight: '),
    (dict(std=[1, 1, 0]), 'as std'),
    (dict(std=[1, 1]), 'as std'),
    (dict(mean=[0, float('nan'), 0]), 'has the number NaN'),
    (dict(mean=[0, 10**400, 0]), 'has the number 1000'),
    (dict(mean=['0', 0, 0]), 'as mean'),
    (dict(arch='resnet43'), 'not known here: no architecture .resnet43.; similar names'),
    (dict(arch='resnet34'), 'is not resnet34 for 3 classes'),
    (dict(sha256='0'*64), 'model.safetensors.* its hash differs'),
    (dict(sizes=...), 'lacks sizes'),
    (dict(sizes=[]), 'impossible size'),
    (dict(sizes=[32, 32]), 'impossible size'),
    (dict(sizes=[5, 32]), 'impossible size'),
    (dict(sizes=['32']), 'impossible size'),
    (dict(sizes=32), 'sizes that is int, expected list'),
    (dict(sizes=[32, 24]), 'expected ascending ones that end with size'),
    (dict(sizes=[24, 48]), 'expected ascending ones that end with size'),
    (dict(format_version=0), 'has format 0, expected 1'),
    (dict(format_version='1'), 'format_version that is str'),
    (dict(head=...), 'config.json.* lacks head'),
    (dict(head='bilinear'), "has head 'bilinear', expected one of linear, fastai"),
    (dict(head=['linear']), 'head that is list, expected str'),
    (dict(head='fastai'), 'is not resnet18 for 3 classes'),
    (dict(format_version=1, head=...), 'is not resnet18 for 3 classes'),  # without a word it is fastai's head
    (dict(format_version=5, versions=dict(pet_classifier='9.0')), "format 5.*written by version '9.0': pip install --upgrade"),
    (dict(format_version=5, versions=None), 'format 5.*pip install --upgrade'),
])
def test_a_config_that_is_not_as_it_should_be_is_refused(bundle, changed, said):
    with pytest.raises(ValueError, match=said): load_bundle(config_with(bundle, **changed))


@pytest.mark.parametrize('text', [b'', b'not json', b'[1]', b'{}', b'\xff\xfe', b'['*10**5, b' '*10**7 + b' '])
def test_a_config_that_is_no_json_object_is_refused(bundle, text):
    (bundle/'config.json').write_bytes(text)
    with pytest.raises(ValueError, match='config.json.* download or save the bundle again'): check_config(bundle/'config.json')


def test_a_key_that_stands_twice_is_refused(bundle):
    file = bundle/'config.json'
    file.write_text(file.read_text().replace('{', '{"size": 64, ', 1))
    with pytest.raises(ValueError, match='a key twice'): load_bundle(bundle)


@pytest.mark.parametrize('change, said', [
    (lambda w: {k: v for k, v in w.items() if k != '1.3.weight'}, "1.3.weight: missing, expected"),
    (lambda w: w | {'more': torch.zeros(1)}, r"more: \(1,\), expected none"),
    (lambda w: w | {'1.3.weight': torch.zeros(4, 1024)}, r'1.3.weight: \(4, 1024\), expected \(3, 1024\)'),
])
def test_other_tensors_are_refused(bundle, change, said):
    with pytest.raises(ValueError, match=said): load_bundle(weights_with(bundle, change))


@pytest.mark.parametrize('number', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('name', ['0.0.weight', '0.1.running_var', '1.3.bias'])
def test_weights_that_are_no_numbers_are_refused(bundle, name, number):
    def change(weights):
        weights[name].view(-1)[-1] = number
        return weights
    with pytest.raises(ValueError, match=f'contains NaN or infinity in {name}'): load_bundle(weights_with(bundle, change))


def test_a_network_that_diverged_is_not_saved(learn, tmp_path):
    last, was = learn.model[1][-1].bias.data, learn.model[1][-1].bias.data.clone()
    try:
        last[0] = torch.nan
        with pytest.raises(ValueError, match='NaN or infinity in 1.3.bias'): save_bundle(learn, tmp_path/'model')
    finally: last.copy_(was)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('temperature', [0, -1., 1e-46, 1e-40, 1e-9, 1e9, float('nan'), float('inf')])
def test_a_temperature_that_makes_no_probabilities_is_neither_saved_nor_loaded(learn, bundle, tmp_path, temperature):
    with pytest.raises(ValueError, match='temperature='): save_bundle(learn, tmp_path/'new', temperature)
    with pytest.raises(ValueError, match='temperature|has the number'): load_bundle(config_with(bundle, temperature=temperature))


@pytest.mark.parametrize('number', ['1' + '0'*400, '1e999', '-Infinity', 'NaN'])
def test_a_number_that_others_cannot_hold_is_refused_wherever_it_stands(bundle, number):
    file = bundle/'config.json'
    file.write_text(file.read_text().replace('"error_rate": 0.5', f'"error_rate": {number}'))
    with pytest.raises(ValueError, match='has the number'): load_bundle(bundle)


def test_one_changed_number_is_noticed(bundle):
    file = bundle/'model.safetensors'
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match='its hash differs'): load_bundle(bundle)


@pytest.mark.parametrize('spoilt', [
    lambda data: data[:-1], lambda data: data[:100], lambda data: b'', lambda data: data + b'0', lambda data: b'\x80\x04' + data,
    lambda data: struct.pack('<Q', 10**12) + data[8:], lambda data: b'\x80\x04\x95' + b'0'*100])
def test_weights_that_are_not_whole_are_refused(bundle, spoilt):
    file = bundle/'model.safetensors'
    file.write_bytes(spoilt(file.read_bytes()))
    with pytest.raises(ValueError, match="model.safetensors in '.*' is not a complete safetensors file"): load_bundle(bundle)


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
def test_a_file_that_is_not_there_is_named(bundle, name):
    (bundle/name).unlink()
    with pytest.raises(FileNotFoundError, match=f'not a bundle: it has no {name}$'): load_bundle(bundle)


def test_a_run_is_not_its_bundle(bundle):
    with pytest.raises(FileNotFoundError, match='it is a run, whose bundle is .*model'): load_bundle(bundle.parent)
    with pytest.raises(FileNotFoundError, match='not a bundle'): load_bundle(bundle/'nowhere')


@pytest.mark.parametrize('text', ['<script>alert(1)</script>', '[a](javascript:b)', '![a](http://b)', '`a`', 'a|b', '**a**',
                                  '_a_', 'a\n# b', 'a\u202eb', '&lt;', '@a', 'www.a.b', '$a$', '~~a~~', '\\'])
def test_hostile_names_are_escape_markup(text):
    out = escape_markup(text)
    assert not set('<>`*|[]$~@\\\n\u202e') & set(out) and '://' not in out and 'www.' not in out
    assert '&lt;' not in out and not out.startswith('_')


def test_the_card_holds_no_mark_up_of_others(saved):
    config = check_config(saved/'config.json')
    config |= dict(vocab=['<script>alert(1)</script>', '{n}', 'pug'], facts={'a|b': '<img src=x>', 'error_rate': 5/74})
    card = model_card(config)
    assert '<' not in card and '{n}' in card and '| error_rate | 0.06757 |' in card
    assert card.startswith('---\nlibrary_name: pet-classifier\n') and card.count('\n---\n') == 1


def test_the_card_says_when_images_are_drawn(saved):
    config = check_config(saved/'config.json')
    assert 'drawn' not in model_card(config)
    assert 'does not work on photos' in model_card(config | dict(facts=dict(data='drawn sample')))


def test_names_in_any_writing(learn, tmp_path, monkeypatch):
    names = ['猫', 'gato\udcff', '<b>']  # the second as Linux gives a file's name that is no UTF-8
    monkeypatch.setattr(learn.dls, 'vocab', names)
    bundle = save_bundle(learn, tmp_path/'model')
    assert load_bundle(bundle).vocab == names
    assert '猫' in (bundle/'README.md').read_text(encoding='utf-8')


OLD = Path(__file__).parents[1]/'fixtures'/'bundle_format_3'  # written by version 0.0.1, and never again


@pytest.mark.parametrize('version', [2, 3])
def test_a_bundle_of_old_answers_as_it_did(tmp_path, version):
    folder = shutil.copytree(OLD, tmp_path/'bundle')
    config = json.loads((folder/'config.json').read_text())
    if version == 2: config = {k: v for k, v in config.items() if k not in ('temperature', 'none_below')} | dict(format_version=2)
    (folder/'config.json').write_text(json.dumps(config))
    y, x = np.mgrid[:40, :48]
    answers = []
    for a, b, c in (3, 5, 7), (9, 2, 120), (1, 1, 200):
        pixels = np.stack([(a*x + b*y) % 256, (b*x) % 256, (a*y + c) % 256], -1).astype(np.uint8)
        answers.append(Predictor(folder, precision='fp32').predict(Image.fromarray(pixels)))
    assert [p.label for p in answers] == ['red', 'blue', 'blue']
    if version == 3:
        assert [p.probability for p in answers] == pytest.approx([0.6536, 0.8766, 1.0], abs=5e-4)
        assert answers[0].probs['green'] == pytest.approx(0.3464, abs=5e-4) and not answers[0].none_of_these


def header(entries): return struct.pack('<Q', len(text := json.dumps(entries).encode())) + text


@pytest.mark.parametrize('data', [
    header({'a': dict(dtype='F32', shape=[2**38], data_offsets=[0, 2**40])}),
    header({n: dict(dtype='F32', shape=[4], data_offsets=o) for n, o in dict(a=[0, 16], b=[8, 24]).items()}) + bytes(24),
    header({'a': dict(dtype='F32', shape=[2**62, 2**62], data_offsets=[0, 16])}) + bytes(16),
    header({'a': dict(dtype='F32', shape=[4], data_offsets=[16, 0])}) + bytes(16),
    struct.pack('<Q', 2**63) + b'{', b'{"a":' + b'['*100_000,
], ids=['a terabyte', 'overlapping', 'overflowing', 'backwards', 'a header without end', 'nested'])
def test_hostile_weights_are_refused_at_once(bundle, data):
    (bundle/'model.safetensors').write_bytes(data)
    with pytest.raises(ValueError, match='is not a complete safetensors file'): load_bundle(bundle)


def test_a_path_as_the_name_of_a_tensor_is_only_a_name(bundle, tmp_path):
    before = sorted(tmp_path.rglob('*'))
    weights = {'../../evil': dict(dtype='F32', shape=[1], data_offsets=[0, 4])}
    (bundle/'model.safetensors').write_bytes(header(weights) + bytes(4))
    with pytest.raises(ValueError, match='of its tensors 123 differ'): load_bundle(bundle)
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('text', ['['*100_000, '{"a":'*100_000, '9'*10_000, '{"size": 1e999}'],
                         ids=['lists', 'objects', 'digits', 'infinity'])
def test_a_hostile_config_is_refused(bundle, text):
    (bundle/'config.json').write_text(text)
    with pytest.raises(ValueError): load_bundle(bundle)


@pytest.fixture(scope='module')
def at_two_sizes(learn, tmp_path_factory):
    "A learner that sees images at two sizes, whose answers are not all alike, and its bundle"
    table = learn.dls.train_ds.items.assign(is_valid=False), learn.dls.valid_ds.items.assign(is_valid=True)
    two = pet_learner(loaders(pd.concat(table, ignore_index=True), size=(32, 48)), 'test_resnet', 'none', precision='fp32')
    with no_random(0): torch.nn.init.normal_(two.model[1][-1].weight, std=0.5)
    return two, save_bundle(two, tmp_path_factory.mktemp('two')/'model')


def test_a_bundle_of_two_sizes_answers_what_its_learner_did(at_two_sizes):
    learn, saved = at_two_sizes
    loaded = load_bundle(saved)
    assert (loaded.size, loaded.model.sizes, loaded.config['sizes']) == (48, (32, 48), [32, 48])
    assert repr(loaded) == 'test_resnet for 3 classes at 32 and 48 px'
    answers = Predictor(loaded, precision='fp32').evaluate(learn.dls.valid_ds.items).probs
    expected = learn.get_preds()[0].numpy()
    assert answers.std() > 0.02 and answers == pytest.approx(expected, abs=1e-5)
    loaded.model.sizes = (48,)
    assert Predictor(loaded, precision='fp32').evaluate(learn.dls.valid_ds.items).probs != pytest.approx(expected, abs=1e-3)


def test_two_sizes_stand_on_the_card_and_in_the_id_of_the_bundle(at_two_sizes, saved):
    card = (at_two_sizes[1]/'README.md').read_text()
    assert 'at 32 x 32 and 48 x 48 pixels, the features of which are averaged' in card
    assert 'at 32 x 32 pixels.' in (saved/'README.md').read_text()
    both, one = (load_bundle(at_two_sizes[1]) for _ in range(2))
    one.config['sizes'] = [48]
    assert bundle_id(both) != bundle_id(one)


def test_two_sizes_need_the_linear_head(at_two_sizes, tmp_path):
    bundle = config_with(shutil.copytree(at_two_sizes[1], tmp_path/'model'), head='fastai')
    with pytest.raises(ValueError, match="several sizes need head='linear'"): load_bundle(bundle)


def test_a_heat_map_of_two_sizes_is_that_of_the_larger(at_two_sizes):
    learn, saved = at_two_sizes
    image = learn.dls.valid_ds.items.file.iloc[0]
    assert [im.size for im in Predictor(saved).look(image)] == [(48, 48)]*2
