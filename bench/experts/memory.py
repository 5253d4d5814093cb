"""What the five systems do to the memory of a step: planned, and measured in eager, stock, memsched and `train_step`.

    share      tokens of an expert                  every expert takes 1, 1/2, 1/8 of them
    K          experts of a token                   1, 2, 4, 8 of 8; padded to tau, to the measured mean K, gathered
    pruned     8, 4, 2 experts kept (`keep_experts`) parameters, gradients and AdamW's moments go with them
    precision  4 bits for 32, in a loop or a bank   the loop dequantizes one expert, the bank all of them
    patches    a WideResNet's last block on patches its early stages are the peak

C++ kernels are no-ops (`bench/memory/no_kernels.py`): wrappers allocate and free their real bytes.  Peaks are above
what is alive before the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import memsched
from bench.experts.claims import Claim, Experiment, Row, verdict
from bench.experts.wide_resnet import PatchWideResNet
from bench.memory.no_kernels import kernels_that_do_nothing
from bench.models.moe import DynamicChoice, ExpertChoice, MoELayer, Router, TokenChoice, keep_experts
from memsched.inductor.bytes.measure import measure_peak
from memsched.inductor.capture.plan_only import plan_only

__all__ = ["EXPERIMENT", "QuantizedExperts"]

_WIDTH, _HIDDEN, _EXPERTS = 128, 512, 8
_MIB = 2**20
_SCALARS = 64
"""Bytes of scalars that live between the two graphs of a step, which no plan has."""


class _Squared(nn.Module):
    """A layer with a skip connection, and a loss; `balanced`: with the layer's auxiliary loss."""

    def __init__(self, layer: nn.Module, skip: bool = True, balanced: bool = False) -> None:
        super().__init__()
        self.layer, self.skip, self.balanced = layer, skip, balanced

    def forward(self, x: Tensor) -> Tensor:
        if self.balanced:
            output, balance = self.layer.with_balance(x)
            return (x + output).square().mean() + 0.01 * balance
        output = self.layer(x)
        return ((x + output) if self.skip else output).square().mean()


