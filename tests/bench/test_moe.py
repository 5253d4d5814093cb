"""Mixtures of experts: routers send tokens where they say, and the three implementations compute the same sum."""

from __future__ import annotations

import pytest
import torch

from bench.models.moe import DynamicChoice, ExpertChoice, MoELayer, SampleChoice, TokenChoice

EXPERTS = 4


def probabilities() -> torch.Tensor:
    """Two samples of eight tokens over four experts."""
    return torch.randn(2, 8, EXPERTS, generator=torch.Generator().manual_seed(0)).softmax(-1)


def test_token_choice_gives_every_token_k_experts() -> None:
    weights = TokenChoice(2).weights(probabilities())
    assert ((weights > 0).sum(-1) == 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 8))


def test_expert_choice_gives_every_expert_as_many_tokens() -> None:
    weights = ExpertChoice(0.25).weights(probabilities())
    assert ((weights > 0).sum(1) == 2).all()


def test_sample_choice_sends_all_tokens_of_a_sample_the_same_way() -> None:
    weights = SampleChoice(2).weights(probabilities())
    assert ((weights > 0).sum(-1) == 2).all()
    assert (weights == weights[:, :1]).all()


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("tau", [0.3, 0.6, 0.9])
def test_dynamic_choice_takes_the_fewest_experts_that_reach_tau(tau: float, per_sample: bool) -> None:
    seen = probabilities().mean(1, keepdim=True).expand(2, 8, EXPERTS) if per_sample else probabilities()
    chosen = DynamicChoice(tau, per_sample).weights(probabilities()) > 0
    reached = (seen * chosen).sum(-1)
    least = torch.where(chosen, seen, torch.inf).amin(-1)
    assert (reached >= tau - 1e-6).all()
    assert (reached - least < tau).all(), "one expert fewer would not reach it"


@pytest.mark.parametrize("router", [TokenChoice(2), ExpertChoice(0.5), SampleChoice(2), DynamicChoice(0.6)])
def test_the_implementations_agree_where_nothing_is_dropped(router: object) -> None:
    """Room for every token at every expert; the same weights in a list of experts and in one batch of them."""
    torch.manual_seed(0)
    layers = {name: MoELayer(8, 16, EXPERTS, router, name, capacity=100.0) for name in ("loop", "capacity", "grouped")}
    layers["capacity"].load_state_dict(layers["loop"].state_dict())
    grouped = layers["grouped"]
    grouped.gate.load_state_dict(layers["loop"].gate.state_dict())
    for name in ("gate", "up", "down"):
        stacked = torch.stack([getattr(expert, name).weight.T for expert in layers["loop"].experts])
        getattr(grouped.batched, name).data.copy_(stacked)
    x = torch.randn(2, 8, 8)
    expected = layers["loop"](x)
    torch.testing.assert_close(layers["capacity"](x), expected)
    torch.testing.assert_close(grouped(x), expected)


def test_tokens_over_capacity_are_dropped() -> None:
    """An undecided router sends all eight tokens to the first of two experts, which has room for two."""
    layer = MoELayer(8, 16, 2, TokenChoice(1), "capacity", capacity=0.5)
    layer.gate.weight.data.zero_()
    output = layer(torch.randn(1, 8, 8))
    assert (output == 0).all(-1).sum() == 6


def test_an_unknown_implementation_is_named() -> None:
    with pytest.raises(ValueError, match="'magic' is unknown"):
        MoELayer(8, 16, 4, implementation="magic")
