"""Certificates of probing: made for every refutation, followed by the checker, and refused when anything is altered."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memsched.check.certificate import check_certificate
from memsched.check.error import CheckError
from memsched.core.graph import Buffer, Graph, Op
from memsched.core.result import (
    ForcedPrecedence,
    ForcingCertificate,
    Options,
    Schedule,
    StatementCertificate,
    Status,
)
from memsched.files.plan_file import plan_to_json, read_plan
from memsched.search.budget import Budget
from memsched.search.cuts.bounds import cut_bound
from memsched.search.exact.problem import Problem
from memsched.search.refute.certify import forcing_certificate
from memsched.search.refute.probing import probe_level
from memsched.search.refute.refute import certified
from memsched.search.solver import solve
from tests.oracle import brute_force_peak, random_graph, random_graphs

AMPLE = 10**7


def two_trades() -> Graph:
    """in X8 ──> p ──P2 (kept)     Each op trades 8 bytes for 2.  Whichever runs first needs 16 + 2; a cut sees only 16,
    in Y8 ──> q ──Q2 (kept)     because each op alone may run second.  Below 18 each of them would have to wait.
    """
    buffers = (
        Buffer("X", 8, None, (0,)),
        Buffer("Y", 8, None, (1,)),
        Buffer("P", 2, 0, (), True),
        Buffer("Q", 2, 1, (), True),
    )
    return Graph("two trades", (Op("p"), Op("q")), buffers)


def certificate_of(graph: Graph, bound: int) -> ForcingCertificate | None:
    problem = Problem.from_graph(graph)
    probed = probe_level(problem, bound - 1, Budget(AMPLE), range(len(problem)))
    return None if probed.problem else forcing_certificate(graph, bound, probed.forced, Budget(AMPLE))


def test_the_two_trades_are_proved_where_one_cut_is_not_enough() -> None:
    graph = two_trades()
    assert cut_bound(graph)[0] == 16 < brute_force_peak(graph) == 18
    certificate = certificate_of(graph, 18)
    assert certificate is not None
    assert len(certificate.steps) == 2, "q before p is forced, and then q cannot run"
    assert check_certificate(graph, certificate, 18)
    assert certificate_of(graph, 19) is None


def refutations(count: int, seed: int) -> Iterator[tuple[Graph, int, ForcingCertificate]]:
    """Random graphs with a certificate of their optimum that needs forced precedences."""
    for graph in random_graphs(count, seed, largest=11):
        optimum = brute_force_peak(graph)
        certificate = certificate_of(graph, optimum)
        if certificate is not None and len(certificate.steps) > 1:
            yield graph, optimum, certificate


def test_certificates_of_random_refutations_hold_and_prove_no_byte_more() -> None:
    found = 0
    for graph, optimum, certificate in refutations(600, seed=91):
        found += 1
        assert check_certificate(graph, certificate, optimum)
        with pytest.raises(CheckError):
            check_certificate(graph, replace(certificate, bound=optimum + 1), optimum + 1)
    assert found >= 40


def test_steps_that_are_left_out_were_not_needed_and_the_others_are() -> None:
    """Without one of its steps a certificate proves less, unless the rest still does: then it is still sound."""
    refused = 0
    for graph, optimum, certificate in refutations(300, seed=92):
        for at in range(len(certificate.steps)):
            steps = certificate.steps[:at] + certificate.steps[at + 1 :]
            try:
                assert check_certificate(graph, ForcingCertificate(optimum, steps), optimum)
            except CheckError:
                refused += 1
    assert refused >= 40


def corrupted(certificate: ForcingCertificate, graph: Graph, rng: random.Random) -> ForcingCertificate:
    """One field of one step, changed."""
    at = rng.randrange(len(certificate.steps))
    step = certificate.steps[at]
    flows = list(step.reader_flow)
    change = rng.randrange(6)
    if change == 0:
        step = replace(step, op=rng.randrange(-2, len(graph.ops) + 2))
    elif change == 1:
        step = replace(step, other=rng.choice([None, rng.randrange(-2, len(graph.ops) + 2)]))
    elif change == 2:
        step = replace(step, other_first=not step.other_first)
    elif change == 3 and flows:
        index = rng.randrange(len(flows))
        buffer, op, amount = flows[index]
        flows[index] = (buffer + rng.randint(-1, 1), op + rng.randint(-1, 1), amount + rng.randint(-5, 50))
        step = replace(step, reader_flow=tuple(flows))
    elif change == 4:
        step = replace(step, reader_flow=tuple(flows[:-1]))
    else:
        extra = (rng.randrange(len(graph.ops)), rng.randrange(len(graph.ops)), rng.randint(-5, 50))
        step = replace(step, precedence_flow=(*step.precedence_flow, extra))
    return replace(certificate, steps=(*certificate.steps[:at], step, *certificate.steps[at + 1 :]))


def test_whatever_is_altered_nothing_false_is_ever_accepted() -> None:
    """Corrupted certificates of one byte more than the optimum are all refused: none of them could be true."""
    rng = random.Random(93)
    tried = 0
    for graph, optimum, certificate in refutations(300, seed=93):
        for _ in range(30):
            false = corrupted(replace(certificate, bound=optimum + 1), graph, rng)
            with pytest.raises(CheckError):
                check_certificate(graph, false, optimum + 1)
            tried += 1
    assert tried >= 600


def test_altered_certificates_of_the_true_bound_are_mostly_refused() -> None:
    rng = random.Random(94)
    refused = tried = 0
    for graph, optimum, certificate in refutations(300, seed=94):
        for _ in range(10):
            tried += 1
            try:
                check_certificate(graph, corrupted(certificate, graph, rng), optimum)
            except CheckError:
                refused += 1
    assert refused > 0.5 * tried > 100


def test_a_chain_without_a_contradiction_proves_nothing() -> None:
    graph = two_trades()
    certificate = certificate_of(graph, 18)
    assert certificate is not None
    with pytest.raises(CheckError, match="without a contradiction"):
        check_certificate(graph, replace(certificate, steps=certificate.steps[:-1]), 18)
    with pytest.raises(CheckError, match="impossible anyway"):
        same = ForcedPrecedence(0, 0, True, (), ())
        check_certificate(graph, replace(certificate, steps=(same, *certificate.steps)), 18)


def test_certificates_survive_a_file(tmp_path: Path) -> None:
    graph = two_trades()
    certificate = certificate_of(graph, 18)
    schedule = Schedule((0, 1), 18, 18, Status.OPTIMAL, "probing", 0.0, certificate)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_to_json(graph, schedule)))
    assert read_plan(path).certificate == certificate


def test_an_empty_budget_leaves_no_certificate() -> None:
    assert certified(two_trades(), 18, Budget(0)) is None
    assert certified(two_trades(), 18, Budget(AMPLE)) is not None


def test_most_plans_of_small_graphs_can_be_followed() -> None:
    """Search proves these optima; afterwards probing finds certificates for most of them."""
    statements = 0
    for seed in range(60):
        graph = random_graph(random.Random(seed), "general", 14, shared=True)
        schedule = solve(graph, Options(use_ilp=False))
        assert schedule.status is Status.OPTIMAL
        statements += isinstance(schedule.certificate, StatementCertificate)
    assert statements <= 20
