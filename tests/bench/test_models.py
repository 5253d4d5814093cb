"""The registry: every model builds at its smallest size, twice the same; a checkpoint policy changes no gradient."""

from __future__ import annotations

import pytest
import torch

from bench.models import MODELS, POLICIES, build, parse_policy
from bench.models.policies import Checkpointed
from bench.run.step import compare_gradients


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_builds_the_same_workload(name: str) -> None:
    first, second = build(name, "small"), build(name, "small")
    assert all(map(torch.equal, first.batch, second.batch))
    loss, other = first.model(*first.batch), second.model(*second.batch)
    assert loss.shape == () and loss.requires_grad
    assert loss.item() == other.item()


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if not policy.startswith("budget")])
@pytest.mark.parametrize("name", ["gpt", "contrastive", "unet", "hf_llama"])
def test_a_policy_changes_no_gradient(name: str, policy: str) -> None:
    """Checkpointing recomputes; it must not change what is computed."""
    plain, other = build(name, "small", policy="none"), build(name, "small", policy=policy)
    for workload in (plain, other):
        workload.model(*workload.batch).backward()
    assert compare_gradients(other.model, plain.model) < 1e-5


def test_the_policy_decides_which_blocks_are_checkpointed() -> None:
    """Of two blocks: none, both, the first; a hugging face model is asked by its own attribute."""

    def checkpointed(policy: str) -> list[bool]:
        model = build("gpt", "small", policy=policy).model
        return [isinstance(block, Checkpointed) for block in model.model.blocks]

    assert checkpointed("none") == checkpointed("budget-0.5") == [False, False]
    assert checkpointed("block") == checkpointed("selective") == [True, True]
    assert checkpointed("second") == [True, False]
    (layer,) = build("hf_llama", "small", policy="block").model.model.model.layers
    assert layer.gradient_checkpointing


def test_a_batch_size_is_that_of_every_input() -> None:
    for name in ("gpt", "contrastive", "siamese", "hf_bert"):
        assert {tensor.shape[0] for tensor in build(name, "small", batch=3).batch} == {3}


@pytest.mark.parametrize("name", ["all", "budget-2", "budget-", "budget-x"])
def test_unknown_policies_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"checkpoint policy '{name}' is unknown"):
        parse_policy(name)


def test_a_budget_is_a_setting_of_the_compiler() -> None:
    import torch._functorch.config as functorch

    with parse_policy("budget-0.5").settings():
        assert functorch.activation_memory_budget == 0.5
    assert functorch.activation_memory_budget == 1.0


def test_a_batch_size_below_one_is_named() -> None:
    with pytest.raises(ValueError, match="batch size 0"):
        build("gpt", "small", batch=0)
