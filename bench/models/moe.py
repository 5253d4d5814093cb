"""A mixture-of-experts layer, `MoELayer(router, implementation)`: who goes where, and how the work is laid out.

Routers give every token a weight for every expert, zero where it does not go:

    TokenChoice(k)      every token picks its k best experts (Shazeer et al. 2017)
    ExpertChoice(l)     every expert picks its l best tokens (Zhou et al. 2022; Chowdhury et al. 2023 for patches)
    SampleChoice(k)     a sample picks its k best experts for all of its tokens
    PatchChoice(l)      every expert picks its l best patches, weighted by a softmax over those (Chowdhury et al. 2023)
    DynamicChoice(tau)  the fewest experts whose probabilities reach tau, for a token or a sample (Huang et al. 2024)

Implementations compute the same sum where no expert is over its capacity:

    loop       every expert sees every token; the weights do the rest
    capacity   every expert gathers the tokens that weigh most, as many as it has room for, and scatters back
    grouped    the same with all experts in one batched product
    gathered   every expert gathers the tokens that chose it, however many: sizes that depend on data, one graph
    sorted     tokens sorted by expert and one grouped product (`torch._grouped_mm`), as production code does; any token
               has the same number of experts
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "IMPLEMENTATIONS",
    "DynamicChoice",
    "ExpertChoice",
    "MoELayer",
    "PatchChoice",
    "Router",
    "SampleChoice",
    "TokenChoice",
    "balance_loss",
    "keep_experts",
]

IMPLEMENTATIONS = ("loop", "capacity", "grouped", "gathered", "sorted")


class Router(Protocol):
    """Turns the gate's logits (batch, tokens, experts) into weights of the same shape."""

    def weights(self, logits: Tensor) -> Tensor: ...

    def share(self, experts: int) -> float:
        """The share of all tokens that an expert gets on average."""
        ...


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """Every token picks `k` experts; their weights add up to one."""

    k: int = 2

    def weights(self, logits: Tensor) -> Tensor:
        return _best(logits.softmax(-1), self.k)

    def share(self, experts: int) -> float:
        return self.k / experts


@dataclass(frozen=True, slots=True)
class ExpertChoice:
    """Every expert picks `share_of_tokens` of the tokens of each sample."""

    share_of_tokens: float = 0.5

    def weights(self, logits: Tensor) -> Tensor:
        probabilities = logits.softmax(-1)
        picks = max(1, int(self.share_of_tokens * probabilities.shape[1]))
        chosen, tokens = probabilities.topk(picks, 1)
        return torch.zeros_like(probabilities).scatter(1, tokens, chosen)

    def share(self, experts: int) -> float:
        return self.share_of_tokens


@dataclass(frozen=True, slots=True)
class PatchChoice:
    """Every expert picks the `patches` that its router scores highest, weighted by a softmax over the chosen."""

    patches: int = 2
    of: int = 16

    def weights(self, logits: Tensor) -> Tensor:
        chosen, tokens = logits.topk(self.patches, 1)
        return torch.zeros_like(logits).scatter(1, tokens, chosen.softmax(1))

    def share(self, experts: int) -> float:
        return self.patches / self.of


@dataclass(frozen=True, slots=True)
class SampleChoice:
    """A sample picks `k` experts for all of its tokens, by its mean probabilities."""

    k: int = 2

    def weights(self, logits: Tensor) -> Tensor:
        return _best(logits.softmax(-1).mean(1, keepdim=True), self.k).expand_as(logits)

    def share(self, experts: int) -> float:
        return self.k / experts


@dataclass(frozen=True, slots=True)
class DynamicChoice:
    """The fewest experts whose probabilities add up to `tau`; for every token, or for every sample.

    mean_k: experts of a token on average, as measured; rooms of experts then follow it, and are as large as tau else.
    """

    tau: float = 0.6
    per_sample: bool = False
    mean_k: float | None = None

    def weights(self, logits: Tensor) -> Tensor:
        probabilities = logits.softmax(-1)
        seen = probabilities.mean(1, keepdim=True) if self.per_sample else probabilities
        ranked, experts = seen.sort(-1, descending=True)
        needed = ranked.cumsum(-1) - ranked < self.tau
        kept = torch.where(needed, ranked, 0.0)
        kept = kept / kept.sum(-1, keepdim=True)
        return torch.zeros_like(seen).scatter(-1, experts, kept).expand_as(probabilities)

    def share(self, experts: int) -> float:
        return self.tau if self.mean_k is None else self.mean_k / experts


