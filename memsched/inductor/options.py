"""The options of the backend: named, typed, each with a sentence; from `options=` of torch.compile or `MEMSCHED_*`.

    torch.compile(model, backend="memsched", options={"time_limit_s": 5, "fusion": "stock"})
    MEMSCHED_TIME_LIMIT_S=5 python train.py

Names that memsched does not know are passed on when Inductor knows them (`{"max_autotune": True}`), else refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace
from typing import Any

from memsched.core.sizes import InputError, parse_bytes
from memsched.levers.setting import AUTOMATIC, Lever, Setting

__all__ = ["NEGLIGIBLE", "BackendOptions", "split_options"]

_FUSION = ("plan", "stock", "budget")

NEGLIGIBLE = 0.001
"""A share of a peak that is not worth a kernel: refusals for less cost kernels, and nobody sees what they save."""


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What the backend may do.

    enabled: False leaves everything to stock Inductor.
    fusion: "plan" refuses the fusions that break the plan, "budget" those that break `peak_budget`, "stock" none.
    time_limit_s: what planning one graph may take.  It buys units of work at a fixed rate, so that every run and every
        rank gets the same plan; the clock ends a search only after four times as long.
    fusion_slack: share of the planned peak by which fusions may exceed it (0.01: one percent); not above what stock's
        own kernels need for the same graph.
    peak_budget: of each graph: bytes ("24GiB", of the memory model, above what the caller keeps), or a share of stock's
        peak ("0.8x").  It is kept by pulling `levers`; with fusion="budget" by refusing fusions, where it is never less
        than the planned peak, and stock's peak is the least of Inductor's own four orders before fusion.
    max_extra_kernels: refusals that may cost this many kernels in a graph; beyond, the budget gives way, the cheapest
        refusal first.  None: as many as the budget takes.
    chunk_loss: parts in which the loss and its gradient are computed, so that the logits are never whole; 0 for whole,
        "auto" for as many as still lower the peak.
    checkpoint_blocks: blocks of the model in a row that are recomputed together in the backward, as if each group had
        a checkpoint around it; 0 for the user's own checkpoints only.
    checkpoint_share: of the blocks, the share that has such checkpoints: the first ones; 1 for all.
    saved_share: of what the partitioner would save for the backward, the share that it may save; 1 for all.
    chunk_tokens: parts of the tokens for which the wide inside of each block (an MLP's) is computed, forward and
        backward, so that it is never whole; 0 for all tokens at once.
    offload: of the bytes that a forward saves on a GPU, the share that waits in the memory of the host until the
        backward needs it; 0 for none.
    levers: which of "chunk_loss", "recompute", "chunk_tokens" and "offload" may be pulled to meet `peak_budget`; "auto"
        for the first two, "" for none.  With a `peak_budget` and fusion="plan" it is "auto".
    keep_checkpoints: save the tensors between activation checkpoints, as eager does, where stock's partitioner would
        recompute all blocks at once (`memsched/inductor/rewrites/keep_checkpoints.py`).
    measure_scratch: on CPU, call each library operator once to see what it allocates; without, a table is asked, and
        plans are the same on every processor.
    strict: raise where memsched would otherwise fall back to stock.
    seed: of local search.
    """

    enabled: bool = True
    fusion: str = "plan"
    time_limit_s: float = 2.0
    fusion_slack: float = NEGLIGIBLE
    peak_budget: str | int = ""
    max_extra_kernels: int | None = None
    chunk_loss: str | int = 0
    checkpoint_blocks: int = 0
    checkpoint_share: float = 1.0
    saved_share: float = 1.0
    chunk_tokens: int = 0
    offload: float = 0.0
    levers: str | Sequence[str] = ""
    keep_checkpoints: bool = True
    measure_scratch: bool = True
    strict: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fusion not in _FUSION:
            raise ValueError(f"memsched: option fusion is {self.fusion!r}, not one of {', '.join(_FUSION)}")
        for name in ("time_limit_s", "fusion_slack"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(f"memsched: option {name} is {value!r}, not a number of 0 or more")
        for name in ("enabled", "keep_checkpoints", "measure_scratch", "strict"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"memsched: option {name} is {getattr(self, name)!r}, not True or False")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"memsched: option seed is {self.seed!r}, not an integer")
        most = self.max_extra_kernels
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
            raise ValueError(f"memsched: option max_extra_kernels is {most!r}, not a number of kernels")
        self._check_levers()
        self._check_budget()

    def _check_levers(self) -> None:
        chunks = self.chunk_loss
        if chunks != "auto" and (isinstance(chunks, (bool, str)) or not chunks >= 0):
            raise ValueError(f'memsched: option chunk_loss is {chunks!r}, not "auto" or a number of chunks')
        for name, what in (("checkpoint_blocks", "blocks"), ("chunk_tokens", "chunks")):
            many = getattr(self, name)
            if isinstance(many, bool) or not isinstance(many, int) or many < 0:
                raise ValueError(f"memsched: option {name} is {many!r}, not a number of {what}")
        for name in ("checkpoint_share", "saved_share", "offload"):
            share = getattr(self, name)
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ValueError(f"memsched: option {name} is {share!r}, not a share between 0 and 1")
        known = [lever.value for lever in Lever]
        named = [self.levers] if isinstance(self.levers, str) else list(self.levers)
        for name in named:
            if name not in ("", "auto", *known):
                raise ValueError(f"memsched: option levers names {name!r}, not one of {', '.join(known)}, auto")

    @property
    def pulled(self) -> tuple[Lever, ...]:
        """The levers that may be pulled to meet the budget, or to find the number of chunks."""
        named = [self.levers] if isinstance(self.levers, str) else list(self.levers)
        if "auto" in named or (not any(named) and self.peak_budget != "" and self.fusion == "plan"):
            return AUTOMATIC
        if self.chunk_loss == "auto":
            named.append(Lever.CHUNK_LOSS)
        return tuple(lever for lever in Lever if lever.value in named)

    @property
    def uses_chunks(self) -> bool:
        """Whether the loss or blocks are in chunks, or may be."""
        by_lever = {Lever.CHUNK_LOSS, Lever.CHUNK_TOKENS} & set(self.pulled)
        return bool(by_lever or self.setting.chunks or self.setting.token_chunks)

    @property
    def setting(self) -> Setting:
        """How far the levers are pulled as it is."""
        chunks = 0 if isinstance(self.chunk_loss, str) else self.chunk_loss
        shares = float(self.checkpoint_share), float(self.saved_share)
        return Setting(chunks, self.checkpoint_blocks, *shares, self.chunk_tokens, float(self.offload))

    def at(self, setting: Setting) -> BackendOptions:
        """These options with the levers at `setting`, and nothing left to choose."""
        budget: Any = self.peak_budget if self.fusion == "budget" else ""
        shares: dict[str, Any] = {"checkpoint_share": 1.0, "saved_share": 1.0, "offload": 0.0}
        at_rest = {"chunk_loss": 0, "checkpoint_blocks": 0, "chunk_tokens": 0, **shares}
        return replace(self, levers="", peak_budget=budget, **(at_rest | setting.to_options()))

    def _check_budget(self) -> None:
        if self.fusion == "budget" and self.peak_budget == "":
            raise ValueError('memsched: option fusion="budget" needs a peak_budget')
        if self.fusion == "stock" and self.peak_budget != "":
            raise ValueError('memsched: option peak_budget cannot be kept with fusion="stock"')
        if self.peak_budget != "":
            self.budget_bytes(1)

    @property
    def is_share(self) -> bool:
        """Whether `peak_budget` is a share of what stock needs."""
        return isinstance(self.peak_budget, str) and self.peak_budget.strip().endswith("x")

    def budget_bytes(self, stock_peak: int) -> int:
        """`peak_budget` in bytes, where stock needs `stock_peak`; raises ValueError for neither a size nor a share."""
        text = self.peak_budget
        try:
            if isinstance(text, str) and self.is_share:
                share = float(text.strip().removesuffix("x"))
                if not 0 < share < float("inf"):
                    raise InputError(text)
                return int(share * stock_peak)
            return parse_bytes(text)
        except (InputError, ValueError):
            raise ValueError(
                f"memsched: option peak_budget is {text!r}, neither a size (24GiB) nor a share of stock's peak (0.8x)"
            ) from None


