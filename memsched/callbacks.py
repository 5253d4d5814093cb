"""Peaks in the logs of Hugging Face's Trainer or Lightning's, and so in what they log to (TensorBoard, W&B, a file).

    memsched.install()
    trainer = Trainer(model, arguments, train_dataset=...)
    memsched.log_peaks(trainer)
    trainer.train()                  {"memsched/backward 0/peak_MiB": 26.1, "memsched/backward 0/stock_peak_MiB": 35.0}

Each graph is logged once, at the end of the step in which it was compiled.
"""

from __future__ import annotations

import importlib
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

    trainer: a `transformers.Trainer`, or another with its `add_callback` and `log`; or Lightning's `Trainer`, whose
        loggers are told at once, whatever its `log_every_n_steps`.
    Raises ImportError where transformers is not installed; TypeError for anything else.
    """
    lightning = _lightning_of(trainer)
    if lightning is not None:
        trainer.callbacks.append(_for_lightning(lightning))
    elif hasattr(trainer, "add_callback"):
        trainer.add_callback(_for_transformers(trainer))
    else:
        raise TypeError(f"log_peaks takes the Trainer of transformers or of Lightning, not {type(trainer).__name__}")


class _New:
    """Graphs that were compiled since; told apart by identity, since names occur again after a recompile."""

    def __init__(self) -> None:
        self._seen = {id(report): report for report in reports()}

    def figures(self) -> list[dict[str, float]]:
        """What is logged of each, once."""
        now = {id(report): report for report in reports()}
        new = [report for key, report in now.items() if key not in self._seen]
        self._seen = now
        return [figures for figures in map(figures_of, new) if figures]


def _for_transformers(trainer: Any) -> Any:
    from transformers import TrainerCallback

    class LogPeaks(TrainerCallback):  # type: ignore[misc]
        new = _New()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            for figures in self.new.figures():
                trainer.log(figures)

    return LogPeaks()


def _lightning_of(trainer: Any) -> str | None:
    """The package of Lightning that `trainer` is of: it is published under two names, whose classes differ."""
    packages = {kind.__module__.partition(".trainer")[0] for kind in type(trainer).__mro__}
    return next((name for name in ("lightning.pytorch", "pytorch_lightning") if name in packages), None)


def _for_lightning(package: str) -> Any:
    class LogPeaks(importlib.import_module(package).Callback):  # type: ignore[misc]
        new = _New()

        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
            for figures in self.new.figures():
                for logger in trainer.loggers:
                    logger.log_metrics(figures, step=trainer.global_step)

    return LogPeaks()
