"""A sample of the campaigns (`make campaign`) that no other test draws."""

from __future__ import annotations

import pytest

from tests.campaign import bad_files, forged, fusion_groups


@pytest.mark.parametrize("seed", [1, 2])
def test_no_forged_plan_is_called_proved(seed: int) -> None:
    result = forged.run(400, seed, lambda done: None)
    assert not result["wrong"], result["faults"]
    assert result["refused"] and result["called claimed"], "the sample has lies of both kinds"


def test_no_bad_file_ends_in_a_traceback() -> None:
    result = bad_files.run(130, 3, lambda done: None)
    assert not result["wrong"], result["faults"]


def test_fusion_groups_are_what_a_replay_says() -> None:
    result = fusion_groups.run(300, 4, lambda done: None)
    assert not result["wrong"], result["faults"]
    assert result["fused"] and result["choices"]


@pytest.mark.compile
def test_a_fault_anywhere_leaves_the_compile_whole() -> None:
    from tests.campaign import broken_compiles

    result = broken_compiles.run(3, 5, lambda done: None, broken_compiles.QUICK)
    assert not result["wrong"], result["faults"]
