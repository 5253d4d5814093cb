"""What the patches for PyTorch bring: measured and modelled, before and after, and the tables of patches/README.md.

    python -m bench patches lower gpt moe zoo:lstm     modelled peaks and kernels; rows in bench/results/patches/
    python -m bench patches step contrastive           measured bytes and seconds of a training step
    python -m bench patches plan contrastive           a CUDA plan made without a GPU, replayed; two layers of the model
    python -m bench patches readme                     put the tables into patches/README.md

A row replaces an earlier one of the same model.  Each model is compiled in a process of its own under the overlay of
`memsched.patching.overlay`; the installed torch is only read.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import paths
from memsched.core.sizes import InputError
from memsched.files.json_file import atomic_write
from memsched.inductor.cuda_without_gpu import CudaUnavailable, CudaWorker, WorkerError
from memsched.patching.series import FOLDER, read_series

__all__ = ["RESULTS", "main", "render"]

RESULTS = paths.RESULTS / "patches"
README = FOLDER / "README.md"
MIB = 2**20
LAYERS = 2
"""Of the models that are planned for CUDA, at most."""

PLANNED: dict[str, Sequence[int]] = {"stock": (), "1+2": (1, 2), "1+2+5": (1, 2, 5)}
"""The sets of patches that are planned for CUDA."""

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every model has its row; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m bench patches", description=main.__doc__)
    parser.add_argument("what", choices=("lower", "step", "plan", "readme"))
    parser.add_argument("models", nargs="*", metavar="MODEL")
    options = parser.parse_args(arguments)
    if options.what == "readme":
        atomic_write(str(README), with_tables(README.read_text()).encode())
        return 0
    run = _plan if options.what == "plan" else functools.partial(_compile, options.what)
    failed = [model for model in options.models if not _save(model, run(model))]
    return 1 if failed else 0


def _compile(what: str, model: str) -> Row:
    command = [sys.executable, "-m", "memsched.patching.overlay", "--", "bench.patches.child", what, model]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def _plan(model: str) -> Row:
    """Replayed peak and kernels of the step, by stock Inductor as it is and as patched."""
    ways: dict[str, Any] = {}
    for way, numbers in PLANNED.items():
        print(f"{model}, {way}", file=sys.stderr)
        launcher = ["-m", "memsched.patching.overlay", "--patches", *map(str, numbers), "--"]
        try:
            with CudaWorker(launcher) as worker:
                step = worker.plan(
                    "bench.memory.cuda_plans:step", stock=True, arguments={"name": model, "layers": LAYERS}
                )
        except (CudaUnavailable, InputError, WorkerError) as error:
            return {"error": str(error)}
        ways[way] = {"peak": step.step_peak, "kernels": sum(graph.report.kernels for graph in step.graphs)}
    return {"kind": "planned", "layers": LAYERS, "ways": ways}


def _save(model: str, row: Row) -> bool:
    if "error" in row:
        print(f"{model}: {row['error']}", file=sys.stderr)
        return False
    rows = read_rows(row["kind"]) | {model: row | {"model": model}}
    text = "".join(json.dumps(rows[name]) + "\n" for name in sorted(rows))
    atomic_write(str(RESULTS / f"{row['kind']}.jsonl"), text.encode())
    return True


def read_rows(kind: str) -> dict[str, Row]:
    """Rows of one kind ("lowered", "measured" or "planned") by model."""
    path = RESULTS / f"{kind}.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return {row["model"]: row for row in map(json.loads, lines)}


def with_tables(text: str) -> str:
    """`text` with everything between the marks of a table replaced by that table."""
    for name, table in render().items():
        begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{table}\n{end}{after}"
    return text


def render() -> dict[str, str]:
    """The tables of patches/README.md by name."""
    return {
        "patches": _patches(),
        "versions": _versions(),
        "measured": _measured(),
        "modelled": _modelled(),
        "planned": _planned(),
        "tiny": _tiny(),
        "estimate": _estimate(),
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _patches() -> str:
    known = {entry["number"]: entry for entry in json.loads((FOLDER / "upstream.json").read_text())["patches"]}
    rows = []
    for patch in read_series(FOLDER / "torch-2.13"):
        added = _added_lines(patch.path.read_text())
        entry = known[patch.number]
        link = f"[{patch.number}](torch-2.13/{patch.path.name})"
        size = f"{added} lines in {', '.join(Path(name).name for name in patch.files)}"
        rows.append([link, entry["what"], size, entry["switch"], entry["upstream"], entry["delete"]])
    return _table(["patch", "what it changes", "adds", "switch", "upstream", "delete it when"], rows)


def _added_lines(patch: str) -> int:
    """Lines that a patch adds to torch itself, its tests left out."""
    own = [part for part in patch.split("\ndiff --git ")[1:] if part.startswith("a/torch/")]
    return sum(line.startswith("+") and not line.startswith("+++") for part in own for line in part.splitlines())


def _versions() -> str:
    data = json.loads((FOLDER / "versions.json").read_text())
    numbers = [str(patch.number) for patch in read_series(FOLDER / data["series"])]
    rows = [
        [result["version"], *("applies" if result["patches"][number] is True else "no" for number in numbers)]
        for result in data["versions"]
    ]
    return _table(["torch", *(f"patch {number}" for number in numbers)], rows)


def _measured() -> str:
    rows = []
    for model, row in read_rows("measured").items():
        ways = row["ways"]
        for way, found in ways.items():
            peaks = [found["peak"] / ways[other]["peak"] for other in ("stock", "eager")]
            compile_seconds, seconds = found["compile_seconds"], found["seconds"]
            rows.append(
                [
                    model,
                    way,
                    f"{found['peak'] / MIB:.2f}",
                    *(f"{ratio:.2f}" for ratio in peaks),
                    "" if seconds is None else f"{seconds / ways['stock']['seconds']:.2f}",
                    "" if compile_seconds is None else f"{compile_seconds:.0f}",
                ]
            )
    if not rows:
        return "No model has been measured yet."
    return _table(["model", "patches", "peak MiB", "of stock", "of eager", "step of stock's", "compile s"], rows)


def _modelled() -> str:
    ways = ("1", "2", "1+2", "1+2+4", "1+2+5")
    rows = []
    for model, row in read_rows("lowered").items():
        if model.startswith("zoo:"):
            continue
        stock = row["ways"]["stock"]
        cells = [f"{stock['peak'] / MIB:.2f}"]
        cells += [f"{row['ways'][way]['peak'] / stock['peak']:.3f}" for way in ways]
        kernels = row["ways"]["1+2"]["kernels"]
        cells += [f"{stock['kernels']}", f"{kernels}", f"{kernels / stock['kernels']:.3f}"]
        rows.append([model, *cells])
    return _table(["model", "stock MiB", *ways, "kernels", "with 1+2", "ratio"], rows)


def _planned() -> str:
    rows = []
    for model, row in read_rows("planned").items():
        stock = row["ways"]["stock"]
        others = [row["ways"][way] for way in PLANNED if way != "stock"]
        cells = [f"{other['peak'] / stock['peak']:.3f}" for other in others]
        kernels = [f"{other['kernels'] / stock['kernels']:.3f}" for other in others]
        rows.append([model, f"{stock['peak'] / 2**30:.3f}", *cells, *kernels])
    ways = [way for way in PLANNED if way != "stock"]
    return _table(["model", "stock GiB", *ways, *(f"kernels, {way}" for way in ways)], rows)


def _tiny() -> str:
    """What patches 1 and 2 do to the models of the zoo, in one sentence."""
    rows = {model: row["ways"] for model, row in read_rows("lowered").items() if model.startswith("zoo:")}
    changes = {model: ways["1+2"]["peak"] - ways["stock"]["peak"] for model, ways in rows.items()}
    higher = [f"`{model}`" for model, change in changes.items() if change > 0]
    lower, same = (sum(test(c) for c in changes.values()) for test in (lambda c: c < 0, lambda c: c == 0))
    kernels = [sum(ways[way]["kernels"] for ways in rows.values()) for way in ("stock", "1+2")]
    return (
        f"Of {len(rows)} tiny models (a few kilobytes, one for each kind of graph) patches 1 and 2 lower the peak of "
        f"{lower}, leave {same} and raise {len(higher)} ({', '.join(higher) or 'none'}); kernels {kernels[0]} and "
        f"{kernels[1]} in all."
    )


def _estimate() -> str:
    """What an estimate that knows in-place updates and concatenations would choose, in a sentence for each way."""
    rows = [row for model, row in read_rows("lowered").items() if not model.startswith("zoo:")]
    sentences = []
    for way, patches in {"1+2": "patches 1 and 2", "1+2+4": "patch 4 besides"}.items():
        known = {row["model"]: row["ways"][way] for row in rows if "allocated" in row["ways"][way]}
        gains = {model: 1 - found["allocated_least"] / found["allocated"] for model, found in known.items()}
        better = [f"`{model}` ({gain:.1%})" for model, gain in sorted(gains.items()) if gain > 0.0005]
        sentences.append(
            f"With {patches} such an estimate would choose a better candidate for {len(better)} of {len(known)} models"
            + (f": {', '.join(better)}." if better else ".")
        )
    return " ".join(sentences)
