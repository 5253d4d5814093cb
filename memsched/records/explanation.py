"""What is known about the peak of a step: for each graph the tensors alive there, the bound, and what was refused.

Plain data: `memsched.render.text.explanation` makes it of a plan, `memsched.render.text` and `page` show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from memsched.records.origin import Origin, Role
from memsched.records.step import Experiment, HeldBytes, PlannedStep

__all__ = ["EXPLANATION_FORMAT", "Explanation", "GraphExplanation", "LiveTensor", "PricedFusion", "StepMemory"]

EXPLANATION_FORMAT = "memsched-explanation/1"


@dataclass(frozen=True, slots=True)
class LiveTensor:
    """A buffer that is live at the peak.

    first, last: the steps that write it and read it last; -1 for an input, one past the last step if it is kept.
    touched: whether the op at the peak reads or writes it; alive: why it is still there, in words.
    without: what the same order would peak at if this buffer did not exist, bytes.
    """

    name: str
    size: int
    origin: Origin
    first: int
    last: int
    touched: bool
    alive: str
    without: int


@dataclass(frozen=True, slots=True)
class PricedFusion:
    """A fusion that was refused: the two sides in words, bytes by which it would exceed the plan, bytes not moved."""

    first: str
    second: str
    price: int
    traffic: int = 0


@dataclass(frozen=True, slots=True)
class GraphExplanation:
    """One compiled graph: bytes of the memory model; `tensors` are those live at the peak, largest first.

    stock_peak, stock_kernels: of stock Inductor's own fusions and order; None where stock was not planned.
    same_nodes_peak: the best of Inductor's four orders on memsched's kernels.
    bound_op, bound_source: the op that enforces the lower bound, where one op does; bound_words: why, in words.
    measured_peak: what the allocator held at most while the graph ran, above the level at which the plan begins.
    next_to_go: the tensor, by name, that must shrink or move for this order to peak lower, "" if none is idle.
    """

    name: str
    kind: str
    ops: int
    kernels: int
    peak: int
    peak_step: int
    peak_op: str
    peak_source: str
    tensors: tuple[LiveTensor, ...]
    stock_peak: int | None
    stock_kernels: int | None
    same_nodes_peak: int
    lower_bound: int
    gap: float
    status: str
    bound_op: str
    bound_source: str
    bound_words: str
    next_to_go: str
    refused: tuple[PricedFusion, ...]
    fusions_refused: int
    fallback: str = ""
    measured_peak: int | None = None


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What the bytes at the highest point of the step are; they add up to `total`.

    graph: the graph that peaks; saved: activations saved for the backward; gradients: written by this step;
    held: what the caller holds; workspace: of the op at the peak.  `transients` is all the rest of the graph.
    """

    graph: str
    held: HeldBytes
    gradients: int
    saved: int
    transients: int
    workspace: int = 0

    @property
    def parts(self) -> tuple[tuple[str, int | None], ...]:
        """Each part by its name, in the order in which people are told; bytes, None where a part is not known."""
        return (
            ("parameters", self.held.parameters),
            ("buffers", self.held.buffers),
            ("optimizer state", self.held.optimizer_state),
            ("batch", self.held.batch),
            ("gradients before", self.held.gradients),
            ("gradients", self.gradients),
            ("saved activations", self.saved),
            ("transients", self.transients),
            ("workspace", self.workspace),
        )

    @property
    def total(self) -> int:
        """Bytes at the peak of the step, with what the caller holds."""
        return self.held.total + self.gradients + self.saved + self.transients + self.workspace


@dataclass(frozen=True)
class Explanation:
    """What `memsched.explain` answers; `to_json` has every figure.

    note: what the answer takes for granted, in one line.
    answer: one screen for people: how much, when, where, what lowers it; details: all the rest.  `str` is both.
    """

    graphs: tuple[GraphExplanation, ...]
    step: StepMemory | None
    step_note: str
    experiments: tuple[Experiment, ...]
    device: str
    note: str = ""
    planned: PlannedStep | None = field(default=None, repr=False, compare=False)
    answer: str = field(default="", repr=False, compare=False)
    details: str = field(default="", repr=False, compare=False)

    @property
    def peak(self) -> int:
        """The largest modelled peak of a graph, without what the caller holds; bytes."""
        return max((graph.peak for graph in self.graphs), default=0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, `memsched-explanation/1`."""
        untold = ("planned", "answer", "details")
        told = {key: value for key, value in vars(self).items() if key not in untold}
        plain: dict[str, Any] = {"format": EXPLANATION_FORMAT} | asdict(Explanation(**told), dict_factory=_plain)
        for name in untold:
            del plain[name]
        if self.step is not None:
            plain["step"]["total"] = self.step.total
        return plain

    def __str__(self) -> str:
        return "\n".join(filter(None, (self.answer, self.details)))


def _plain(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A dataclass as JSON has it: roles in words."""
    return {key: str(value) if isinstance(value, Role) else value for key, value in pairs}
