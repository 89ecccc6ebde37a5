"Any name that timm knows goes all the way from loaders to predictions and heat maps, or is refused in one line beforehand."
import numpy as np
import pytest
import timm
import torch
from fastai import layers

from pet_classifier.data.loaders import loaders
from pet_classifier.deploy.onnx import export_onnx
from pet_classifier.deploy.predictor import Predictor
from pet_classifier.evaluation.interpretation import interpret
from pet_classifier.model.backbone import AdaptiveConcatPool2d, TimmBackbone, build_model, check_arch, check_backbone
from pet_classifier.model.bundle import load_bundle
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.model.gradcam import NoSpatialMaps, grad_cam
from pet_classifier.training.head import fit_head
from pet_classifier.training.learner import pet_learner

MAPS = [('resnet18', 64), ('test_byobnet', 64), ('test_convnext', 64), ('test_efficientnet', 64), ('test_mambaout', 64),
        ('test_nfnet', 64), ('test_coatnet', 160), ('lcnet_035', 64), ('regnetx_002', 64), ('ghostnet_050', 64), ('vgg11', 32),
        ('edgenext_xx_small', 64), ('repvit_m0_9', 64), ('pvt_v2_b0', 64), ('starnet_s050', 64), ('mobilevit_xxs', 64),
        ('swin_tiny_patch4_window7_224', 64), ('inception_next_atto', 64)]
ROWS = [('test_vit', 64), ('test_vit_relpos', 160), ('vit_tiny_patch16_224', 96), ('eva02_tiny_patch14_224', 56),
        ('levit_128s', 224), ('xcit_nano_12_p8_224', 64), ('pit_ti_224', 224), ('gmlp_ti16_224', 224), ('hiera_tiny_224', 224),
        ('efficientformerv2_s0', 224), ('twins_svt_small', 64), ('mvitv2_tiny', 64)]
ALL = [*MAPS, *ROWS]
PLAIN = [('test_mambaout', 64), ('test_vit', 64), ('test_efficientnet', 64), ('test_coatnet', 160), ('test_vit_relpos', 160)]


def with_opinions(arch):
    "A network whose head is not of zeros"
    torch.manual_seed(0)
    model = build_model(arch, 3).eval()
    torch.nn.init.normal_(model[1][-1].weight)
    return model


@pytest.mark.parametrize('arch, size', ALL, ids=lambda v: str(v))
@pytest.mark.slow
def test_every_family_gives_features_and_scores_and_maps_where_there_are_some(arch, size):
    assert check_backbone(arch, size) == arch
    model, x = with_opinions(arch), torch.rand(2, 3, size, size)
    with torch.no_grad(): features, logits = model.features(x), model(x)
    assert logits.shape == (2, 3) and logits.isfinite().all() and not torch.equal(logits[0], logits[1])
    if (arch, size) in MAPS:
        assert features.ndim == 4 and features.shape[1] > features.shape[2] == features.shape[3]
        assert grad_cam(model, x).shape == (2, *features.shape[2:])
    else:
        assert features.ndim == 2
        with pytest.raises(NoSpatialMaps, match='per image, not feature maps'): grad_cam(model, x)


@pytest.mark.parametrize('head', ['linear', 'fastai'])
@pytest.mark.parametrize('arch, size', PLAIN)
@pytest.mark.slow
def test_a_learner_trains_and_its_bundle_and_its_export_answer_alike(tiny_table, tmp_path, arch, size, head):
    learn = pet_learner(loaders(tiny_table, size=size, bs=6), arch, 'none', head=head, precision='fp32')
    fit_head(learn, 2)
    learn.fit(1, 1e-4)
    asked = interpret(learn)
    bundle = load_bundle(save_bundle(learn, tmp_path/'model'))
    probs = Predictor(bundle, precision='fp32').evaluate(tiny_table[tiny_table.is_valid]).probs
    assert np.allclose(probs, asked.probs, atol=1e-5)
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    if head == 'fastai': return  # its layers are exported by a test of their own
    x = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    before = Predictor(bundle, precision='fp32').logits(list(x))
    session = onnxruntime.InferenceSession(export_onnx(bundle, tmp_path/'a.onnx'), providers=['CPUExecutionProvider'])
    assert np.allclose(session.run(['logits'], {'images': x.numpy()})[0], before, atol=1e-3)
    assert np.allclose(Predictor(bundle, precision='fp32').logits(list(x)), before, atol=1e-6)  # as before the export


