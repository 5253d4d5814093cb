"""Peaks in the logs of Hugging Face's Trainer, and so in whatever it logs to (TensorBoard, W&B, a file).

    memsched.install()
    trainer = Trainer(model, arguments, train_dataset=...)
    memsched.log_peaks(trainer)
    trainer.train()                  {"memsched/backward 0/peak_MiB": 26.1, "memsched/backward 0/stock_peak_MiB": 35.0}

Each graph is logged once, at the end of the step in which it was compiled.
"""

from __future__ import annotations

from typing import Any

from memsched.records.published import reports
from memsched.records.report import GraphReport

__all__ = ["figures_of", "log_peaks"]

_MIB = 2**20


def figures_of(report: GraphReport) -> dict[str, float]:
    """What is logged of a graph: MiB of its plan, of stock, of the bound; kernels.  Nothing for one left to stock."""
    if report.fallback:
        return {}
    name = f"memsched/{report.name}"
    return {
        f"{name}/peak_MiB": round(report.peak / _MIB, 3),
        f"{name}/stock_peak_MiB": round(report.stock_peak / _MIB, 3),
        f"{name}/bound_MiB": round(report.lower_bound / _MIB, 3),
        f"{name}/kernels": report.kernels,
    }


def log_peaks(trainer: Any) -> None:
    """Have `trainer` log `figures_of` every graph that is compiled while it trains.

    trainer: a `transformers.Trainer`, or another with its `add_callback` and `log`.
    Raises ImportError where transformers is not installed.
    """
    from transformers import TrainerCallback

    class LogPeaks(TrainerCallback):  # type: ignore[misc]
        """Tells new reports by identity: names occur again after a recompile."""

        def __init__(self) -> None:
            self._seen = {id(report): report for report in reports()}

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """Log the graphs that are new."""
            now = {id(report): report for report in reports()}
            new = [report for key, report in now.items() if key not in self._seen]
            self._seen = now
            for figures in filter(None, map(figures_of, new)):
                trainer.log(figures)

    trainer.add_callback(LogPeaks())
