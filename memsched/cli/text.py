"""Text for terminals: tables, exact bytes, one-line messages."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["byte_count", "columns", "one_line", "print_columns", "print_table", "print_text", "printable"]


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split())


def byte_count(count: int) -> str:
    """The exact number."""
    return f"{count:,} bytes"


def printable(text: str) -> str:
    """`text` with what a terminal must not be sent (line breaks, escapes, lone surrogates) written out."""
    return text if text.isprintable() else repr(text)[1:-1]


def print_text(text: str) -> None:
    """Print lines of words, in which names come from files: no escape sequence reaches the terminal."""
    print("\n".join(printable(line) for line in text.splitlines()))


def print_table(rows: Sequence[tuple[str, str, str]]) -> None:
    """Three columns, the last one to the right: by rich when it is installed, else in plain text."""
    rows = [(printable(first), printable(second), printable(third)) for first, second, third in rows]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for first, second, third in rows:
            print(f"{first:<{widths[0]}}  {second:<{widths[1]}}  {third:>{widths[2]}}".rstrip())
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: names in brackets are not markup
    Console().print(table)


def print_columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print `columns(rows, right)`."""
    print(columns(rows, right))


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A header and rows of any width in plain columns, cut nowhere; columns `right` are aligned to the right."""
    lines = []
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        padded = (
            f"{cell:>{width}}" if column in right else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
