"""Inductor's FX-graph cache: a plan is made once, and a second process gets it without planning.

The graph is six branches that share one input.  Stock fuses their first ops side by side, so that all six products are
alive together: seven buffers of 1 MiB where two are enough.  The order and the fusions of the plan are therefore
visible in the measured peak, in the process that planned and in the one that only loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.compile

_PROGRAM = """
import json, sys
import torch, memsched
from torch._dynamo.utils import counters
from memsched.inductor.measure import measure_peak

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
    assert second["reports"] == [], "nothing was planned"
    assert second["peak"] == first["peak"]

    other = run(tmp_path, {"strict": True, "fusion": "stock"})
    assert (other["hits"], other["misses"]) == (0, 1), "another option is another plan"
    assert len(other["reports"]) == 1
