"""Put the demo's table and picture into the README: `python -m bench.readme [demo_results]`.

The README's figures are never typed: the block between the two markers is replaced by what the demo wrote.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from memsched.core.graphio import atomic_write

BEGIN, END = "<!-- begin: table of the demo -->", "<!-- end: table of the demo -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite README.md in the current folder; 2 when the demo has not run, or the README lacks the markers."""
    folder = Path((list(sys.argv[1:] if arguments is None else arguments) or ["demo_results"])[0])
    readme = Path("README.md")
    try:
        table = (folder / "results.md").read_text()
        environment = json.loads((folder / "results.json").read_text())["environment"]
        before, rest = readme.read_text().split(BEGIN)
        after = rest.split(END)[1]
    except (OSError, ValueError, KeyError, IndexError) as error:
        print(f"bench.readme: {folder}: {str(error) or type(error).__name__}", file=sys.stderr)
        return 2
    where = f"torch {environment['torch']}, {environment['cores']} CPU cores"
    atomic_write(readme, f"{before}{BEGIN}\n{table}\n({where})\n{END}{after}".encode())
    picture = folder / "contrastive.png"
    if picture.exists():
        shutil.copy(picture, "docs/memory_contrastive.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
