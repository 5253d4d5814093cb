"""The committed rows of other policies and batch sizes: measured, none above stock or eager, and the page's figures."""

from __future__ import annotations

import json
import re
from collections import defaultdict

from bench.paths import RESULTS
from bench.report.tables import geometric_mean
from tests.paths import ROOT


def test_other_policies_are_measured_and_none_is_above() -> None:
    settings: dict[tuple[str, str, int], dict[str, int]] = defaultdict(dict)
    for line in (RESULTS / "cpu-policies" / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["status"] == "ok" and row["measured"]
        settings[row["model"], row["policy"], row["batch"]][row["mode"]] = row["peak"]
        if row["mode"] == "memsched":
            assert abs(row["peak"] - row["modelled"]) <= 1e-4 * row["peak"]
    assert len(settings) == 36
    ratios: dict[str, list[float]] = defaultdict(list)
    for (_, policy, _), peaks in settings.items():
        assert peaks["memsched"] <= peaks["stock"] and peaks["memsched"] <= peaks["eager"]
        ratios[policy].append(peaks["memsched"] / peaks["stock"])
    means = [f"{geometric_mean(ratios[policy]) or 0:.2f}" for policy in ("second", "selective", "block")]
    page = re.sub(r"\s+", " ", (ROOT / "docs" / "what-we-learnt.md").read_text())
    assert f"checkpointed {means[0]} of stock, selective {means[1]}, twice the batch {means[2]}" in page
