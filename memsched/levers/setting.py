"""A setting: how far each lever is pulled.  Plain data; `memsched.inductor.options` gives it to the compiler.

    lever        acts on                      setting            price
    chunk_loss   logits and their gradient    chunks             kernels, one more product where the halves are apart
    recompute    what is saved                saved_share,       the forward of what is not saved, again
                                              checkpoint_blocks

Order and fusion have no setting here: every rung of the ladder is planned with both.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["Lever", "Setting", "changes_of"]

_FEWEST_CHUNKS, _MOST_CHUNKS = 4, 16
"""Beyond sixteen a chunk of the logits is smaller than what else is alive, and every chunk is a dozen kernels more."""
_SHARES = (0.5, 0.2)
"""Shares of what stock would save that are tried where a model has no list of blocks, or besides."""


class Lever(enum.StrEnum):
    """What may be changed beside order and fusion."""

    CHUNK_LOSS = "chunk_loss"
    RECOMPUTE = "recompute"


@dataclass(frozen=True, slots=True)
class Setting:
    """chunks: parts in which the loss is computed, 0 for whole.

    checkpoint_blocks: blocks of the model in a row that are recomputed together, 0 for none but the user's own.
    saved_share: of what stock would save for the backward, the share that may be saved (stock's knapsack).
    """

    chunks: int = 0
    checkpoint_blocks: int = 0
    saved_share: float = 1.0

    def __str__(self) -> str:
        parts = [
            f"loss in {self.chunks} chunks" if self.chunks else "",
            "a checkpoint per block" if self.checkpoint_blocks == 1 else "",
            f"a checkpoint per {self.checkpoint_blocks} blocks" if self.checkpoint_blocks > 1 else "",
            f"{self.saved_share:g} of the saved activations" if self.saved_share < 1 else "",
        ]
        return ", ".join(filter(None, parts)) or "order and fusion"

    def to_options(self) -> dict[str, int | float]:
        """The options of the backend that pull the levers this far; those at rest are left out."""
        options: dict[str, int | float] = {}
        if self.chunks:
            options["chunk_loss"] = self.chunks
        if self.checkpoint_blocks:
            options["checkpoint_blocks"] = self.checkpoint_blocks
        if self.saved_share < 1:
            options["saved_share"] = self.saved_share
        return options


def changes_of(setting: Setting, lever: Lever) -> Iterator[Setting]:
    """The settings to which one lever can go from `setting`, cheapest first."""
    match lever:
        case Lever.CHUNK_LOSS:
            more = setting.chunks * 4 or _FEWEST_CHUNKS
            if more <= _MOST_CHUNKS:
                yield replace(setting, chunks=more)
        case Lever.RECOMPUTE:
            if not setting.checkpoint_blocks:
                yield replace(setting, checkpoint_blocks=1, saved_share=1.0)
                yield from (replace(setting, saved_share=share) for share in _SHARES if share < setting.saved_share)
