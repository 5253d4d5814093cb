"""What a changed step would need: half the batch, one checkpointed block, all blocks checkpointed.

An experiment is a plan of the changed step.  Its `plan` is handed in, so that it is made as that of the step was.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint

from memsched.core.sizes import InputError
from memsched.inductor.calls import Batch, Model
from memsched.records.origin import Role
from memsched.records.report import GraphReport
from memsched.records.step import Experiment

__all__ = ["Trial", "experiments"]

PlanStep: TypeAlias = Callable[[Model, Batch], list[GraphReport]]

Trial: TypeAlias = tuple[str, Callable[[], Experiment]]
"""What is changed, and the plan of it."""


def experiments(
    model: Model, batch: Batch, reports: Sequence[GraphReport], train: bool, plan: PlanStep
) -> Iterator[Trial]:
    """What may be tried on a step that was planned as `reports`; each is planned when it is called.

    half the batch        every argument whose first dimension is the batch is cut to its first half
    checkpointed block    of that container of the model whose blocks save most for the backward, the block that does
    checkpointed blocks   all blocks of that container
    """
    yield _half_batch(model, batch, plan)
    if train and isinstance(model, nn.Module):
        yield from _checkpointed_blocks(model, batch, reports, plan)


def _half_batch(model: Model, batch: Batch, plan: PlanStep) -> Trial:
    sizes = {leaf.shape[0] for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()}
    size = min(sizes, default=0)
    if len(sizes) != 1 or size < 2:
        why = "the arguments have no first dimension of 2 or more in common"
        return "half the batch", lambda: Experiment("half the batch", failure=why)

    def half(value: Tensor) -> Tensor:
        return value[: size // 2].detach().clone().requires_grad_(value.requires_grad) if value.dim() else value

    change = f"a batch of {size // 2} instead of {size}"
    return change, lambda: _try(change, lambda: plan(model, tree_map_only(Tensor, half, batch)))


def _checkpointed_blocks(
    model: nn.Module, batch: Batch, reports: Sequence[GraphReport], plan: PlanStep
) -> Iterator[Trial]:
    """One block, then all of them: where the blocks save the most, by what the graphs save in each."""
    saved = _saved_by_block(model, reports)
    if not saved:
        change, why = "checkpointing the blocks", "no list of blocks of the model saves for the backward"
        yield change, lambda: Experiment(change, failure=why)
        return
    container = max(saved, key=lambda name: (sum(saved[name].values()), name))
    largest = max(saved[container], key=lambda name: (saved[container][name], name))
    blocks = dict(model.get_submodule(container).named_children())
    changes = {
        f"checkpointing the block '{_prefix(container)[1:]}{largest}'": [blocks[largest]],
        f"checkpointing each of the {len(blocks)} blocks of {container or 'the model'!r}": list(blocks.values()),
    }
    for change, chosen in changes.items():
        yield change, functools.partial(_checkpointed, model, batch, change, chosen, plan)


def _checkpointed(
    model: nn.Module, batch: Batch, change: str, blocks: Sequence[nn.Module], plan: PlanStep
) -> Experiment:
    with _checkpointing(blocks):
        return _try(change, lambda: plan(model, batch))


def _try(change: str, plan: Callable[[], list[GraphReport]]) -> Experiment:
    try:
        return Experiment(change, {report.name: report.peak for report in plan()})
    except InputError as error:
        return Experiment(change, failure=str(error))


def _prefix(container: str) -> str:
    """How the path of a module in the container begins, with a dot before it; the model itself has no name."""
    return f".{container}." if container else "."


def _saved_by_block(model: nn.Module, reports: Sequence[GraphReport]) -> dict[str, dict[str, int]]:
    """By the path of a list of blocks: bytes that each block, by its name in the list, saves for the backward.

    Lists are ModuleLists and Sequentials; of nested ones the outermost.
    """
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1
    ]
    saved: dict[str, dict[str, int]] = {}
    for report in reports:
        for buffer in report.graph.buffers if report.graph else ():
            origin = report.origins.get(buffer.name)
            if origin is None or Role.SAVED_BY_FORWARD not in origin.role:
                continue
            container = next((name for name in lists if f".{origin.module}".startswith(_prefix(name))), None)
            if container is not None and origin.module:
                block = f".{origin.module}".removeprefix(_prefix(container)).partition(".")[0]
                of_block = saved.setdefault(container, {})
                of_block[block] = of_block.get(block, 0) + buffer.size
    return saved


@contextlib.contextmanager
def _checkpointing(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Every block recomputes its forward in the backward."""
    own = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward  # type: ignore[method-assign]
