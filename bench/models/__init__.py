"""The models that the demo and the benchmark compile: built from sizes, random weights, no downloads."""

from __future__ import annotations

from bench.models.policies import POLICIES, Policy, parse_policy
from bench.models.registry import DEMO, DEMO_MODELS, MODELS, build, fault_of_names
from bench.models.workload import SIZES, Entry, Workload

__all__ = [
    "DEMO",
    "DEMO_MODELS",
    "MODELS",
    "POLICIES",
    "SIZES",
    "Entry",
    "Policy",
    "Workload",
    "build",
    "fault_of_names",
    "parse_policy",
]
