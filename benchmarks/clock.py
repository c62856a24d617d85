"""A stopwatch: seconds between one lap and the next."""

import time


class Clock:
    """Starts when it is created."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def lap(self) -> float:
        """Returns the seconds since the last lap, or since the start."""
        now = time.monotonic()
        self.last, before = now, self.last
        return now - before
