"""Text for people: tables whose columns stand below each other."""

from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Cells as lines whose columns stand below each other, the first `left` ones to the left."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
