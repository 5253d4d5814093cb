"""Put measured tables into docs/fusion-and-peak.md: `python -m bench.fusion_page`.

The page's figures are never typed: blocks between markers are replaced by what commands wrote to bench/results/.

    mechanisms   python -m bench.mechanisms --tables      kept     python -m bench.fusion_kept
    cost         python -m bench.fusion_cost              guard    python -m bench.fusion_guard
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.readme import replace_block
from memsched.core.graphio import atomic_write

__all__ = ["BLOCKS", "PAGE", "main"]

PAGE = Path(__file__).parent.parent / "docs" / "fusion-and-peak.md"
BLOCKS = {"mechanisms": "mechanisms", "kept": "fusion_kept", "guard": "fusion_guard", "cost": "fusion_cost"}
"""The marker of every block, and the file of bench/results/ that fills it."""


def main() -> int:
    """Rewrite the page; 2 when a result or a marker is missing."""
    try:
        text = PAGE.read_text()
        for marker, name in BLOCKS.items():
            text = replace_block(text, marker, (Path(__file__).parent / "results" / f"{name}.md").read_text().rstrip())
    except (OSError, ValueError) as error:
        print(f"bench.fusion_page: {error}", file=sys.stderr)
        return 2
    atomic_write(PAGE, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
