"""A dynamic number of experts (delta-MoE; Huang et al. 2024 and others): do inputs need different K, and is it better?

    gate probabilities  .6 .3 .1 0      tau .7: two experts, since .6 < .7 <= .6 + .3       K=1: one, always

mnist1d, 8 experts, a noisy gate with a load loss.  Every rule and every seed is one network of a stack; the rules of
one seed begin alike.  Rules: a fixed K; the fewest experts whose probabilities reach tau; K by the entropy of the gate;
stop when the two best classes of the output are far enough apart (margin).
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.experts.claims import Claim, Experiment, Row, of, spread, verdict
from bench.experts.data import signals

__all__ = ["EXPERIMENT"]

_EXPERTS, _HIDDEN, _CLASSES = 8, 16, 10
_ALL = 2.0
"""A tau that probabilities never reach."""
_TAUS = (0.3, 0.5, 0.7, 0.9)
_TESTED_TAUS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_ENTROPIES = (0.25, 0.5, 0.75, 1.0, 1.5)
_MARGINS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
_RATE, _BATCH = 5e-3, 200
_EPOCHS, _QUICK_EPOCHS = 40, 12


def _kept(probabilities: Tensor, most: Tensor | int, tau: Tensor | float) -> Tensor:
    """Probabilities of the experts that run: the `most` best, and of those the fewest that reach `tau`."""
    ranked, experts = probabilities.sort(-1, descending=True)
    runs = (torch.arange(_EXPERTS) < most) & (ranked.cumsum(-1) - ranked < tau)
    return torch.zeros_like(probabilities).scatter(-1, experts, ranked * runs)


class _Stack:
    """Networks of the rules (K, tau) times the seeds; parameters are (networks, ...)."""

    def __init__(self, rules: Sequence[tuple[int, float]], seeds: int, width: int) -> None:
        self.nets = [(rule, seed) for seed in range(seeds) for rule in rules]
        self.generator = torch.Generator().manual_seed(0)
        self._seeds = seeds
        self.gate = self._per_seed(width, _EXPERTS, std=0.05)
        self.noise = self._per_seed(width, _EXPERTS, std=0.0)
        self.first = self._per_seed(_EXPERTS, width, _HIDDEN, std=width**-0.5)
        self.bias = self._per_seed(_EXPERTS, 1, _HIDDEN, std=0.0)
        self.second = self._per_seed(_EXPERTS, _HIDDEN, _CLASSES, std=_HIDDEN**-0.5)
        self.most = torch.tensor([rule[0] for rule, _ in self.nets]).view(-1, 1, 1)
        self.tau = torch.tensor([rule[1] for rule, _ in self.nets]).view(-1, 1, 1)

    def _per_seed(self, *shape: int, std: float) -> Tensor:
        values = torch.randn(self._seeds, *shape, generator=self.generator) * std
        return values[[seed for _, seed in self.nets]].clone().requires_grad_()

    def outputs(self, x: Tensor) -> Tensor:
        """What every expert says: (networks, batch, experts, classes)."""
        hidden = (torch.matmul(x, self.first) + self.bias).relu()
        return torch.matmul(hidden, self.second).transpose(1, 2)

    def probabilities(self, x: Tensor, noisy: bool) -> Tensor:
        """Of the gate: (networks, batch, experts)."""
        logits = torch.matmul(x, self.gate)
        if noisy:
            noise = torch.randn(logits.shape, generator=self.generator)
            logits = logits + noise * F.softplus(torch.matmul(x, self.noise))
        return logits.softmax(-1)

    def train(self, x: Tensor, y: Tensor, epochs: int) -> None:
        """AdamW with a falling rate; the load loss is the squared variation of what each expert is given."""
        optimizer = torch.optim.AdamW(
            [self.gate, self.noise, self.first, self.bias, self.second], _RATE, weight_decay=1e-2
        )
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - epoch / epochs) + 2e-4
            for batch in torch.randperm(len(x), generator=self.generator).split(_BATCH):
                weights = _kept(self.probabilities(x[batch], noisy=True), self.most, self.tau)
                given = (weights / weights.sum(-1, keepdim=True)).sum(1)
                logits = _mixed(self.outputs(x[batch]), weights)
                loss = F.cross_entropy(logits.flatten(0, 1), y[batch].repeat(len(self.nets))) * len(self.nets)
                loss = loss + 0.01 * (given.var(-1) / given.mean(-1) ** 2).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def _mixed(outputs: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("nbm,nbmc->nbc", weights / weights.sum(-1, keepdim=True), outputs)


def rows(seeds: int, quick: bool) -> list[Row]:
    """Accuracy, mean K and load of every rule and seed; time of a layer against its mean K."""
    x, y, x_test, y_test = signals()
    counts = (1, 2) if quick else tuple(range(1, _EXPERTS + 1))
    rules = [(count, _ALL) for count in counts] + ([] if quick else [(_EXPERTS, tau) for tau in _TAUS])
    stack = _Stack(rules, seeds, x.shape[1])
    stack.train(x, y, _QUICK_EPOCHS if quick else _EPOCHS)
    found: list[Row] = []
    with torch.no_grad():
        outputs, probabilities = stack.outputs(x_test), stack.probabilities(x_test, noisy=False)
        for net, ((count, tau), seed) in enumerate(stack.nets):
            rule = f"K={count}" if tau == _ALL else f"tau={tau}"
            weights = _kept(probabilities[net], count, tau)
            found.append({"rule": rule, "trained": rule, "seed": seed} | _figures(outputs[net], weights, y_test))
            if (count, tau) == (2, _ALL) and not quick:
                found += _stopping_rules(outputs[net], probabilities[net], y_test, seed)
    return found if quick else found + _layer_times()


def _figures(outputs: Tensor, weights: Tensor, y: Tensor) -> Row:
    runs = weights > 0
    load = runs.float().mean(0)
    correct = _mixed(outputs[None], weights[None])[0].argmax(-1) == y
    return {
        "accuracy": float(correct.float().mean()),
        "mean K": float(runs.sum(-1).float().mean()),
        "load": float(load.max() / load.mean()),
    }


def _stopping_rules(outputs: Tensor, probabilities: Tensor, y: Tensor, seed: int) -> list[Row]:
    """Three rules for K on one network that was trained with two experts."""

    def row(rule: str, setting: float, most: Tensor | int, tau: float = _ALL) -> Row:
        weights = _kept(probabilities, most, tau)
        return {"rule": rule, "setting": setting, "trained": "K=2", "seed": seed} | _figures(outputs, weights, y)

    found = [row("gate mass", tau, _EXPERTS, tau) for tau in _TESTED_TAUS]
    found += [row("fixed", count, count) for count in range(1, _EXPERTS + 1)]
    entropy = -(probabilities * probabilities.clamp_min(1e-9).log()).sum(-1, keepdim=True)
    found += [row("gate entropy", scale, (scale * entropy.exp()).round().clamp(1, _EXPERTS)) for scale in _ENTROPIES]
    ranked, experts = probabilities.sort(-1, descending=True)
    in_order = outputs.gather(1, experts[..., None].expand(-1, -1, _CLASSES))
    so_far = (ranked[..., None] * in_order).cumsum(1) / ranked.cumsum(-1)[..., None]
    best = so_far.softmax(-1).topk(2, -1).values
    for margin in _MARGINS:
        stops = best[..., 0] - best[..., 1] > margin
        count = torch.where(stops.any(-1), stops.float().argmax(-1) + 1, _EXPERTS)[:, None]
        found.append(row("output margin", margin, count))
    return found


def _layer_times() -> list[Row]:
    """CPU seconds of a layer that gathers each expert's samples, over those at K=2; least of seven."""
    width, hidden, batch = 256, 1024, 512
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(_EXPERTS, width, hidden, generator=generator) * 0.06
    second = torch.randn(_EXPERTS, hidden, width, generator=generator) * 0.03
    x = torch.randn(batch, width, generator=generator)
    probabilities = (torch.randn(batch, _EXPERTS, generator=generator) * 1.9).softmax(-1)

    def run(mask: Tensor) -> None:
        output = torch.zeros_like(x)
        for expert in range(_EXPERTS):
            chosen = mask[:, expert].nonzero().squeeze(1)
            output.index_add_(0, chosen, (x[chosen] @ first[expert]).relu() @ second[expert])

    masks = {f"K={count}": _kept(probabilities, count, _ALL) > 0 for count in (1, 2, 4, 8)}
    masks |= {f"tau={tau}": _kept(probabilities, _EXPERTS, tau) > 0 for tau in _TAUS}
    times = {rule: _cpu_seconds(lambda mask=mask: run(mask)) for rule, mask in masks.items()}  # type: ignore[misc]
    return [
        {
            "rule": "time", "layer": rule, "mean K": float(mask.sum(-1).float().mean()),
            "largest share": float(mask.float().mean(0).max()), "of K=2": times[rule] / times["K=2"],
        }
        for rule, mask in masks.items()
    ]  # fmt: skip


