"""The changes of the traced graph: checkpoints that stay, products that do not wait, inputs saved as they are."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.custom_graph_pass import CustomPartitionerFn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.checkpoint import CheckpointPolicy, checkpoint

import memsched
from bench.models.random_operators import Family, step
from memsched.inductor import backend, partition
from memsched.inductor.backend import partition_patches, planning_patches
from memsched.inductor.capture.lower import Way, planned_way, run_uncompiled
from memsched.inductor.capture.plan_only import plan_only
from memsched.inductor.options import BackendOptions
from memsched.inductor.passes import RewritePass
from memsched.inductor.rewrites.keep_checkpoints import keep_checkpoints
from memsched.inductor.rewrites.keep_saved_layout import note_layout_readers, save_inputs_as_they_are
from memsched.inductor.rewrites.parameters import note_parameters
from memsched.inductor.rewrites.recompute_parameter_casts import recompute_parameter_casts
from memsched.inductor.rewrites.rules import Rule
from memsched.inductor.rewrites.split_addmm import split_waiting_products
from memsched.inductor.rewrites.traversal import inputs_first
from memsched.records.published import counters
from tests.cases import frozen_weight_casts, large_head

aten, prims = torch.ops.aten, torch.ops.prims


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch._dynamo.reset()
    memsched.reset()


class Looped(nn.Module):
    """One block, again and again; with something between two applications, or with nothing."""

    def __init__(self, between: bool, loops: int = 6) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.between, self.loops = between, loops

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x)
        for _ in range(self.loops):
            state = checkpoint(self.block, state + x if self.between else state, use_reentrant=False)
        return state.square().mean()


class Tied(nn.Module):
    """A language model whose embedding is its last layer too: that gradient is a sum of first and last."""

    def __init__(self, vocabulary: int = 64, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x).tanh()
        return F.cross_entropy((x @ self.embedding.weight.t()).flatten(0, 1), tokens.flatten())


def looped_batch() -> tuple[Tensor]:
    torch.manual_seed(0)
    return (torch.randn(256, 16),)


def tied_batch() -> tuple[Tensor]:
    torch.manual_seed(0)
    return (torch.randint(64, (8, 32)),)


def step_peak(model: nn.Module, batch: tuple[Tensor, ...], **options: Any) -> int:
    return max(report.peak for report in plan_only(model, batch, BackendOptions(strict=True, **options)))


@pytest.mark.plans
def test_what_lies_between_two_checkpoints_is_saved() -> None:
    """block ─> add ─> block ─> add ─> block: stock recomputes all at once, eager one after the other."""
    model, batch = Looped(between=True), looped_batch()
    assert step_peak(model, batch) < 0.3 * step_peak(model, batch, keep_checkpoints=False)


@pytest.mark.plans
def test_stock_keeps_checkpoints_with_nothing_between() -> None:
    """Where stock's own rule holds, ours adds nothing."""
    model, batch = Looped(between=False), looped_batch()
    assert step_peak(model, batch) == step_peak(model, batch, keep_checkpoints=False)


@pytest.mark.plans
def test_the_logits_do_not_wait_for_the_embedding() -> None:
    """The gradient of the logits, 64 KiB, is freed at once; the gradient of the weight, 2 KiB, waits instead."""
    model, batch = Tied(), tied_batch()
    planned, stock = step_peak(model, batch), step_peak(model, batch, fusion="stock")
    assert planned <= stock
    (backward,) = [
        report for report in plan_only(model, batch, BackendOptions(strict=True)) if report.kind == "backward"
    ]
    assert backward.graph is not None and backward.schedule is not None
    position = {op: at for at, op in enumerate(backward.schedule.order)}
    logits = max((b for b in backward.graph.buffers if b.size == 65536), key=lambda b: b.producer or 0)
    assert max(position[reader] for reader in logits.consumers) < len(position) // 2


@pytest.mark.compile
@pytest.mark.parametrize(
    ("make", "batch"), [(lambda: Looped(True), looped_batch), (Tied, tied_batch)], ids=["checkpoints", "products"]
)
def test_gradients_are_eager_s(make: Callable[[], nn.Module], batch: Callable[[], tuple[Tensor, ...]]) -> None:
    torch.manual_seed(1)
    model = make()
    other = copy.deepcopy(model)
    with torch._inductor.config.patch(force_disable_caches=True):
        torch.compile(other, backend="memsched", options={"strict": True})(*batch()).backward()
    model(*batch()).backward()
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, mine.grad, msg=lambda text, n=name: f"{n}: {text}")