@pytest.mark.parametrize('arch, size, native', [
    ('test_vit_relpos', 64, 160), ('test_coatnet', 64, 160), ('inception_v3', 32, 299), ('alexnet', 32, 224),
    ('levit_128s', 64, 224), ('vit_small_patch14_dinov2', 225, 518)])
def test_a_size_that_a_backbone_cannot_take_is_refused_with_the_one_it_can(arch, size, native):
    with pytest.raises(ValueError, match=f'{arch} does not accept images of {size} px') as e: check_backbone(arch, size)
    assert f'--size {native}' in str(e.value) and '\n' not in str(e.value)


def test_pooling_has_a_deterministic_gradient_unlike_fastais():
    "On a GPU the gradient of adaptive max pooling raises an error with `torch.use_deterministic_algorithms(True)`"
    def gradient(pool):
        maps = torch.ones(1, 1, 2, 2, requires_grad=True)
        steps, seen = [(pooled := pool(maps)).grad_fn], []
        while steps: seen.append((step := steps.pop()).name()), steps.extend(f for f, _ in step.next_functions if f)
        pooled[:, 0].sum().backward()
        return any('AdaptiveMaxPool' in name for name in seen), maps.grad.flatten().tolist()
    assert gradient(AdaptiveConcatPool2d()) == (False, [0.25]*4) # equal maxima share it
    assert gradient(layers.AdaptiveConcatPool2d()) == (True, [1, 0, 0, 0])


def test_a_network_that_fails_at_its_own_size_too_is_refused(monkeypatch):
    def broken(self, x): raise KeyError('no such\nlayer')
    monkeypatch.setattr(TimmBackbone, 'forward', broken)
    check = check_backbone.__wrapped__  # which remembers nothing
    with pytest.raises(ValueError, match='test_vit cannot be used as a backbone here') as e: check('test_vit', 64)
    assert '\n' not in str(e.value)


def test_a_body_whose_features_are_not_as_many_as_it_says_is_refused(monkeypatch):
    monkeypatch.setattr(TimmBackbone, 'forward', lambda self, x: x.flatten(1))
    with pytest.raises(ValueError, match='its output has the shape .* not 64 features'):
        check_backbone.__wrapped__('test_vit', 64)


def test_a_learner_is_not_made_with_a_size_that_its_backbone_cannot_take(tiny_dls):
    with pytest.raises(ValueError, match='use size=160'): pet_learner(tiny_dls, 'test_vit_relpos', 'none')


@pytest.mark.parametrize('arch, near', [('dinov2', 'dinov2'), ('ResNet43', 'resnet34'), ('resnet50.a1_in2k', 'resnet50.a1_in1k'),
                                        ('timm/resnet18', 'resnet18'), ('', 'none'), (None, 'similar'), (7, 'similar'),
                                        ('x'*10**5, 'similar'), ('resnet18\n', 'resnet18')])
def test_what_is_no_name_of_a_network_is_refused_in_one_line_with_its_neighbours(arch, near):
    with pytest.raises(ValueError, match='no architecture') as e: check_arch(arch)
    assert near in str(e.value).partition('similar')[2] + 'similar' and '\n' not in str(e.value) and len(str(e.value)) < 500


def test_a_name_with_the_name_of_its_weights_is_taken():
    assert check_backbone('resnet50.a1_in1k', 64) == 'resnet50.a1_in1k'


@pytest.mark.parametrize('arch, size', [('test_vit', 160), ('vit_tiny_patch16_224', 224), ('swin_tiny_patch4_window7_224', 224)])
def test_at_its_own_size_a_network_that_takes_others_answers_as_timms(arch, size):
    body, x = TimmBackbone(arch).eval(), torch.rand(1, 3, size, size)
    theirs = timm.create_model(arch, num_classes=0).eval()
    theirs.load_state_dict(body.model.state_dict())
    with torch.no_grad(): assert torch.equal(body.model(x), theirs(x))


def test_a_cache_of_attention_biases_does_not_outlive_the_weights():
    model, other, x = with_opinions('levit_128s'), with_opinions('levit_128s'), torch.rand(1, 3, 224, 224)
    state = {k: torch.rand_like(v) if 'attention_biases' in k else v for k, v in model.state_dict().items()}
    with torch.no_grad():
        model(x)  # fills it
        for m in model, other: m.load_state_dict(state)
        assert torch.equal(model(x), other(x))
