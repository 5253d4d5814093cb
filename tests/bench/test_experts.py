"""The experiments around mixtures of experts: one inequality each at the smallest size, and the page shows the rows."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch

from bench.experts import precision, pruning
from bench.experts.budget import EXPERIMENT as BUDGET
from bench.experts.claims import Claim, Verdict, claims_table, of, spread, verdict
from bench.experts.command import EXPERIMENTS, PAGE, main, page_with, read_rows
from bench.experts.data import images_per_seed, pools
from bench.experts.memory import QuantizedExperts
from bench.experts.patch_networks import PatchNetwork, train
from bench.experts.patches import _accuracies
from bench.experts.queues import simulate
from bench.experts.wide_resnet import flops_of_forms
from tests.paths import ROOT

SERVICE = {1: 50e-6, 2: 58e-6, 4: 90e-6, 8: 150e-6, 16: 260e-6, 32: 480e-6, 64: 900e-6}
"""Seconds of a batch, about what they are on this kind of machine: twice the work takes less than twice the time."""


def test_patch_routing_needs_fewer_images_than_a_network_of_as_many_filters() -> None:
    """40 images: the experts find the patch of the class, 40 filters that see all 16 patches do not."""
    x, y = images_per_seed(pools()[0], 40, 1, first=1000)
    reached = {}
    for kind in ("patches", "cnn"):
        network = PatchNetwork.of(1, kind, 40)
        train(network, x, y.float(), 150)
        reached[kind] = _accuracies(network)[0]
    assert reached["patches"] > reached["cnn"] + 0.1


def test_gathered_patches_save_work_and_masked_ones_do_not() -> None:
    of_dense = {row["form"]: row["of dense"] for row in flops_of_forms()}
    assert of_dense["gathered, l=2"] < 0.85 < of_dense["masked, l=2"] <= 1.0
    assert of_dense["gathered, l=2"] < of_dense["gathered, l=4"] < of_dense["gathered, l=8"]


def test_two_experts_know_more_than_one() -> None:
    rows = BUDGET.rows(1, True)
    assert of(rows, "accuracy", rule="K=2") > of(rows, "accuracy", rule="K=1")
    assert of(rows, "load", rule="K=2") < of(rows, "load", rule="K=1")


def test_a_queue_of_one_is_best_until_the_machine_is_busy() -> None:
    """Half the load: waiting for a second sample costs. One and a half of it: batches of one do not keep up."""
    latency = {
        (load, size): simulate(SERVICE, size, load, False, 0, samples=2000)["mean ms"]
        for load in (0.5, 1.5) for size in (1, 4)
    }  # fmt: skip
    assert latency[0.5, 1] < latency[0.5, 4]
    assert latency[1.5, 4] < latency[1.5, 1]


def test_a_timeout_bounds_how_long_a_sample_waits() -> None:
    """A queue of 64 at half the load fills slowly; with a timeout nobody waits for that."""
    waits, timed = (simulate(SERVICE, 64, 0.5, timeout, 0, samples=2000) for timeout in (False, True))
    assert timed["p99 ms"] < waits["p99 ms"]
    assert waits["held"] <= waits["bound"] + 2 * 256 * 4


def test_the_router_s_change_prunes_better_than_chance() -> None:
    rows = pruning.EXPERIMENT.rows(3, True)
    ours, theirs = (of(rows, "accuracy", score=score, pruned=12) for score in ("router change", "random"))
    assert statistics.mean(ours) > statistics.mean(theirs)


def test_both_steps_place_bits_better_than_the_first_alone() -> None:
    rows = precision.EXPERIMENT.rows(3, True)
    for bits in (1.5, 2.0):
        both, first = (
            statistics.mean(of(rows, "accuracy", how=how, levels="3/1", bits=bits))
            for how in (precision._BOTH, precision._STEP_1)
        )
        assert both > first


def test_weights_with_more_bits_are_nearer() -> None:
    weights = torch.randn(1, 4, 16, 8, generator=torch.Generator().manual_seed(0))
    errors = [
        float((precision.quantized(weights, torch.full((1, 4), bits)) - weights).abs().mean())
        for bits in (1, 2, 3, 4, 16)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0


def test_packed_experts_give_the_same_in_a_loop_and_in_a_bank() -> None:
    """The same packed nibbles, dequantized one expert at a time or all at once."""
    loop, bank = QuantizedExperts(4, "loop"), QuantizedExperts(4, "bank")
    bank.gate.load_state_dict(loop.gate.state_dict())
    for name in ("up", "down"):
        setattr(bank, f"{name}0", torch.stack([getattr(loop, f"{name}{at}") for at in range(8)]))
    x = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(bank(x), loop(x))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_page_shows_what_the_rows_decide(name: str) -> None:
    page = (ROOT / PAGE).read_text()
    assert page_with(page, name, read_rows(name)) == page
    seeds = {row.get("seed") for row in read_rows(name)} - {None}
    assert len(seeds) >= 5 or name == "memory"


def test_a_command_prints_and_keeps_its_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The smallest form of one experiment, written to files of its own; the table again from the rows."""
    monkeypatch.setattr("bench.experts.command.FOLDER", tmp_path)
    monkeypatch.setattr("bench.experts.command.PAGE", tmp_path / "experts.md")
    (tmp_path / "experts.md").write_text("<!-- begin: precision -->\n<!-- end: precision -->\n")
    threads = torch.get_num_threads()
    assert main(["precision", "--quick"]) == 0
    assert torch.get_num_threads() == threads, "whoever calls it keeps his threads"
    printed = capsys.readouterr().out
    assert "both steps" in printed and "| claim | seen | verdict |" in (tmp_path / "experts.md").read_text()
    assert main(["precision", "--table"]) == 0
    assert capsys.readouterr().out == printed
    assert main(["precision", "--seeds", "0"]) == 2


def test_verdicts_come_from_figures() -> None:
    assert [verdict(True), verdict(False, True), verdict(False)] == [Verdict.HOLDS, Verdict.IN_PART, Verdict.DOES_NOT]
    assert spread([1.0, 3.0], 1) == "2.0 ± 1.4"
    assert "| a | b | **holds in part** |" in claims_table([Claim("a", "b", Verdict.IN_PART)])
    with pytest.raises(KeyError, match="no row has"):
        of([{"seed": 0, "x": 1}], "x", y=2)
