"""Text for a terminal."""

import unicodedata
from collections.abc import Callable, Sequence

__all__ = ["plural", "printable", "text_table"]


def printable(text: str) -> str:
    """Return text in which no character steers the terminal: control characters and the like are escaped."""
    steers = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (right-to-left override), surrogate, separators
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in steers else letter
        for letter in text
    )


def plural(n: int, noun: str) -> str:
    """Return a number with its noun: "1 file", "2 files"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def text_table(rows: Sequence[Sequence[str]], justify: Callable[[str, int], str] = str.ljust) -> str:
    """Return rows of cells as text in columns, two blanks apart; `justify` places all cells but the first of each."""
    rows = [[printable(cell) for cell in row] for row in rows]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = ["  ".join([name.ljust(first), *map(justify, cells, others)]).rstrip() for name, *cells in rows]
    return "\n".join(lines)
