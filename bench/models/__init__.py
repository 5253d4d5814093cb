"""The models that the demo and the benchmark compile: built from sizes, random weights, no downloads."""

from __future__ import annotations

from bench.models.registry import DEMO, MODELS, Workload, build

__all__ = ["DEMO", "MODELS", "Workload", "build"]
