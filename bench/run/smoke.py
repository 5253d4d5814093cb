"""The gate of CI: no model of the smoke suite may peak above its baseline, nor above stock.

python -m bench smoke                 plan every model of the suite at its small size; 1 when a peak has risen
python -m bench smoke --update        write bench/baselines.json from what is planned now

Nothing is compiled: the peaks are those of the memory model, the same on every machine: what libraries allocate is
looked up and not measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass

from bench.paths import BENCH
from bench.run.cases import cases_of
from memsched.files.json_file import atomic_write

__all__ = ["BASELINES", "Planned", "faults_of", "main", "plan_model", "smoke_models"]

BASELINES = BENCH / "baselines.json"


@dataclass(frozen=True, slots=True)
class Planned:
    """Modelled peaks of one step, bytes: of stock, of memsched, and the bound that memsched proved."""

    stock: int
    memsched: int
    bound: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan and compare; 0 when nothing has risen, 1 when something has."""
    parser = argparse.ArgumentParser(prog="python -m bench smoke", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--update", action="store_true", help="write the baselines instead of comparing with them")
    options = parser.parse_args(arguments)
    baselines = {} if options.update else read_baselines()
    planned, faults = {}, []
    for name in smoke_models():
        planned[name] = plan_model(name)
        found = [] if options.update else faults_of(name, planned[name], baselines.get(name))
        faults += found
        print(f"{name:12} stock {planned[name].stock:>10,}  memsched {planned[name].memsched:>10,}", *found, flush=True)
    if options.update:
        peaks = {name: peaks.memsched for name, peaks in planned.items()}
        atomic_write(BASELINES, json.dumps(peaks, indent=1).encode() + b"\n")
    return 1 if faults else 0


def smoke_models() -> list[str]:
    """The models of the suite."""
    return [case.model for case in cases_of("smoke", size="small")]


def read_baselines() -> dict[str, int]:
    """Modelled peak of a step under memsched for each model, bytes."""
    baselines: dict[str, int] = json.loads(BASELINES.read_text())
    return baselines


def plan_model(name: str) -> Planned:
    """Both plans of one model at its small size; raises what fails, since memsched plans strictly here."""
    from bench.models import build
    from memsched.inductor.capture.plan_only import plan_only
    from memsched.inductor.options import BackendOptions

    options = BackendOptions(strict=True, measure_scratch=False)
    workload = build(name, "small")
    with workload.policy.settings():
        stock = plan_only(workload.model, workload.batch, options, stock=True)
        planned = plan_only(workload.model, workload.batch, options)
    return Planned(
        stock=max(report.peak for report in stock),
        memsched=max(report.peak for report in planned),
        bound=max(report.lower_bound for report in planned),
    )


def faults_of(name: str, planned: Planned, baseline: int | None) -> list[str]:
    """What is wrong with a model's peak, each in one line."""
    faults = []
    if baseline is None:
        faults.append(f"{name} has no baseline: python -m bench smoke --update")
    elif planned.memsched > baseline:
        faults.append(f"{name} rose from {baseline:,} to {planned.memsched:,} bytes")
    if planned.memsched > planned.stock:
        faults.append(f"{name} needs {planned.memsched:,} bytes, stock {planned.stock:,}")
    return faults
