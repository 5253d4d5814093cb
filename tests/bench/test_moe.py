"""Mixtures of experts: routers send tokens where they say, implementations agree, experts can be pruned."""

from __future__ import annotations

import pytest
import torch

from bench.models.moe import (
    IMPLEMENTATIONS,
    DynamicChoice,
    ExpertChoice,
    MoELayer,
    PatchChoice,
    SampleChoice,
    TokenChoice,
    balance_loss,
    keep_experts,
)
from memsched.inductor.capture.plan_only import plan_only

EXPERTS = 4


def logits() -> torch.Tensor:
    """Of two samples of eight tokens, for four experts."""
    return torch.randn(2, 8, EXPERTS, generator=torch.Generator().manual_seed(0))


def test_token_choice_gives_every_token_k_experts() -> None:
    weights = TokenChoice(2).weights(logits())
    assert ((weights > 0).sum(-1) == 2).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 8))


def test_expert_choice_gives_every_expert_as_many_tokens() -> None:
    weights = ExpertChoice(0.25).weights(logits())
    assert ((weights > 0).sum(1) == 2).all()


def test_sample_choice_sends_all_tokens_of_a_sample_the_same_way() -> None:
    weights = SampleChoice(2).weights(logits())
    assert ((weights > 0).sum(-1) == 2).all()
    assert (weights == weights[:, :1]).all()


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("tau", [0.3, 0.6, 0.9])
def test_dynamic_choice_takes_the_fewest_experts_that_reach_tau(tau: float, per_sample: bool) -> None:
    seen = logits().softmax(-1)
    seen = seen.mean(1, keepdim=True).expand(2, 8, EXPERTS) if per_sample else seen
    chosen = DynamicChoice(tau, per_sample).weights(logits()) > 0
    reached = (seen * chosen).sum(-1)
    least = torch.where(chosen, seen, torch.inf).amin(-1)
    assert (reached >= tau - 1e-6).all()
    assert (reached - least < tau).all(), "one expert fewer would not reach it"


@pytest.mark.parametrize(
    "router", [TokenChoice(2), ExpertChoice(0.5), SampleChoice(2), DynamicChoice(0.6), PatchChoice(2, 8)]
)
def test_the_implementations_agree_where_nothing_is_dropped(router: object) -> None:
    """Room for every token at every expert; the same weights in a list of experts and in one batch of them."""
    torch.manual_seed(0)
    names = [name for name in IMPLEMENTATIONS if name != "sorted" or isinstance(router, TokenChoice)]
    layers = {name: MoELayer(8, 16, EXPERTS, router, name, capacity=100.0, shared=1) for name in names}
    loop = layers["loop"]
    x = torch.randn(2, 8, 8)
    for name, layer in layers.items():
        if name in ("grouped", "sorted"):
            layer.gate.load_state_dict(loop.gate.state_dict())
            layer.shared.load_state_dict(loop.shared.state_dict())
            for part in ("gate", "up", "down"):
                stacked = torch.stack([getattr(expert, part).weight.T for expert in loop.experts])
                getattr(layer.batched, part).data.copy_(stacked)
        else:
            layer.load_state_dict(loop.state_dict())
        torch.testing.assert_close(layer(x), loop(x), msg=lambda text, name=name: f"{name}: {text}")


def test_tokens_over_capacity_are_dropped() -> None:
    """An undecided router sends all eight tokens to the first of two experts, which has room for two."""
    layer = MoELayer(8, 16, 2, TokenChoice(1), "capacity", capacity=0.5)
    layer.gate.weight.data.zero_()
    output = layer(torch.randn(1, 8, 8))
    assert (output == 0).all(-1).sum() == 6


def test_an_unknown_implementation_is_named() -> None:
    with pytest.raises(ValueError, match="'magic' is unknown"):
        MoELayer(8, 16, 4, implementation="magic")


def test_patch_choice_weighs_the_chosen_patches_against_each_other() -> None:
    weights = PatchChoice(2, 8).weights(logits())
    assert ((weights > 0).sum(1) == 2).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2, EXPERTS))


def test_a_measured_mean_makes_room_for_it() -> None:
    """Room follows the measured number of experts, where tau would ask for three times as much."""
    assert DynamicChoice(0.6, mean_k=1.6).share(8) == 0.2 < DynamicChoice(0.6).share(8)


@pytest.mark.parametrize("implementation", ["loop", "grouped"])
def test_kept_experts_say_what_they_said_and_their_moments_stay(implementation: str) -> None:
    """Two of four experts are kept: their tokens get the same outputs, and AdamW goes on with their state."""
    torch.manual_seed(0)
    layer = MoELayer(8, 16, EXPERTS, TokenChoice(1), implementation, capacity=100.0)
    optimizer = torch.optim.AdamW(layer.parameters())
    x = torch.randn(2, 8, 8)
    layer(x).square().sum().backward()
    optimizer.step()
    before, chosen = layer(x), layer.gate(x).argmax(-1)
    held = sum(value.numel() for state in optimizer.state.values() for value in state.values())
    keep_experts(layer, [1, 3], optimizer)
    stayed = (chosen == 1) | (chosen == 3)
    torch.testing.assert_close(layer(x)[stayed], before[stayed])
    assert layer.gate.weight.shape == layer.gate.weight.grad.shape == (2, 8)
    assert sum(value.numel() for state in optimizer.state.values() for value in state.values()) < 0.6 * held
    optimizer.zero_grad()
    layer(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(("kept", "error"), [([], ValueError), ([4], IndexError), ([-1], IndexError)])
def test_experts_that_cannot_be_kept(kept: list[int], error: type[Exception]) -> None:
    with pytest.raises(error, match="kept"):
        keep_experts(MoELayer(8, 16, EXPERTS), kept)


def test_sorted_needs_as_many_experts_for_every_token() -> None:
    with pytest.raises(ValueError, match="needs TokenChoice, not DynamicChoice"):
        MoELayer(8, 16, 4, DynamicChoice(), "sorted")


@pytest.mark.plans
def test_the_sorted_form_is_planned_and_never_above_stock() -> None:
    """In bfloat16: PyTorch traces no grouped product of another type."""
    layer = MoELayer(64, 128, EXPERTS, TokenChoice(2), "sorted").to(torch.bfloat16)
    batch = (torch.randn(2, 64, 64, dtype=torch.bfloat16),)
    ours, stock = plan_only(layer, batch), plan_only(layer, batch, stock=True)
    assert len(ours) == len(stock) == 2
    for report, other in zip(ours, stock, strict=True):
        assert not report.fallback and report.peak <= other.peak


def test_a_balance_loss_that_nobody_asked_for_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be alive in eager, and make every comparison with eager look better than it is."""
    monkeypatch.setattr("bench.models.moe.balance_loss", lambda *_: pytest.fail("computed"))
    MoELayer(8, 16, EXPERTS)(torch.randn(2, 8, 8))


def test_the_balance_loss_is_one_when_all_experts_are_even_and_more_else() -> None:
    even = torch.eye(EXPERTS).repeat(1, 4, 1) * 4.0
    one_sided = torch.zeros(1, 16, EXPERTS)
    one_sided[..., 0] = 4.0
    router = TokenChoice(1)
    assert balance_loss(even, router.weights(even)).item() == pytest.approx(1.0)
    assert balance_loss(one_sided, router.weights(one_sided)).item() > 2.0
