"""Muon really orthogonalises the steps of hidden convolutions, and both optimisers resume."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kspacesr_rt.errors import InputError
from kspacesr_rt.train.optimisers import MUON_RATIO, ConvolutionMuon, build_optimiser


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.PReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.Conv2d(32, 1, 3, padding=1),
    )


def one_step(model: nn.Module, optimiser: object, seed: int = 1) -> None:
    torch.manual_seed(seed)
    image = torch.randn(2, 1, 12, 12)
    optimiser.zero_grad(set_to_none=True)
    (model(image) - image.flip(-1)).square().mean().backward()
    optimiser.step()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_hidden_convolution_moves_along_an_orthogonal_matrix(memory):
    """A gradient that is 20 times steeper one way than another gives a step that is not."""
    model = network().to(memory_format=memory)
    optimiser = ConvolutionMuon(model, 1e-3)
    weight = model[2].weight
    before = weight.detach().clone()
    left, _ = torch.linalg.qr(torch.randn(32, 32))
    right, _ = torch.linalg.qr(torch.randn(288, 32))
    gradient = left @ torch.diag(torch.linspace(1.0, 20.0, 32)) @ right.T
    weight.grad = gradient.view(32, 32, 3, 3).to(memory_format=memory)
    optimiser.step()
    step = weight.detach() - before
    values = torch.linalg.svdvals(step.flatten(1))
    # Five Newton-Schulz iterations leave singular values between about 0.6 and 1.2 of the mean.
    assert float(values.max() / values.min()) < 2.5
    # Downhill, and of the size of an Adam step (RMS 0.2 of its rate), times the ratio.
    assert float((step.flatten(1) * gradient).sum()) < 0.0
    rms = float(step.square().mean().sqrt())
    assert rms == pytest.approx(0.2 * MUON_RATIO * 1e-3, rel=0.3)


def test_heads_tails_and_slopes_are_left_to_adam():
    """A layer with one channel on a side gets exactly Adam's step."""
    ours, reference = network(), network()
    one_step(ours, ConvolutionMuon(ours, 1e-3))
    one_step(reference, torch.optim.Adam(reference.parameters(), lr=1e-3))
    for index in (0, 1, 3):
        assert torch.equal(ours[index].weight, reference[index].weight)
    assert not torch.equal(ours[2].weight, reference[2].weight)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_restored_optimiser_goes_on_bit_for_bit(name):
    """Momentum of both halves is part of the state."""
    model = network()
    optimiser = build_optimiser(name, model, 1e-3)
    for seed in range(3):
        one_step(model, optimiser, seed)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    state = copy.deepcopy(optimiser.state_dict())
    again = network()
    again.load_state_dict(weights)
    resumed = build_optimiser(name, again, 1e-3)
    resumed.load_state_dict(state)
    for seed in range(3, 5):
        one_step(model, optimiser, seed)
        one_step(again, resumed, seed)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_the_learning_rate_reaches_both():
    """A schedule sets one rate; nothing moves at a rate of zero."""
    model = network()
    optimiser = ConvolutionMuon(model, 1e-3)
    for group in optimiser.param_groups:
        group["lr"] = 0.0
    before = [one.detach().clone() for one in model.parameters()]
    one_step(model, optimiser)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_weights_decay_and_slopes_do_not(name):
    """Without a gradient a step at rate 1e-2 leaves 1 - 1e-2 * decay (five times that for Muon)."""
    model = network()
    before = copy.deepcopy(model)
    optimiser = build_optimiser(name, model, 1e-2, 0.1)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimiser.step()
    ratio = MUON_RATIO if name == "muon" else 1.0
    for index, kept in ((0, 1 - 1e-3), (2, 1 - ratio * 1e-3), (3, 1 - 1e-3)):
        torch.testing.assert_close(model[index].weight, kept * before[index].weight)
    assert torch.equal(model[1].weight, before[1].weight)
    assert torch.equal(model[0].bias, before[0].bias)


def test_a_network_without_a_wide_layer_is_refused():
    """An empty list of matrices was torch's to complain about, in its own words."""
    with pytest.raises(InputError, match="no convolution of 16 channels") as caught:
        build_optimiser("muon", nn.Conv2d(1, 8, 3), 1e-3)
    assert "optimiser 'adam'" in caught.value.hint
