"""The backward of a convolution, taken apart.

dy, x, w ──> convolution_backward ──> dx ──> the rest of the backward
                                 └──> dw     only the optimizer waits for it
"""

from __future__ import annotations

import copy
import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import memsched
from memsched.inductor import backend
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions
from memsched.inductor.rewrites.split_convolution_backward import split_convolution_gradients

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch._dynamo.reset()
    memsched.reset()


def backward_graph(
    mask: tuple[bool, bool, bool], *, transposed: bool = False, groups: int = 1, last: bool = False
) -> tuple[fx.GraphModule, list[Tensor]]:
    """One `convolution_backward` and the results that `mask` asks for; the images with channels first or last."""
    x, weight = torch.randn(2, 8, 10, 10), torch.randn(8, 8 // groups, 3, 3)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    how: tuple[Any, ...] = ([1, 1], [1, 1], [1, 1], transposed, [0, 0], groups)
    dy = torch.randn_like(aten.convolution(x, weight, None, *how))
    graph = fx.Graph()
    reads = tuple(graph.placeholder(name) for name in ("dy", "x", "weight"))
    for node, value in zip(reads, (dy, x, weight), strict=True):
        node.meta["val"] = value
    both = graph.call_function(aten.convolution_backward.default, (*reads, [8], *how, list(mask)))
    both.meta["val"] = aten.convolution_backward(dy, x, weight, [8], *how, mask)
    graph.output(tuple(graph.call_function(operator.getitem, (both, at)) for at in range(3) if mask[at]))
    return fx.GraphModule(nn.Module(), graph), [dy, x, weight]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_two_parts_give_every_bit(bias: bool, transposed: bool, last: bool) -> None:
    """With the channels last, the weights' gradient is given the weights as if they lay so, and reads none of them; and
    the input's is given dy in the place of the images, which have its size."""
    module, reads = backward_graph((True, True, bias), transposed=transposed, last=last)
    together = module(*reads)
    (to_weights,) = split_convolution_gradients(module.graph)
    module.graph.lint()
    module.recompile()
    assert (to_weights.args[2].target is aten.as_strided.default) == last  # type: ignore[union-attr]
    parts = module.graph.find_nodes(op="call_function", target=aten.convolution_backward.default)
    (to_input,) = (part for part in parts if part is not to_weights)
    assert (to_input.args[0] is to_input.args[1]) == last
    assert to_input.args[0] is to_weights.args[0], "what both read is laid out once"
    assert all(torch.equal(one, other) for one, other in zip(module(*reads), together, strict=True))
    assert [value is None for value in to_weights.meta["val"]] == [True, False, not bias]
    assert split_convolution_gradients(module.graph) == [], "the parts are not taken apart again"


@pytest.mark.parametrize("mask", [(False, True, False), (True, False, False), (False, True, True)])
def test_one_gradient_is_left_alone(mask: tuple[bool, bool, bool]) -> None:
    """The first layer of a net, and frozen ones."""
    assert split_convolution_gradients(backward_graph(mask)[0].graph) == []


@pytest.mark.parametrize(("groups", "split"), [(1, 1), (2, 1), (8, 0)])
def test_depthwise_convolutions_are_left_alone(groups: int, split: int) -> None:
    assert len(split_convolution_gradients(backward_graph((True, True, False), groups=groups)[0].graph)) == split


def test_an_operator_that_is_read_as_a_whole_is_left_alone() -> None:
    module, _ = backward_graph((True, True, False))
    (both,) = module.graph.find_nodes(op="call_function", target=aten.convolution_backward.default)
    with module.graph.inserting_after(both):
        module.graph.call_function(print, (both,))
    assert split_convolution_gradients(module.graph) == []


def narrowing() -> tuple[nn.Module, Tensor]:
    """First images of 256 KiB and weights of 9 KiB; at the end images of 128 KiB and weights of 576 KiB."""
    layers: list[nn.Module] = []
    for inside, outside, stride in ((3, 16, 1), (16, 16, 1), (16, 128, 4), (128, 128, 1)):
        layers += [nn.Conv2d(inside, outside, 3, stride, padding=1), nn.ReLU()]
    return nn.Sequential(*layers), torch.randn(4, 3, 32, 32)


@pytest.mark.plans
def test_gradients_of_large_weights_wait_until_the_saved_images_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one operator, dw of the last layer and its scratch memory are there with every saved image."""
    model, images = narrowing()

    def backward_peak() -> int:
        return plan_only(model, (images,), BackendOptions(strict=True))[1].peak

    apart = backward_peak()
    others = tuple(rule for rule in backend.GRAPH_RULES if rule.name != "split_convolution_backward")
    assert len(others) == len(backend.GRAPH_RULES) - 1
    monkeypatch.setattr(backend, "GRAPH_RULES", others)
    assert apart < 0.8 * backward_peak()


@pytest.mark.compile
def test_gradients_are_eager_s() -> None:
    model, images = narrowing()
    other = copy.deepcopy(model)
    with torch._inductor.config.patch(force_disable_caches=True):
        torch.compile(other, backend="memsched", options={"strict": True})(images).square().mean().backward()
    model(images).square().mean().backward()
    for (name, eager), ours in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, eager.grad, msg=lambda text, n=name: f"{n}: {text}")
