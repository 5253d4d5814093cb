"""The committed rows of `python -m bench parallel`: the page shows them, and a graph gives its row again."""

from __future__ import annotations

import json

from bench.orders.parallel import ROWS, table
from bench.paths import INSTANCES
from bench.report.readme import replace_block
from memsched.files.graph_file import read_graph
from memsched.search.parallel.worst import relaxed_worst_case
from tests.paths import ROOT

PAGE = (ROOT / "docs/parallel.md").read_text()


def test_the_page_shows_the_rows() -> None:
    assert replace_block(PAGE, "parallel", table(json.loads(ROWS.read_text()))) == PAGE


def test_rows_are_bounded_by_what_is_planned_now() -> None:
    """What a row found and proved lies within what minimum cuts alone say, for the smallest graphs."""
    rows = sorted(json.loads(ROWS.read_text()), key=lambda row: row["ops"])
    assert len(rows) >= 60
    for row in rows[:10]:
        graph = read_graph(INSTANCES / "captured" / f"{row['graph']}.json.gz")
        for parallel in (2, 4, None):
            relaxed, found = relaxed_worst_case(graph, parallel), row["any" if parallel is None else str(parallel)]
            assert relaxed.held <= found["held"] <= found["bound"] <= relaxed.bound


def test_the_page_about_literature_counts_the_captured_graphs() -> None:
    from bench.orders.series_parallel import table as shares

    page = (ROOT / "docs/literature.md").read_text()
    found = shares(sorted((INSTANCES / "captured").glob("*.json.gz")))
    assert replace_block(page, "series-parallel", found) == page
