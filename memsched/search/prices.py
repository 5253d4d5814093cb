"""What work costs: how much of each kind a search may do for one unit of a `Budget`.

A unit stands for about 50 microseconds of one core, so that `UNITS_PER_SECOND` units are done well within a second:

    price       1 unit buys                                    spent as
    CUT_WORK    60 ops, buffers and arcs of a minimum cut      budget.spend(1 + solver.work // CUT_WORK)

The prices are fixed numbers, measured once, so that every machine stops a search at the same place.  A changed price
changes plans.  `python -m bench prices` measures what a unit of each stage takes on this machine, in CPU time.
"""

from __future__ import annotations

from memsched.series_parallel.shared import OPS_PER_UNIT as FOLDED_OPS

__all__ = [
    "CONTRACTED_OPS",
    "CUT_WORK",
    "CUT_WORK_IN_LOCAL_SEARCH",
    "DOMINANCE_TESTS",
    "EXACT_STATES",
    "FOLDED_OPS",
    "PRIME_NODES_SQUARED",
    "PROBED_ARCS",
    "PROBED_NODES",
    "PROBED_STEPS",
    "REPLAYED_STEPS",
    "SCANNED_STEPS",
    "TABLED_OPS",
    "WINDOW_STATES",
]

CUT_WORK = 60
"""Ops, buffers and arcs that a minimum cut looks at (`search/cuts/bounds.py`, `search/refute/certify.py`)."""

CUT_WORK_IN_LOCAL_SEARCH = 45
"""The same inside of local search and of `fusion/room.py`, where cuts are small and their set-up counts."""

TABLED_OPS = 2
"""Ops of which local search makes the stock orders and its tables (`search/local/search.py`)."""

REPLAYED_STEPS = 20
"""Steps of an order that local search replays."""

SCANNED_STEPS = 500
"""Steps of which local search looks for the largest."""

WINDOW_STATES = 4
"""States of an exact window of local search."""

EXACT_STATES = 3
"""States that exact search generates, on graphs of up to a thousand nodes (`search/refute/refute.py`)."""

DOMINANCE_TESTS = 16
"""Steps that exact search tries for free after a node was taken (`search/exact/valley.py`)."""

PRIME_NODES_SQUARED = 5
"""Decomposing a prime module of n nodes takes n * n / 5 units (`search/exact/canonical.py`)."""

PROBED_ARCS = 120
"""Arcs of the network that one flow of probing visits (`search/refute/probing.py`)."""

PROBED_STEPS = 60
"""Steps of an order that probing replays."""

PROBED_NODES = 8
"""Nodes that probing moves over a cut, with those that must move with them."""

CONTRACTED_OPS = 12
"""Ops that `fusion/room.py` contracts."""
