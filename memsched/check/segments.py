"""The least peak of a series-parallel order with modular memory, recomputed by a checker.

A tree comes in postfix form: leaves, and (kind, number of operands).  Running leaf v climbs `humps[v]` bytes above the
level and then falls by `drops[v]`.  `least_profile` returns (hump, drop) segments whose peak, run from left to right,
no order that the tree allows can undercut.  A part is kept as two lists: the segments before its minimum cut, which
fall, by rising hump, and those after it, by falling drop; together they are in *Johnson's order*.

    x = (4, 0), y = (1, 3), z = (2, 3)      P(y, z)          before the cut: y z      after it: nothing
                                            S(x, P(y, z))    before: nothing          after: x y z as one, (5, 4)

**Why it is the least.**  Two exchange arguments, applied bottom-up:

    1. Adjacent segments s, t of different branches cost max(hump_s, net_s + hump_t), where net = hump - drop, and
       leave the same level in either sequence.  Johnson's order of the two is never the worse one: if s falls, s first
       costs at most max(hump_s, hump_t), so falling segments come first, the lower hump before the higher; read
       backwards the same holds for segments that rise.
    2. If s must precede t and does not come before it in Johnson's order, whatever other branches run between them
       may be moved before s or after t, by 1.  So s and t may be fused to one segment.

This file shares no code with `memsched.series_parallel.segments`, which keeps heaps; here lists are merged and sorted.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence

__all__ = ["Composition", "Postfix", "least_profile"]

Composition = tuple[str, int]
"""("S" or "P", number of operands)"""

Postfix = list[int | Composition]
"""Leaves and compositions, each composition after its operands."""

_Profile = tuple[list[tuple[int, int]], list[tuple[int, int]]]


def least_profile(program: Postfix, humps: Sequence[int], drops: Sequence[int]) -> list[tuple[int, int]]:
    """The (hump, drop) segments of an order of least relaxed peak, by the arguments above."""
    profiles: list[_Profile] = []
    for symbol in program:
        if isinstance(symbol, int):
            segment = humps[symbol], drops[symbol]
            profiles.append(([segment], []) if segment[1] > segment[0] else ([], [segment]))
            continue
        kind, count = symbol
        operands = profiles[-count:]
        del profiles[-count:]
        if kind == "P":
            before = _merged([falling for falling, _ in operands], lambda segment: segment[0])
            after = _merged([rising for _, rising in operands], lambda segment: -segment[1])
            profiles.append((before, after))
        else:
            joined = operands[0]
            for operand in operands[1:]:
                joined = _one_after_the_other(joined, operand)
            profiles.append(joined)
    before, after = profiles[0]
    return before + after


def _merged(lists: list[list[tuple[int, int]]], key: Callable[[tuple[int, int]], int]) -> list[tuple[int, int]]:
    """The sorted lists as one; a few segments beside many are inserted, not sorted anew."""
    lists.sort(key=len)
    longest = lists.pop()
    others = list(itertools.chain.from_iterable(lists))
    if len(others) * 16 > len(longest):
        longest.extend(others)
        longest.sort(key=key)
    else:
        for segment in others:
            bisect.insort(longest, segment, key=key)
    return longest


def _one_after_the_other(left: _Profile, right: _Profile) -> _Profile:
    """Fuse at the border while it is out of order; what is left of `left` then precedes what is left of `right`."""
    middle: tuple[int, int] | None = None
    while True:
        last = left[1][-1] if left[1] else left[0][-1] if left[0] else None
        first = right[0][0] if right[0] else right[1][0] if right[1] else None
        if last is not None and not _strictly_before(last, middle or first):
            (left[1] or left[0]).pop()
            if middle is None and first is not None:
                (right[0] or right[1]).pop(0)
                middle = _fused(last, first)
            elif middle is not None:
                middle = _fused(last, middle)
        elif middle is not None and first is not None and not _strictly_before(middle, first):
            (right[0] or right[1]).pop(0)
            middle = _fused(middle, first)
        else:
            break
    for segment in [] if middle is None else [middle]:
        (left[0] if segment[1] > segment[0] else left[1]).append(segment)
    return _extended(left[0], right[0]), _extended(left[1], right[1])


def _extended(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if len(left) < len(right):
        right[:0] = left
        return right
    left += right
    return left


def _strictly_before(one: tuple[int, int], other: tuple[int, int] | None) -> bool:
    """Whether `one` comes before `other` in Johnson's order, and not level with it; True when there is no other."""
    if other is None:
        return True
    falls, other_falls = one[1] > one[0], other[1] > other[0]
    if falls != other_falls:
        return falls
    return one[0] < other[0] if falls else one[1] > other[1]


def _fused(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    after_one = one[0] - one[1]
    hill = max(one[0], after_one + other[0])
    valley = after_one + other[0] - other[1]
    return hill, hill - valley