def _cpu_seconds(run: Callable[[], None]) -> float:
    run()
    spent = []
    for _ in range(7):
        started = time.process_time()
        run()
        spent.append(time.process_time() - started)
    return min(spent)


def claims(found: Sequence[Row]) -> list[Claim]:
    """What the rows decide."""
    loads = [of(found, "load", rule=f"K={count}", trained=f"K={count}") for count in (1, 2)]
    more = Claim(
        "one expert for each input is not enough",
        f"K=1: {spread(_accuracy(found, 1))}, K=2: {spread(_accuracy(found, 2))}",
        verdict(min(b - a for a, b in zip(_accuracy(found, 1), _accuracy(found, 2), strict=True)) > 0),
    )
    even = Claim(
        "more experts for each input spread the load",
        f"busiest expert over the mean: K=1 {spread(loads[0], 2)}, K=2 {spread(loads[1], 2)}",
        verdict(statistics.mean(loads[0]) > statistics.mean(loads[1])),
    )
    if not any(row["rule"] == "gate mass" for row in found):
        return [more, even]
    return [more, even, _claim_concave(found), *_claims_of_rules(found), _claim_of_time(found)]


def _accuracy(found: Sequence[Row], count: int) -> list[float]:
    return of(found, "accuracy", rule=f"K={count}", trained=f"K={count}")


