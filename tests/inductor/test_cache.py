"""Inductor's FX-graph cache: a plan is made once, and a second process gets it without planning.

The graph is six branches that share one input.  Stock fuses their first ops side by side, so that all six products are
alive together: seven buffers of 1 MiB where two are enough.  The order and the fusions of the plan are therefore
visible in the measured peak, in the process that planned and in the one that only loaded.  The generated code tells the
report of its plan when it is loaded, and the process that planned writes the plan into the trace that tlparse reads.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memsched.cli import EXIT_DONE, main
from memsched.files.graph_file import write_graph
from memsched.files.plan_file import read_plan

pytestmark = pytest.mark.compile

_PROGRAM = """
import json, sys
import torch, memsched
from torch._dynamo.utils import counters
from memsched.inductor.bytes.measure import measure_peak

def branches(x, weights):
    return sum((product @ product.t()).sum() for product in [((x * 2 + 1).sin() * w) for w in weights])

torch.manual_seed(0)
x, weights = torch.randn(512, 512), [torch.randn(512, 512) for _ in range(6)]
options = json.loads(sys.argv[1])
compiled = torch.compile(branches) if options is None else torch.compile(branches, backend="memsched", options=options)
with torch.no_grad():
    torch.testing.assert_close(compiled(x, weights), branches(x, weights), rtol=1e-3, atol=1e-1)
    peak = measure_peak(lambda: compiled(x, weights))
print(json.dumps({
    "peak": peak,
    "hits": counters["inductor"]["fxgraph_cache_hit"],
    "misses": counters["inductor"]["fxgraph_cache_miss"],
    "bypasses": counters["inductor"]["fxgraph_cache_bypass"],
    "reports": [report.to_json() for report in memsched.reports()],
}))
"""


def run(cache: Path, options: dict[str, Any] | None) -> dict[str, Any]:
    """What the program prints in a new process with its own cache folder."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
    environment["TORCH_TRACE"] = str(cache / "trace")
    finished = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(options)], capture_output=True, text=True, env=environment
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return answer


def test_a_second_process_gets_the_plan_from_the_cache(tmp_path: Path) -> None:
    stock = run(tmp_path, None)
    first = run(tmp_path, {"strict": True})
    (report,) = first["reports"]
    assert first["bypasses"] == 0
    assert first["misses"] >= 1
    assert report["peak"] <= 2 * 2**20 + 1024, "one product and one square at a time"
    assert report["kernels"] <= 19
    assert first["peak"] <= 0.5 * stock["peak"]

    second = run(tmp_path, {"strict": True})
    assert (second["hits"], second["misses"], second["bypasses"]) == (1, 0, 0)
    (told,) = second["reports"]
    assert told == report | {"cached": True, "seconds": 0.0, "refusals": []}, "not planned again, and not silent"
    assert second["peak"] == first["peak"]

    other = run(tmp_path, {"strict": True, "fusion": "stock"})
    assert (other["hits"], other["misses"]) == (0, 1), "another option is another plan"
    assert len(other["reports"]) == 1
    assert told["peak"] <= other["reports"][0]["peak"]

    artefacts = traced(tmp_path / "trace")
    plan, text = artefacts["memsched_plan_inference_0"], artefacts["memsched_report_inference_0"]
    graph_file, plan_file = tmp_path / "graph.json", tmp_path / "plan.json"
    plan_file.write_text(plan)
    write_graph(graph_file, read_plan(plan_file).embedded_graph() or pytest.fail("no graph"))
    assert main(["verify", str(graph_file), str(plan_file)]) == EXIT_DONE
    assert "live at the peak" in text and "the order" in text


def traced(folder: Path) -> dict[str, str]:
    """The payloads of memsched's artefacts in a folder of TORCH_TRACE, by name: a line of metadata, then tabbed lines.

    The latest of each name is kept; the program that planned with Inductor's own fusions was the last to run.
    """
    found: dict[str, str] = {}
    for file in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime):
        name = ""
        for line in file.read_text().splitlines():
            if line.startswith("\t") and name:
                found[name] += line[1:] + "\n"
                continue
            match = re.search(r'"artifact": \{"name": "(memsched_\w+)"', line)
            name = match[1] if match else ""
            if name:
                found[name] = ""
    return found