class QuantizedExperts(nn.Module):
    """Eight experts whose weights are stored in 4 bits (or 32) and dequantized where they are used; inference.

    layout: "loop" dequantizes one expert after the other, "bank" all of them for one batched product.
    """

    def __init__(self, bits: int, layout: str) -> None:
        super().__init__()
        self.bits, self.layout = bits, layout
        self.gate = nn.Linear(_WIDTH, _EXPERTS, bias=False)
        count = _EXPERTS if layout == "loop" else 1
        generator = torch.Generator().manual_seed(0)
        for at in range(count):
            for name, (rows, columns) in (("up", (_WIDTH, _HIDDEN)), ("down", (_HIDDEN, _WIDTH))):
                shape = (rows, columns) if layout == "loop" else (_EXPERTS, rows, columns)
                if bits == 32:
                    stored = torch.randn(shape, generator=generator) * 0.05
                else:
                    packed = (*shape[:-1], shape[-1] // 2)
                    stored = torch.randint(0, 256, packed, dtype=torch.uint8, generator=generator)
                self.register_buffer(f"{name}{at}", stored)

    def _weights(self, name: str) -> Tensor:
        stored: Tensor = getattr(self, name)
        if self.bits == 32:
            return stored
        halves = torch.stack([stored & 15, stored >> 4], -1).float().flatten(-2)
        return (halves - 8) * 0.01

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        chosen, tokens = self.gate(flat).softmax(-1).T.topk(len(flat) // _EXPERTS * 2, -1)
        output = torch.zeros_like(flat)
        if self.layout == "bank":
            result = torch.bmm(torch.bmm(flat[tokens], self._weights("up0")).relu(), self._weights("down0"))
            return output.index_add(0, tokens.flatten(), (result * chosen[..., None]).flatten(0, 1))
        for at in range(_EXPERTS):
            result = (flat[tokens[at]] @ self._weights(f"up{at}")).relu() @ self._weights(f"down{at}")
            output = output.index_add(0, tokens[at], result * chosen[at, :, None])
        return output


@dataclass(frozen=True, slots=True)
class _Case:
    """One model and its input.

    train: a training step, else inference; joined: also with AdamW in one graph; values_matter: sizes depend on them.
    """

    part: str
    setting: str
    make: Callable[[], nn.Module]
    x: Callable[[], Tensor]
    train: bool = True
    joined: bool = True
    values_matter: bool = False


def _tokens() -> Tensor:
    return torch.randn(8, 128, _WIDTH, generator=torch.Generator().manual_seed(0))


def _layer(
    router: Router, implementation: str = "grouped", capacity: float = 1.0, shared: int = 0, balanced: bool = False
) -> nn.Module:
    torch.manual_seed(0)
    return _Squared(MoELayer(_WIDTH, _HIDDEN, _EXPERTS, router, implementation, capacity, shared), balanced=balanced)


def _pruned(experts: int) -> nn.Module:
    model = _layer(TokenChoice(1), capacity=1.25)
    keep_experts(model.layer, range(experts))
    model.layer.capacity = 1.25 * experts / _EXPERTS
    return model


def _wide_resnet(form: str) -> nn.Module:
    torch.manual_seed(0)
    return _Squared(PatchWideResNet(form, widen=2), skip=False)


def _cases(quick: bool) -> Iterator[_Case]:
    for share in (1.0, 0.5, 0.125):
        yield _Case("share", f"{share:g} of the tokens", partial(_layer, ExpertChoice(share)), _tokens)
    if quick:
        return
    for count in (1, 2, 4, 8):
        yield _Case("K", f"K = {count}", partial(_layer, TokenChoice(count)), _tokens)
    two = TokenChoice(2)
    yield _Case("K", "K = 2, with a balance loss", partial(_layer, two, balanced=True), _tokens)
    yield _Case("K", "K = 2, and a shared expert", partial(_layer, two, shared=1), _tokens)
    mean = _mean_experts()
    rooms = {"room of tau": DynamicChoice(0.6), f"room of the mean K, {mean:.2f}": DynamicChoice(0.6, mean_k=mean)}
    for name, router in rooms.items():
        yield _Case("K", f"tau = 0.6, {name}", partial(_layer, router, capacity=1.25), _tokens)
    gathered = partial(_layer, DynamicChoice(0.6), "gathered")
    yield _Case("K", "tau = 0.6, gathered", gathered, _tokens, joined=False, values_matter=True)
    for experts in (8, 4, 2):
        yield _Case("pruned", f"{experts} experts", partial(_pruned, experts), _tokens)
    few = partial(torch.randn, 2, 64, _WIDTH)
    for layout in ("loop", "bank"):
        for bits in (32, 4):
            quantized = partial(QuantizedExperts, bits, layout)
            yield _Case("precision", f"{layout}, {bits} bits", quantized, few, train=False)
    for form in ("dense", "masked", "gathered"):
        image = partial(torch.randn, 2, 3, 64, 64)
        yield _Case("patches", f"WRN-10-2, {form}", partial(_wide_resnet, form), image, joined=False)


@torch.no_grad()
def _mean_experts() -> float:
    """Experts of a token that reach 0.6, on average."""
    layer = _layer(DynamicChoice(0.6)).layer
    return float((layer.router.weights(layer.gate(_tokens())) > 0).sum(-1).float().mean())


def rows(seeds: int, quick: bool) -> list[Row]:
    """Bytes of every case; they do not depend on a seed."""
    del seeds
    return [_measured(case) for case in _cases(quick)]


def _measured(case: _Case) -> Row:
    row: Row = {"part": case.part, "setting": case.setting, "ranged": case.values_matter, "eager": _peak(case, None)}
    model = case.make()
    row["held"] = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    for way, stock in (("stock", True), ("memsched", False)):
        with torch.set_grad_enabled(case.train), _one_graph(case):
            reports = plan_only(case.make(), (case.x(),), stock=stock)
        row[f"{way} planned"] = max(report.generated_peak for report in reports)
        row[way] = _peak(case, "inductor" if stock else "memsched")
    if case.train and case.joined:
        row["train_step"], row["train_step planned"] = _joined(case)
    return row


def _one_graph(case: _Case) -> contextlib.AbstractContextManager[Any]:
    """Where sizes depend on values, they are traced as ranges, and not broken at."""
    capture: contextlib.AbstractContextManager[Any] = torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
    return capture if case.values_matter else contextlib.nullcontext()


def _peak(case: _Case, backend: str | None) -> int:
    """Bytes of one step after two that compile; with real kernels where sizes depend on values."""
    model, x = case.make(), case.x()

    def step(run: Callable[..., Any]) -> None:
        if case.train:
            run(x).backward()
            model.zero_grad(set_to_none=True)
        else:
            with torch.no_grad():
                run(x)

    if backend is None:
        return _after_two(lambda: step(model))
    torch._dynamo.reset()
    with _one_graph(case) if case.values_matter else kernels_that_do_nothing():
        compiled = torch.compile(model, backend=backend)
        return _after_two(lambda: step(compiled))


def _joined(case: _Case) -> tuple[int, int]:
    """(measured, planned) bytes of forward, backward and AdamW as one graph."""
    model, x = case.make(), case.x()
    step = memsched.train_step(model, torch.optim.AdamW(model.parameters(), 1e-3))
    with kernels_that_do_nothing():
        measured = _after_two(lambda: step(x))
        assert step.report is not None
        return measured, step.report.plan.generated_peak


def _after_two(call: Callable[[], Any]) -> int:
    call()
    call()
    return measure_peak(call)


def claims(found: Sequence[Row]) -> list[Claim]:
    """What the rows decide."""
    by_name = {row["setting"]: row for row in found}
    shares = [by_name[f"{share:g} of the tokens"]["eager"] for share in (1.0, 0.5, 0.125)]
    decided = [
        _claim_model(found),
        _claim_stock(found),
        Claim(
            "an expert's share of the tokens is what a token layer costs",
            f"1, 1/2, 1/8 of the tokens: {_mib(shares)} MiB in eager",
            verdict(shares[2] < 0.3 * shares[0], shares[2] < shares[0]),
        ),
    ]
    if any(row["part"] == "K" for row in found):
        decided += _claims_of_systems(by_name)
    return decided


def _claims_of_systems(by_name: dict[str, Row]) -> list[Claim]:
    counts = [by_name[f"K = {count}"]["memsched"] for count in (1, 2, 4, 8)]
    slopes = [(after - before) / step for before, after, step in zip(counts, counts[1:], (1, 2, 4), strict=False)]
    room = next(row["memsched"] for name, row in by_name.items() if "mean K" in name)
    padded, gathered = by_name["tau = 0.6, room of tau"]["memsched"], by_name["tau = 0.6, gathered"]["memsched"]
    kept = [by_name[f"{experts} experts"] for experts in (8, 4, 2)]
    whole = [4 * row["held"] for row in kept]  # parameters, gradients, and two moments of AdamW
    loop, bank = by_name["loop, 4 bits"], by_name["bank, 4 bits"]
    wide = [by_name[f"WRN-10-2, {form}"]["eager"] for form in ("dense", "gathered")]
    return [
        Claim(
            "bytes are linear in K",
            f"K = 1, 2, 4, 8: {_mib(counts)} MiB",
            verdict(max(slopes) <= 1.1 * min(slopes), max(slopes) <= 1.3 * min(slopes)),
        ),
        Claim(
            "a dynamic K needs the room of its mean, not of tau",
            f"room of tau {_mib([padded])}, of the mean {_mib([room])}, gathered {_mib([gathered])} MiB",
            verdict(room < 0.6 * padded, room < padded),
        ),
        Claim(
            "pruning saves parameters, gradients and moments in proportion",
            f"8, 4, 2 experts: {_mib(whole)} MiB",
            verdict(whole[2] < 0.27 * whole[0], whole[2] < whole[0]),
        ),
        Claim(
            "4 bits save transients only where experts are dequantized one by one",
            f"loop {_mib([loop['memsched']])}, bank {_mib([bank['memsched']])} MiB of transients",
            verdict(loop["memsched"] < 0.5 * bank["memsched"], loop["memsched"] < bank["memsched"]),
        ),
        Claim(
            "patches in the last stage of a WideResNet lower the peak of its step",
            f"dense {_mib(wide[:1])}, gathered {_mib(wide[1:])} MiB in eager",
            verdict(wide[1] < 0.9 * wide[0], wide[1] < wide[0]),
        ),
    ]


def _claim_model(found: Sequence[Row]) -> Claim:
    errors = {}
    for row in found:
        for way in ("stock", "memsched", "train_step"):
            if way in row and not row["ranged"]:
                error = max(0, abs(row[way] - row[f"{way} planned"]) - _SCALARS) / row[way]
                errors[f"{row['setting']}, {way}"] = error
    worst = max(errors, key=lambda name: errors[name])
    exact = sum(not error for error in errors.values())
    return Claim(
        "planned bytes are measured bytes",
        f"{exact} of {len(errors)} exact; worst {errors[worst]:.2%} ({worst}); sizes known as a range left out",
        verdict(errors[worst] <= 0.02, exact > len(errors) / 2),
    )


def _claim_stock(found: Sequence[Row]) -> Claim:
    ratios = {row["setting"]: row["memsched"] / row["stock"] for row in found}
    above = [f"{name} {ratio:.3f}" for name, ratio in ratios.items() if ratio > 1]
    return Claim(
        "memsched is not above stock",
        f"{min(ratios.values()):.2f} to {max(ratios.values()):.2f} of it"
        + (f"; above: {', '.join(above)}" if above else ""),
        verdict(not above),
    )


def _mib(values: Sequence[int]) -> str:
    return ", ".join(f"{value / _MIB:.2f}" for value in values)


EXPERIMENT = Experiment("memory", "Their memory", rows, claims)
