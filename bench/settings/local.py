"""Set-ups of one process: how a model is compiled, what it is made of, who else takes part in the compile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from bench.settings.setting import Compile, Net, Setting, Step, gradients_of, inference, tokens, training

__all__ = ["SETTINGS"]


# ---- how it is compiled


def _compiled(compile: Compile, **how: Any) -> Step:
    model = Net()
    return training(model, compile(model, **how), tokens())


def _marked_dynamic(compile: Compile) -> Step:
    model, batch = Net(), tokens()
    for value in batch:
        torch._dynamo.mark_dynamic(value, 0)
    return training(model, compile(model), batch)


def _region_wise(compile: Compile) -> Step:
    model = Net()
    for block in model.blocks:
        block.forward = compile(block.forward)  # type: ignore[method-assign]
    return training(model, model, tokens())


def _loss_alone(compile: Compile) -> Step:
    logits = torch.randn(256, 512, requires_grad=True)
    loss = compile(functional.cross_entropy)

    def forget() -> None:
        logits.grad = None

    targets = tokens()[1].flatten()
    return Step(lambda: loss(logits, targets).backward(), lambda: [logits.grad], forget)  # type: ignore[list-item]


def _optimizer_alone(compile: Compile) -> Step:
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = compile(optimizer.step)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return Step(step, lambda: [parameter.detach() for parameter in model.parameters()])


def _whole_step(compile: Compile) -> Step:
    """Backward and update inside one compiled function: Dynamo breaks the graph at `backward`."""
    model, batch = Net(), tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        model(*batch).backward()
        optimizer.step()

    return Step(compile(step), lambda: [parameter.detach() for parameter in model.parameters()], optimizer.zero_grad)


def _compiled_autograd(compile: Compile) -> Step:
    model, batch = Net(), tokens()
    compiled = compile(model)

    def run() -> None:
        loss = compiled(*batch)
        with torch._dynamo.compiled_autograd._enable(compile(fullgraph=False)):
            loss.backward()

    return gradients_of(model, run)


def _accumulated(compile: Compile) -> Step:
    model = Net()
    compiled = compile(model)

    def run() -> None:
        for number in range(4):
            compiled(*tokens(2, seed=number)).backward()

    return gradients_of(model, run)


# ---- numbers and layouts


def _autocast(compile: Compile) -> Step:
    model = Net()

    def forward(*batch: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return model(*batch)

    return training(model, compile(forward), tokens())


def _bfloat16(compile: Compile) -> Step:
    model = Net().bfloat16()
    return training(model, compile(model), tokens())


def _images(channels_last: bool, compile: Compile) -> Step:
    """Convolutions and BatchNorm."""
    layers: list[nn.Module] = []
    for channels in (3, 16, 16):
        layers += [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1))
    images = torch.randn(4, 3, 32, 32)
    if channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    compiled = compile(model)
    return training(model, lambda x: compiled(x).sum(), (images,))


# ---- what is recomputed


def _around(around: Callable[[nn.Module, Tensor], Tensor], compile: Compile, dropout: float = 0.0) -> Step:
    model = Net(dropout)
    model.around = around
    return training(model, compile(model), tokens())


def _checkpointed(block: nn.Module, x: Tensor, reentrant: bool = False) -> Tensor:
    found: Tensor = checkpoint(block, x, use_reentrant=reentrant)
    return found


def _selective(block: nn.Module, x: Tensor) -> Tensor:
    def policy(_context: Any, operator: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        keep = operator is torch.ops.aten.mm.default
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    found: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return found


def _nested(block: nn.Module, x: Tensor) -> Tensor:
    return _checkpointed(lambda y: _checkpointed(block, y), x)  # type: ignore[arg-type]


def _memory_budget(compile: Compile) -> Step:
    model = Net()
    compiled = compile(model)

    def forward(*batch: Tensor) -> Any:
        with torch._functorch.config.patch(activation_memory_budget=0.5):
            return compiled(*batch)

    return training(model, forward, tokens())


# ---- what it is made of


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


@torch.library.custom_op("bench_settings::scaled", mutates_args=())
def scaled(x: Tensor) -> Tensor:
    """An operator that Inductor cannot see into."""
    return x * 2


@scaled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


scaled.register_autograd(lambda _context, gradient: gradient * 2)


def _with_op(op: Callable[[Tensor], Tensor], compile: Compile) -> Step:
    """A network with `op` between its layers."""
    first, second = nn.Linear(64, 256), nn.Linear(256, 64)
    model = nn.ModuleList([first, second])
    compiled = compile(lambda x: second(op(first(x))).square().sum())
    return training(model, compiled, (torch.randn(32, 64),))


def _branches(x: Tensor) -> Tensor:
    found: Tensor = torch.cond(x.sum() > 0, lambda y: y.sin() * 2, lambda y: y.cos() * 3, (x,))
    return found


def _loop(x: Tensor) -> Tensor:
    def again(count: Tensor, _value: Tensor) -> Tensor:
        return count < 3

    def body(count: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return count + 1, (value * value).tanh()

    found: Tensor = torch._higher_order_ops.while_loop(again, body, (torch.zeros((), dtype=torch.int64), x))[1]
    return found


def _per_sample(compile: Compile) -> Step:
    """Gradients of single samples, by functional transforms."""
    model = nn.Linear(64, 64)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(given: dict[str, Tensor], sample: Tensor) -> Tensor:
        return torch.func.functional_call(model, given, (sample,)).square().sum()

    gradients = compile(torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0)))
    return inference(gradients, (parameters, torch.randn(16, 64)))  # type: ignore[arg-type]


def _shared_weights(compile: Compile) -> Step:
    """One block, four times, each under a checkpoint, with a norm between."""
    model = Net(layers=1)
    block, norm = model.blocks[0], nn.LayerNorm(64)
    model.around = lambda _block, x: functools.reduce(lambda y, _: norm(_checkpointed(block, y)), range(4), x)
    return training(model, compile(model), tokens())


def _tied(compile: Compile) -> Step:
    model = Net(tied=True)
    return training(model, compile(model), tokens())


def _random_rows(compile: Compile) -> Step:
    """Rows that depend on data, as a dynamic expert's."""
    expert = nn.Linear(64, 64)

    def forward(x: Tensor) -> Tensor:
        rows = (x[:, 0] > 0).nonzero().squeeze(1)
        return expert(x[rows]).square().sum()

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = compile(forward)
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))

    def run(*batch: Tensor) -> Any:
        with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
            return compiled(*batch)

    return training(expert, run, (x,))


