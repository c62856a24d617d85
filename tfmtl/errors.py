"""The errors users see, and the nearest-name hint they end with."""

import difflib
from collections.abc import Iterable


class SpecError(ValueError):
    """A declaration (problem, experiment, part) contradicts itself."""


class DataError(ValueError):
    """The data do not fit the declaration; the message names file, line or column."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean 'click'?`, or an empty string where nothing is near.

    Example:
        >>> did_you_mean("clik", ["click", "conversion"])
        " Did you mean 'click'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
