"""Where a buffer comes from, in the words of the person who wrote the model.  Plain data, filled in elsewhere.

Origin(dtype="float32", shape=(4, 128, 256), operator="aten.gelu", source="model.py:41 in forward: F.gelu(x)",
       module="blocks.3.feed_forward.1", role="saved for backward")
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Origin"]


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known about one buffer; empty where nothing is.

    source: "file:line in function: code" of the user's own innermost frame; module: path inside the model;
    role: what the buffer is to the caller of the graph, several joined by ", " ("saved for backward", "gradient",
    "output", "saved by forward", "incoming gradient", "updated input"), empty for what only the graph itself reads.
    """

    dtype: str = ""
    shape: tuple[int, ...] = ()
    operator: str = ""
    source: str = ""
    module: str = ""
    role: str = ""
