"Batch norms are folded where that changes nothing but time; where it would change the result, the network stays as it is."
import pytest
import torch
from timm.layers import ScaledStdConv2d
from torch import nn

from pet_classifier.data.crops import load_crops
from pet_classifier.deploy import engines
from pet_classifier.model import features as features_module
from pet_classifier.model.backbone import build_model
from pet_classifier.model.bundle import load_bundle
from pet_classifier.model.bundle_writer import save_bundle
from pet_classifier.model.features import fingerprint
from pet_classifier.model.folding import fold_batch_norm
from pet_classifier.model.network import Network
from pet_classifier.training.learner_features import feature_extractor

SIZE = 64


def with_statistics(network):
    "Return `network` in evaluation mode, with batch norms that are not the identity"
    torch.manual_seed(0)
    for norm in norms(network):
        for values in norm.running_mean, norm.weight.data, norm.bias.data: values.normal_(std=0.3)
        norm.running_var.uniform_(0.5, 2)
    return network.eval()


def norms(network): return [m for m in network[0].modules() if isinstance(m, nn.BatchNorm2d)]


def images(n=3): return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('sizes', [(), (SIZE, 96)])
@pytest.mark.parametrize('arch', ['resnet18', 'resnet34', 'efficientnet_lite0', 'test_efficientnet', 'ghostnet_050'])
def test_a_folded_network_gives_the_same_logits(arch, sizes):
    network = with_statistics(build_model(arch, 3, sizes=sizes))
    nn.init.normal_(network[1][-1].weight)
    was = fingerprint(network)
    folded = fold_batch_norm(network, SIZE)
    assert len(norms(folded)) < len(norms(network))/10 and fingerprint(network) == was
    with torch.inference_mode(): expected, logits = network(images()), folded(images())
    assert (logits - expected).abs().max() < 1e-4*expected.abs().max() and expected.std() > 0


class Shared(nn.Module):
    "A convolution whose output is used with and without its batch norm"
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    def forward(self, x): return self.bn(y := self.conv(x)) + y


@pytest.mark.parametrize('body', [Shared(), nn.Sequential(ScaledStdConv2d(3, 4, 3), nn.BatchNorm2d(4))], ids=['shared', 'scaled'])
def test_what_would_change_the_result_is_not_folded(body):
    network = with_statistics(Network(body, nn.Sequential()))
    assert fold_batch_norm(network, SIZE) is network


def test_in_16_bits_nothing_is_folded():
    network = with_statistics(build_model('resnet18', 3))
    network.runs_in = 'bf16'
    assert fold_batch_norm(network, SIZE) is network


@pytest.fixture
def results(monkeypatch):
    "A function that replaces `fold_batch_norm` where it is used; it returns the list of what that returns"
    def replaced(func):
        seen = []
        def noted(*args): return seen.append(func(*args)) or seen[-1]
        for module in features_module, engines: monkeypatch.setattr(module, 'fold_batch_norm', noted)
        return seen
    return replaced


@pytest.mark.parametrize('training', [True, False])
def test_features_and_predictions_use_it_and_the_learner_keeps_its_network(learner, tiny_table, tmp_path, results, training):
    learn, files = learner(precision='fp32'), tiny_table.file.tolist()
    with_statistics(learn.model)
    nn.init.normal_(learn.model[1][-1].weight)
    learn.model.train(training)
    bundle, crops = load_bundle(save_bundle(learn, tmp_path/'model')), load_crops(files, 32)
    def both(): return feature_extractor(learn).compute(files), torch.tensor(engines.torch_engine(bundle, 'fp32')(crops))
    results(lambda network, size: network)
    (features, logits), was, folded = both(), fingerprint(learn.model), results(fold_batch_norm)
    for value, expected in zip(both(), (features, logits)): assert torch.allclose(value, expected, atol=1e-4) and value.std() > 0
    assert [len(norms(network)) for network in folded] == [0, 0]
    assert fingerprint(learn.model) == was and learn.model.training == training
