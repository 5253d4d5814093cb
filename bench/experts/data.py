"""The inputs of the experiments: real digits, images composed of them, and one-dimensional digits.

    16 patches of 8x8 pixels       7 4 [1] 9 2 ...    one patch holds a digit of the class, the others distract

`digits` are the 1,797 handwritten digits that scikit-learn ships (UCI, Alpaydin and Kaynak, CC BY 4.0).  Images of
16 patches follow the MNIST experiment of Chowdhury et al. (ICML 2023).  `signals` are mnist1d (Greydanus, 2020), made
anew.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

__all__ = ["PATCHES", "PIXELS", "Images", "Pool", "digits", "images", "images_per_seed", "pools", "signals"]

PATCHES, PIXELS = 16, 64
_BRIGHTNESS = 2.4
"""A patch then has the norm of one of MNIST's, so that the paper's learning rate can be kept."""
_TRAINED_SHARE = 0.6

Pool = dict[int, np.ndarray]
"""Digits by class: (count, 64)."""

Images = tuple[Tensor, Tensor, Tensor]
"""Patches (n, 16, 64), classes (n,), and where the patch of the class is (n,)."""


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels in 0..1, (1797, 64), and labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return (found.data / 16.0).astype("float32"), found.target.astype("int64")


@functools.cache
def pools() -> tuple[Pool, Pool]:
    """Digits for training and for testing; no digit is in both."""
    pixels, labels = digits()
    generator = np.random.default_rng(0)
    train, test = {}, {}
    for label in range(10):
        members = generator.permutation(np.flatnonzero(labels == label))
        cut = int(_TRAINED_SHARE * len(members))
        train[label], test[label] = pixels[members[:cut]] * _BRIGHTNESS, pixels[members[cut:]] * _BRIGHTNESS
    return train, test


def images(
    pool: Pool, count: int, seed: int, classes: Sequence[int] = (0, 1), distract: Sequence[int] = range(2, 10)
) -> Images:
    """`count` images, classes in turn; the other 15 patches are drawn from the digits `distract`."""
    generator = np.random.default_rng(seed)
    others = np.concatenate([pool[label] for label in distract])
    patches = others[generator.integers(len(others), size=(count, PATCHES))]
    labels, where = np.arange(count) % len(classes), generator.integers(PATCHES, size=count)
    for at in range(count):
        own = pool[classes[labels[at]]]
        patches[at, where[at]] = own[generator.integers(len(own))]
    return torch.from_numpy(patches), torch.from_numpy(labels), torch.from_numpy(where)


def images_per_seed(
    pool: Pool,
    count: int,
    seeds: int,
    first: int,
    classes: Sequence[int] = (0, 1),
    distract: Sequence[int] = range(2, 10),
) -> tuple[Tensor, Tensor]:
    """Images and classes of one data set for each seed: (seeds, count, 16, 64) and (seeds, count)."""
    sets = [images(pool, count, first + seed, classes, distract) for seed in range(seeds)]
    return torch.stack([one[0] for one in sets]), torch.stack([one[1] for one in sets])


@functools.cache
def signals() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mnist1d: 4,000 signals of 40 numbers in 10 classes for training, 1,000 for testing; x, y, x_test, y_test."""
    from mnist1d.data import get_dataset_args, make_dataset

    arguments: SimpleNamespace = get_dataset_args()
    state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # of whom it sets the seeds
    made = make_dataset(arguments)
    torch.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])
    x, x_test = (torch.tensor(made[name], dtype=torch.float32) for name in ("x", "x_test"))
    y, y_test = (torch.tensor(made[name]).long() for name in ("y", "y_test"))
    return x, y, x_test, y_test
