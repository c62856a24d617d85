"""Text for people: tables whose columns stand below each other, values that stay values."""

from collections.abc import Sequence

LINE_BREAK = "\n"
"""What `printable` leaves in a message of ours, whose values are escaped already."""


def aligned(lines: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Cells as lines whose columns stand below each other, the first `left` ones to the left.

    Cells are made `printable`.
    """
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


def printable(text: object, *, keep: str = "") -> str:
    r"""Text in which nothing acts on the terminal that shows it: escapes stand for what would.

    Whoever writes a log chooses the values of its columns. A line break in one could look like a
    line of ours, and an escape sequence could hide one. For HTML, `html.escape` what this
    returns.

    Args:
        text: A value, or a message that holds values.
        keep: Characters that stay all the same, such as the line breaks of a message of ours.

    Example:
        >>> printable("search\nPushed to /serving\x1b[2K")
        'search\\nPushed to /serving\\x1b[2K'
        >>> printable("搜索 é")
        '搜索 é'
    """
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode()
        for c in str(text)
    )
