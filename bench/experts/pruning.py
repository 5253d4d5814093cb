"""Pruning experts by the change of their router's norm (Chowdhury et al., ICML 2024): which scores are safe?

    pretrain on 8 classes ──> fine-tune on 2 ──> prune the experts of the lowest score ──> (tune again)

Two settings: images composed of digits, expert choice, plain gradient descent (the theory's setting); and real digits
cut into nine patches, both routings, fine-tuned with SGD or with Adam.  Scores, of which the highest are kept: change
of the router's norm, importance (gradient of the loss by the expert's gate), change of the neurons' norms, norm of the
router, magnitude of the neurons, usage, and random.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.experts.claims import Claim, Experiment, Row, of, spread, verdict
from bench.experts.data import PIXELS, digits, images, images_per_seed, pools
from bench.experts.mixture import EXPERTS, Mixture, Routing, accuracies

__all__ = ["EXPERIMENT", "scores"]

_MOST = 12
"""Of 16 experts: how many are pruned where scores are compared."""
_PRUNED = (4, 8, 12, 14)
_CLASSES = (3, 8)
_SCORES = ("router change", "importance", "neuron change", "router norm", "magnitude", "usage", "random")


def scores(before: Mixture, after: Mixture, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """(seeds, experts) of every score of `after`, which was tuned from `before`; x, y are its training set."""
    weights, router = after.weights.detach(), after.router.detach()
    norms = weights.norm(dim=2)
    alive = after.alive.clone().requires_grad_()
    after.alive, kept = alive, after.alive
    loss = F.cross_entropy(after(x).flatten(0, 1), y.flatten())
    (importance,) = torch.autograd.grad(loss, alive)
    after.alive = kept
    with torch.no_grad():
        usage = (after.gates(x) > 0).float().mean((1, 2))
    return {
        "router change": router.norm(dim=2) - before.router.detach().norm(dim=2),
        "importance": importance.abs(),
        "neuron change": (norms - before.weights.detach().norm(dim=2)).mean(2),
        "router norm": router.norm(dim=2),
        "magnitude": norms.mean(2),
        "usage": usage,
        "random": torch.rand(usage.shape, generator=torch.Generator().manual_seed(5)),
    }


def rows(seeds: int, quick: bool) -> list[Row]:
    """Accuracy of every score and number of pruned experts, in every setting."""
    found = _composed(seeds, quick)
    if not quick:
        for routing in Routing:
            found += _real_digits(seeds, routing)
    return found


def _composed(seeds: int, quick: bool) -> list[Row]:
    train, test = pools()
    x, y = images_per_seed(train, 600 if quick else 1200, seeds, 100, range(8), (8, 9))
    before = Mixture.of(seeds, Routing.EXPERT, PIXELS, 6, 8).descend(x, y, 15 if quick else 30, 2.0)
    x, y = images_per_seed(train, 400, seeds, 300)
    head = Mixture.of(seeds, Routing.EXPERT, PIXELS, 6, 2, seed=3).head
    after = before.copy(head).descend(x, y, 40, 2.0)
    x_test, y_test, _ = images(test, 600, seed=9)
    where = {"setting": "composed", "routing": Routing.EXPERT.value, "tuned": "descent"}
    return _pruned(before, after, (x, y), (x_test, y_test), where, quick)


def _real_digits(seeds: int, routing: Routing) -> list[Row]:
    """Nine overlapping patches of 4x4 with their positions; pretrained on ten digits, tuned to tell 3 from 8."""
    pixels, labels = (torch.from_numpy(one) for one in digits())
    cut = pixels.view(-1, 8, 8).unfold(1, 4, 2).unfold(2, 4, 2).reshape(-1, 9, 16)
    x = torch.cat([cut, 0.5 * torch.eye(9).expand(len(cut), 9, 9)], 2) * 1.5
    orders = [torch.from_numpy(np.random.default_rng(seed).permutation(len(x))) for seed in range(seeds)]
    train, test = torch.stack([order[:1200] for order in orders]), torch.stack([order[1200:] for order in orders])
    scale = 3.0 if routing is Routing.TOKEN else 6.0
    before = Mixture.of(seeds, routing, 25, 8, 10, std=0.2, scale=scale).optimize(
        x[train], labels[train], 40, 0.01, True
    )
    found = []
    few, rest = (_only(labels, part, count) for part, count in ((train, 200), (test, 100)))
    for adam, rate in ((False, 0.3), (True, 0.005)):
        head = Mixture.of(seeds, routing, 25, 8, 2, seed=3).head
        after = before.copy(head).optimize(x[few], _binary(labels[few]), 60, rate, adam)
        where = {"setting": "real digits", "routing": routing.value, "tuned": "Adam" if adam else "SGD"}
        found += _pruned(before, after, (x[few], _binary(labels[few])), (x[rest], _binary(labels[rest])), where, False)
    return found


def _only(labels: Tensor, members: Tensor, count: int) -> Tensor:
    """The first `count` of each row of `members` that are of the two classes."""
    wanted = torch.tensor(_CLASSES)
    return torch.stack([row[torch.isin(labels[row], wanted)][:count] for row in members])


def _binary(labels: Tensor) -> Tensor:
    return (labels == _CLASSES[1]).long()


def _pruned(
    before: Mixture,
    after: Mixture,
    trained: tuple[Tensor, Tensor],
    tested: tuple[Tensor, Tensor],
    where: dict[str, Any],
    quick: bool,
) -> list[Row]:
    """Rows of all scores; where 12 are pruned by descent's networks, tuned again, too."""
    found = [
        {"score": "none", "pruned": 0, "seed": seed, "accuracy": accuracy} | where
        for seed, accuracy in enumerate(accuracies(after, *tested))
    ]
    for name, values in scores(before, after, *trained).items():
        order = values.argsort(1)
        for count in (_MOST,) if quick else _PRUNED:
            left = after.without(order[:, :count])
            reached = accuracies(left, *tested)
            again: list[float] | None = None
            if count == _MOST and where["tuned"] == "descent" and not quick:
                again = accuracies(left.copy().descend(*trained, 15, 2.0), *tested)
            found += [
                {"score": name, "pruned": count, "seed": seed, "accuracy": accuracy} | where
                | ({"tuned again": again[seed]} if again else {})
                for seed, accuracy in enumerate(reached)
            ]  # fmt: skip
    return found


