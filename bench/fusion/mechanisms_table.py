"""The results of `bench.fusion.mechanisms` as tables: what each rule makes of a backward graph, and what was
refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["REFUSALS_SHOWN", "refusals_table", "rules_table"]

REFUSALS_SHOWN = 6
"""The dearest refusals of a graph that are kept."""

Row = Mapping[str, Any]


def rules_table(rows: Sequence[Row]) -> str:
    """A line for each model and rule: MiB of the backward graph, and its kernels."""
    header = ("model", "plan", "rule", "sorted by first member", "by place", "best order", "wrapper", "kernels")
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for group in _groups(rows):
        first = group[0]
        where = (first["model"], f"{first['device']}, {first['size']} size")
        lines.append(_line((*where, "before fusion", _mib(first["before"]), "", _mib(first["before_best"]), "", "")))
        for row in group:
            peaks = (_mib(row["incoming"]), _mib(row["by_place"]), _mib(row["peak"]))
            wrapper = _mib(row["replayed"]) if "replayed" in row else ""
            lines.append(_line(("", "", row["rule"], *peaks, wrapper, str(row["kernels"]))))
    return "\n".join(lines) + "\n"


def refusals_table(rows: Sequence[Row]) -> str:
    """The dearest fusions that memsched refused in each backward graph."""
    header = ("model", "plan", "kind", "MiB above the plan", "KiB of traffic saved", "kernel", "with")
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in (row for group in _groups(rows) for row in group):
        if row["rule"] == "memsched" and row["size"] != "small":
            where = (row["model"], f"{row['device']}, {row['num_refusals']} refused")
            for at, refusal in enumerate(row["refusals"]):
                kernels = tuple(refusal[key] or refusal[names] for key, names in (("what", "ops"), ("with", "other")))
                price = (refusal["kind"], _mib(refusal["price"]), f"{refusal['traffic'] / 2**10:.1f}")
                lines.append(_line((*(where if not at else ("", "")), *price, *kernels)))
    return "\n".join(lines) + "\n"


def _groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows of backward graphs, model by model, small sizes last."""
    keys = sorted(
        dict.fromkeys((row["model"], row["device"], row["size"]) for row in rows),
        key=lambda key: (key[2] == "small", key),
    )
    for key in keys:
        group = [row for row in rows if (row["model"], row["device"], row["size"]) == key]
        yield [row for row in group if row["graph"].startswith("backward")]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _mib(count: int) -> str:
    return f"{count / 2**20:.2f}"
