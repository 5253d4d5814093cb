"""The first screen of `explain`: how much, when, where by place, and what lowers it, in 80 columns."""

from __future__ import annotations

from dataclasses import replace

from memsched.records.explanation import Explanation, GraphExplanation, LiveTensor, StepMemory
from memsched.records.origin import Origin, Role
from memsched.records.step import Experiment, HeldBytes, OptimizerStep
from memsched.render.text.answer import groups_of, render_answer

KIB = 1024


def tensor(name: str, size: int, module: str, line: int, role: Role = Role.NONE) -> LiveTensor:
    source = f"/somewhere/model.py:{line} in forward: return self.down(gelu(self.up(x))) + a_long_name_to_be_clipped"
    origin = Origin("float32", (size // 4,), "aten.mm.default", source, module, role)
    return LiveTensor(name, size, origin, -1, 9, False, "needed", 0)


def explained() -> Explanation:
    tensors = (
        tensor("logits", 400 * KIB, "head", 30),
        *(tensor(f"up{at}", 100 * KIB, f"blocks.{at}.up", 12, Role.SAVED_BY_FORWARD) for at in range(4)),
    )
    graph = GraphExplanation(
        *("backward 0", "backward", 9, 9, 800 * KIB, 3, "op3", tensors[0].origin.source, tensors, 1000 * KIB, 8),
        *(800 * KIB, 700 * KIB, 0.1, "bounded", "", "", "", "", (), 0),
    )
    step = StepMemory("backward 0", HeldBytes(parameters=200 * KIB), 0, 400 * KIB, 400 * KIB)
    experiments = (
        Experiment("a batch of 1 instead of 2", {"backward 0": 500 * KIB}),
        Experiment("checkpointing the block 'blocks.3'", {"backward 0": 700 * KIB}),
        Experiment("a change that costs", {"backward 0": 900 * KIB}),
        Experiment("a change that failed", failure="no memory"),
    )
    return Explanation((graph,), step, "", experiments, "cpu")


def test_tensors_of_repeated_modules_are_one_row() -> None:
    up, head = groups_of(explained().graphs[0].tensors)
    assert (up.where, up.size, up.count, up.line) == ("blocks.*.up", 400 * KIB, 4, "model.py:12")
    assert (head.where, head.size, head.count, head.line) == ("head", 400 * KIB, 1, "model.py:30")


def test_the_answer_is_one_screen_with_the_cures_by_bytes() -> None:
    text = render_answer(explained())
    lines = text.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 80
    assert "1000.00 KiB with" in lines[0] and "1.17 MiB under stock" in lines[1]
    cures = [line for line in lines if line.startswith("  -")]
    assert ["batch" in cures[0], 'backend="memsched"' in cures[1], "blocks.3" in cures[2]] == [True] * 3
    assert len(cures) == 3, "neither what costs nor what failed is a cure"
    assert "400.00 KiB in 4 tensors were saved" in text


def test_the_optimizer_is_named_where_its_own_step_needs_most() -> None:
    """Weights of 200 KiB, and 800 KiB in the backward: the optimizer's step is told from a mebibyte on."""
    for gradients, told in ((300 * KIB, False), (900 * KIB, True)):
        update = OptimizerStep(state=0, gradients=gradients, temporaries=gradients // 3)
        step = replace(explained().step, held=HeldBytes(parameters=200 * KIB, update=update))  # type: ignore[type-var]
        text = render_answer(replace(explained(), step=step))
        assert ("optimizer.step() then needs 1.37 MiB: every gradient, and 300.00 KiB of its own." in text) == told
        assert max(map(len, text.splitlines())) <= 80


def test_nothing_is_answered_where_nothing_was_planned() -> None:
    graph = GraphExplanation(
        *("forward 0", "forward", 3, 3, 0, 0, "", "", (), None, None, 0, 0, 0.0, "stock", "", "", "", "", (), 0),
        fallback="planning: MemoryError",
    )
    assert render_answer(Explanation((graph,), None, "", (), "cpu")) == ""
