"""Where the benchmark's inputs and results lie."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BENCH", "DOCS", "INSTANCES", "RESULTS"]

BENCH = Path(__file__).resolve().parent
INSTANCES = BENCH / "instances"
RESULTS = BENCH / "results"
DOCS = BENCH.parent / "docs"
