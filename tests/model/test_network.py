"The body computes in bfloat16 where that pays, the head never; and it ends where it began, also after an error."
import pytest
import torch
from torch import nn

from pet_classifier.model import network as network_module
from pet_classifier.model.backbone import build_model
from pet_classifier.model.features import fingerprint
from pet_classifier.model.network import (
    DTYPES,
    PRECISIONS,
    Network,
    at_size,
    has_bf16,
    is_depthwise,
    resolve_precision,
    set_precision,
)
from pet_classifier.training.fine_tuning import fine_tune
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import pet_learner

PLAIN = nn.Conv2d(3, 6, 3)
DEPTHWISE = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, groups=6))
FAST, HALF, SLOW = 'bf16', 'fp16', 'fp32'


def network(body=PLAIN): return Network(body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)))


@pytest.mark.parametrize('asked, able, device, body, runs, trains', [
    ('auto', True, 'cpu', PLAIN, FAST, FAST), ('auto', True, 'cpu', DEPTHWISE, FAST, SLOW),
    ('auto', True, 'cuda', PLAIN, FAST, FAST), ('auto', True, 'cuda', DEPTHWISE, FAST, FAST),
    ('auto', False, 'cpu', PLAIN, SLOW, SLOW), ('auto', False, 'cuda', DEPTHWISE, HALF, HALF),
    ('fp32', True, 'cpu', PLAIN, SLOW, SLOW), ('fp32', True, 'cuda', DEPTHWISE, SLOW, SLOW),
    ('bf16', False, 'cpu', PLAIN, FAST, FAST), ('bf16', False, 'cpu', DEPTHWISE, FAST, FAST),
    ('bf16', True, 'cuda', DEPTHWISE, FAST, FAST), ('fp16', True, 'cuda', DEPTHWISE, HALF, HALF)])
def test_the_precision_of_training_and_of_inference(monkeypatch, asked, able, device, body, runs, trains):
    monkeypatch.setattr(network_module, 'has_bf16', lambda d='cpu': able)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (7, 5))
    for before in FAST, SLOW:
        model = network(body)
        model.runs_in = model.trains_in = before
        assert set_precision(model, asked, torch.device(device)) is model
        assert (model.runs_in, model.trains_in) == (runs, trains)


@pytest.mark.parametrize('able', [True, False])
def test_auto_is_bf16_where_the_device_has_it_and_the_others_are_as_asked(monkeypatch, able):
    devices = []
    def has_bf16(device='cpu'):
        devices.append(device)
        return able
    monkeypatch.setattr(network_module, 'has_bf16', has_bf16)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (7, 5))
    assert [resolve_precision(p, 'cuda') for p in PRECISIONS] == ['bf16' if able else 'fp16', 'bf16', 'fp16', 'fp32']
    assert devices == ['cuda']


def test_a_new_network_computes_as_ever(): assert network().runs_in == network().trains_in == 'fp32'


@pytest.mark.parametrize('asked', ['fp8', 'BF16', '', None, True])
def test_an_unknown_precision_is_refused(tiny_dls, asked):
    said = f'precision={asked!r}: expected one of auto, bf16, fp16, fp32'
    with pytest.raises(ValueError, match=said): resolve_precision(asked)
    with pytest.raises(ValueError, match=said): set_precision(network(), asked)
    with pytest.raises(ValueError, match=said): pet_learner(tiny_dls, 'test_resnet', 'none', precision=asked)


@pytest.mark.parametrize('known, able', [
    ({}, False), (dict(avx2=True, avx512_f=True), False), (dict(avx512_bf16=True), True), (dict(amx_bf16=True), True),
    (dict(avx512_bf16=False, amx_bf16=False), False), (dict(bf16=True), True), (dict(arm_bf16=True), True)])
def test_a_processor_is_asked_for_its_instructions(monkeypatch, known, able):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: known)
    assert has_bf16() is able and has_bf16('cpu') is able and has_bf16(torch.device('cpu')) is able


@pytest.mark.parametrize('capability, able, auto', [
    ((9, 0), True, 'bf16'), ((8, 0), True, 'bf16'), ((7, 5), False, 'fp16'), ((7, 0), False, 'fp16'), ((6, 1), False, 'fp32')])