def joint_graph(*, inside: str = "between") -> fx.Graph:
    """x ─> first ─> middle ─> last ─> backward: checkpoints of `first` and `last`, with `middle` between or inside."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    first = graph.call_function(aten.sin.default, (x,))
    middle = graph.call_function(aten.cos.default, (first,))
    last = graph.call_function(aten.sin.default, (middle,))
    graph.output((graph.call_function(aten.cos.default, (last,)),))
    first.name, middle.name, last.name = "first", "middle", "last"
    for node in graph.nodes:
        node.meta["val"] = torch.empty(4)
    for node, number in ((first, 1), (last, 2), *([(middle, 1)] if inside == "first" else [])):
        node.meta |= {"recompute": CheckpointPolicy.MUST_RECOMPUTE, "ac_graph_id": number}
    return graph


def test_only_the_entry_of_a_checkpoint_is_marked() -> None:
    graph = joint_graph()
    assert [node.name for node in keep_checkpoints(graph)] == ["middle"]
    assert [node.name for node in graph.nodes if node.meta.get("recompute") is CheckpointPolicy.MUST_SAVE] == ["middle"]
    assert keep_checkpoints(graph) == [], "what is marked needs no second mark"
    assert keep_checkpoints(joint_graph(inside="first")) == [], "stock's own rule marks the end of a checkpoint"


def test_what_is_made_from_inputs_alone_is_left_to_the_cut() -> None:
    """x ─> middle ─> checkpoint: recomputing it may well be cheaper than saving it, and needs no other block."""
    graph = joint_graph()
    next(node for node in graph.nodes if node.name == "first").meta.pop("recompute")
    assert keep_checkpoints(graph) == []


def sum_of_products(
    *, late: bool = True, pointwise: bool = False, more_readers: bool = False, rows: int = 512
) -> fx.Graph:
    """logits [rows, 64] ─> addmm(x, logits^T, hidden) ─> output, where x [64, 8] is made late or early."""
    graph = fx.Graph()
    source, hidden = graph.placeholder("source"), graph.placeholder("hidden")
    tables = graph.placeholder("tables")

    def x_of(node: fx.Node) -> fx.Node:
        x = graph.call_function(aten.sum.dim_IntList, (node, [0]))
        x.meta["val"] = torch.empty(64, 8)
        if pointwise:
            x = graph.call_function(aten.sin.default, (x,))
            x.meta["val"] = torch.empty(64, 8)
        return x

    early = None if late else x_of(tables)
    logits = graph.call_function(aten.sin.default, (source,))
    turned = graph.call_function(aten.permute.default, (logits, [1, 0]))
    used = graph.call_function(aten.mm.default, (logits, tables))
    x = early or x_of(tables)
    total = graph.call_function(aten.addmm.default, (x, turned, hidden))
    last = [graph.call_function(aten.cos.default, (logits,))] if more_readers else []
    graph.output((total, used, *last))
    shapes = [(source, rows, 64), (hidden, rows, 8), (tables, 64, 8), (logits, rows, 64), (turned, 64, rows)]
    for node, *shape in [*shapes, (used, rows, 8), (total, 64, 8), *[(node, rows, 64) for node in last]]:
        node.meta["val"] = torch.empty(*shape)
    return graph


def test_a_product_that_waits_is_split() -> None:
    graph = sum_of_products()
    (total,) = split_waiting_products(graph)
    graph.lint()
    assert total.target is aten.add.Tensor
    assert total.args[1].target is aten.mm.default and tuple(total.meta["val"].shape) == (64, 8)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "case",
    [{"late": False}, {"pointwise": True}, {"more_readers": True}, {"rows": 8}],
    ids=["x is early", "x would be inlined", "the operand lives on", "the product is not smaller"],
)
def test_a_product_is_left_alone(case: dict[str, Any]) -> None:
    """Each condition of the rule, by a graph that breaks it and no other."""
    assert split_waiting_products(sum_of_products(**case)) == []


def test_a_failure_leaves_the_graph_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail(graph: fx.Graph) -> list[fx.Node]:
        raise ValueError("no")

    RewritePass(Rule("fail", "testing", fail), BackendOptions())(joint_graph())
    assert counters["testing"] == 1 and "testing is left to stock Inductor (ValueError: no)" in caplog.text
    with pytest.raises(ValueError, match="no"):
        RewritePass(Rule("fail", "testing", fail), BackendOptions(strict=True))(joint_graph())


def test_a_pass_of_the_user_stays_and_runs_first() -> None:
    def own(graph: fx.Graph) -> None:
        pass

    assert "joint_custom_post_pass" not in partition_patches(BackendOptions())
    name = "post_grad_custom_post_pass"
    assert planning_patches(BackendOptions(), {name: own})[name][0] is own
    assert planned_way(BackendOptions(), {name: own}).patches[name][0] is own
    assert name not in planning_patches(BackendOptions(fusion="stock"))
    with torch._inductor.config.patch({name: own}):
        assert backend.planning_patches(BackendOptions())[name][0] is own


def test_reuse_of_buffers_is_off_unless_the_user_asks_for_it() -> None:
    """Inductor would keep a dead buffer for a later one of its size, above the peak that was planned."""
    assert planning_patches(BackendOptions())["allow_buffer_reuse"] is False
    assert "allow_buffer_reuse" not in planning_patches(BackendOptions(), {"allow_buffer_reuse": True})
    assert planned_way(BackendOptions(), {"allow_buffer_reuse": True}).patches["allow_buffer_reuse"] is True


# ---- inputs that are saved as they are


def convolutions() -> tuple[nn.Module, Tensor]:
    """Three convolutions, whose weights Inductor copies into its layout on CPU; the first's images too."""
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    return nn.Sequential(*layers), torch.randn(2, 3, 16, 16)


