"""What surrounds a compile may be poor: solvers that are missing, children that cannot start, a process that forks.

The plan is the one of every other machine: the default policy asks no solver that may be missing for graphs of a
compile, and a fork has all that its parent had.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.plans

_STEP = """
import sys, torch, memsched
from bench.memory.no_kernels import kernels_that_do_nothing

torch.manual_seed(0)
torch.set_num_threads(1)

def step(backend="memsched"):
    torch._dynamo.reset()
    model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU()) for _ in range(3)))
    torch.compile(model, backend=backend)(torch.randn(128, 64)).square().mean().backward()

def planned():
    with kernels_that_do_nothing():
        step()
    assert not any(report.fallback for report in memsched.reports())
    return [(report.name.split()[0], report.peak, report.lower_bound) for report in memsched.reports()]
"""

_SURROUNDINGS = {
    "usual": "print(planned())",
    "no solvers": """
sys.modules.update({name: None for name in ("ortools", "pulp", "highspy", "psutil", "scipy", "pandas")})
print(planned())""",
    "children die": """
sys.executable = "/bin/false"
print(planned())""",
    "forked": """
import os
with kernels_that_do_nothing():
    step()
memsched.reset()
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(planned(), flush=True)
os._exit(0)""",
}


def printed(surroundings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _STEP + _SURROUNDINGS[surroundings]],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def usual() -> str:
    return printed("usual")


@pytest.mark.parametrize("surroundings", [name for name in _SURROUNDINGS if name != "usual"])
def test_the_plan_is_the_same(usual: str, surroundings: str) -> None:
    assert "backward" in usual
    assert printed(surroundings) == usual
