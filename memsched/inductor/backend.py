"""The backend: Inductor, with memsched's passes and fusion choices switched on for this compile only.

    torch.compile(model, backend="memsched")
    torch.compile(model, backend=memsched_backend, options={"time_limit_s": 5})

No function of PyTorch is replaced.  `compile_fx` takes config patches, which hold for the forward graph and for the
backward graph that is compiled later; `inner_compile` is wrapped because `V.choices` is memoised per thread and would
otherwise keep the choices of an earlier compile.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.virtualized import V

from memsched.inductor.choices import PlannedChoices
from memsched.inductor.compat import as_one_pass, passes_of, unsupported_reason
from memsched.inductor.failures import RESTARTS, leave_to_stock, reason_of, stock_goes_on
from memsched.inductor.fixed_sizes import fix_sizes
from memsched.inductor.lowered_twice import lowered_twice
from memsched.inductor.options import BackendOptions, split_options
from memsched.inductor.overlap import AlreadyRun
from memsched.inductor.partition import PlannedPartition
from memsched.inductor.passes import PostFusionPass, PreFusionPass, RewritePass, behind
from memsched.inductor.publish import Sink, publish
from memsched.inductor.rewrites.idle import warn_of_idle_chunks
from memsched.inductor.rewrites.rules import CUT_RULES, GRAPH_RULES, TRACE_RULES, Rule, checkpoint_rule, chunk_rules
from memsched.inductor.storages.saved_copies import noting_saved_copies
from memsched.records.published import count, signing
from memsched.records.report import GraphReport

__all__ = ["compile_planned", "memsched_backend", "partition_patches", "planning_patches"]

log = logging.getLogger("memsched")

_TAKEN = (
    "_pre_fusion_custom_pass",
    "_post_fusion_custom_pass",
    "inductor_choices_class",
    "reorder_for_compute_comm_overlap_passes",
)
"""The places of Inductor's config that memsched takes; a pass of the user's there runs before memsched's."""


