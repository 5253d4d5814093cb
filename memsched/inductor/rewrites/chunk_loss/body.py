"""What one chunk of a region computes: from rows of what comes from outside, its part of every result.

leaves: rows of x, of the targets, all of w ──> logits ──> ... ──┬──> sums so far + this chunk's
                                                                 ├──> rows of results
                                                                 └──> operands of products that are added up outside
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, fx

from memsched.inductor.rewrites.chunk_loss.region import Region
from memsched.inductor.rewrites.chunk_loss.rows import Dims, Operand, Piece, shape_of

__all__ = ["Body"]


class Body:
    """What is computed for one chunk, from the leaves and the sums over the chunks before.

    outputs: the nodes whose results it gives: sums, then rows.
    products: sums that are made outside; operands: what they need of a chunk, given behind the outputs.
    leaves: what is read from outside, each once.
    """

    def __init__(
        self,
        region: Region,
        known: Callable[[fx.Node], bool],
        outputs: Sequence[fx.Node],
        products: Sequence[fx.Node],
    ) -> None:
        self._region, self._known = region, known
        self.products = list(products)
        self.sums = [node for node in outputs if region.pieces[node].is_sum and node not in self.products]
        self._by_rows = [node for node in outputs if not region.pieces[node].is_sum]
        read = [one for node in products for one in region.pieces[node].operands]
        self.operands = list(dict.fromkeys(one for one in read if self._source(one) is not None))
        leaves = (leaf for node in (*self.outputs, *products) for leaf in self._leaves(region.pieces[node], set()))
        self.leaves = list(dict.fromkeys(leaves))

    @property
    def outputs(self) -> list[fx.Node]:
        return self.sums + self._by_rows

    def _source(self, operand: Operand) -> Piece | None:
        return None if self._known(operand.node) else self._region.source(operand)

    def _leaves(self, piece: Piece, seen: set[Operand]) -> Iterator[Operand]:
        for operand in piece.operands:
            if operand in seen:
                continue
            seen.add(operand)
            source = self._source(operand)
            if source is None:
                yield operand
            else:
                yield from self._leaves(source, seen)

    def run(self, rows: int, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs and operands for a chunk of so many rows.

        inputs: the leaves, then the sums so far; none for the first.
        """
        done = dict(zip(self.leaves, inputs, strict=False))
        totals = inputs[len(self.leaves) :]

        def value(operand: Operand) -> Tensor:
            if operand not in done:
                piece = self._source(operand)
                assert piece is not None
                done[operand] = computed(piece)
            return done[operand]

        def computed(piece: Piece) -> Tensor:
            return piece.compute(rows, {operand.node: value(operand) for operand in piece.operands})

        pieces = self._region.pieces
        sums = [computed(pieces[node]) for node in self.sums]
        added = [total + part for total, part in zip(totals, sums, strict=True)] if totals else sums
        by_rows = [_as_operand(node, pieces[node].rows) for node in self._by_rows]
        return (*added, *map(value, by_rows + self.operands))


def _as_operand(node: fx.Node, rows: Dims) -> Operand:
    shape = shape_of(node)
    return Operand(node, rows, tuple(shape[row] for row in rows))
