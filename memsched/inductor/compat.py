"""Every place where the version of torch matters, with the versions that were read (2.11 to 2.15).

| version      | scheduler pass class  | post-fusion pass in the cache key       | Inductor's estimate      |
|--------------|-----------------------|-----------------------------------------|--------------------------|
| 2.11, 2.12   | `CustomGraphPass`     | no: the pre-fusion pass carries the key | too low by the outputs   |
| 2.13 to 2.15 | `CustomSchedulerPass` | yes                                     | exact for its own model  |

memsched sets both passes with the same uuid, so the key is complete on every one of them.  Only 2.13 was run here.
"""

from __future__ import annotations

import re

import torch

__all__ = ["ESTIMATE_IS_EXACT", "SUPPORTED", "SchedulerPass", "unsupported_reason"]

SUPPORTED = ((2, 11), (2, 15))
"""First and last minor version whose scheduler was read."""

try:
    from torch._inductor.custom_graph_pass import CustomSchedulerPass as SchedulerPass

    ESTIMATE_IS_EXACT = True
except ImportError:
    from torch._inductor.custom_graph_pass import CustomGraphPass as SchedulerPass

    ESTIMATE_IS_EXACT = False


def unsupported_reason(version: str = torch.__version__) -> str | None:
    """Why memsched leaves this torch alone, in one line; None when it is supported."""
    match = re.match(r"(\d+)\.(\d+)", version)
    first, last = SUPPORTED
    if match and first <= (int(match[1]), int(match[2])) <= last:
        return None
    return f"torch {version} is not between {first[0]}.{first[1]} and {last[0]}.{last[1]}"
