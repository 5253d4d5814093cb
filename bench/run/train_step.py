"""Whole training steps side by side: where the optimizer runs, and who plans it.

python -m bench train-step --models gpt6 --optimizers sgd           one model, one optimizer, about five minutes
python -m bench train-step --table                                  the table of all results so far

eager                        forward, backward, then the optimizer
eager, in backward           a hook on each parameter updates it when its gradient is ready
stock                        torch.compile, then the optimizer
stock, in backward           torch.compile, the same hooks
stock, compiled autograd     torch.compile, and the backward with its hooks as a graph of its own (experimental)
train_step                   memsched.train_step

Memory is the allocator's, above what is live before a step (parameters, optimizer state, batch).  Step times are
medians of alternating runs.  Every way begins with the same weights; after two steps the parameters are compared with
eager's.  Each way is a record of bench/results/train_step.json (JSON lines); a new run replaces it.  `--what memory`
and `--what time` may run apart: Inductor's cache keeps the compiled code between them.  `--what curve` trains on for
200 steps and compares the losses with eager's.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.compiled_autograd import _enable
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer

import memsched
from bench.models import MODELS, Workload, build
from bench.models.language import GPT
from bench.models.policies import parse_policy
from bench.run.step import seconds_in_alternation
from bench.run.train_step_records import Key, Record, load, markdown_table, save
from memsched.inductor.bytes.measure import measure_peak
from memsched.inductor.failures import reason_of

__all__ = ["WAYS", "main"]

RESULTS = Path("bench/results/train_step.json")

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": partial(SGD, lr=0.05, momentum=0.9),
    "nesterov": partial(SGD, lr=0.05, momentum=0.9, nesterov=True),
    "adam": partial(Adam, lr=1e-3),
    "adamw": partial(AdamW, lr=1e-3),
    "adafactor": partial(Adafactor, lr=1e-2),
}
WAYS = ("eager", "eager, in backward", "stock", "stock, in backward", "stock, compiled autograd", "train_step")
WHAT = ("memory", "time", "curve")
CURVE = 200
"""Steps that are compared."""
NAMES = {"gpt6": "gpt6", "gpt": "gpt", "llama": "hf_llama", "moe": "moe", "contrastive": "contrastive"}
"""The models, as this benchmark calls them and as the registry does; gpt6 is the model of the first measurement."""

Step = Callable[[], Tensor]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 when every way ran, 2 on bad arguments."""
    options = _parser().parse_args(arguments)
    fault = _fault(options)
    if fault:
        print(f"bench train-step: {fault}", file=sys.stderr)
        return 2
    try:
        load(options.output)
    except (ValueError, TypeError) as error:
        print(f"bench train-step: {options.output}: {error}", file=sys.stderr)
        return 2
    if not options.table:
        for model in options.models:
            for optimizer in options.optimizers:
                run(model, optimizer, options)
    print(markdown_table(list(load(options.output).values())), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench train-step", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--models", nargs="+", default=list(NAMES), metavar="NAME",
                        help=f"{', '.join(NAMES)} (the default), or a name of the registry")  # fmt: skip
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adamw"], metavar="NAME",
                        help=f"any of {', '.join(OPTIMIZERS)} (default: sgd adamw)")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=("small", "cpu", "cuda"), help="sizes of the models (default: of the device)")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=["memory", "time"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), metavar="WAY", help="leave out some of the six ways")
    parser.add_argument("--repetitions", type=int, default=11, help="timed steps of each way (default: 11)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON lines, and a table beside it")
    parser.add_argument("--table", action="store_true", help="only print the table of what was measured")
    return parser


def _fault(options: argparse.Namespace) -> str:
    """What is wrong with the arguments, or ""."""
    if options.device == "cuda" and not torch.cuda.is_available():
        return "--device cuda: this machine has no GPU that torch can use"
    for what, known in (("models", {*NAMES, *MODELS}), ("optimizers", set(OPTIMIZERS)), ("ways", set(WAYS))):
        unknown = [name for name in getattr(options, what) if name not in known]
        if unknown:
            return f"--{what}: {unknown[0]!r} is unknown (there are {', '.join(sorted(known))})"
    return f"--repetitions: {options.repetitions} is not 1 or more" if options.repetitions < 1 else ""


