"""Put measured tables into README.md and docs/results.md: `python -m bench readme [DEMO_RESULTS]`.

Their figures are never typed.  The blocks between markers are replaced by what commands wrote:

    README.md        ladder         bench/results/ladder_*.json, by `memsched fit examples/fit.py:step --json`, ...
                     benchmark      bench/results/cpu, by `python -m bench run --suite ac --output bench/results/cpu`
    docs/results.md  demo           DEMO_RESULTS/results.md, by `python -m bench demo`; the picture goes to docs/
                     random-models  bench/results/random_models.json, by `python -m bench random-models`
                     depth          bench/results/depth.json, by `python -m bench depth`, as the page has it
                     orders         bench/results/orders.json, by `python -m bench orders bench/instances --json`
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.memory.random_models import markdown
from bench.orders import depth
from bench.report.tables import Group, geometric_mean, group_rows
from bench.run.cases import read_rows
from bench.run.step import MODES
from memsched.files.json_file import atomic_write

BENCHMARK = Path("bench/results/cpu")
DEPTH = Path("bench/results/depth.json")
LADDERS = (Path("bench/results/ladder_compiled.json"), Path("bench/results/ladder_step.json"))
ORDERS = Path("bench/results/orders.json")
RANDOM = Path("bench/results/random_models.json")
_DEMO = Path("demo_results")
_README, _RESULTS = Path("README.md"), Path("docs/results.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite both pages in the current folder; 2, and both as they were, when a result or a marker is missing.

    Without an argument, and without the folder that `make demo` writes, the demo's block stays as it is.
    """
    parser = argparse.ArgumentParser(prog="python -m bench readme", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", nargs="?", type=Path, help=f"folder of the demo (default: {_DEMO}, if it is there)")
    given: Path | None = parser.parse_args(arguments).results
    folder = given or _DEMO
    try:
        pages = committed_blocks()
        if given is not None or folder.exists():
            pages[_RESULTS]["demo"] = _demo_block(folder)
        written = {page: _with_blocks(page, blocks) for page, blocks in pages.items()}
    except (OSError, ValueError, KeyError) as error:
        print(f"bench readme: {str(error) or type(error).__name__}", file=sys.stderr)
        return 2
    for page, text in written.items():
        atomic_write(page, text.encode())
    picture = folder / "contrastive.png"
    if picture.exists():
        shutil.copy(picture, "docs/memory_contrastive.png")
    return 0


def committed_blocks() -> dict[Path, dict[str, str]]:
    """The blocks of both pages that are made of committed rows, by page and name; all but that of the demo."""
    return {
        _README: {
            "ladder": _ladder_block(*(json.loads(file.read_text()) for file in LADDERS)),
            "benchmark": _benchmark_block(group_rows(read_rows(BENCHMARK))),
        },
        _RESULTS: {
            "random-models": markdown(json.loads(RANDOM.read_text())).rstrip(),
            "depth": depth.markdown(json.loads(DEPTH.read_text())),
            "orders": _orders_block(json.loads(ORDERS.read_text())),
        },
    }


def _with_blocks(page: Path, blocks: Mapping[str, str]) -> str:
    text = page.read_text()
    for name, block in blocks.items():
        try:
            text = replace_block(text, name, block)
        except ValueError as error:
            raise ValueError(f"{page}: {error}") from None
    return text


def replace_block(text: str, name: str, block: str) -> str:
    """`text` with `block` between the markers of `name`; raises ValueError when they are missing."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the markers of {name!r} are missing")
    return f"{before}{begin}\n{block}\n{end}{after}"


def _ladder_block(compiled: Mapping[str, Any], step: Mapping[str, Any]) -> str:
    """Stock, the rungs of the compiled model, and the lowest of the step with the optimizer in it."""
    first, stock = compiled["rungs"][0], compiled["rungs"][0]["stock_peak"]
    lines = ["| lever | peaks at | peak MiB | of stock | computed again | kernels |", "|---|---|---|---|---|---|"]
    lines.append(f"| stock | | {stock / 2**20:.2f} | 1.00 | | |")
    lowest = step["rungs"][-1]
    rungs = [(rung["setting"], rung) for rung in compiled["rungs"]]
    for name, rung in [*rungs, (f"`train_step`: {lowest['setting']}", lowest)]:
        again = f"{rung['recompute_flops'] / first['flops']:.0%}" if rung["recompute_flops"] else "nothing"
        cells = [name, rung["moment"], f"{rung['peak'] / 2**20:.2f}", f"{rung['peak'] / stock:.2f}", again]
        lines.append(f"| {' | '.join(cells)} | {rung['kernels']} |")
    return "\n".join(lines)


def _benchmark_block(groups: Sequence[Group]) -> str:
    """The models that are measured in eager, stock and memsched, the largest gain first; and what they say together."""
    lines = []
    measured = [group for group in groups if all(group.value(mode, "peak") for mode in MODES)]
    for group in sorted(measured, key=lambda one: one.ratio("peak", "memsched", "stock") or math.inf):
        peaks = [group.value(mode, "peak") for mode in MODES]
        ratios = [group.ratio("peak", "memsched", other) or math.nan for other in ("stock", "eager")]
        ratios.append(group.time_ratio("memsched", "stock") or math.nan)
        cells = [group.case.model, *(f"{(peak or 0) / 2**20:.2f}" for peak in peaks), *(f"{one:.2f}" for one in ratios)]
        lines.append(f"| {' | '.join(cells)} |")
    header = "| checkpointed model | eager MiB | stock MiB | memsched MiB | of stock | of eager | step of stock's |"
    return "\n".join([header, "|---|---|---|---|---|---|---|", *lines, "", _summary(measured)])


def _summary(groups: Sequence[Group]) -> str:
    """The mean, who is above stock or above eager, and how far measured bytes are from the plan's."""
    mean = geometric_mean(group.ratio("peak", "memsched", "stock") for group in groups)
    sentences = [f"Geometric mean: {mean or 1:.3f} of stock."]
    for other in ("stock", "eager"):
        ratios = {group.case.model: group.ratio("peak", "memsched", other) or 1 for group in groups}
        above = [f"{model} ({ratio:.4f})" for model, ratio in ratios.items() if ratio > 1]
        sentences.append(f"Above {other}: {', '.join(above) or 'none'}.")
    pairs = [(group.value("memsched", "modelled"), group.value("memsched", "peak")) for group in groups]
    apart = [abs(modelled - peak) for modelled, peak in pairs if modelled is not None and peak is not None]
    if apart:
        sentences.append(f"Measured and planned bytes differ by {max(apart):.0f} at most.")
    return " ".join(sentences)


def _demo_block(folder: Path) -> str:
    table = (folder / "results.md").read_text()
    environment = json.loads((folder / "results.json").read_text())["environment"]
    return f"{table}\n(torch {environment['torch']}, {environment['cores']} CPU cores)"


def _orders_block(results: dict[str, Any]) -> str:
    lines = ["| | |", "|---|---|"]
    lines += [f"| {what} | {value} |" for what, value in results["summary"].items()]
    claimed = sum(row["status"] == "optimal" and not row["proved"] for row in results["rows"])
    lines.append(f"| optimal, but with a bound that only a rerun can confirm | {claimed} |")
    return "\n".join(lines)