def _claim_concave(found: Sequence[Row]) -> Claim:
    means = [statistics.mean(_accuracy(found, count)) for count in (1, 2, 4, 8)]
    gains = [after - before for before, after in itertools.pairwise(means)]
    return Claim(
        "accuracy is concave in K: every doubling brings less",
        f"K=1, 2, 4, 8: {', '.join(spread(_accuracy(found, count)) for count in (1, 2, 4, 8))}",
        verdict(all(a > b for a, b in itertools.pairwise(gains)), gains[0] > gains[-1]),
    )


def _claims_of_rules(found: Sequence[Row]) -> list[Claim]:
    """Each rule at its best setting, over the fixed K that costs the same (between two K by interpolation)."""
    decided = []
    for rule in ("gate mass", "gate entropy", "output margin"):
        settings = sorted({row["setting"] for row in found if row["rule"] == rule})
        gains = {setting: _gains(found, rule, setting) for setting in settings}
        best = max(gains, key=lambda setting: statistics.mean(gains[setting]))
        mean, deviation = statistics.mean(gains[best]), statistics.stdev(gains[best]) if len(gains[best]) > 1 else 0.0
        counts = of(found, "mean K", rule=rule, setting=best)
        decided.append(
            Claim(
                f"K by {rule} is better than a fixed K of the same cost",
                f"{spread([100 * one for one in gains[best]], 2)} points at K = {spread(counts, 2)}, its best setting",
                verdict(mean > deviation, mean > 0),
            )
        )
    return decided


def _gains(found: Sequence[Row], rule: str, setting: float) -> list[float]:
    """For each seed: accuracy of the rule, less that of fixed K at its mean K."""
    gains = []
    for row in (row for row in found if row["rule"] == rule and row["setting"] == setting):
        fixed = {
            row_["mean K"]: row_["accuracy"]
            for row_ in found
            if row_["rule"] == "fixed" and row_["seed"] == row["seed"]
        }
        below = max(1.0, min(float(int(row["mean K"])), _EXPERTS - 1.0))
        share = row["mean K"] - below
        gains.append(row["accuracy"] - (1 - share) * fixed[below] - share * fixed[below + 1])
    return gains


def _claim_of_time(found: Sequence[Row]) -> Claim:
    times = {row["layer"]: (row["mean K"], row["of K=2"]) for row in found if row["rule"] == "time"}
    shown = ", ".join(f"{layer} (K={count:.2f}) {ratio:.2f}" for layer, (count, ratio) in times.items())
    off = max(abs(ratio - count / 2) / (count / 2) for count, ratio in times.values())
    return Claim(
        "time is linear in the mean K where rows are gathered", f"of K=2: {shown}", verdict(off <= 0.15, off <= 0.3)
    )


EXPERIMENT = Experiment("budget", "A dynamic number of experts", rows, claims)
