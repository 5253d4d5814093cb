"""Where a buffer comes from, in the words of the person who wrote the model.  Plain data, filled in elsewhere.

    Origin(dtype="float32", shape=(4, 128, 256), operator="aten.gelu", source="model.py:41 in forward: F.gelu(x)",
           module="blocks.3.feed_forward.1", role=Role.SAVED_FOR_BACKWARD | Role.OUTPUT)

A buffer may have several roles at once: an activation that is returned and saved has two.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Origin", "Role"]


class Role(enum.Flag):
    """What a buffer is to the caller of its graph; NONE for what only the graph itself reads.

    In files and for people a role is its words: "saved for backward, output".
    """

    NONE = 0
    INPUT = enum.auto()
    SAVED_BY_FORWARD = enum.auto()
    INCOMING_GRADIENT = enum.auto()
    SAVED_FOR_BACKWARD = enum.auto()
    GRADIENT = enum.auto()
    UPDATED_INPUT = enum.auto()
    OUTPUT = enum.auto()
    SAVED = SAVED_BY_FORWARD | SAVED_FOR_BACKWARD

    def __str__(self) -> str:
        return ", ".join(words for words, role in _ROLES.items() if role in self)

    @classmethod
    def parse(cls, text: str) -> Role:
        """The role that `str` wrote as `text`; raises ValueError, which names the word that is none."""
        role = cls.NONE
        for words in filter(None, text.split(", ")):
            if words not in _ROLES:
                raise ValueError(f"{words[:40]!r} is not one of {', '.join(_ROLES)}")
            role |= _ROLES[words]
        return role


_ROLES = {
    "input": Role.INPUT,
    "saved by forward": Role.SAVED_BY_FORWARD,
    "incoming gradient": Role.INCOMING_GRADIENT,
    "saved for backward": Role.SAVED_FOR_BACKWARD,
    "gradient": Role.GRADIENT,
    "updated input": Role.UPDATED_INPUT,
    "output": Role.OUTPUT,
}


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known about one buffer; empty where nothing is.

    source: "file:line in function: code" of the user's own innermost frame; module: path inside the model.
    """

    dtype: str = ""
    shape: tuple[int, ...] = ()
    operator: str = ""
    source: str = ""
    module: str = ""
    role: Role = Role.NONE
