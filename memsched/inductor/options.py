"""The options of the backend: named, typed, each with a sentence; from `options=` of torch.compile or `MEMSCHED_*`.

    torch.compile(model, backend="memsched", options={"time_limit_s": 5, "fusion": "stock"})
    MEMSCHED_TIME_LIMIT_S=5 python train.py

Names that memsched does not know are passed on when Inductor knows them (`{"max_autotune": True}`), else refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from memsched.core.sizes import InputError, parse_bytes

__all__ = ["BackendOptions", "split_options"]

_FUSION = ("plan", "stock", "budget")


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What the backend may do.

    enabled: False leaves everything to stock Inductor.
    fusion: "plan" refuses the fusions that break the plan, "budget" those that break `peak_budget`, "stock" none.
    time_limit_s: what planning one graph may take.  It buys units of work at a fixed rate, so that every run and every
        rank gets the same plan; the clock ends a search only after four times as long.
    fusion_slack: share of the planned peak by which fusions may exceed it (0.01: one percent).
    peak_budget: of each graph, with fusion="budget": bytes ("24GiB", of the memory model, above what the caller keeps),
        or a share of stock's peak ("0.8x"), which is the least of Inductor's own four orders before it fuses: what
        its fusions will make of that is not known until they are made.  Never less than the planned peak.
    max_extra_kernels: refusals that may cost this many kernels in a graph; beyond, the budget gives way, the cheapest
        refusal first.  None: as many as the budget takes.
    keep_checkpoints: save the tensors between activation checkpoints, as eager does, where stock's partitioner would
        recompute all blocks at once (`memsched/inductor/rewrites/keep_checkpoints.py`).
    strict: raise where memsched would otherwise fall back to stock.
    seed: of local search.
    """

    enabled: bool = True
    fusion: str = "plan"
    time_limit_s: float = 2.0
    fusion_slack: float = 0.0
    peak_budget: str | int = ""
    max_extra_kernels: int | None = None
    keep_checkpoints: bool = True
    strict: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fusion not in _FUSION:
            raise ValueError(f"memsched: option fusion is {self.fusion!r}, not one of {', '.join(_FUSION)}")
        for name in ("time_limit_s", "fusion_slack"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(f"memsched: option {name} is {value!r}, not a number of 0 or more")
        for name in ("enabled", "keep_checkpoints", "strict"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"memsched: option {name} is {getattr(self, name)!r}, not True or False")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"memsched: option seed is {self.seed!r}, not an integer")
        most = self.max_extra_kernels
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
            raise ValueError(f"memsched: option max_extra_kernels is {most!r}, not a number of kernels")
        self._check_budget()

    def _check_budget(self) -> None:
        if (self.fusion == "budget") != (self.peak_budget != ""):
            raise ValueError('memsched: options fusion="budget" and peak_budget go together, one of them is missing')
        if self.fusion == "budget":
            self.budget_bytes(1)

    def budget_bytes(self, stock_peak: int) -> int:
        """`peak_budget` in bytes, where stock needs `stock_peak`; raises ValueError for neither a size nor a share."""
        text = self.peak_budget
        try:
            if isinstance(text, str) and text.strip().endswith("x"):
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
