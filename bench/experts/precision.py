"""Bits for each expert (2026): rank experts by the change of their router's norm, raise those with unusual variance.

    step 1   low change of the router's norm ──> more bits (they hold the rare patterns, says the paper)
    step 2   an expert whose largest neuron variance is over 3 times that of one ranked above moves up before it

Images composed of digits: of each class a frequent digit (80%) and a rare one.  Weights are rounded to the nearest of
2^bits levels between the least and the largest weight of a neuron; one bit is the sign times the mean.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.experts.claims import Claim, Experiment, Row, of, spread, verdict
from bench.experts.data import PIXELS, Pool, images, pools
from bench.experts.mixture import EXPERTS, Mixture, Routing, accuracies

__all__ = ["EXPERIMENT", "quantized"]

_RARE = 0.2
_ZETA = 3.0
_FULL = 16
_STEP_1, _BOTH = "router change, low first (step 1)", "and by variance (both steps)"
_REVERSED = "router change, high first"
_LEVELS = ((3, 1, 4), (3, 1, 8), (3, 1, 2), (4, 1, 4))
"""(high bits, low bits, experts with the high ones)."""


def quantized(weights: Tensor, bits: Tensor) -> Tensor:
    """Weights (seeds, experts, pixels, neurons) rounded to `bits` (seeds, experts); 16 leaves them as they are."""
    levels = (2.0 ** bits.clamp(min=2) - 1)[..., None, None]
    low, high = weights.amin(2, keepdim=True), weights.amax(2, keepdim=True)
    step = ((high - low) / levels).clamp_min(1e-9)
    rounded = ((weights - low) / step).round() * step + low
    mean = weights.mean(2, keepdim=True)
    signs = (weights - mean).sign() * (weights - mean).abs().mean(2, keepdim=True) + mean
    chosen = bits[..., None, None]
    return torch.where(chosen >= _FULL, weights, torch.where(chosen == 1, signs, rounded))


def _images(pool: Pool, count: int, seed: int, rare: float) -> tuple[Tensor, Tensor, Tensor]:
    """Digits 0 and 1 are the classes; a share `rare` of the images shows 2 and 3 instead; patches, classes, is rare."""
    x, y, where = images(pool, count, seed, (0, 1), range(4, 10))
    generator = np.random.default_rng([seed, 1])
    is_rare = generator.random(count) < rare
    for at in np.flatnonzero(is_rare):
        own = pool[2 + int(y[at])]
        x[at, where[at]] = torch.from_numpy(own[generator.integers(len(own))])
    return x, y, torch.from_numpy(is_rare)


def rows(seeds: int, quick: bool) -> list[Row]:
    """Accuracy (rare images weigh a fifth) of uniform bits and of every ranking at the same mean bits."""
    train, test = pools()
    mixture = Mixture.of(seeds, Routing.EXPERT, PIXELS, 6, 2, seed=11)
    before = mixture.router.detach().clone()
    sets = [_images(train, 800, 50 + seed, _RARE) for seed in range(seeds)]
    x, y = torch.stack([one[0] for one in sets]), torch.stack([one[1] for one in sets])
    mixture.descend(x, y, 40, 2.0)
    tested = _images(test, 800, 7, 0.5)
    found = _rows(mixture, tested, torch.full((seeds, EXPERTS), _FULL), "full precision")
    for bits in (1, 2, 3):
        found += _rows(mixture, tested, torch.full((seeds, EXPERTS), bits), "uniform")
    sensitivity = _sensitivity(mixture, x[:, :300], y[:, :300])
    rankings = _rankings(mixture, before, x, sensitivity)
    for name, order in rankings.items():
        for high, low, count in _LEVELS[:2] if quick else _LEVELS:
            bits_of = torch.full((seeds, EXPERTS), low).scatter(1, order[:, :count], high)
            found += _rows(mixture, tested, bits_of, name)
    change = mixture.router.detach().norm(dim=2) - before.norm(dim=2)
    found += [
        {"how": "correlation", "seed": seed, "change": _rank_correlation(change[seed], sensitivity[seed])}
        for seed in range(seeds)
    ]
    return found


def _rows(mixture: Mixture, tested: tuple[Tensor, Tensor, Tensor], bits: Tensor, how: str) -> list[Row]:
    x, y, rare = tested
    weights = quantized(mixture.weights.detach(), bits)
    frequent, seldom = (accuracies(mixture, x[part], y[part], weights) for part in (~rare, rare))
    return [
        {
            "how": how, "bits": float(bits[seed].float().mean()), "seed": seed,
            "levels": f"{int(bits[seed].max())}/{int(bits[seed].min())}",
            "accuracy": (1 - _RARE) * frequent[seed] + _RARE * seldom[seed], "rare": seldom[seed],
        }
        for seed in range(mixture.seeds)
    ]  # fmt: skip


@torch.no_grad()
def _sensitivity(mixture: Mixture, x: Tensor, y: Tensor) -> Tensor:
    """(seeds, experts): the loss when that expert alone has one bit."""
    losses = torch.zeros(mixture.seeds, EXPERTS)
    for expert in range(EXPERTS):
        bits = torch.full((mixture.seeds, EXPERTS), _FULL)
        bits[:, expert] = 1
        logits = mixture(x, quantized(mixture.weights, bits)).flatten(0, 1)
        losses[:, expert] = F.cross_entropy(logits, y.flatten(), reduction="none").view(mixture.seeds, -1).mean(1)
    return losses


@torch.no_grad()
def _rankings(mixture: Mixture, before: Tensor, x: Tensor, sensitivity: Tensor) -> dict[str, Tensor]:
    """Experts of each seed, those that get more bits first."""
    change = mixture.router.norm(dim=2) - before.norm(dim=2)
    variance = mixture.weights.var(2).amax(2)
    usage = (mixture.gates(x) > 0).float().mean((1, 2))
    step_1 = change.argsort(1)
    both = [_raised(order.tolist(), variance[seed].tolist()) for seed, order in enumerate(step_1)]
    shuffled = torch.rand(change.shape, generator=torch.Generator().manual_seed(1)).argsort(1)
    return {
        _STEP_1: step_1,
        _BOTH: torch.tensor(both),
        _REVERSED: change.argsort(1, descending=True),
        "variance, high first": variance.argsort(1, descending=True),
        "usage, high first": usage.argsort(1, descending=True),
        "random": shuffled,
        "oracle": sensitivity.argsort(1, descending=True),
    }


def _raised(order: list[int], variance: list[float]) -> list[int]:
    """Step 2, from the last rank up."""
    ranked = list(order)
    for expert in reversed(order):
        above = [at for at, other in enumerate(ranked) if _ZETA * variance[other] < variance[expert]]
        if above and ranked.index(expert) > above[0]:
            ranked.remove(expert)
            ranked.insert(above[0], expert)
    return ranked


def _rank_correlation(first: Tensor, second: Tensor) -> float:
    ranks = torch.stack([one.argsort().argsort().float() for one in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def claims(found: Sequence[Row]) -> list[Claim]:
    """What the rows decide."""
    uniform = of(found, "accuracy", how="uniform", bits=2.0)
    mixed = of(found, "accuracy", how=_BOTH, levels="3/1", bits=2.0)
    fewer = {
        how: of(found, "accuracy", how=how, levels="3/1", bits=1.5)
        for how in (_STEP_1, _BOTH, _REVERSED, "random", "oracle")
    }
    correlation = of(found, "change", how="correlation")
    return [
        _claim("both steps at 2 bits are better than uniform 2 bits", mixed, uniform),
        _claim("both steps at 1.5 bits are as good as uniform 2 bits", fewer[_BOTH], uniform),
        _claim("both steps are better than step 1 alone, at 1.5 bits", fewer[_BOTH], fewer[_STEP_1]),
        _claim("both steps are better than most change first, at 1.5 bits", fewer[_BOTH], fewer[_REVERSED]),
        _claim("step 1 alone, at 1.5 bits, is better than random", fewer[_STEP_1], fewer["random"]),
        _claim("both steps are as good as the oracle, at 1.5 bits", fewer[_BOTH], fewer["oracle"]),
        Claim(
            "experts whose router changed least are the most sensitive",
            f"rank correlation of change and sensitivity {spread(correlation, 2)}",
            verdict(max(correlation) < 0, statistics.mean(correlation) < 0),
        ),
    ]


def _claim(text: str, ours: Sequence[float], theirs: Sequence[float]) -> Claim:
    """ "Better" must exceed the deviation of both; "as good" must not fall below by more."""
    gap = statistics.mean(ours) - statistics.mean(theirs)
    noise = max(statistics.stdev(one) if len(one) > 1 else 0.0 for one in (ours, theirs))
    whole = gap >= -noise if "as good" in text else gap > noise
    return Claim(text, f"{spread(ours)} / {spread(theirs)}", verdict(whole, gap > 0))


EXPERIMENT = Experiment("precision", "Bits for each expert", rows, claims)
