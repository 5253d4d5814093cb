"""Patch-level routing (pMoE; Chowdhury, Zhang, Wang, Liu, Chen, ICML 2023): fewer samples, less work.

    image ── 16 patches ──> every expert's router takes the l patches that it scores highest ──> small ReLU network
                                                                                     mean over patches ──> 0 or 1

Against convolutional networks of 4, 40 and 320 filters (every filter sees every patch), a mixture that routes whole
images, and, because it may choose patches too, a convolutional network with attention pooling.  All seeds are trained
at once, as one stack.  The head is fixed, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.experts.claims import Claim, Experiment, Row, of, spread, verdict
from bench.experts.data import images, images_per_seed, pools
from bench.experts.patch_networks import PatchNetwork, train, train_routers
from bench.experts.wide_resnet import flops_of_forms

__all__ = ["EXPERIMENT"]

_SIZES = (20, 40, 100, 300, 1000)
_QUICK_SIZES = (40,)
_TARGET = 0.95
_EPOCHS = 150
_NETWORKS: dict[str, dict[str, object]] = {
    "CNN 4": {"kind": "cnn", "filters": 4},
    "CNN 40": {"kind": "cnn", "filters": 40},
    "CNN 320": {"kind": "cnn", "filters": 320},
    "CNN 40, attention pooling": {"kind": "attention", "filters": 40},
    "mixture of samples": {"kind": "samples", "filters": 40},
    "pMoE, l=6": {"kind": "patches", "filters": 40, "chosen": 6},
}
_LS = (1, 2, 4, 8, 16)


def rows(seeds: int, quick: bool) -> list[Row]:
    """Accuracy against samples; where the routers send the patch of the class; accuracy against l; FLOPs."""
    found = []
    names = ("CNN 40", "pMoE, l=6") if quick else tuple(_NETWORKS)
    for samples in _QUICK_SIZES if quick else _SIZES:
        x, y = images_per_seed(pools()[0], samples, seeds, first=1000)
        for name in names:
            network = PatchNetwork.of(seeds, **_NETWORKS[name])  # type: ignore[arg-type]
            train(network, x, y.float(), _EPOCHS)
            more = _routing(network) if network.kind == "patches" else [{} for _ in range(seeds)]
            found += [
                {
                    "what": "samples",
                    "network": name,
                    "samples": samples,
                    "seed": seed,
                    "accuracy": accuracy,
                    **more[seed],
                }
                for seed, accuracy in enumerate(_accuracies(network))
            ]
    if not quick:
        found += _rows_of_l(seeds)
    return found + flops_of_forms()


def _rows_of_l(seeds: int) -> list[Row]:
    """40 samples, more and more patches for each expert; routers trained with the experts, or before them."""
    found = []
    x, y = images_per_seed(pools()[0], 40, seeds, first=1000)
    for chosen in _LS:
        for routers in ("with the experts", "before"):
            apart = routers == "before"
            network = PatchNetwork.of(
                seeds, "apart" if apart else "patches", 40, experts=2 if apart else 8, chosen=chosen
            )
            if apart:
                train_routers(network, x, y.float())
            train(network, x, y.float(), _EPOCHS)
            found += [
                {"what": "l", "routers": routers, "l": chosen, "seed": seed, "accuracy": accuracy}
                for seed, accuracy in enumerate(_accuracies(network))
            ]
    return found


@torch.no_grad()
def _accuracies(network: PatchNetwork) -> list[float]:
    x, y, _ = images(pools()[1], 1000, seed=99)
    outputs = [network(part.expand(network.seeds, -1, -1, -1)) for part in x.split(250)]
    correct = (torch.cat(outputs, 1) > 0) == (y == 1)
    return [float(share) for share in correct.float().mean(1)]


@torch.no_grad()
def _routing(network: PatchNetwork) -> list[Row]:
    """For each seed: the share of each class's patches that its best expert takes, and whether that is one expert."""
    x, y, where = images(pools()[1], 1000, seed=99)
    gates = torch.cat([network.gates(part.expand(network.seeds, -1, -1, -1)) for part in x.split(250)], 1)
    at = where[None, :, None, None].expand(network.seeds, -1, 1, gates.shape[-1])
    taken = (gates.gather(2, at)[:, :, 0] > 0).float()
    shares = [taken[:, y == label].mean(1) for label in (0, 1)]
    return [
        {
            "hit 0": float(shares[0][seed].max()),
            "hit 1": float(shares[1][seed].max()),
            "one expert for both": bool(shares[0][seed].argmax() == shares[1][seed].argmax()),
        }
        for seed in range(network.seeds)
    ]


