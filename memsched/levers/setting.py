"""A setting: how far each lever is pulled.  Plain data; `memsched.inductor.options` gives it to the compiler.

    lever        acts on                      setting            price
    chunk_loss   logits and their gradient    chunks             kernels, one more product where the halves are apart
    recompute    what is saved                saved_share,       the forward of what is not saved, again
                                              checkpoint_blocks,
                                              checkpoint_share
    chunk_tokens the wide inside of blocks    token_chunks       kernels, and that inside again in the backward
    offload      what is saved                offload_share      its bytes over the link to the host, twice

Order and fusion have no setting here: every rung of the ladder is planned with both.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["AUTOMATIC", "Lever", "Setting", "between", "changes_of"]

_FEWEST_CHUNKS, _MOST_CHUNKS = 4, 16
"""Beyond sixteen a chunk of the logits is smaller than what else is alive, and every chunk is a dozen kernels more."""
_SHARES = (0.5, 0.2)
"""Shares of what stock would save that are tried where a model has no list of blocks, or besides."""

_OFFLOADS = (0.5, 1.0)
"""Shares of what is saved that wait on the host."""

_FINER_SHARES = (0.9, 0.8, 0.65, 0.4, 0.3)
_FINER_CHECKPOINTS = (0.25, 0.5, 0.75)
_FINER_OFFLOADS = (0.125, 0.25, 0.375, 0.75)
"""What is tried between two rungs of which one needs more than the budget, and the other costs more than it must."""


class Lever(enum.StrEnum):
    """What may be changed beside order and fusion."""

    CHUNK_LOSS = "chunk_loss"
    RECOMPUTE = "recompute"
    CHUNK_TOKENS = "chunk_tokens"
    OFFLOAD = "offload"


AUTOMATIC = (Lever.CHUNK_LOSS, Lever.RECOMPUTE)
"""The levers that are pulled where none is named: of the others no step time has been measured on a GPU."""


@dataclass(frozen=True, slots=True)
class Setting:
    """chunks: parts in which the loss is computed, 0 for whole.

    checkpoint_blocks: blocks of the model in a row that are recomputed together, 0 for none but the user's own.
    checkpoint_share: of the blocks, the share that is recomputed so: the first ones, whose backward comes last, when
        what the others had saved is gone.
    saved_share: of what stock would save for the backward, the share that may be saved (stock's knapsack).
    token_chunks: parts of the tokens for which the wide inside of each block is computed, 0 for all at once.
    offload_share: of the bytes that are saved on a GPU, the share that waits in the memory of the host: the first ones.
    """

    chunks: int = 0
    checkpoint_blocks: int = 0
    checkpoint_share: float = 1.0
    saved_share: float = 1.0
    token_chunks: int = 0
    offload_share: float = 0.0

    def __str__(self) -> str:
        parts = [
            f"loss in {self.chunks} chunks" if self.chunks else "",
            self._checkpoints(),
            f"{self.saved_share:g} of the saved activations" if self.saved_share < 1 else "",
            f"blocks in {self.token_chunks} chunks of tokens" if self.token_chunks else "",
            f"{self.offload_share:.0%} of what is saved on the host" if self.offload_share else "",
        ]
        return ", ".join(filter(None, parts)) or "order and fusion"

    def _checkpoints(self) -> str:
        if not self.checkpoint_blocks:
            return ""
        blocks = "block" if self.checkpoint_blocks == 1 else f"{self.checkpoint_blocks} blocks"
        where = f" in the first {self.checkpoint_share:.0%}" if self.checkpoint_share < 1 else ""
        return f"a checkpoint per {blocks}{where}"

    def to_options(self) -> dict[str, int | float]:
        """The options of the backend that pull the levers this far; those at rest are left out."""
        options: dict[str, int | float] = {}
        if self.chunks:
            options["chunk_loss"] = self.chunks
        if self.checkpoint_blocks:
            options["checkpoint_blocks"] = self.checkpoint_blocks
            if self.checkpoint_share < 1:
                options["checkpoint_share"] = self.checkpoint_share
        if self.saved_share < 1:
            options["saved_share"] = self.saved_share
        if self.token_chunks:
            options["chunk_tokens"] = self.token_chunks
        if self.offload_share:
            options["offload"] = self.offload_share
        return options


def changes_of(setting: Setting, lever: Lever) -> Iterator[Setting]:
    """The settings to which one lever can go from `setting`, cheapest first."""
    match lever:
        case Lever.CHUNK_LOSS:
            more = setting.chunks * 4 or _FEWEST_CHUNKS
            if more <= _MOST_CHUNKS:
                yield replace(setting, chunks=more)
        case Lever.CHUNK_TOKENS:
            more = setting.token_chunks * 4 or _FEWEST_CHUNKS
            if more <= _MOST_CHUNKS:
                yield replace(setting, token_chunks=more)
        case Lever.OFFLOAD:
            yield from (replace(setting, offload_share=share) for share in _OFFLOADS if share > setting.offload_share)
        case Lever.RECOMPUTE:
            if not setting.checkpoint_blocks:
                yield replace(setting, checkpoint_blocks=1, saved_share=1.0)
                yield from (replace(setting, saved_share=share) for share in _SHARES if share < setting.saved_share)


def between(lower: Setting, higher: Setting) -> Iterator[Setting]:
    """Settings that recompute or move more than `lower` and, as far as one can tell, less than `higher`."""
    shares = sorted({*_SHARES, *_FINER_SHARES}, reverse=True)
    if higher.offload_share > lower.offload_share:
        more = (share for share in _FINER_OFFLOADS if lower.offload_share < share < higher.offload_share)
        yield from (replace(higher, offload_share=share) for share in more)
    elif higher.checkpoint_blocks and not lower.checkpoint_blocks:
        yield from (replace(higher, checkpoint_share=share) for share in _FINER_CHECKPOINTS)
        fewer = (share for share in shares if share < lower.saved_share)
        yield from (replace(higher, checkpoint_blocks=0, saved_share=share) for share in fewer)
    elif higher.saved_share < lower.saved_share:
        fewer = (share for share in shares if higher.saved_share < share < lower.saved_share)
        yield from (replace(higher, saved_share=share) for share in fewer)
