"""Tables for a terminal."""

from collections.abc import Callable, Sequence

__all__ = ["text_table"]


def text_table(rows: Sequence[Sequence[str]], justify: Callable[[str, int], str] = str.ljust) -> str:
    """Return rows of cells as text in columns, two blanks apart; `justify` places all cells but those of the first."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = ["  ".join([name.ljust(first), *map(justify, cells, others)]).rstrip() for name, *cells in rows]
    return "\n".join(lines)
