"""Forged plans: `memsched verify` is shown plans that lie, and may call none of them proved.

    a random graph, solved by a random method          the plan, as `solve -o` writes it
      └─ a lie: a number, the order, the certificate    the plan, forged
           └─ what is false of it, by brute force       wrong: exit 0 for something false, a traceback, two lines

A bound above the optimum that nothing but a statement holds up may be called claimed (exit 4), never proved.
"""

from __future__ import annotations

import copy
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memsched.cli.command import EXIT_CLAIMED, EXIT_DONE
from memsched.core.graph import Graph
from memsched.core.result import Options
from memsched.files.graph_file import write_graph
from memsched.files.plan_file import plan_to_json
from memsched.search.solver import solve
from tests.campaign._commands import run_command
from tests.oracle import KINDS, brute_force_peak, random_graph, random_order, replayed_peak

Json = dict[str, Any]

COUNT = 20_000
_LIES_PER_GRAPH = 12
_HARDEST = "a certificate bent for a worse order"
_SHARE_OF_THE_HARDEST = 0.3
_METHODS = ("auto", "probe", "probe", "sp", "cut", "valley")


def run(count: int, seed: int, progress: Callable[[int], None]) -> dict[str, object]:
    """`count` forged plans, and the honest one of every graph."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    kinds: Counter[str] = Counter()
    told = 0
    with tempfile.TemporaryDirectory(prefix="memsched-") as folder:
        paths = Path(folder, "graph.json"), Path(folder, "plan.json")
        while told < count:
            graph = random_graph(rng, rng.choice(KINDS), rng.randint(4, 10))
            subject = Subject.of(graph, rng)
            write_graph(paths[0], graph)
            kinds[(subject.honest["certificate"] or {"kind": "none"})["kind"]] += 1
            faults += [f"honest: {fault}" for fault in _faults(subject, subject.honest, paths, counts)]
            for _ in range(_LIES_PER_GRAPH):
                name = _HARDEST if rng.random() < _SHARE_OF_THE_HARDEST else rng.choice(tuple(LIES))
                forged = copy.deepcopy(subject.honest)
                LIES[name](Forgery(forged, subject, rng))
                faults += [f"{name}: {fault}" for fault in _faults(subject, forged, paths, counts)]
                told += 1
            progress(min(told, count))
    return {"instances": told, "wrong": len(faults), "faults": faults[:10], **counts, "certificates": dict(kinds)}


@dataclass(frozen=True)
class Subject:
    """A graph, its optimum by brute force, its honest plan, and an order that needs more, if one was found."""

    graph: Graph
    optimum: int
    honest: Json
    worse: tuple[int, ...] | None

    @classmethod
    def of(cls, graph: Graph, rng: random.Random) -> Subject:
        """Solved by one of the methods that leave certificates."""
        schedule = solve(graph, Options(2.0, 2000, method=rng.choice(_METHODS)))
        optimum = brute_force_peak(graph)
        orders = (random_order(graph, rng) for _ in range(10))
        worse = next((tuple(order) for order in orders if peak_of(graph, order) != optimum), None)
        return cls(graph, optimum, json.loads(json.dumps(plan_to_json(graph, schedule))), worse)


def peak_of(graph: Graph, order: Sequence[int]) -> int | None:
    """The peak of an order, by the oracle; None where it is no order."""
    return replayed_peak(graph, [[op] for op in order]) if sorted(order) == list(range(len(graph))) else None


def false_claims(subject: Subject, plan: Json) -> Iterator[str]:
    """What the plan says that is not so."""
    graph, peak = subject.graph, peak_of(subject.graph, plan["order"])
    if peak is None:
        yield "order"
        return
    if plan["peak"] != peak:
        yield "peak"
    if plan["lower_bound"] > subject.optimum or (plan["certificate"] or {"bound": 0})["bound"] > subject.optimum:
        yield "bound"
    if plan["status"] == "optimal" and peak != subject.optimum:
        yield "status"
    if plan["ops"] != len(graph):
        yield "ops"
    if plan["lower_bound"] > 0 and plan["gap"] != plan["peak"] / plan["lower_bound"] - 1:
        yield "gap"


def _faults(subject: Subject, plan: Json, paths: tuple[Path, Path], counts: Counter[str]) -> Iterator[str]:
    """What `verify` does wrong about a plan, which may be honest."""
    paths[1].write_text(json.dumps(plan))
    ended = run_command(["verify", *map(str, paths)])
    false = list(false_claims(subject, plan))
    if ended.fault:
        yield ended.fault
    if plan is subject.honest:
        counts["honest plans"] += 1
        if false or ended.code not in (EXIT_DONE, EXIT_CLAIMED):
            yield f"refused, or wrong: {false}"
        return
    counts["false" if false else "still true"] += 1
    if not false:
        return
    counts["refused"] += ended.code not in (EXIT_DONE, EXIT_CLAIMED)
    counts["called claimed"] += ended.code == EXIT_CLAIMED
    if ended.code == EXIT_DONE:
        yield f"proved, with a false {', '.join(false)}"
    # what rests on the bound may only be as good as the bound
    if ended.code == EXIT_CLAIMED and not set(false) <= {"bound", "status"}:
        yield f"claimed, with a false {', '.join(false)}"


# ---- lies


@dataclass(frozen=True)
class Forgery:
    """A plan that is being forged, and what its forger knows."""

    plan: Json
    subject: Subject
    rng: random.Random

    @property
    def certificate(self) -> Json:
        """That of the plan; one that nobody looks at where there is none."""
        found: Json = self.plan["certificate"] or {}
        return found

    def number(self, honest: int) -> int:
        """Another number, near or far."""
        return self.rng.choice([honest + 1, honest - 1, 0, -1, honest * 2, honest + 1000, self.rng.randint(0, 20)])

    def op(self) -> int:
        """An op of the graph, seldom one just outside."""
        return self.rng.randrange(-1, len(self.subject.graph) + 1)

    def call_optimal(self, order: tuple[int, ...]) -> None:
        """Present `order` with a bound that it meets."""
        peak = peak_of(self.subject.graph, order)
        self.plan.update(order=list(order), peak=peak, lower_bound=peak, status="optimal", gap=0.0)
        if self.plan["certificate"]:
            self.certificate["bound"] = peak


def _swap_ops(forgery: Forgery) -> None:
    order = forgery.plan["order"]
    first, second = forgery.rng.sample(range(len(order)), 2)
    order[first], order[second] = order[second], order[first]


def _drop_or_repeat_an_op(forgery: Forgery) -> None:
    order = forgery.plan["order"]
    at = forgery.rng.randrange(len(order))
    order[at : at + 1] = [] if forgery.rng.random() < 0.5 else [order[at]] * 2


def _bound_and_certificate(forgery: Forgery) -> None:
    forgery.plan["lower_bound"] = forgery.number(forgery.plan["lower_bound"])
    if forgery.plan["certificate"]:
        forgery.certificate["bound"] = forgery.plan["lower_bound"]


def _worse_order(forgery: Forgery) -> None:
    if forgery.subject.worse:
        forgery.call_optimal(forgery.subject.worse)


def _strip(forgery: Forgery) -> None:
    forgery.plan.update(certificate=None, lower_bound=forgery.plan["peak"], status="optimal", gap=0.0)


def _statement(forgery: Forgery) -> None:
    _worse_order(forgery)
    bound = forgery.plan["peak"] + forgery.rng.choice([0, 0, 5])
    forgery.plan["certificate"] = {"kind": "statement", "bound": bound, "method": "valley", "statement": "all searched"}
    forgery.plan.update(lower_bound=forgery.plan["peak"], status="optimal", gap=0.0)


def _other_kind(forgery: Forgery) -> None:
    if forgery.plan["certificate"]:
        forgery.certificate["kind"] = forgery.rng.choice(["cut", "tree", "forcing", "endpoints", "x"])


def _certificate_of_a_worse_order(forgery: Forgery) -> None:
    """The bound is raised to what a worse order needs, and the proof is bent until it might hold."""
    _worse_order(forgery)
    for _ in range(forgery.rng.randint(1, 4)):
        _bend(forgery)


def _bend(forgery: Forgery) -> None:
    """Change one part of the certificate."""
    match forgery.certificate.get("kind"):
        case "cut":
            _bend_flow(forgery, forgery.certificate)
        case "forcing" if forgery.certificate["steps"]:
            _bend_steps(forgery, forgery.certificate["steps"])
        case "tree":
            _bend_tree(forgery)


def _bend_steps(forgery: Forgery, steps: list[Json]) -> None:
    rng = forgery.rng
    step = rng.choice(steps)
    match rng.randrange(8):
        case 0:
            steps.remove(step)
        case 1:
            steps.reverse()
        case 2:
            step["other_first"] = not step["other_first"]
        case 3:
            step["other"] = rng.choice([None, forgery.op()])
        case 4:
            steps.append(copy.deepcopy(step))
        case _:
            _bend_flow(forgery, step)


def _bend_flow(forgery: Forgery, part: Json) -> None:
    rng, graph, peak = forgery.rng, forgery.subject.graph, forgery.plan["peak"]
    match rng.randrange(6):
        case 0:
            part["op"] = forgery.op()
        case 1 if graph.buffers:
            buffer = rng.randrange(len(graph.buffers))
            part["reader_flow"].append([buffer, forgery.op(), rng.choice([1, peak, graph.buffers[buffer].size])])
        case 2:
            part["precedence_flow"].append([forgery.op(), forgery.op(), rng.choice([1, -1, peak])])
        case 3 if part["reader_flow"] or part["precedence_flow"]:
            arc = rng.choice([*part["reader_flow"], *part["precedence_flow"]])
            arc[rng.randrange(3)] = forgery.number(arc[2])
        case 4:  # every reader pays for all that it frees: the largest charge that looks in order
            part["reader_flow"] += [
                [at, rng.choice(buffer.consumers), buffer.size]
                for at, buffer in enumerate(graph.buffers)
                if buffer.consumers and not buffer.kept
            ]
        case _ if "down_set" in part:
            part["down_set"] = rng.sample(range(len(graph)), rng.randint(0, len(graph)))


def _bend_tree(forgery: Forgery) -> None:
    rng, freed_by = forgery.rng, forgery.certificate["freed_by"]
    parts = list(_composed(forgery.certificate["tree"]))
    choice = rng.randrange(6)
    if choice < 3 and parts:
        part = rng.choice(parts)
        at = rng.randrange(1, len(part))
        if choice == 0:
            part[0] = "S" if part[0] == "P" else "P"
        elif choice == 1:
            part[1:] = rng.sample(part[1:], len(part) - 1)
        elif isinstance(part[at], list):
            part[at : at + 1] = part[at][1:]
        else:
            part[at] = forgery.op()
    elif choice == 3 and forgery.subject.graph.buffers:
        freed_by.append([rng.randrange(len(forgery.subject.graph.buffers)), forgery.op()])
    elif choice == 4 and freed_by:
        freed_by.remove(rng.choice(freed_by))
    elif freed_by:
        rng.choice(freed_by)[rng.randrange(2)] = forgery.op()


def _composed(tree: object) -> Iterator[list[Any]]:
    """All series and parallel compositions in a nested tree."""
    if isinstance(tree, list) and len(tree) > 1:
        yield tree
        for part in tree[1:]:
            yield from _composed(part)


def _field(name: str) -> Callable[[Forgery], None]:
    """Another number in one field."""

    def lie(forgery: Forgery) -> None:
        forgery.plan[name] = forgery.number(forgery.plan[name])

    return lie


LIES: dict[str, Callable[[Forgery], None]] = {
    "two ops swapped": _swap_ops,
    "an op dropped or repeated": _drop_or_repeat_an_op,
    "peak": _field("peak"),
    "bound": _field("lower_bound"),
    "number of ops": _field("ops"),
    "bound and certificate": _bound_and_certificate,
    "status": lambda forgery: forgery.plan.update(status="optimal"),
    "gap": lambda forgery: forgery.plan.update(gap=forgery.rng.choice([0.0, 0.5, 1e9, -1])),
    "digest": lambda forgery: forgery.plan.update(graph_digest=forgery.rng.choice(["", "0" * 64])),
    "a worse order": _worse_order,
    "no certificate": _strip,
    "a statement": _statement,
    "another kind of certificate": _other_kind,
    "a certificate bent for nothing": _bend,
    _HARDEST: _certificate_of_a_worse_order,
}
