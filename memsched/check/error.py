"""What every checker raises."""

from __future__ import annotations

__all__ = ["CheckError"]


class CheckError(ValueError):
    """Something that was claimed does not hold: the message is one line that names the first offending op or field."""