# ---- who else takes part


class _NoPass:
    """A pass of the user's, which changes nothing."""

    def __call__(self, given: Any) -> Any:
        return given

    def uuid(self) -> str:
        return "bench: no pass"


def _with_pass(name: str, compile: Compile) -> Step:
    model = Net()
    with torch._inductor.config.patch({name: _NoPass(), "fx_graph_cache": False}):
        compiled = compile(model)
        step = training(model, compiled, tokens())
        step.run()
    return step


_HOW = "how it is compiled"
_NUMBERS = "numbers and layouts"
_RECOMPUTED = "what is recomputed"
_MADE_OF = "what it is made of"
_TAKES_PART = "who else takes part"

SETTINGS = (
    Setting("torch.compile(model)", _HOW, _compiled),
    Setting("fullgraph=True", _HOW, functools.partial(_compiled, fullgraph=True)),
    Setting("dynamic=True", _HOW, functools.partial(_compiled, dynamic=True)),
    Setting("a batch marked dynamic", _HOW, _marked_dynamic),
    Setting('mode="reduce-overhead"', _HOW, functools.partial(_compiled, mode="reduce-overhead")),
    Setting('mode="max-autotune-no-cudagraphs"', _HOW, functools.partial(_compiled, mode="max-autotune-no-cudagraphs")),
    Setting("as plain options of Inductor", _HOW, _compiled, plain=True),
    Setting("each block compiled", _HOW, _region_wise),
    Setting("a loss alone", _HOW, _loss_alone),
    Setting("an optimizer's step alone", _HOW, _optimizer_alone),
    Setting("the whole step in one function", _HOW, _whole_step),
    Setting("compiled autograd", _HOW, _compiled_autograd),
    Setting("four micro-batches", _HOW, _accumulated),
    Setting("autocast to bfloat16", _NUMBERS, _autocast),
    Setting("bfloat16 parameters", _NUMBERS, _bfloat16),
    Setting("convolutions and BatchNorm", _NUMBERS, functools.partial(_images, False)),
    Setting("channels last", _NUMBERS, functools.partial(_images, True)),
    Setting("a checkpoint per block", _RECOMPUTED, functools.partial(_around, _checkpointed)),
    Setting("with dropout", _RECOMPUTED, functools.partial(_around, _checkpointed, dropout=0.1)),
    Setting("reentrant", _RECOMPUTED, functools.partial(_around, functools.partial(_checkpointed, reentrant=True))),
    Setting("selective", _RECOMPUTED, functools.partial(_around, _selective)),
    Setting("nested", _RECOMPUTED, functools.partial(_around, _nested)),
    Setting("activation_memory_budget=0.5", _RECOMPUTED, _memory_budget),
    Setting("dropout", _MADE_OF, functools.partial(_around, lambda block, x: block(x), dropout=0.1)),
    Setting("tied weights", _MADE_OF, _tied),
    Setting("a block used four times", _MADE_OF, _shared_weights),
    Setting("an autograd.Function", _MADE_OF, functools.partial(_with_op, _Doubled.apply)),
    Setting("a custom operator", _MADE_OF, functools.partial(_with_op, scaled)),
    Setting("torch.cond", _MADE_OF, functools.partial(_with_op, _branches)),
    Setting("while_loop", _MADE_OF, lambda compile: inference(compile(_loop), (torch.randn(64, 64),))),
    Setting("vmap of grad", _MADE_OF, _per_sample),
    Setting("rows that depend on data", _MADE_OF, _random_rows),
    Setting("a pass over the traced graph", _TAKES_PART, functools.partial(_with_pass, "post_grad_custom_post_pass")),
    Setting("a pass before fusion", _TAKES_PART, functools.partial(_with_pass, "_pre_fusion_custom_pass")),
    Setting("a pass after fusion", _TAKES_PART, functools.partial(_with_pass, "_post_fusion_custom_pass")),
)
