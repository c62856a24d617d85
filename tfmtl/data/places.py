"""Where rows came from: file and line, for a row's number among all rows."""

import bisect
from collections.abc import Callable

from tfmtl.errors import DataError


class Places:
    """File and line of rows, by their number among all rows from 0.

    A reader says where a file begins; its lines are counted where a message asks for one.
    """

    def __init__(self) -> None:
        self._first_rows: list[int] = []
        self._of: list[Callable[[int], str]] = []

    def begin(self, first_row: int, place: Callable[[int], str]) -> None:
        """Takes in a file.

        Args:
            first_row: Number of its first row among all rows.
            place: File and line, in words, of its row `n` from 0.
        """
        self._first_rows.append(first_row)
        self._of.append(place)

    def of(self, row: int) -> str:
        """`file logs/b.csv, line 3`, or `row 7` where no file is known."""
        file = bisect.bisect_right(self._first_rows, row) - 1
        return self._of[file](row - self._first_rows[file]) if file >= 0 else f"row {row + 1}"


class BadRow(DataError):
    """A row that no split can take.

    Args:
        row: Its number among all rows, from 0.
        before: The message up to where the row is named.
        after: The rest.
    """

    def __init__(self, row: int, before: str, after: str) -> None:
        super().__init__(f"{before}row {row + 1}{after}")
        self.row, self.before, self.after = row, before, after

    def at(self, places: Places) -> DataError:
        """The error with the file and the line."""
        return DataError(f"{self.before}{places.of(self.row)}{self.after}")
