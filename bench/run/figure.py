"""Memory over time of one training step as a picture: measured on the left, predicted on the right."""

from __future__ import annotations

import io
from collections.abc import Sequence

from bench.run.step import StepResult
from memsched.core.peak import memory_profile
from memsched.records.report import GraphReport

__all__ = ["draw_step"]

_COLORS = {"eager": "#8a8a8a", "stock": "#d1495b", "memsched": "#00798c"}
_MIB = 2**20


def draw_step(result: StepResult) -> bytes:
    """A PNG: live MiB above the start of the step, of the three modes, measured and predicted, with the bound."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (measured, predicted) = pyplot.subplots(1, 2, figsize=(12, 4.2), sharey=True, layout="constrained")
    for name, mode in result.modes.items():
        color = _COLORS[name]
        if mode.trace is not None and mode.trace.live_bytes:
            live = [bytes_ / _MIB for bytes_ in mode.trace.live_bytes]
            share = _shares(len(live))
            measured.step(share, live, where="post", color=color, lw=1.2, label=_label(name, mode.peak))
        elif mode.peak:
            measured.axhline(mode.peak / _MIB, color=color, label=_label(name, mode.peak))
        if mode.graphs:
            share, live = _predicted_curve(mode.graphs)
            predicted.step(share, live, where="post", color=color, lw=1.2, label=_label(name, mode.modelled or 0))
    bound = result.modes["memsched"].lower_bound
    if bound:
        predicted.axhline(bound / _MIB, color="black", lw=0.8, ls="--", label=f"lower bound {bound / _MIB:.2f} MiB")
    measured.set(
        title="measured", xlabel="share of the step's allocations and frees", ylabel="MiB above the start of the step"
    )
    predicted.set(title="predicted", xlabel="share of the step's kernels")
    for axes in (measured, predicted):
        axes.legend(loc="upper left", fontsize=8, frameon=False)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{result.workload}: live memory during one training step")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    pyplot.close(figure)
    return image.getvalue()


def _label(name: str, peak: int) -> str:
    return f"{name}, peak {peak / _MIB:.2f} MiB"


def _predicted_curve(graphs: Sequence[GraphReport]) -> tuple[list[float], list[float]]:
    """Levels and step peaks of the forward graph, then of the backward graph, over the kernels of both."""
    live: list[float] = []
    for report in graphs:
        if report.graph is None or report.schedule is None:
            continue
        profile = memory_profile(report.graph, report.schedule.order)
        for step_peak, level in zip(profile.step_peaks, profile.levels, strict=True):
            live += [step_peak / _MIB, level / _MIB]
    return _shares(len(live)), live


def _shares(count: int) -> list[float]:
    """`count` points from 0 to 1.  Events rather than seconds: a pause of the machine would stretch one of them."""
    return [at / max(1, count - 1) for at in range(count)]
