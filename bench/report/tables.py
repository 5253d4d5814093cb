"""The tables of a report: rows of runs grouped into cases, as headers and lines of text.

A case is one model in one setting; its modes stand side by side.  *Measured* is the allocator's peak of one step above
what is live before it; *modelled* is the larger peak of its graphs in the memory model.  Ratios are plain quotients, a
mean of ratios is geometric.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.run.cases import LOWERED, MODES, Case, Row

__all__ = ["Group", "Table", "failures", "geometric_mean", "group_rows", "headline", "tables"]

MIB = 2**20


@dataclass(frozen=True)
class Group:
    """A case with its rows by mode."""

    case: Case
    modes: dict[str, Row]

    def value(self, mode: str, what: str) -> float | None:
        """A figure of a mode that went well; None where there is none."""
        row = self.modes.get(mode)
        return None if row is None or row["status"] != "ok" else row.get(what)

    def ratio(self, what: str, mode: str, other: str) -> float | None:
        """`what` of one mode over that of another; None where either is missing."""
        above, below = self.value(mode, what), self.value(other, what)
        return above / below if above is not None and below else None

    def bytes(self, mode: str) -> float | None:
        """The measured peak of a mode, or the modelled one where it was only lowered."""
        measured = self.value(mode, "peak")
        return self.value(mode, "modelled") if measured is None else measured

    def bytes_ratio(self, mode: str, other: str) -> float | None:
        """`bytes` of one mode over that of another; None where either is missing."""
        above, below = self.bytes(mode), self.bytes(other)
        return above / below if above and below else None

    def time_ratio(self, mode: str, other: str) -> float | None:
        """Step times, of modes that were timed in alternation with each other."""
        row = self.modes.get(mode)
        return self.ratio("seconds", mode, other) if row and other in row.get("timed_with", ()) else None


@dataclass(frozen=True)
class Table:
    """A title, what the columns mean, and the cells as text."""

    title: str
    about: str
    header: tuple[str, ...]
    lines: list[tuple[str, ...]]

    def markdown(self) -> str:
        """As a section."""
        rule = "|" + "---|" * len(self.header)
        rows = ["| " + " | ".join(line) + " |" for line in (self.header, *self.lines)]
        return "\n".join([f"## {self.title}", "", self.about, "", rows[0], rule, *rows[1:], ""])


def group_rows(rows: Iterable[Row]) -> list[Group]:
    """One group for each case, in the order of its first row.

    Later rows replace earlier ones, but what is only modelled replaces nothing that was measured.
    """
    groups: dict[Case, dict[str, Row]] = {}
    for row in rows:
        modes = groups.setdefault(Case(**{name: row[name] for name in Case.__dataclass_fields__}), {})
        if row.get("measured") or not modes.get(row["mode"], {}).get("measured"):
            modes[row["mode"]] = row
    return [Group(case, modes) for case, modes in groups.items()]


def tables(groups: Sequence[Group]) -> list[Table]:
    """Every table that has a line."""
    made = [
        _summary(groups), _sweeps(groups), _measured(groups), _all_modes(groups), _parts(groups), _modelled(groups),
        _series_parallel(groups), failures(groups),
    ]  # fmt: skip
    return [table for table in made if table.lines]


def geometric_mean(ratios: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    found = [ratio for ratio in ratios if ratio is not None]
    return math.exp(statistics.fmean(math.log(ratio) for ratio in found)) if found else None


def headline(groups: Sequence[Group]) -> list[str]:
    """The sentences that open the report."""
    rows = [row for group in groups for row in group.modes.values()]
    bad = sum(row["status"] != "ok" for row in rows)
    models = {group.case.model for group in groups}
    sentences = [f"{len(models)} models in {len(groups)} settings, {len(rows)} rows, {bad} of them failures."]
    for modes, name in ((("eager", "stock", "memsched"), "eager, stock and memsched"), (MODES, "all modes")):
        measured = {g.case.model for g in groups if all(g.value(mode, "peak") is not None for mode in modes)}
        sentences.append(f"{len(measured)} models are measured in {name}.")
    lowered = {g.case.model for g in groups if all(g.bytes(mode) is not None for mode in MODES)}
    sentences.append(f"{len(lowered)} models are in all modes, measured or modelled.")
    for what, name in (("peak", "measured"), ("modelled", "modelled")):
        ratios = _found(group.ratio(what, "memsched", "stock") for group in groups)
        if ratios:
            worse = sum(ratio > 1 for ratio in ratios)
            sentences.append(
                f"The {name} peak of a step under memsched is {_two(geometric_mean(ratios))} of stock's in the mean of "
                f"{len(ratios)} settings, at best {_two(min(ratios))}, at worst {_two(max(ratios))}; {worse} are above."
            )
    times = _found(group.time_ratio("memsched", "stock") for group in groups)
    if times:
        sentences.append(f"A step takes {_two(geometric_mean(times))} of stock's time, at worst {_two(max(times))}.")
    return sentences


def _summary(groups: Sequence[Group]) -> Table:
    """Means by checkpoint policy."""
    lines = []
    policies = list(dict.fromkeys(group.case.policy for group in groups))
    for policy in policies:
        chosen = [g for g in groups if g.case.policy == policy and g.ratio("peak", "memsched", "stock") is not None]
        if not chosen:
            continue
        pairs = (("stock", "eager"), ("memsched", "eager"), ("memsched", "stock"))
        ratios = [_found(g.ratio("peak", *pair) for g in chosen) for pair in pairs]
        lines.append(
            (
                policy,
                str(len(chosen)),
                *(_two(geometric_mean(each)) for each in ratios),
                str(sum(ratio > 1 for ratio in ratios[0])),
                str(sum(ratio > 1 for ratio in ratios[1])),
                str(sum(ratio > 1 for ratio in ratios[2])),
                _two(geometric_mean(group.time_ratio("memsched", "stock") for group in chosen)),
            )
        )
    header = ("checkpoints", "settings", "stock / eager", "memsched / eager", "memsched / stock",
              "stock above eager", "memsched above eager", "memsched above stock", "step time / stock")  # fmt: skip
    return Table("Measured peaks by checkpoint policy", "Geometric means of ratios, and counts.", header, lines)


def _sweeps(groups: Sequence[Group]) -> Table:
    """Means over the models that are there in several settings, by policy and batch size."""
    settings: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        settings.setdefault((group.case.model, group.case.size), []).append(group)
    swept: dict[tuple[str, float], list[Group]] = {}
    for some in settings.values():
        for group in some if len(some) > 1 else ():
            if all(group.bytes(mode) is not None for mode in ("eager", "stock", "memsched")):
                swept.setdefault((group.case.policy, group.case.batch / some[0].case.batch), []).append(group)
    lines = []
    for (policy, factor), chosen in swept.items():
        pairs = (("stock", "eager"), ("memsched", "eager"), ("memsched", "stock"))
        ratios = [_found(group.bytes_ratio(*pair) for group in chosen) for pair in pairs]
        cells = [(_two(geometric_mean(each)), str(sum(ratio > 1 for ratio in each))) for each in ratios]
        lines.append((policy, f"{factor:g}x", str(len(chosen)), *itertools.chain(*cells)))
    header = ("checkpoints", "batch", "models", "stock / eager", "above", "memsched / eager", "above",
              "memsched / stock", "above")  # fmt: skip
    about = (
        "Models that are there in several settings: geometric means of their peaks, and how many are above. Eager is "
        "always measured; the others are modelled where a setting was only lowered: where *Measured* does not have it."
    )
    return Table("By checkpoint policy and batch size", about, header, lines)


def _measured(groups: Sequence[Group]) -> Table:
    lines = []
    for group in groups:
        if group.value("memsched", "peak") is None or group.value("stock", "peak") is None:
            continue
        lines.append(
            (
                *_setting(group),
                *(_mib(group.value(mode, "peak")) for mode in ("eager", "stock", "memsched")),
                _two(group.ratio("peak", "memsched", "stock")),
                _two(group.ratio("peak", "memsched", "eager")),
                _two(group.time_ratio("memsched", "stock")),
                _two(group.time_ratio("memsched", "eager")),
                f"{_whole(group.value('stock', 'kernels'))} to {_whole(group.value('memsched', 'kernels'))}",
                _whole(group.value("stock", "compile_seconds")),
                _seconds(group.value("memsched", "planner_seconds")),
                _mib(group.value("memsched", "modelled")),
                _percent(group.value("memsched", "gap")),
                str(group.modes["memsched"].get("plan", "")),
            )
        )
    header = ("model", "checkpoints", "batch", "eager MiB", "stock MiB", "memsched MiB", "of stock", "of eager",
              "time of stock", "time of eager", "kernels", "compile s", "planner s", "modelled MiB", "gap",
              "plan")  # fmt: skip
    about = (
        "One training step; bytes of the allocator above what is live before it. *Compile* is stock's; *gap* is what "
        "memsched's modelled peak is above its proved bound. Times are the shortest of steps taken in alternation."
    )
    return Table("Measured", about, header, lines)


def _all_modes(groups: Sequence[Group]) -> Table:
    lines = []
    for group in groups:
        if all(group.bytes(mode) is not None for mode in MODES):
            modelled = {mode for mode in MODES if group.value(mode, "peak") is None}
            cells = {mode: _mib(group.bytes(mode)) for mode in MODES}
            lines.append((*_setting(group), *(f"*{c}*" if mode in modelled else c for mode, c in cells.items())))
    about = (
        "Measured MiB, or in italics modelled. *Order* is memsched's order of stock's fusions, *no reorder* is stock "
        "without its own reorder."
    )
    header = ("model", "checkpoints", "batch", "eager", "aot_eager", "stock", "no reorder", "order", "memsched")
    return Table("All modes", about, header, lines)


def _parts(groups: Sequence[Group]) -> Table:
    lines = []
    for group in groups:
        for mode in MODES:
            row = group.modes.get(mode, {})
            if row.get("saved_at_peak") is not None:
                parts = ("peak", "saved_at_peak", "gradients_at_peak", "transients_at_peak")
                ends = ("saved", "gradients", "parameter_bytes")
                figures = [_mib(row[part]) for part in (*parts, *ends)]
                lines.append((*_setting(group), mode, row["peak_in"], *figures))
    about = (
        "What is live at the measured peak, MiB: activations saved by the forward pass, gradients that stay, and the "
        "rest. Beside it all that was saved, all gradients, and the parameters, which are not part of the peak."
    )
    header = ("model", "checkpoints", "batch", "mode", "peak in", "peak", "saved", "gradients", "transients",
              "all saved", "all gradients", "parameters")  # fmt: skip
    return Table("What the peak consists of", about, header, lines)


def _modelled(groups: Sequence[Group]) -> Table:
    lines = []
    for group in groups:
        values = {mode: group.value(mode, "modelled") for mode in LOWERED}
        if values["memsched"] is None or values["stock"] is None:
            continue
        lines.append(
            (
                *_setting(group),
                _mib(group.value("eager", "peak")),
                *(_mib(value) for value in values.values()),
                _mib(group.value("memsched", "bound")),
                _two(group.ratio("modelled", "memsched", "stock")),
                _percent(group.value("memsched", "gap")),
                str(group.modes["memsched"].get("plan", "")),
                f"{_whole(group.value('stock', 'kernels'))} to {_whole(group.value('memsched', 'kernels'))}",
                _seconds(group.value("memsched", "planner_seconds")),
            )
        )
    about = (
        "The larger of the forward and the backward graph, in the memory model that plans; no order goes below bound. "
        "*Eager* is measured."
    )
    header = ("model", "checkpoints", "batch", "eager", "stock", "no reorder", "order", "memsched", "bound",
              "of stock", "gap", "plan", "kernels", "planner s")  # fmt: skip
    return Table("Modelled MiB", about, header, lines)


def _series_parallel(groups: Sequence[Group]) -> Table:
    lines = []
    for group in groups:
        row = group.modes.get("memsched", {})
        for graph in row.get("graphs", ()):
            if "kernel_size" in graph:
                whole = "yes" if graph["series_parallel"] else "no"
                share = 1 - graph["kernel_size"] / graph["ops"] if graph["ops"] else 0.0
                cells = (graph["kind"], str(graph["ops"]), whole, str(graph["kernel_size"]), f"{share:.0%}")
                lines.append((*_setting(group), *cells, graph["status"], graph["method"]))
    about = (
        "Graphs after memsched's fusion. *Series-parallel* says whether the whole order is; *kernel* is what is left "
        "of the ops when its series-parallel parts are collapsed (what tensors with several readers hold apart stays)."
    )
    header = ("model", "checkpoints", "batch", "graph", "ops", "series-parallel", "kernel", "collapsed", "status",
              "method")  # fmt: skip
    return Table("Series-parallel graphs", about, header, lines)


def failures(groups: Sequence[Group]) -> Table:
    """The rows that failed, with their reasons."""
    lines = [
        (*_setting(group), mode, row["status"], row["reason"].replace("|", "\\|"))
        for group in groups
        for mode, row in group.modes.items()
        if row["status"] != "ok" or row.get("plan") == "fallback"
    ]
    header = ("model", "checkpoints", "batch", "mode", "status", "reason")
    return Table("Failures", "Rows without figures, and why; graphs that memsched left to stock.", header, lines)


def _setting(group: Group) -> tuple[str, str, str]:
    size = " (small)" if group.case.size == "small" else ""
    return group.case.model + size, group.case.policy, str(group.case.batch)


def _found(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _text(form: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: "" if value is None else form(value)


_mib = _text(lambda value: f"{value / MIB:.2f}")
_two = _text(lambda value: f"{value:.2f}")
_whole = _text(lambda value: f"{value:.0f}")
_percent = _text(lambda value: f"{value:.1%}")
_seconds = _text(lambda value: f"{value:.1f}")
