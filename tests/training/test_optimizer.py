"One step for all weights is fastai's step for each, and what one of the two has left the other takes up."
from copy import deepcopy

import pytest
import torch
from fastai.optimizer import Adam
from torch import nn

from pet_classifier.data.loaders import loaders
from pet_classifier.training.checkpoint import Checkpoint
from pet_classifier.training.fine_tuning import fine_tune
from pet_classifier.training.optimizer import FusedAdam, default_optimizer
from pet_classifier.training.state import optimizer_state, set_optimizer_state


@pytest.fixture
def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(),
                        nn.Linear(8*36, 2))
    return net.to(memory_format=torch.channels_last)


def optimizer(opt_func, net, **kwargs):
    "Of two groups with a rate each, the second frozen or not; biases and batch-norm are not decayed"
    opt = opt_func([list(net[:3].parameters()), list(net[3:].parameters())], lr=1e-2, **kwargs)
    opt.set_hyper('lr', slice(1e-3, 1e-2))
    for p in net.parameters():
        if p.ndim == 1: opt.state[p]['do_wd'] = False
    return opt


def train(net, opt, steps, begin=0):
    "Losses of some steps, with rates and momentum that change"
    losses = []
    for i in range(begin, begin + steps):
        g = torch.Generator().manual_seed(i)
        x, y = torch.randn(16, 3, 8, 8, generator=g), torch.randint(2, (16,), generator=g)
        opt.set_hypers(mom=0.95 - 0.005*i, lr=[1e-3*(1 + i % 5), 1e-2*(1 + i % 5)])
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    return torch.tensor(losses)


def test_twenty_steps_are_those_of_fastais_adam(network):
    nets = [deepcopy(network) for _ in range(3)]
    opts = [optimizer(FusedAdam, nets[0]), optimizer(Adam, nets[1]), optimizer(Adam, nets[2], wd=0.)]
    fused, fastais, undecayed = (train(net, opt, 20) for net, opt in zip(nets, opts))
    assert torch.allclose(fused, fastais, atol=1e-5) and not torch.allclose(undecayed, fastais, atol=1e-5)
    for a, b in zip(*[net.parameters() for net in nets[:2]]): assert torch.allclose(a, b, atol=1e-5)
    for a, b in zip(opts[0].state_dict()['state'], opts[1].state_dict()['state']):
        assert a.keys() == b.keys() and a['step'] == b['step'] == 20 and torch.allclose(a['sqr_avg'], b['sqr_avg'], atol=1e-5)


def test_the_hyperparameters_are_fastais():
    p = [torch.zeros(1)]
    assert dict(FusedAdam(p, 1e-3).hypers[0]) == {k: v for k, v in Adam(p, 1e-3).hypers[0].items()}


def test_what_has_no_gradient_stays_and_is_not_decayed(network):
    opt = optimizer(FusedAdam, network)
    opt.freeze_to(1)
    before = deepcopy(network.state_dict())
    train(network, opt, 3)
    moved = {k.partition('.')[0] for k, v in network.named_parameters() if not torch.equal(v, before[k])}
    assert moved == {'3', '5'}
    opt.unfreeze()
    train(network, opt, 2)  # weights that have learned for a shorter time stand beside those that have for longer
    steps = [state['step'] for state in opt.state_dict()['state']]
    assert steps == [2]*3 + [5]*4


def test_a_gradient_in_another_order_in_memory_counts_as_it_should(network):
    nets = [network, deepcopy(network)]
    opts = [optimizer(FusedAdam, net) for net in nets]
    for net in nets:
        for p in net.parameters(): p.grad = torch.linspace(-1, 1, p.numel()).view(p.shape)
    for p in nets[0].parameters(): p.grad = torch.empty_like(p).copy_(p.grad)
    assert any(p.grad.stride() != p.stride() for p in nets[1].parameters())
    for opt in opts: opt.step()
    for a, b in zip(*[net.parameters() for net in nets]): assert torch.equal(a, b)


@pytest.mark.parametrize('first, second', [(FusedAdam, FusedAdam), (FusedAdam, Adam), (Adam, FusedAdam)])
def test_a_checkpoint_takes_it_up_as_if_nothing_had_happened(network, first, second):
    whole, half = deepcopy(network), deepcopy(network)
    train(whole, opt := optimizer(first, whole), 5)
    straight = train(whole, opt, 5, begin=5)
    train(half, opt := optimizer(first, half), 5)
    set_optimizer_state(again := optimizer(second, half), deepcopy(optimizer_state(opt)))
    resumed = train(half, again, 5, begin=5)
    assert torch.equal(straight, resumed) if first is second else torch.allclose(straight, resumed, atol=1e-5)


def test_a_fine_tuning_with_it_is_resumed_to_the_last_bit(learner, tiny_table, tmp_path, raises):
    def train(resume=False, cb=None):
        learn = learner(loaders(tiny_table, size=32, bs=4, device='cpu', keep=True), cbs=cb)
        learn.opt_func, learn.opt = FusedAdam, None
        fine_tune(learn, 3, 1e-3, checkpoint=Checkpoint(tmp_path/('cut' if cb or resume else 'whole'), resume))
        return learn.model.state_dict()
    whole = train()
    with pytest.raises(KeyboardInterrupt): train(cb=raises(KeyboardInterrupt, at=8))
    resumed = train(resume=True)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_closure_is_refused(network):
    with pytest.raises(NotImplementedError, match='no closure'): optimizer(FusedAdam, network).step(lambda: 0)


def test_it_is_for_gpus():
    assert default_optimizer(torch.device('cuda', 0)) is FusedAdam and default_optimizer(torch.device('cpu')) is Adam
