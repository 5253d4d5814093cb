"""Planning one step of a model for an explanation: memsched's plans, stock's, what the caller holds, and experiments.

Everything is planned, nothing is compiled (`memsched.inductor.capture.plan_only`), unless the step is to be measured.
An experiment is a plan of a changed step:

    half the batch        every argument whose first dimension is the batch is cut to its first half
    checkpointed block    of that container of the model whose blocks save most for the backward, the block that does
    checkpointed blocks   all blocks of that container

The model is left as it was: parameters, gradients, buffers, modes and the random state.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memsched.core.sizes import InputError
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.failures import reason_of
from memsched.inductor.held import held_bytes
from memsched.inductor.options import BackendOptions
from memsched.inductor.questions.curve import measure_step
from memsched.records.origin import Role
from memsched.records.report import GraphKind, GraphReport
from memsched.records.step import Experiment, MeasuredCurve, PlannedStep

__all__ = ["plan_step"]

Model: TypeAlias = nn.Module | Callable[..., Any]
T = TypeVar("T")


def plan_step(
    model: Model,
    args: Sequence[Any],
    *,
    train: bool = True,
    device: str = "cpu",
    optimizer: torch.optim.Optimizer | None = None,
    experiments: bool = True,
    stock: bool = True,
    measure: bool = False,
    fullgraph: bool = False,
    options: BackendOptions | None = None,
) -> PlannedStep:
    """Plan `model(*args)` and, with `train`, the backward of what it returns; with `measure` compile and run it, too.

    Raises:
        InputError: a device that is not there or that the model is not on, a model that does not compile, no loss,
            with `fullgraph` a model that breaks into several graphs.
    """
    _check_device(model, args, device)
    options = options or BackendOptions()
    held = held_bytes(model, args, optimizer)
    with _undisturbed(model, train):
        measured: dict[str, MeasuredCurve] = {}
        if measure:
            reports, measured = _guarded(lambda: measure_step(model, args, options, device), train)
        else:
            reports = _plan(model, args, train, options)
        _check_reports(reports, train, fullgraph)
        observed = _plan(model, args, train, None) if stock else []
        tried = tuple(_experiments(model, args, reports, train, options)) if experiments else ()
    return PlannedStep(tuple(reports), tuple(observed), held, tried, measured, train, device)


def _plan(model: Model, args: Sequence[Any], train: bool, options: BackendOptions | None) -> list[GraphReport]:
    """The plans; with no options, those of stock.  Raises InputError."""
    return _guarded(lambda: plan_only(model, list(args), options, stock=options is None), train)


def _guarded(make: Callable[[], T], train: bool) -> T:
    """What `make` returns, without gradients unless `train`; raises InputError when the model does not compile."""
    try:
        with _quiet(), contextlib.nullcontext() if train else torch.no_grad():
            return make()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"the model does not compile: {reason_of(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the traceback that PyTorch logs when an operator is given wrong shapes: the error is told in one line."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _check_device(model: Model, args: Sequence[Any], device: str) -> None:
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise InputError(f"device {device!r} is unknown") from None
    if wanted.type == "cuda" and not torch.cuda.is_available():
        sees = f"this torch ({torch.__version__}) sees no CUDA device"
        raise InputError(f"device {device!r}: {sees} (`memsched plan` plans for one that is not there)")
    tensors = [t for t in torch.utils._pytree.tree_leaves(list(args)) if isinstance(t, Tensor)]
    tensors += list(model.parameters()) if isinstance(model, nn.Module) else []
    for tensor in tensors:
        if tensor.device.type != wanted.type:
            raise InputError(f"device {device!r}: the model or its batch is on {tensor.device.type!r}")


def _check_reports(reports: Sequence[GraphReport], train: bool, fullgraph: bool) -> None:
    if not reports:
        raise InputError("nothing to plan: no graph with an op was compiled")
    if train and not any(report.kind is GraphKind.BACKWARD for report in reports):
        raise InputError(
            "the model returns no loss: nothing that it returns requires a gradient (inference: train=False)"
        )
    parts = sum(report.kind is not GraphKind.BACKWARD for report in reports)
    if fullgraph and parts > 1:
        allow = "torch._dynamo.explain tells where; --allow-graph-breaks, or fullgraph=False, takes them one by one"
        raise InputError(f"the model breaks into {parts} graphs ({allow})")


@contextlib.contextmanager
def _undisturbed(model: Model, train: bool) -> Iterator[None]:
    """Set the mode of the model, and put back what planning, which runs the traced graphs, would change."""
    if not isinstance(model, nn.Module):
        with torch.random.fork_rng():
            yield
        return
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        model.train(train)
        with torch.random.fork_rng():
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, mode in modes:
            module.training = mode


# ---- experiments


def _experiments(
    model: Model, args: Sequence[Any], reports: Sequence[GraphReport], train: bool, options: BackendOptions
) -> Iterator[Experiment]:
    yield _half_batch(model, args, train, options)
    if train and isinstance(model, nn.Module):
        yield from _checkpointed_blocks(model, args, reports, options)


def _half_batch(model: Model, args: Sequence[Any], train: bool, options: BackendOptions) -> Experiment:
    sizes = {arg.shape[0] for arg in args if isinstance(arg, Tensor) and arg.dim()}
    size = min(sizes, default=0)
    if len(sizes) != 1 or size < 2:
        return Experiment("half the batch", failure="the arguments have no first dimension of 2 or more in common")
    change = f"a batch of {size // 2} instead of {size}"
    halves = [
        arg[: size // 2].detach().clone().requires_grad_(arg.requires_grad)
        if isinstance(arg, Tensor) and arg.dim()
        else arg
        for arg in args
    ]
    return _try(change, lambda: _plan(model, halves, train, options))


def _checkpointed_blocks(
    model: nn.Module, args: Sequence[Any], reports: Sequence[GraphReport], options: BackendOptions
) -> Iterator[Experiment]:
    """One block, then all of them: where the blocks save the most, by what the graphs save in each."""
    saved = _saved_by_block(model, reports)
    if not saved:
        yield Experiment("checkpointing the blocks", failure="no list of blocks of the model saves for the backward")
        return
    container = max(saved, key=lambda name: (sum(saved[name].values()), name))
    largest = max(saved[container], key=lambda name: (saved[container][name], name))
    blocks = dict(model.get_submodule(container).named_children())
    changes = {
        f"checkpointing the block '{_prefix(container)[1:]}{largest}'": [blocks[largest]],
        f"checkpointing each of the {len(blocks)} blocks of {container or 'the model'!r}": list(blocks.values()),
    }
    for change, chosen in changes.items():
        with _checkpointing(chosen):
            yield _try(change, lambda: _plan(model, args, True, options))


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