def memsched_backend(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Any:
    """Compile `gm` with Inductor, ordered and fused for its peak memory.

    options: of `BackendOptions`, and any of Inductor's own.
    mode: as in `torch.compile`.

    Raises:
        ValueError: an option that neither knows, or with a value that does not fit.
    """
    own, inductor = split_options(options)
    patches = {**torch._inductor.list_mode_options(mode or "default"), **inductor}
    reason = unsupported_reason()
    if reason and own.strict:
        raise RuntimeError(f"memsched: {reason}")
    if reason:
        _warn_once(f"memsched: {reason}: stock Inductor compiles", "unsupported torch")
    if reason or not own.enabled:
        return compile_fx(gm, example_inputs, config_patches=patches)
    are_fixed = True
    if own.uses_chunks:
        with stock_goes_on("the size of a batch", "fixing sizes", strict=own.strict):
            are_fixed = fix_sizes(gm)
    if own.pulled:
        from memsched.inductor.fit.choose import chosen_options  # it plans with what is in this module

        own = chosen_options(gm, example_inputs, own, patches)
    if own.setting.chunks or own.setting.token_chunks:
        return _compile_chunked(gm, example_inputs, own, patches, tells_of_idle=are_fixed)
    return compile_planned(gm, example_inputs, own, patches)


def _compile_chunked(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    options: BackendOptions,
    inductor: Mapping[str, Any],
    *,
    tells_of_idle: bool,
) -> Any:
    """Compile with the loss, or blocks, in chunks; whole where that fails.

    tells_of_idle: whether to warn where nothing was found.
    """
    spare = torch.fx.GraphModule(gm, copy.deepcopy(gm.graph))
    reports: list[GraphReport] = []

    def sink(report: GraphReport) -> None:
        reports.append(report)
        publish(report)

    try:
        compiled = compile_planned(gm, example_inputs, options, inductor, sink)
        if tells_of_idle:
            warn_of_idle_chunks(options.setting, reports)
        return compiled
    except RESTARTS:
        raise
    except Exception as error:
        if options.strict:
            raise
        leave_to_stock("what was to be in chunks", "compiling chunks", reason_of(error))
        whole = options.at(replace(options.setting, chunks=0, token_chunks=0))
        return compile_planned(spare, example_inputs, whole, inductor)


def compile_planned(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    options: BackendOptions,
    inductor: Mapping[str, Any],
    sink: Sink = publish,
) -> Any:
    """Compile `gm` under Inductor's config patches `inductor` and memsched's; each report goes to `sink`."""
    compile_graph: Callable[..., Any] = compile_fx_inner
    patches = dict(inductor)
    with stock_goes_on("a graph", "setting up the passes", strict=options.strict):
        compile_graph = _with_choices(options)
        patches |= planning_patches(options, inductor, sink) | partition_patches(options, inductor)
    return compile_fx(gm, example_inputs, inner_compile=compile_graph, config_patches=patches)


def planning_patches(
    options: BackendOptions, inductor: Mapping[str, Any] | None = None, sink: Sink = publish
) -> dict[str, Any]:
    """The config patches that switch memsched's passes and choices on, for what Inductor does with one graph.

    sink: takes the reports.
    inductor: the patches that hold anyway; a pass of theirs stays, over the traced graph or over the scheduler's nodes,
        and so does what they say of `allow_buffer_reuse`, which is off otherwise (docs/memory-model.md has figures).
    """
    given = {name: (inductor or {}).get(name, getattr(torch._inductor.config, name)) for name in _TAKEN}
    if not _is_ours(given["inductor_choices_class"]):
        _warn_once("memsched: inductor_choices_class is memsched's own here: yours is not used", "choices of the user")
    patches: dict[str, Any] = {
        "_pre_fusion_custom_pass": behind(given["_pre_fusion_custom_pass"], PreFusionPass(options, sink)),
        "_post_fusion_custom_pass": behind(given["_post_fusion_custom_pass"], PostFusionPass(options)),
        "inductor_choices_class": functools.partial(PlannedChoices, options),
        # Our pass tries Inductor's four orders itself; run after it, Inductor's pass could only undo it.
        "reorder_for_peak_memory": False,
        # Run after the plan they would undo it: it runs them itself, within its bytes.
        "reorder_for_compute_comm_overlap_passes": AlreadyRun.instead_of(
            given["reorder_for_compute_comm_overlap_passes"]
        ),
        # For CUDA graphs Inductor would order once more, for few partitions, and undo the plan.
        "triton.reorder_for_reducing_graph_partitions": False,
    }
    if "allow_buffer_reuse" not in (inductor or {}):
        # A dead buffer kept for a later one is one more that is alive: it takes back what the order gained, since
        # Inductor weighs it against an estimate of its own that is too high.
        patches["allow_buffer_reuse"] = False
    if options.fusion != "stock":
        patches |= _with_rules("post_grad_custom_post_pass", GRAPH_RULES, options, inductor)
    return patches


def partition_patches(options: BackendOptions, inductor: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The config patches for what comes before: the cut of a step into its forward and its backward graph.

    inductor: the patches that hold anyway.
    """
    setting = options.setting
    patches: dict[str, Any] = {}
    if in_parts := chunk_rules(setting.chunks, setting.token_chunks):
        patches |= _with_rules("joint_custom_pre_pass", in_parts, options, inductor)
    rules = [rule for rule in CUT_RULES if options.keep_checkpoints or rule.name != "keep_checkpoints"]
    if setting.checkpoint_blocks:
        rules.insert(0, checkpoint_rule(setting.checkpoint_blocks, setting.checkpoint_share))
    place = "custom_partitioner_fn"
    theirs = (inductor or {}).get(place, getattr(torch._inductor.config, place))
    theirs = theirs.partitioner if isinstance(theirs, PlannedPartition) else theirs
    if options.fusion != "stock":
        patches |= _with_rules("pre_grad_custom_pass", TRACE_RULES, options, inductor)
    return patches | {place: PlannedPartition(rules, options, theirs)}


def _with_rules(
    place: str, rules: Sequence[Rule], options: BackendOptions, inductor: Mapping[str, Any] | None
) -> dict[str, Any]:
    """One pass per rule; a pass of the user's in the same place stays, and runs first."""
    present = passes_of((inductor or {}).get(place, getattr(torch._inductor.config, place)))
    return {place: as_one_pass([*present, *(RewritePass(rule, options) for rule in rules)])}


def _is_ours(choices: Any) -> bool:
    """Whether the factory of fusion choices in the config is memsched's own, or none."""
    return choices is None or (isinstance(choices, functools.partial) and choices.func is PlannedChoices)


def _with_choices(options: BackendOptions) -> Callable[..., Any]:
    compile_graph = lowered_twice(compile_fx_inner, options)

    @functools.wraps(compile_fx_inner)
    def compile_with_choices(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as around:
            with stock_goes_on("the fusion of a graph", "setting up the choices", strict=options.strict):
                around.enter_context(V.set_choices_handler(PlannedChoices(options)))
                around.enter_context(signing())
            return compile_graph(*args, **kwargs)

    return noting_saved_copies(compile_with_choices, strict=options.strict)


@functools.lru_cache(maxsize=16)
def _warn_once(message: str, cause: str) -> None:
    count(cause)
    log.warning(message)
