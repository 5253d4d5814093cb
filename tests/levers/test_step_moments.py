"""The moments of a step in one graph: what is saved, what is a gradient, what comes and goes."""

from __future__ import annotations

from memsched.core.graph import Buffer, Graph, Op
from memsched.core.peak import peak_bytes
from memsched.levers.moments import Moment
from memsched.levers.step_moments import moments_of_step


def step() -> Graph:
    """Forward f1, f2, loss; backward b2, b1; updates u2, u1.  Saved: a1, a2, t.  Gradients: g2, g1.

    f1 ──a1 8──> f2 ──a2 4──> loss ──t 2──> b2 ──s 6──> b1
          └───────────────────────────────────────────── ┘        a1 is read by f2 and b1, a2 by loss and b2
                                            b2 ──g2 3──> u2       b1 ──g1 5──> u1
    """
    ops = tuple(Op(name) for name in ("f1", "f2", "loss", "b2", "b1", "u2", "u1"))
    buffers = (
        Buffer("a1", 8, 0, (1, 4)), Buffer("a2", 4, 1, (2, 3)), Buffer("t", 2, 2, (3,)), Buffer("s", 6, 3, (4,)),
        Buffer("g2", 3, 3, (5,)), Buffer("g1", 5, 4, (6,)),
    )  # fmt: skip
    return Graph("step", ops, buffers)


def test_each_byte_has_one_kind() -> None:
    graph = step()
    order = (0, 1, 2, 3, 5, 4, 6)
    moments = {moment.moment: moment for moment in moments_of_step(graph, order, {"b2", "b1"}, {"g1", "g2"})}
    assert max(moment.alive for moment in moments.values()) == peak_bytes(graph, order)
    forward = moments[Moment.FORWARD]
    assert (forward.alive, forward.saved, forward.gradients, forward.transients) == (12, 12, 0, 0)
    begin = moments[Moment.LOSS]
    assert (begin.alive, begin.saved, begin.gradients, begin.transients) == (23, 14, 3, 6)
    assert begin.largest == ("a1", "s", "a2")


def test_without_a_backward_there_are_no_moments() -> None:
    assert moments_of_step(step(), tuple(range(7)), frozenset(), frozenset()) == ()