def test_weights_are_not_saved_twice() -> None:
    """Nothing that the forward keeps is a copy of a weight or of the images; with stock's fusion all of them are."""
    model, images = convolutions()
    sizes = {tensor.nbytes for tensor in (images, *(p for p in model.parameters() if p.dim() == 4))}
    kept = {}
    for fusion in ("plan", "stock"):
        forward = plan_only(model, (images,), BackendOptions(fusion=fusion))[0]
        assert forward.kind == "forward" and forward.graph is not None
        kept[fusion] = {buffer.size for buffer in forward.graph.buffers if buffer.kept} & sizes
    assert kept == {"plan": set(), "stock": sizes}


def test_copies_that_stock_saves_are_counted_in_its_backward() -> None:
    """They arrive under the names of parameters, which no backward frees; these it does."""
    model, images = convolutions()
    inputs = {}
    for stock in (True, False):
        backward = plan_only(model, (images,), stock=stock)[1]
        assert backward.kind == "backward" and backward.graph is not None
        inputs[stock] = [b for b in backward.graph.buffers if b.producer is None and b.name.startswith("primals")]
    weights = [p.nbytes for p in model.parameters() if p.dim() == 4]
    assert sorted(buffer.size for buffer in inputs[True]) == sorted([images.nbytes, *weights])
    assert inputs[False] == []


@pytest.mark.compile
def test_saved_inputs_change_no_gradient() -> None:
    model, images = convolutions()
    gradients = []
    for forward in (model, torch.compile(model, backend="memsched", options={"strict": True})):
        model.zero_grad(set_to_none=True)
        forward(images).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for ours, eager in zip(*reversed(gradients), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-6)


def test_only_outputs_that_are_inputs_are_marked() -> None:
    graph = fx.Graph()
    saved, read, size = (graph.placeholder(name) for name in ("saved", "read", "size"))
    saved.meta["val"] = read.meta["val"] = torch.ones(2)
    size.meta["val"] = 2
    product = graph.call_function(aten.mul.Tensor, (saved, read))
    output = graph.output((product, saved, size, None))
    assert save_inputs_as_they_are(graph) == [], "without the note every output is the user's"
    output.meta["user_visible_output_idxs"] = [0]
    assert save_inputs_as_they_are(graph) == [saved]
    assert output.meta["user_visible_output_idxs"] == [0, 1]
    assert save_inputs_as_they_are(graph) == []


@pytest.mark.parametrize("case", ["larger", "read late", "as large", "itself"])
def test_an_image_of_which_something_larger_is_computed_again_is_saved_as_stock_saves_it(case: str) -> None:
    """The backward: what the copy of a larger value would cost is saved, unless the image is read among gradients.

    larger       image ──> cat ──> convolution            the image's own copy dies with the concatenation
    read late    and image * gradient                     it would live as long as the image is read
    as large     image ──> exp ──> convolution            one copy for another
    itself       image ──────────> convolution
    """
    forward, backward = fx.Graph(), fx.Graph()
    saved = forward.placeholder("image")
    output = forward.output((saved,))
    output.meta["user_visible_output_idxs"] = []
    image, weight, tangent = (backward.placeholder(name) for name in ("image", "weight", "tangent"))
    saved.meta["val"] = image.meta["val"] = torch.ones(2, 4, 8, 8)
    data = image
    if case in ("larger", "read late"):
        data = backward.call_function(aten.cat.default, ([image, image], 1))
        data.meta["val"] = torch.ones(2, 8, 8, 8)
    elif case == "as large":
        data = backward.call_function(aten.exp.default, (image,))
        data.meta["val"] = torch.ones(2, 4, 8, 8)
    how = (None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (True, True, False))
    gradients = backward.call_function(aten.convolution_backward.default, (tangent, data, weight, *how))
    result = backward.call_function(operator.getitem, (gradients, 0))
    if case == "read late":
        result = backward.call_function(aten.mul.Tensor, (result, image))
    backward.output((result,))
    note_layout_readers(forward, backward)
    assert save_inputs_as_they_are(forward) == ([] if case == "larger" else [saved])


