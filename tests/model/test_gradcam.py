"The map shows where a class was seen, for every backbone that has places at all, and changes nothing."
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pet_classifier.model.backbone import build_model, linear_head
from pet_classifier.model.features import fingerprint
from pet_classifier.model.gradcam import grad_cam, overlay
from pet_classifier.model.network import Network


@pytest.mark.parametrize('head', ['linear', 'fastai'])
@pytest.mark.parametrize('arch, side', [('resnet18', 2), ('efficientnet_lite0', 2), ('convnext_atto', 2)])
def test_every_convolutional_backbone_has_a_map(arch, side, head):
    model = build_model(arch, 3, head).eval()
    for p in model[1].parameters(): nn.init.normal_(p)
    before = fingerprint(model)
    heat = grad_cam(model, torch.randn(2, 3, 64, 64), [0, 2])
    assert heat.shape == (2, side, side) and heat.min() >= 0 and heat.max() <= 1 and torch.isfinite(heat).all()
    assert fingerprint(model) == before and all(p.grad is None for p in model.parameters())


def test_it_shows_the_place_where_the_class_was_seen():
    body = nn.Conv2d(3, 4, 8, stride=8)  # map k is strong where colour k is
    nn.init.zeros_(body.weight), nn.init.zeros_(body.bias)
    with torch.no_grad():
        for k in range(3): body.weight[k, k] = 1
    model = Network(nn.Sequential(body), linear_head(8, 3)).eval()
    with torch.no_grad():
        for k in range(3): model[1][-1].weight[k, [k, k+4]] = 1
    x = torch.zeros(1, 3, 32, 32)
    x[0, 0, :8, :8] = 1  # red above on the left, blue below on the right
    x[0, 2, 24:, 24:] = 1
    red, blue = grad_cam(model, x, [0])[0], grad_cam(model, x, [2])[0]
    assert red.argmax() == 0 and blue.argmax() == 15 and red[3, 3] < 0.5 and blue[0, 0] < 0.5


def test_a_network_without_places_says_so():
    with pytest.raises(ValueError, match='not feature maps'):
        grad_cam(build_model('vit_tiny_patch16_224', 3).eval(), torch.zeros(1, 3, 224, 224))


def test_where_nothing_spoke_the_image_is_as_it_was():
    im = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    assert np.array_equal(overlay(im, np.zeros((5, 5))), im)
    heat = np.zeros((4, 4))
    heat[0, 0] = 1
    changed = (np.asarray(overlay(im, heat)) != np.asarray(im)).any(2)
    assert changed[:8, :8].all() and not changed[30:, 45:].any() and overlay(im, heat).size == im.size