def test_the_gpu_that_computes_is_asked_what_it_does_itself_and_not_the_current_one(monkeypatch, capability, able, auto):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict(avx512_bf16=not able))
    def of(device): return capability if torch.device(device).index == 1 else (3, 0)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', of)
    assert has_bf16('cuda:1') is able and has_bf16(torch.device('cuda', 1)) is able and not has_bf16('cuda:0')
    assert resolve_precision('auto', 'cuda:1') == auto and resolve_precision('auto', 'cuda:0') == 'fp32'


@pytest.mark.parametrize('device', ['cpu', 'mps'])
def test_fp16_is_for_gpus(device):
    with pytest.raises(ValueError, match=f"precision='fp16', device='{device}': fp16 is for GPUs; give 'auto'"):
        resolve_precision('fp16', device)


def test_a_device_of_another_kind_is_not_trusted_with_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict(avx512_bf16=True))
    assert not has_bf16('mps')


@pytest.mark.parametrize('arch, depthwise', [('efficientnet_lite0', True), ('test_efficientnet', True), ('test_convnext', True),
                                             ('test_resnet', False), ('resnet18', False), ('resnext50_32x4d', False)])
def test_depthwise_convolutions_are_seen(arch, depthwise): assert is_depthwise(build_model(arch, 2)[0]) is depthwise


def test_a_convolution_of_one_channel_is_not_depthwise():
    assert not is_depthwise(nn.Conv2d(1, 8, 3)) and not is_depthwise(nn.Conv2d(8, 8, 3, groups=4)) and is_depthwise(DEPTHWISE[1])