def test_the_size_of_an_image_that_is_a_symbol_stays_open() -> None:
    """Looking at it must not fix it: a frame would be compiled for every size, or not at all where none is known."""
    environment = ShapeEnv()
    forward, backward = fx.Graph(), fx.Graph()
    nodes = forward.placeholder("image"), backward.placeholder("image")
    data = backward.call_function(aten.cat.default, ([nodes[1], nodes[1]], 1))
    with FakeTensorMode(shape_env=environment):
        for node in (*nodes, data):
            node.meta["val"] = torch.empty(environment.create_unbacked_symint(), 4, 8, 8)
    note_layout_readers(forward, backward)
    assert not environment.guards


@pytest.mark.plans
def test_a_checkpoint_that_concatenates_an_image_is_not_above_stock() -> None:
    """One of the random models: it was planned at 344,304 bytes, and stock needs 289,088."""
    model, batch = step(69, Family.IMAGES)
    ours, stock = (plan_only(model, batch, stock=is_stock) for is_stock in (False, True))
    assert max(report.peak for report in ours) <= max(report.generated_peak for report in stock)


def test_a_partitioner_of_the_user_cuts_behind_the_rules() -> None:
    """It finds the tags of the rules, and its hash is part of the key; one without a hash switches the cache off."""
    found = []

    class Own(CustomPartitionerFn):  # type: ignore[misc]
        def __init__(self, name: str | None) -> None:
            self.name = name

        def __call__(self, gm: fx.GraphModule, joint_inputs: Any, **more: Any) -> Any:
            found.extend(node.name for node in gm.graph.nodes if "recompute" in node.meta)
            return min_cut_rematerialization_partition(gm, joint_inputs, **more)

        def uuid(self) -> str | None:
            return self.name

    name = "custom_partitioner_fn"
    patches = partition_patches(BackendOptions(strict=True), {name: Own("mine")})
    assert "mine" in patches[name].uuid()
    assert partition_patches(BackendOptions(), {name: Own(None)})[name].uuid() is None
    assert partition_patches(BackendOptions(), patches)[name].partitioner is patches[name].partitioner
    model, batch = frozen_weight_casts.step(1)
    run_uncompiled(model, batch, lambda *_, **__: None, Way("own", cut=patches))
    assert found


def test_nodes_of_a_graph_in_disorder_come_after_what_they_read() -> None:
    """A pattern of Inductor's puts an operator before a gradient that it reads: a graph like that has to be read."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    late = graph.call_function(torch.ops.aten.neg.default, (x,))
    with graph.inserting_before(late):
        early = graph.call_function(torch.ops.aten.abs.default, (x,))
    early.args = (late,)
    graph.output(early)
    assert [node.name for node in graph.nodes][1:3] == [early.name, late.name]
    assert inputs_first(graph)[:3] == [x, late, early]


def test_only_casts_of_parameters_are_made_again() -> None:
    """w ──cast──> product; b is written by the graph; x is a batch.  A cast of x or of b is left to the partitioner."""
    graph = fx.Graph()
    inputs = [graph.placeholder(name) for name in ("w", "b", "x")]
    casts = [graph.call_function(prims.convert_element_type.default, (one, torch.bfloat16)) for one in inputs]
    scaled = graph.call_function(aten.mul.Tensor, (casts[0], 2.0))
    mixed = graph.call_function(aten.add.Tensor, (scaled, casts[2]))
    graph.call_function(aten.copy_.default, (inputs[1], mixed))
    graph.output(mixed)
    for node in graph.nodes:
        node.meta["val"] = torch.empty(4, 4, device="meta")
    assert recompute_parameter_casts(graph) == []
    note_parameters(graph, [0, 1])
    assert recompute_parameter_casts(graph) == [casts[0], scaled]
    assert all(node.meta["recompute"] is CheckpointPolicy.MUST_RECOMPUTE for node in (casts[0], scaled))


def test_cuts_that_cannot_be_compared_are_left_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The cut that keeps the checkpoints, one warning, a counter; with `strict` it raises."""

    def broken(*_: Any) -> int:
        raise MemoryError("no room")

    monkeypatch.setattr(partition, "estimated_peak", broken)
    model, batch = large_head.step()
    (forward, _) = plan_only(model, batch, BackendOptions())
    assert forward.rewrites["keep_checkpoints"] == 2
    assert counters["comparing cuts"] == 1 and "comparing cuts is left to stock Inductor (MemoryError" in caplog.text
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="no room"):
        plan_only(model, batch, BackendOptions(strict=True))
