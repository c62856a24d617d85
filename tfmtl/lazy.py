"""TensorFlow, which is imported when something of it is first read.

For a file that both declares and computes, `from tfmtl.lazy import tf`: whoever only declares does
not wait for TensorFlow. Such a file needs `from __future__ import annotations`, because an
annotation that is evaluated would read `tf`.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["tf"]


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = _Lazy("tensorflow")