@pytest.mark.parametrize('asked, number', [('fp32', torch.float32), ('bf16', torch.bfloat16)])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('head', ['linear', 'fastai'])
def test_the_body_computes_in_it_and_the_head_gets_float32(learner, asked, number, training, head):
    learn, seen = learner(precision=asked, head=head), {}
    learn.model[0].model.layer1.register_forward_hook(lambda m, x, out: seen.update(body=out.dtype))
    learn.model[1].register_forward_hook(lambda m, x, out: seen.update(before=x[0].dtype, after=out.dtype))
    learn.model.train(training)
    out = learn.model(torch.rand(2, 3, 32, 32))
    assert seen == dict(body=number, before=torch.float32, after=torch.float32) and out.dtype == torch.float32
    assert learn.model.features(torch.rand(2, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize('runs, trains', [(FAST, SLOW), (SLOW, FAST)])
def test_training_and_running_each_go_by_their_own_word(runs, trains):
    model, seen = network(nn.Sequential(PLAIN, nn.BatchNorm2d(6))), []
    model[0][0].register_forward_hook(lambda m, x, out: seen.append(out.dtype))
    model.runs_in, model.trains_in = runs, trains
    for training in True, False: model.train(training)(torch.rand(2, 3, 8, 8))
    model.train()[0][1].eval()  # as `FreezeBatchNorm` does it
    model(torch.rand(2, 3, 8, 8))
    assert seen == [DTYPES[p] for p in (trains, runs, trains)]


@pytest.mark.parametrize('asked', ['auto', 'bf16', 'fp32'])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_it_ends_with_the_body_also_after_an_error(asked, training, error):
    class Raises(nn.Conv2d):
        def forward(self, x):
            assert torch.is_autocast_enabled('cpu') == ((model.trains_in if training else model.runs_in) == FAST)
            if not x.any(): raise error('on purpose')
            return super().forward(x)
    model = set_precision(network(Raises(3, 6, 3)), asked).train(training)
    model(torch.rand(2, 3, 8, 8))
    assert not torch.is_autocast_enabled('cpu')
    with pytest.raises(error): model(torch.zeros(2, 3, 8, 8))
    assert not torch.is_autocast_enabled('cpu') and PLAIN(torch.rand(2, 3, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize('asked', ['fp32', 'bf16'])
def test_autocast_that_is_on_already_is_left_alone(asked):
    model, seen = set_precision(network(nn.Sequential(nn.Conv2d(3, 6, 3))), asked), []
    model[0][0].register_forward_hook(lambda m, x, out: seen.append(out.dtype))
    with torch.autocast('cpu', torch.float16): out = model(torch.rand(2, 3, 8, 8))
    assert seen == [torch.float16] and out.dtype == torch.float16  # as with `learn.to_fp16()`, the head too


def test_weights_and_gradients_stay_float32_and_learn(learner):
    learn = learner(precision='bf16')
    was = fingerprint(learn.model[0])
    fine_tune(learn, 1, 1e-3, keep_best=False)
    assert fingerprint(learn.model[0]) != was
    assert {v.dtype for v in learn.model.state_dict().values()} <= {torch.float32, torch.int64}
    assert {p.grad.dtype for p in learn.model.parameters() if p.grad is not None} == {torch.float32}


def test_answers_are_nearly_the_same(learner):
    answers = {}
    for asked in 'fp32', 'bf16':
        learn = learner(precision=asked)
        fit_head(learn, 20)
        answers[asked] = learn.get_preds()[0]
    difference = (answers['fp32'] - answers['bf16']).abs().max()
    assert 0 < difference < 0.05 and answers['fp32'].std() > 0.1


@pytest.mark.parametrize('able', [True, False])
def test_a_learner_computes_in_what_its_device_is_able_to(learner, monkeypatch, able):
    monkeypatch.setattr(network_module, 'has_bf16', lambda device='cpu': able)
    model = learner().model
    assert model.runs_in == model.trains_in == (FAST if able else SLOW)


@pytest.fixture
def images(): return torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def at_sizes(*sizes):
    "A network with random weights, also in its last layer"
    torch.manual_seed(0)
    model = build_model('test_resnet', 4, sizes=sizes)
    nn.init.normal_(model[1][-1].weight)
    return model.eval()


@torch.inference_mode()
def test_several_sizes_are_the_mean_of_their_features_of_unit_length_again(images):
    model, pool = at_sizes(32, 48), at_sizes()[1][:-1]
    small = nn.functional.interpolate(images, size=(32, 32), mode='bilinear', antialias=True)
    rows = (pool(model[0](small)) + pool(model[0](images)))/2
    assert not torch.allclose(pool(model[0](small)), pool(model[0](images)), atol=0.1)
    got = model.pooled(images, pool)
    assert got.view(3, 2, -1).norm(dim=2).flatten().tolist() == pytest.approx([10]*6, rel=1e-4)  # as `UnitLength` has it
    assert torch.allclose(got, pool[-1](rows), atol=1e-4)
    assert torch.allclose(model(images), model[1][-1](got), atol=1e-4)


@torch.inference_mode()
def test_one_size_or_none_is_the_network_as_ever(images):
    plain = at_sizes()
    for model in at_sizes(48), at_sizes(32): assert torch.equal(model(images), plain(images))  # as it comes
    assert not torch.allclose(at_sizes(32, 48)(images), plain(images), atol=1e-2)


@torch.inference_mode()
def test_a_body_that_pools_by_itself_takes_several_sizes_too():
    model = build_model('test_vit', 2, sizes=(96, 160)).eval()
    assert model(torch.rand(2, 3, 160, 160)).shape == (2, 2)


def test_gradients_come_from_all_sizes(images):
    model = at_sizes(32, 48).train()
    model(images).sum().backward()
    both = next(model[0].parameters()).grad.clone()
    model.zero_grad()
    model.sizes = (48,)
    model(images).sum().backward()
    assert both.abs().sum() > 0 and not torch.allclose(both, next(model[0].parameters()).grad)


def test_several_sizes_need_the_linear_head():
    with pytest.raises(ValueError, match=r"size=\(32, 48\): several sizes need head='linear'"):
        build_model('test_resnet', 2, 'fastai', (32, 48))
    assert build_model('test_resnet', 2, 'fastai', (48,)).sizes == ()


def test_an_image_of_the_right_size_is_passed_on(images):
    assert at_size(images, 48) is images and at_size(images, 20).shape == (3, 3, 20, 20)
