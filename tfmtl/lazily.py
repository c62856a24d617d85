"""Modules that are imported when they are first used."""

import importlib
from types import ModuleType
from typing import Any


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def lazily(name: str) -> Any:
    """Returns a stand-in for a module, which is imported when something of it is first read.

    For a file that both declares and computes: whoever only declares does not wait for TensorFlow.
    Such a file needs `from __future__ import annotations`, because an annotation that is evaluated
    would read the module.

    Example:
        >>> fractions = lazily("fractions")
        >>> fractions.Fraction(1, 2)
        Fraction(1, 2)
    """
    return _Lazy(name)
