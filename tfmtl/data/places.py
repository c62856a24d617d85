"""The file and line that a row was read from, by the row's number among all rows."""

import bisect
from collections.abc import Callable

from tfmtl.errors import DataError


class Places:
    """File and line of rows, by their number among all rows from 0.

    A reader calls `begin` per file. Lines are counted only when a message needs one.
    """

    def __init__(self) -> None:
        self._first_rows: list[int] = []
        self._of: list[Callable[[int], str]] = []

    def begin(self, first_row: int, place: Callable[[int], str]) -> None:
        """Records that a file begins.

        Args:
            first_row: Number of its first row among all rows.
            place: Returns the file and line of the file's row `n`, counted from 0, as text.
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
        before: The message before the row's place.
        after: The message after it.
    """

    def __init__(self, row: int, before: str, after: str) -> None:
        super().__init__(f"{before}row {row + 1}{after}")
        self.row, self.before, self.after = row, before, after

    def at(self, places: Places) -> DataError:
        """The error with the file and the line."""
        return DataError(f"{self.before}{places.of(self.row)}{self.after}")
