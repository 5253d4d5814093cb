"""The benchmark's commands: `python -m bench COMMAND --help`."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "run": ("run.command", "measure models in every mode; rows in bench/results/"),
    "report": ("report.command", "tables and figures of runs"),
    "demo": ("run.demo", "eager, stock and memsched side by side on a few models"),
    "smoke": ("run.smoke", "plan a few models and compare with the baselines, for CI"),
    "train-step": ("run.train_step", "ways to train a step: memory, time, compile time"),
    "whole-steps": ("run.whole_steps", "is a planned step above any other way to train? 22 models, 3 optimizers"),
    "fit": ("fit.command", "peak against work: every lever, beside every setting of stock's"),
    "capture": ("orders.capture", "scheduler graphs of the models into bench/instances/"),
    "orders": ("orders.command", "how good the orders are on captured graphs"),
    "parallel": ("orders.parallel", "what captured graphs may hold when several ops run at once"),
    "scale": ("orders.scale", "planning time and peaks on large synthetic graphs"),
    "depth": ("orders.depth", "what planning costs as models get deep, beside stock's own work"),
    "series-parallel": ("orders.series_parallel", "how many captured graphs are series-parallel"),
    "prices": ("orders.prices", "what a unit of work takes on this machine, by stage of the solver"),
    "series-parallel-scale": ("orders.series_parallel_scale", "the polynomial algorithm on large graphs"),
    "mechanisms": ("fusion.mechanisms", "what raises the peak: order, fusion, and rules against it"),
    "fusion-cost": ("fusion.cost", "what fusions do to a peak as models grow"),
    "fusion-guard": ("fusion.guard", "a guard on single fusions against the planned order"),
    "fusion-kept": ("fusion.kept", "how many of stock's fusions fit a budget"),
    "fusion-page": ("fusion.page", "put measured tables into docs/fusion-and-peak.md"),
    "memory-model": ("memory.model", "the memory model against the replayed wrapper and the allocator"),
    "buffer-reuse": ("memory.buffer_reuse", "what Inductor's long-range reuse of buffers costs"),
    "random-models": ("memory.random_models", "models of random operators: planned against measured, against stock"),
    "experts": ("experts.command", "systems around mixtures of experts: claims decided by experiments"),
    "settings": ("settings.command", "set-ups in which people compile: does it run, what does it need?"),
    "gpu": ("gpu.command", "everything that only a GPU can tell, in minutes"),
    "cuda-plans": ("memory.cuda_plans", "plans for CUDA, made without a GPU"),
    "patches": ("patches.command", "the patches for PyTorch: lowered, planned, measured"),
    "readme": ("report.readme", "put measured tables into the README"),
}
"""Of each command its module in `bench`, and what it does."""


def main() -> int:
    """Run the command of the command line; 2 when there is none of that name."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("-h", "--help"):
        print(__doc__ + "\n" + "\n".join(f"    {command:22} {what}" for command, (_, what) in COMMANDS.items()))
        return 0
    if name not in COMMANDS:
        print(f"bench: {name!r} is no command (there are {', '.join(COMMANDS)})", file=sys.stderr)
        return 2
    module, _ = COMMANDS[name]
    code: int | None = importlib.import_module(f"bench.{module}").main(sys.argv[2:])
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
