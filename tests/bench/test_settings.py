"""The table of set-ups: every one has a row, none is above stock, and a row is what measuring gives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.paths import BENCH, RESULTS
from bench.report.readme import replace_block
from bench.settings.command import SETTINGS, failing, markdown, measured_row
from bench.settings.setting import Setting, Step

PAGE = (BENCH.parent / "docs" / "where-it-runs.md").read_text()


def committed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RESULTS / "settings.json").read_text())
    return found


def test_every_set_up_has_a_row_and_the_page_shows_it() -> None:
    rows = committed()
    assert [row["name"] for row in rows] == [setting.name for setting in SETTINGS]
    assert replace_block(PAGE, "settings", markdown(rows).rstrip()) == PAGE


def test_nothing_that_runs_is_above_stock_differs_from_it_or_has_other_plans_on_other_ranks() -> None:
    """Compiled autograd lifts what was saved to inputs, of which nobody tells that they die: 4 KiB of 3.2 MiB."""
    ran = [row for row in committed() if "why" not in row]
    assert len(ran) >= 60
    assert [row["name"] for row in ran if failing(row)] == ["compiled autograd"]
    assert all(row["memsched"] <= 1.002 * row["stock"] for row in ran)
    assert all(row.get("same_plans", True) and not row["fallbacks"] for row in ran)


AHEAD = [setting for setting in SETTINGS if setting.name.startswith("ahead of time")]


@pytest.mark.compile
@pytest.mark.parametrize("setting", AHEAD, ids=[setting.name for setting in AHEAD])
def test_what_is_compiled_ahead_of_time_is_planned_and_loads(setting: Setting) -> None:
    """aot_compile, AOTInductor and standalone_compile: written to a file, loaded from it, run."""
    row = measured_row(setting)
    assert not failing(row) and row["graphs"] and not row["fallbacks"], row


@pytest.mark.compile
def test_a_row_is_measured_and_an_error_is_a_row() -> None:
    row = measured_row(SETTINGS[0])
    assert not failing(row) and row["graphs"] == 2 and not row["fallbacks"]
    assert abs(max(peak for _, peak in row["plans"]) - row["memsched"]) <= 64

    def broken(_compile: object) -> Step:
        raise ValueError("no such set-up\nat all")

    assert measured_row(Setting("broken", "tests", broken))["why"] == "ValueError: no such set-up"
