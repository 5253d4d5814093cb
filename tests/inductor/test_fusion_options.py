"""The options of fusion, on a model that is planned: branches which stock fuses side by side.

x -> sin(x) * w_i -> square, six times: all products alive together under stock, one at a time in the plan.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import memsched
from memsched.cli import main
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions

pytestmark = pytest.mark.plans

SIDE = 64


def branches(x: Tensor, *weights: Tensor) -> Tensor:
    """Six products, each squared and summed."""
    return sum((product @ product.t()).sum() for product in [((x * 2 + 1).sin() * w) for w in weights])  # type: ignore[return-value]


def step() -> tuple[object, tuple[Tensor, ...]]:
    """What `memsched fusions` and `memsched pareto` are told to plan."""
    return branches, tuple(torch.ones(SIDE, SIDE) for _ in range(7))


def planned(stock: bool = False, **options: object) -> memsched.GraphReport:
    """The plan of the branches, without gradients."""
    with torch.no_grad():
        (report,) = plan_only(branches, step()[1], BackendOptions(strict=True, **options), stock=stock)  # type: ignore[arg-type]
    return report


def test_the_budget_is_used_and_kept() -> None:
    """More bytes, fewer kernels; never more bytes than were given, and never more than stock needs."""
    stock, plan = planned(stock=True), planned()
    assert plan.peak < stock.peak and plan.kernels > stock.kernels
    before = None
    for products in (2, 3, 4, 7, 20):
        budget = products * SIDE * SIDE * 4 + 1024
        report = planned(fusion="budget", peak_budget=budget)
        assert report.peak <= max(budget, plan.peak)
        assert before is None or report.kernels <= before
        before = report.kernels
    assert before == stock.kernels, "with room for everything, everything is fused"
    assert "budget of 5 bytes" in planned(fusion="budget", peak_budget=5).note, "what cannot be kept is told"


def test_a_share_of_stocks_peak_is_a_budget() -> None:
    report = planned(fusion="budget", peak_budget="1.5x")
    assert report.peak <= (report.prefusion_peak or 0)
    assert report.kernels < planned().kernels


def test_few_extra_kernels() -> None:
    """`max_extra_kernels` is a promise about refusals, whatever it costs in memory."""
    stock = planned(stock=True)
    for most in (0, 1, 3):
        report = planned(max_extra_kernels=most)
        assert report.fusions_refused <= most
        assert report.kernels <= stock.kernels + most


def test_reports_tell_what_fusions_bring_and_cost() -> None:
    """Two branches read the same x, which the caller keeps and the graph does not list: Inductor's count has it.

    All fifteen pairs of the six branches are refused.  A branch and the last sum may be, too: that hands over a number.
    """
    report = planned()
    assert all(refusal.price > 0 and refusal.traffic > 0 for refusal in report.refusals)
    branches_of_x = [refusal for refusal in report.refusals if not refusal.vertical]
    assert len(branches_of_x) == 15
    assert all(refusal.traffic >= SIDE * SIDE * 4 for refusal in branches_of_x)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"fusion": "budget"}, "peak_budget"),
        ({"fusion": "stock", "peak_budget": "1GiB"}, 'fusion="stock"'),
        ({"fusion": "budget", "peak_budget": "much"}, "'much'"),
        ({"fusion": "budget", "peak_budget": "0x"}, "'0x'"),
        ({"fusion": "all"}, "'all'"),
        ({"max_extra_kernels": -1}, "-1"),
    ],
)
def test_options_that_do_not_fit_are_told_in_one_line(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match="memsched: option") as error:
        BackendOptions(**options)  # type: ignore[arg-type]
    assert told in str(error.value) and "\n" not in str(error.value)


def test_options_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from memsched.inductor.options import split_options

    monkeypatch.setenv("MEMSCHED_FUSION", "budget")
    monkeypatch.setenv("MEMSCHED_PEAK_BUDGET", "0.8x")
    monkeypatch.setenv("MEMSCHED_MAX_EXTRA_KERNELS", "12")
    own, _ = split_options(None)
    assert (own.fusion, own.peak_budget, own.max_extra_kernels) == ("budget", "0.8x", 12)
    assert own.budget_bytes(1000) == 800


def test_the_commands_plan_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fusions", f"{__name__}:step", "--inference"]) == 0
    assert "refused" in capsys.readouterr().out
    assert main(["pareto", f"{__name__}:step", "--inference", "--slack", "0", "1"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["plan", "stock", "plan,", "plan,"]
    assert "frontier" in rows[1] and "frontier" in rows[2]