def split_options(options: Mapping[str, Any] | None) -> tuple[BackendOptions, dict[str, Any]]:
    """Our options (environment first, then `options`), and those that are Inductor's.

    Raises:
        ValueError: a name that neither knows, or a value that does not fit; one line.
    """
    own = _from_environment()
    inductor: dict[str, Any] = {}
    known = {field.name for field in fields(BackendOptions)}
    for name, value in (options or {}).items():
        if name in known:
            own[name] = value
        elif _inductor_knows(name):
            inductor[name] = value
        else:
            raise ValueError(
                f"memsched: option {name!r} is unknown to memsched ({', '.join(sorted(known))}) and Inductor"
            )
    return BackendOptions(**own), inductor


def _from_environment() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in fields(BackendOptions):
        text = os.environ.get(f"MEMSCHED_{field.name.upper()}")
        if text is not None:
            values[field.name] = _parse(f"MEMSCHED_{field.name.upper()}", text, _kind_of(field))
    return values


def _kind_of(field: Field[Any]) -> type:
    return int if field.default is None else type(field.default)


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError(f"memsched: {name} is {text!r}, not 0 or 1")
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"memsched: {name} is {text!r}, not {kind.__name__}") from None


def _inductor_knows(name: str) -> bool:
    import torch._inductor.config as config

    return name.replace("-", "_") in config.get_config_copy()