def claims(found: Sequence[Row]) -> list[Claim]:
    """What the rows decide."""
    composed = [row for row in found if row["setting"] == "composed"]
    decided = [_claim_against(composed, "random", "composed images, expert choice, descent")]
    decided.append(_claim_safe(composed))
    settings = sorted({(row["routing"], row["tuned"]) for row in found if row["setting"] == "real digits"})
    for routing, tuned in settings:
        part = [
            row for row in found if (row["setting"], row["routing"], row["tuned"]) == ("real digits", routing, tuned)
        ]
        for rival in ("random", "magnitude"):
            decided.append(_claim_against(part, rival, f"real digits, {routing}, {tuned}"))
    return decided


def _claim_against(part: Sequence[Row], rival: str, where: str) -> Claim:
    ours, theirs = (of(part, "accuracy", score=name, pruned=_MOST) for name in ("router change", rival))
    gap = statistics.mean(ours) - statistics.mean(theirs)
    noise = max(statistics.stdev(one) if len(one) > 1 else 0.0 for one in (ours, theirs))
    return Claim(
        f"the change of the router's norm prunes better than {rival}: {where}",
        f"{_MOST} of {EXPERTS} pruned: {spread(ours)} / {spread(theirs)}",
        verdict(gap > noise, gap > 0),
    )


def _claim_safe(part: Sequence[Row]) -> Claim:
    """Provably safe: what is pruned costs nothing."""
    whole = of(part, "accuracy", score="none")
    by_score = {name: of(part, "accuracy", score=name, pruned=_MOST) for name in _SCORES}
    lost = statistics.mean(whole) - statistics.mean(by_score["router change"])
    shown = ", ".join(f"{name} {spread(values, 2)}" for name, values in by_score.items())
    return Claim(
        "pruning by it is safe",
        f"all experts {spread(whole)}; {_MOST} of {EXPERTS} pruned: {shown}",
        verdict(lost <= 0.01, lost <= 0.05),
    )


EXPERIMENT = Experiment("pruning", "Pruning of experts", rows, claims)