def run(model: str, optimizer: str, options: argparse.Namespace) -> None:
    """Measure one model with one optimizer; what is known is saved after every way."""
    size = options.size or options.device
    workload = _workload(model, size, options.device)
    before = load(options.output)
    records: dict[Key, Record] = {}
    steps: dict[Key, Step] = {}
    trained: dict[str, list[Tensor]] = {}
    for way in options.ways:
        key = (model, optimizer, way, size)
        record = records[key] = before.get(key) or Record(*key)
        _progress(f"{model}, {optimizer}: {way}")
        module = copy.deepcopy(workload.model)
        torch.compiler.reset()
        try:
            with workload.policy.settings():
                step = make_step(way, module, OPTIMIZERS[optimizer], workload.batch)
                seconds = _timed(step, options.device)
                step()
        except Exception as error:  # a way that fails is a row of the table, not the end of the run
            record.fault = reason_of(error)
            continue
        record.fault = ""
        trained[way] = [parameter.detach().clone() for parameter in module.parameters()]
        if "eager" in trained and way != "eager":
            record.difference = _difference(trained[way], trained["eager"])
        if "memory" in options.what:
            record.compile_seconds = 0.0 if way.startswith("eager") else seconds
            record.peak = measure_peak(step, options.device)
            record.report = _report_of(step)
        steps[key] = step
        save(records, options.output)
    if "curve" in options.what:
        _progress(f"{model}, {optimizer}: {CURVE} steps")
        for key, difference in _curves(steps).items():
            records[key].curve = difference
    if "time" in options.what:
        _progress(f"{model}, {optimizer}: timing")
        for key, taken in seconds_in_alternation(steps, options.repetitions, options.device).items():
            records[key].step_seconds = statistics.median(taken)
    save(records, options.output)


def _workload(model: str, size: str, device: str) -> Workload:
    if model == "gpt6":
        torch.manual_seed(0)
        policy = parse_policy("block")
        module, batch = GPT(6, 256, 4, 128).build(policy)
        return Workload("gpt6", module.to(device), tuple(tensor.to(device) for tensor in batch), policy)
    return build(NAMES.get(model, model), size, device)


def make_step(way: str, model: nn.Module, make: Callable[[Any], Optimizer], batch: Sequence[Tensor]) -> Step:
    """A call that trains `model` for one step in one of `WAYS`, and returns the loss."""
    if way == "train_step":
        step = memsched.train_step(model, make(model.parameters()))

        def planned() -> Tensor:
            return step(*batch)

        planned.step = step  # type: ignore[attr-defined]
        return planned
    forward = torch.compile(model) if way.startswith("stock") else model
    if "in backward" not in way and "autograd" not in way:
        optimizer = make(model.parameters())

        def after() -> Tensor:
            loss: Tensor = forward(*batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        return after
    compiled = "autograd" in way
    if compiled:
        _momentum_in_backward(model, make)
    else:
        _update_in_backward(model, make)

    def inside() -> Tensor:
        with _enable(torch.compile, dynamic=False) if compiled else contextlib.nullcontext():
            loss: Tensor = forward(*batch)
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return inside


def _update_in_backward(model: nn.Module, make: Callable[[Any], Optimizer]) -> None:
    """One optimizer per parameter, stepped by the hook that autograd calls when its gradient is there."""
    optimizers = {parameter: make([parameter]) for parameter in model.parameters() if parameter.requires_grad}

    def update(parameter: Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        optimizers[parameter].zero_grad(set_to_none=True)  # type: ignore[index]

    for parameter in optimizers:
        parameter.register_post_accumulate_grad_hook(update)


def _momentum_in_backward(model: nn.Module, make: Callable[[Any], Optimizer]) -> None:
    """SGD with momentum written out in the hooks: Dynamo traces `torch.optim` in hooks one parameter at a time.

    Raises:
        ValueError: another optimizer.
    """
    settings = make(model.parameters()).defaults
    if "momentum" not in settings or settings["nesterov"]:
        raise ValueError("under compiled autograd only sgd is measured: torch.optim would compile for each parameter")

    def hook_of(parameter: nn.Parameter) -> Callable[[Tensor], None]:
        velocity = torch.zeros_like(parameter)

        def update(changed: Tensor) -> None:
            with torch.no_grad():
                velocity.mul_(settings["momentum"]).add_(changed.grad)  # type: ignore[arg-type]
                changed.add_(velocity, alpha=-settings["lr"])
            changed.grad = None

        return update

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook_of(parameter))


def _difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference of a parameter after the same steps, relative to its largest entry."""
    return max(
        ((one - other).abs().max() / other.abs().max().clamp(min=1e-30)).item()
        for one, other in zip(ours, theirs, strict=True)
    )


def _report_of(step: Step) -> dict[str, Any]:
    planned = getattr(step, "step", None)
    report = planned.report if planned is not None else None
    return report.to_json() if report is not None else {}


def _timed(step: Step, device: str) -> float:
    started = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _curves(steps: dict[Key, Step]) -> dict[Key, float]:
    """How far the losses of each way get from eager's in `CURVE` steps, over eager's first; without eager nothing."""
    losses = {key: torch.stack([step().double() for _ in range(CURVE)]) for key, step in steps.items()}
    eager = next((curve for key, curve in losses.items() if key[2] == "eager"), None)
    if eager is None:
        return {}
    return {key: ((curve - eager).abs().max() / eager[0].abs()).item() for key, curve in losses.items()}


def _progress(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
