"""Lays out tables of text."""

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """Pads the columns of a table to one width; those in `left` start at the left.

    Example:
        >>> print(align([("P", "s"), ("16", "1.5")]))
         P    s
        16  1.5
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
