"""Imports only go down, and everything that only reads a graph runs with no torch and no solver installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "memsched"

LAYERS = (
    ("core",),
    ("records",),
    ("files",),
    ("check", "contract"),
    ("series_parallel",),
    ("search",),
    ("storage", "fusion", "levers"),
    ("inductor", "render", "patching"),
    ("questions", "planning"),
    ("fitting", "out_of_memory", "callbacks"),
    ("cli", "pytest_plugin"),
    ("__main__",),
)
"""From the bottom to the top; a module imports its own part and lower layers only."""

PURE = (
    *("core", "contract", "records", "files", "check", "series_parallel", "search", "fusion", "storage", "levers"),
    *("questions", "planning", "fitting", "out_of_memory", "callbacks", "patching", "render", "cli"),
)
"""Parts that import neither torch nor a solver when they are imported."""

HEAVY = ("torch", "ortools", "pulp", "highspy", "numpy", "scipy", "networkx")

BLOCKER = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
"""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to; "" for memsched/__init__.py, which may be used by all."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem.replace("__init__", "")


def layer_of(part: str) -> int:
    return next(layer for layer, parts in enumerate(LAYERS) if part in parts)


def imported_parts(path: Path) -> set[str]:
    """Parts of memsched that a file imports, anywhere in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names.append(node.module or "")
            if node.module == "memsched":
                names += [f"memsched.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("memsched.")}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    part = part_of(path)
    if not part:
        return
    for other in imported_parts(path) - {part, "__version__"}:
        assert layer_of(other) < layer_of(part), f"{part} imports {other}"


def test_every_part_has_a_layer() -> None:
    for path in modules():
        if part_of(path):
            layer_of(part_of(path))


def run_blocked(code: str) -> None:
    """Run code in a Python in which nothing heavy can be imported."""
    finished = subprocess.run(
        [sys.executable, "-c", BLOCKER.format(blocked=HEAVY) + code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr


def test_pure_parts_import_with_torch_and_solvers_blocked() -> None:
    names = [
        ".".join(("memsched", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in modules()
        if part_of(path) in PURE
    ]
    assert len(names) > 20
    run_blocked(f"import importlib\nfor name in {names!r}: importlib.import_module(name)")


def test_graphs_are_solved_and_plans_verified_with_torch_and_solvers_blocked(tmp_path: Path) -> None:
    run_blocked(
        f"""
from memsched.cli import main
from memsched.files.graph_file import write_graph
from tests.oracle import brute_force_peak, random_graphs
from memsched.files.plan_file import read_plan
for index, graph in enumerate(random_graphs(8, seed=41, largest=8)):
    write_graph({str(tmp_path)!r} + f"/g{{index}}.json", graph)
    argv = ["solve", {str(tmp_path)!r} + f"/g{{index}}.json", "-o", {str(tmp_path)!r} + f"/p{{index}}.json"]
    assert main(argv) == 0
    assert main(["verify", argv[1], argv[3]]) in (0, 4)  # 4: an optimum that rests on a search
    plan = read_plan(argv[3])
    assert plan.peak == brute_force_peak(graph)
"""
    )
