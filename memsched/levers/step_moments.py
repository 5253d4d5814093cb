"""The moments of a training step that is one graph: what is alive in each of its parts.

    order    f f f f f f f | b b b b b b b b u b b u b u      f forward, b backward, u update
             └ FORWARD ┘└LOSS┘└─ BACKWARD ─┘└── END ──┘       each where it is highest

Of what is alive, *saved* was made by the forward and is still to be read by the backward, a *gradient* is still to be
read by an update, and the rest is *transient*.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from memsched.core.graph import Graph
from memsched.core.peak import live_buffers, memory_profile
from memsched.levers.moments import NEAR, Moment

__all__ = ["StepMoment", "moments_of_step", "peak_moment"]

_LARGEST = 3


@dataclass(frozen=True, slots=True)
class StepMoment:
    """One moment, where it is highest: position in the order, bytes alive, their kinds, the largest buffers by name."""

    moment: Moment
    position: int
    alive: int
    saved: int
    gradients: int
    largest: tuple[str, ...]

    @property
    def transients(self) -> int:
        """What is neither saved nor a gradient, with the workspace of the op that runs."""
        return self.alive - self.saved - self.gradients


def peak_moment(moments: Sequence[StepMoment]) -> Moment:
    """Where a step peaks; UNKNOWN where PyTorch does not say which ops are of the backward."""
    highest = max(moments, key=lambda moment: moment.alive, default=None)
    return Moment.UNKNOWN if highest is None else highest.moment


def moments_of_step(
    graph: Graph, order: Sequence[int], backward: Collection[str], gradients: Collection[str]
) -> tuple[StepMoment, ...]:
    """The moments of `order`.

    backward: names of the ops of the backward, without updates; gradients: names of buffers that only updates read.
    Empty when no op is known to be of the backward.
    """
    of_backward = [position for position, op in enumerate(order) if graph.ops[op].name in backward]
    if not of_backward:
        return ()
    begin, end = of_backward[0], of_backward[-1] + 1
    into_forward, into_backward = math.ceil(NEAR * begin), math.ceil(NEAR * (end - begin))
    spans = {
        Moment.FORWARD: range(0, begin - into_forward),
        Moment.LOSS: range(begin - into_forward, begin + into_backward),
        Moment.BACKWARD: range(begin + into_backward, end - into_backward),
        Moment.END: range(end - into_backward, len(order)),
    }
    levels = memory_profile(graph, order).step_peaks
    return tuple(
        _moment(graph, order, moment, max(span, key=levels.__getitem__), levels, backward, gradients)
        for moment, span in spans.items()
        if len(span)
    )


def _moment(
    graph: Graph,
    order: Sequence[int],
    moment: Moment,
    position: int,
    levels: Sequence[int],
    backward: Collection[str],
    gradients: Collection[str],
) -> StepMoment:
    later = {op for op in order[position:] if graph.ops[op].name in backward}
    saved = of_gradients = 0
    alive = [graph.buffers[index] for index in live_buffers(graph, order, position)]
    for buffer in alive:
        if buffer.name in gradients:
            of_gradients += buffer.size
        elif (
            buffer.producer is not None
            and graph.ops[buffer.producer].name not in backward
            and not later.isdisjoint(buffer.consumers)
        ):
            saved += buffer.size
    largest = sorted(alive, key=lambda buffer: (-buffer.size, buffer.name))[:_LARGEST]
    return StepMoment(moment, position, levels[position], saved, of_gradients, tuple(buffer.name for buffer in largest))