def claims(found: Sequence[Row]) -> list[Claim]:
    """What the rows decide."""
    decided = [*_claims_of_samples(found), _claim_of_routers(found)]
    if any(row["what"] == "l" for row in found):
        decided.append(_claim_of_l(found))
    form = {row["form"]: row["of dense"] for row in found if row["what"] == "flops"}
    gathered, masked = form["gathered, l=2"], form["masked, l=2"]
    decided.append(
        Claim(
            "WRN-pMoE needs about half the FLOPs of its dense form",
            f"{gathered:.2f} where patches are gathered, {masked:.2f} where the image is masked (the published code)",
            verdict(gathered <= 0.55, gathered < 1),
        )
    )
    return decided


def _claims_of_samples(found: Sequence[Row]) -> list[Claim]:
    decided = []
    sizes = sorted({row["samples"] for row in found if row["what"] == "samples"})
    rivals = sorted({row["network"] for row in found if row["what"] == "samples"} - {"pMoE, l=6"})
    for rival in rivals:
        figures, better = [], 0
        for samples in sizes:
            ours = of(found, "accuracy", what="samples", network="pMoE, l=6", samples=samples)
            theirs = of(found, "accuracy", what="samples", network=rival, samples=samples)
            figures.append(f"{samples}: {spread(ours)} / {spread(theirs)}")
            better += sum(ours) > sum(theirs)
        ours_needs, theirs_needs = (_samples_needed(found, name, sizes) for name in ("pMoE, l=6", rival))
        half = ours_needs is not None and (theirs_needs is None or ours_needs <= theirs_needs / 2)
        needs = f"{ours_needs or f'> {sizes[-1]}'} samples for {_TARGET}, {theirs_needs or f'> {sizes[-1]}'}"
        decided.append(
            Claim(
                f"half the samples of {rival}",
                f"{needs}; accuracy {', '.join(figures)}",
                verdict(half, better == len(sizes)),
            )
        )
    return decided


def _samples_needed(found: Sequence[Row], network: str, sizes: Sequence[int]) -> int | None:
    for samples in sizes:
        accuracies = of(found, "accuracy", what="samples", network=network, samples=samples)
        if sum(accuracies) / len(accuracies) >= _TARGET:
            return samples
    return None


def _claim_of_routers(found: Sequence[Row]) -> Claim:
    samples = max(row["samples"] for row in found if "hit 0" in row)
    hits = [of(found, f"hit {label}", samples=samples, network="pMoE, l=6") for label in (0, 1)]
    shared = sum(of(found, "one expert for both", samples=samples, network="pMoE, l=6"))
    sent = min(sum(hit) / len(hit) for hit in hits) >= 0.9
    return Claim(
        "the patch of each class goes to an expert of its own",
        f"{spread(hits[0])} and {spread(hits[1])} of them; one expert for both in {shared:.0f} of {len(hits[0])} seeds",
        verdict(sent and not shared, sent),
    )


def _claim_of_l(found: Sequence[Row]) -> Claim:
    """More patches for each expert need more samples, so that 40 of them give less; both ways of training."""
    means, figures = {}, []
    for routers in ("before", "with the experts"):
        by_l = [of(found, "accuracy", what="l", routers=routers, l=chosen) for chosen in _LS]
        means[routers] = [sum(values) / len(values) for values in by_l]
        figures.append(f"trained {routers}: {', '.join(spread(values, 2) for values in by_l)}")
    falls = {routers: values[1] > values[-1] + 0.02 for routers, values in means.items()}
    return Claim(
        "samples needed grow as a polynomial in l",
        f"accuracy with 40 samples, l = {', '.join(map(str, _LS))}: {'; '.join(figures)}",
        verdict(all(falls.values()), any(falls.values())),
    )


EXPERIMENT = Experiment("patches", "Patch-level routing", rows, claims)