class SwiGLU(nn.Module):
    """One expert: a gated feed-forward layer (Shazeer 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class BatchedSwiGLU(nn.Module):
    """All experts at once: (experts, tokens of each, width) to the same shape."""

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.randn(experts, width, hidden) * width**-0.5)
        self.up = nn.Parameter(torch.randn(experts, width, hidden) * width**-0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, width) * hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(F.silu(torch.bmm(x, self.gate)) * torch.bmm(x, self.up), self.down)


class MoELayer(nn.Module):
    """A router and experts over (batch, tokens, width).

    capacity: room of an expert over the tokens that it gets on average; what does not fit is dropped.
    shared: experts that see every token beside the chosen ones (DeepSeekMoE), one of that many times the size.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        experts: int,
        router: Router | None = None,
        implementation: str = "loop",
        capacity: float = 1.25,
        shared: int = 0,
    ) -> None:
        super().__init__()
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(f"implementation {implementation!r} is unknown (there are {', '.join(IMPLEMENTATIONS)})")
        self.router = router or TokenChoice()
        if implementation == "sorted" and not isinstance(self.router, TokenChoice):
            raise ValueError(f"implementation 'sorted' needs TokenChoice, not {type(self.router).__name__}")
        self.implementation, self.capacity = implementation, capacity
        self.gate = nn.Linear(width, experts, bias=False)
        self.shared = SwiGLU(width, shared * hidden) if shared else None
        if implementation in ("grouped", "sorted"):
            self.batched = BatchedSwiGLU(width, hidden, experts)
        else:
            self.experts = nn.ModuleList(SwiGLU(width, hidden) for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        return self._output(x, self.router.weights(self.gate(x)))

    def with_balance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the auxiliary loss that keeps experts evenly used (`balance_loss`)."""
        logits = self.gate(x)
        weights = self.router.weights(logits)
        return self._output(x, weights), balance_loss(logits, weights)

    def _output(self, x: Tensor, weights: Tensor) -> Tensor:
        """What the chosen experts and the shared ones say."""
        output = self._chosen(x, weights)
        return output if self.shared is None else output + self.shared(x)

    def _chosen(self, x: Tensor, weights: Tensor) -> Tensor:
        """What the experts say that were chosen."""
        if self.implementation == "gathered":
            return self._gathered(x.flatten(0, 1), weights.flatten(0, 1)).view_as(x)
        if self.implementation == "sorted":
            return self._sorted(x.flatten(0, 1), weights.flatten(0, 1)).view_as(x)
        if self.implementation == "loop":
            return _sum([weights[..., at : at + 1] * expert(x) for at, expert in enumerate(self.experts)])
        flat, columns = x.flatten(0, 1), weights.flatten(0, 1).T
        share = self.capacity * self.router.share(columns.shape[0])
        room = min(flat.shape[0], max(1, int(share * flat.shape[0])))
        chosen, tokens = columns.topk(room, -1)
        run = self._grouped if self.implementation == "grouped" else self._looped
        return run(flat, chosen, tokens).view_as(x)

    def _looped(self, x: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
        output = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            result = expert(x.index_select(0, tokens[at])) * weights[at, :, None]
            output = output.index_add(0, tokens[at], result)
        return output

    def _grouped(self, x: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
        result = self.batched(x[tokens]) * weights[..., None]
        return torch.zeros_like(x).index_add(0, tokens.flatten(), result.flatten(0, 1))

    def _gathered(self, x: Tensor, weights: Tensor) -> Tensor:
        output = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            tokens = weights[:, at].nonzero().squeeze(1)
            output = output.index_add(0, tokens, expert(x[tokens]) * weights[tokens, at, None])
        return output

    def _sorted(self, x: Tensor, weights: Tensor) -> Tensor:
        assert isinstance(self.router, TokenChoice)
        chosen, experts = weights.topk(self.router.k, -1)
        order = experts.flatten().argsort(stable=True)
        tokens = order // self.router.k
        counts = torch.zeros(weights.shape[1], dtype=torch.int32, device=x.device)
        ends = counts.scatter_add(0, experts.flatten(), torch.ones_like(order, dtype=torch.int32)).cumsum(0)
        bank, ends = self.batched, ends.to(torch.int32)
        rows = x[tokens]
        hidden = F.silu(torch._grouped_mm(rows, bank.gate, offs=ends)) * torch._grouped_mm(rows, bank.up, offs=ends)
        result = torch._grouped_mm(hidden, bank.down, offs=ends) * chosen.flatten()[order, None]
        return torch.zeros_like(x).index_add(0, tokens, result)


def balance_loss(logits: Tensor, weights: Tensor) -> Tensor:
    """Experts times the sum of (share of the tokens that an expert gets) x (its mean probability); 1 when all are even.

    The auxiliary loss of the Switch transformer (Fedus, Zoph, Shazeer 2022), for any number of experts of a token.
    """
    chosen = (weights > 0).flatten(0, -2).float()
    share = chosen.mean(0) / chosen.mean(0).sum()
    return logits.shape[-1] * (share * logits.softmax(-1).flatten(0, -2).mean(0)).sum()


def keep_experts(layer: MoELayer, kept: Sequence[int], optimizer: torch.optim.Optimizer | None = None) -> None:
    """Keep only these experts of `layer`: of its bank, its router, their gradients, and the optimizer's state.

    Sliced parameters are new ones, in the layer and in the optimizer, which goes on with them.  Raises IndexError for
    an expert that is not there, ValueError for none.
    """
    index = torch.tensor(sorted(set(kept)))
    if not len(index):
        raise ValueError("kept: at least one expert")
    if index[-1] >= layer.gate.out_features or index[0] < 0:
        raise IndexError(f"kept: {list(kept)}; the layer has {layer.gate.out_features} experts")
    changed = {layer.gate.weight: _sliced(layer.gate, "weight", index)}
    layer.gate.out_features = len(index)
    if layer.implementation in ("grouped", "sorted"):
        changed |= {old: _sliced(layer.batched, name, index) for name, old in list(layer.batched.named_parameters())}
    else:
        gone = [expert for at, expert in enumerate(layer.experts) if at not in index]
        layer.experts = nn.ModuleList(layer.experts[at] for at in index.tolist())
        changed |= {parameter: None for expert in gone for parameter in expert.parameters()}
    if optimizer is not None:
        _follow(optimizer, changed, index)


def _sliced(module: nn.Module, name: str, index: Tensor) -> nn.Parameter:
    """A new parameter in the place of an old one: the rows `index` of it and of its gradient."""
    old = getattr(module, name)
    new = nn.Parameter(old.detach()[index].clone())
    new.grad = None if old.grad is None else old.grad[index].clone()
    setattr(module, name, new)
    return new


def _follow(optimizer: torch.optim.Optimizer, changed: Mapping[Tensor, nn.Parameter | None], index: Tensor) -> None:
    """Give the optimizer the new parameters, with the rows `index` of their state; what became None it forgets."""
    for group in optimizer.param_groups:
        replaced = [changed.get(parameter, parameter) for parameter in group["params"]]
        group["params"] = [parameter for parameter in replaced if parameter is not None]
    for old, new in changed.items():
        state = optimizer.state.pop(old, None)
        if state is not None and new is not None:
            optimizer.state[new] = {
                name: value[index].clone() if isinstance(value, Tensor) and value.shape == old.shape else value
                for name, value in state.items()
            }


def _best(probabilities: Tensor, k: int) -> Tensor:
    """The `k` largest of each row, divided by their sum; 0 elsewhere."""
    chosen, experts = probabilities.topk(k, -1)
    return torch.zeros_like(probabilities).scatter(-1, experts, chosen / chosen.sum(-1, keepdim=True))


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, tensors)
