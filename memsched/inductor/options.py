"""The options of the backend: named, typed, each with a sentence; from `options=` of torch.compile or `MEMSCHED_*`.

    torch.compile(model, backend="memsched", options={"time_limit_s": 5, "fusion": "stock"})
    MEMSCHED_TIME_LIMIT_S=5 python train.py

Names that memsched does not know are passed on when Inductor knows them (`{"max_autotune": True}`), else refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["BackendOptions", "split_options"]

_FUSION = ("plan", "stock")


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What the backend may do.

    enabled: False leaves everything to stock Inductor.
    fusion: "plan" refuses the fusions that break the plan, "stock" refuses none.
    time_limit_s: what planning one graph may take.  It buys units of work at a fixed rate, so that every run and every
        rank gets the same plan; the clock ends a search only after four times as long.
    fusion_slack: share of the planned peak by which fusions may exceed it (0.01: one percent).
    strict: raise where memsched would otherwise fall back to stock.
    seed: of local search.
    """

    enabled: bool = True
    fusion: str = "plan"
    time_limit_s: float = 2.0
    fusion_slack: float = 0.0
    strict: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fusion not in _FUSION:
            raise ValueError(f"memsched: option fusion is {self.fusion!r}, not one of {', '.join(_FUSION)}")
        for name in ("time_limit_s", "fusion_slack"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(f"memsched: option {name} is {value!r}, not a number of 0 or more")
        for name in ("enabled", "strict"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"memsched: option {name} is {getattr(self, name)!r}, not True or False")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"memsched: option seed is {self.seed!r}, not an integer")


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
            values[field.name] = _parse(f"MEMSCHED_{field.name.upper()}", text, type(field.default))
    return values


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
