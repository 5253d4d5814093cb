"""Put measured tables into docs/fusion-and-peak.md: `python -m bench fusion-page`.

The page's figures are never typed: blocks between markers are replaced by what commands wrote to bench/results/.

    mechanisms   python -m bench mechanisms --tables      kept     python -m bench fusion-kept
    cost         python -m bench fusion-cost              guard    python -m bench fusion-guard
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.paths import DOCS, RESULTS
from bench.report.readme import replace_block
from memsched.files.json_file import atomic_write

__all__ = ["BLOCKS", "PAGE", "main"]

PAGE = DOCS / "fusion-and-peak.md"
BLOCKS = {"mechanisms": "mechanisms", "kept": "fusion_kept", "guard": "fusion_guard", "cost": "fusion_cost"}
"""The marker of every block, and the file of bench/results/ that fills it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the page; 2 when a result or a marker is missing."""
    try:
        text = PAGE.read_text()
        for marker, name in BLOCKS.items():
            text = replace_block(text, marker, (RESULTS / f"{name}.md").read_text().rstrip())
    except (OSError, ValueError) as error:
        print(f"bench fusion-page: {error}", file=sys.stderr)
        return 2
    atomic_write(PAGE, text.encode())
    return 0
