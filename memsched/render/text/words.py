"""Origins and certificates in words.

certificate_words(graph, cut, True)        No order can run mm_3 below 17.48 MiB: ...
"""

from __future__ import annotations

from memsched.core.graph import Graph
from memsched.core.result import (
    Certificate,
    CutCertificate,
    EndpointCertificate,
    ForcingCertificate,
    StatementCertificate,
    TreeCertificate,
)
from memsched.core.sizes import format_bytes
from memsched.records.origin import Origin

__all__ = ["certificate_words", "clipped", "gap_words", "type_of"]


def clipped(text: str, length: int) -> str:
    """`text`, with its middle left out where it is longer than `length`."""
    if len(text) <= length:
        return text
    return text[: length * 2 // 3] + "…" + text[len(text) - (length - length * 2 // 3 - 1) :]


def type_of(origin: Origin) -> str:
    """`float32[4, 128]`, or what is known of it."""
    return origin.dtype + (f"[{', '.join(map(str, origin.shape))}]" if origin.dtype or origin.shape else "")


def certificate_words(graph: Graph, certificate: Certificate | None, proved: bool) -> str:
    """Why no order needs less than the bound; `proved`: `memsched.check.certificate` followed the proof."""
    checked = "memsched followed this proof again." if proved else "This is a claim that was not followed again."
    match certificate:
        case None:
            return "Nothing was proved about how low the peak of this graph can be."
        case EndpointCertificate(bound):
            where = (
                "starts with all its inputs live" if bound == graph.start_bytes else "ends with all its outputs live"
            )
            return f"Every order {where}: {format_bytes(bound)}. {checked}"
        case CutCertificate(bound, op):
            added = graph.output_bytes[op] + graph.ops[op].workspace
            return (
                f"No order can run {clipped(graph.ops[op].name, 120)} below {format_bytes(bound)}: when it starts, "
                f"all that it depends on has run and nothing that depends on it has; the least such state holds "
                f"{format_bytes(bound - added)} (a minimum cut, with the flow that proves it), and the op adds "
                f"{format_bytes(added)}. {checked}"
            )
        case ForcingCertificate(bound, steps):
            return (
                f"An order below {format_bytes(bound)} would have to respect {len(steps) - 1} more precedences, each "
                f"forced by a minimum cut, and then could not run {clipped(graph.ops[steps[-1].op].name, 120)}. "
                f"{checked}"
            )
        case TreeCertificate(bound):
            return (
                f"The precedences form a series-parallel graph; the segments of its decomposition tree show that no "
                f"order needs less than {format_bytes(bound)}. {checked}"
            )
        case StatementCertificate(bound, method, statement):
            return (
                f"{method} proved that no order needs less than {format_bytes(bound)}: {statement} "
                "Only running it again can confirm that."
            )
        case _:
            kind = type(certificate).__name__.removesuffix("Certificate").lower()
            return f"A {kind} proof shows that no order needs less than {format_bytes(certificate.bound)}. {checked}"


def gap_words(peak: int, lower_bound: int | None) -> str:
    """How far the peak can be from the least one."""
    if not lower_bound:
        return "How far the order is from the best one is not known."
    if peak == lower_bound:
        return "The order meets the bound: no order of these ops needs less."
    return f"The order is at most {peak / lower_bound - 1:.2%} above the least peak of these ops."
