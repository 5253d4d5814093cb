"""An explanation that shows itself: as a page in a notebook, and saved to a file under any of its forms."""

from __future__ import annotations

import html
import json
import os
from dataclasses import dataclass, fields

from memsched.files.fields import FormatError
from memsched.files.json_file import atomic_write
from memsched.records.explanation import Explanation
from memsched.render.page.explanation import render_explanation_page

__all__ = ["ShownExplanation", "shown"]


@dataclass(frozen=True)
class ShownExplanation(Explanation):
    """What `memsched.explain` returns."""

    def save(self, path: str) -> None:
        """Write it to a file: a page (.html), every figure (.json), or both texts (.txt).

        Raises:
            FormatError: another ending.
        """
        match os.path.splitext(path)[1]:
            case ".html":
                text = render_explanation_page(self, os.path.basename(path))
            case ".json":
                text = json.dumps(self.to_json())
            case ".txt":
                text = f"{self}\n"
            case _:
                raise FormatError(f"{path}: the name must end in .html, .json or .txt")
        atomic_write(path, text.encode(errors="backslashreplace"))

    def _repr_html_(self) -> str:
        """In a notebook: the page, in a frame of its own so that its styles and scripts stay apart."""
        page = html.escape(render_explanation_page(self, "memsched"), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'


def shown(found: Explanation) -> ShownExplanation:
    """The same explanation, which shows itself."""
    return ShownExplanation(**{field.name: getattr(found, field.name) for field in fields(found)})
