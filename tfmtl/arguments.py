"""A Keras layer's configuration from its constructor, so that no argument is written twice."""

import inspect
from collections.abc import Mapping
from typing import Any


class Arguments:
    """Gives a layer the `get_config` that mirrors its `__init__`; stands before the Keras class.

    Every argument of the constructor, also those that it hands on to our own base classes by
    `**kwargs`, is kept as an attribute of the same name. Sequences come back as lists and mappings
    as dicts, as JSON has them.

    Example:
        >>> import tf_keras as keras
        >>> class Scale(Arguments, keras.layers.Layer):
        ...     def __init__(self, by, *, powers=(1, 2), **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.by, self.powers = by, tuple(powers)
        >>> config = Scale(3.0, name="scale").get_config()
        >>> config["by"], config["powers"], config["name"]
        (3.0, [1, 2], 'scale')
    """

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        inherited = super()
        config = dict(inherited.get_config())  # type: ignore[attr-defined]
        for name in _arguments(type(self)):
            config[name] = _plain(getattr(self, name))
        return config


def _arguments(kind: type) -> list[str]:
    """Names of the constructor's arguments, through our own classes that take `**kwargs`."""
    names: list[str] = []
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        if init is None:
            continue
        if base.__module__.startswith(("tf_keras.", "keras.", "tensorflow.")):
            break
        parameters = list(inspect.signature(init).parameters.values())[1:]
        handed_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names += [
            p.name
            for p in parameters
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in names
        ]
        if not handed_on:
            break
    return names


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
