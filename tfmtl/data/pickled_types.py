"""Arrow's pickled extension types: disabled before a file is opened, and refused by name.

Before 14.0.1, pyarrow unpickles a column's type if a file's schema asks for it, even if the column
is not read (CVE-2023-47248). The author of a file can thus run code on the reader's machine. The
stack for Python 3.10 needs pyarrow 10.0.1, so this module registers a type under the same name that
unpickles nothing.
"""

from collections.abc import Iterator

import pyarrow as pa

from tfmtl.errors import DataError

NAME = "arrow.py_extension_type"
_KEY = b"ARROW:extension:name"


class PickledType(pa.ExtensionType):
    """Stands in for a pickled type: reads its storage and ignores the pickle."""

    def __init__(self, storage: pa.DataType) -> None:
        super().__init__(storage, NAME)

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> "PickledType":
        return cls(storage)


def close() -> None:
    """Stops Arrow from unpickling in this process. Call it before a file is opened."""
    try:
        pa.unregister_extension_type(NAME)
    except KeyError:
        pass
    # The name must stay registered: at exit, Arrow unregisters it and fails if it is missing.
    pa.register_extension_type(PickledType(pa.null()))


def refuse(path: str, schema: pa.Schema) -> None:
    """Refuses a schema with a pickled type at any depth.

    Raises:
        DataError: The message names the file and the column.
    """
    for column in schema:
        if any(_is_pickled(field) for field in _fields(column)):
            raise DataError(
                f"file {path}, column {column.name!r}: its type is a pickled Python object "
                f"({NAME}), and to read that is to run code from the file. Nothing was read. "
                "Write the column as a plain type, or leave it out."
            )


def _is_pickled(field: pa.Field) -> bool:
    name = (field.metadata or {}).get(_KEY, b"")
    return name == NAME.encode() or getattr(field.type, "extension_name", None) == NAME


def _fields(field: pa.Field) -> Iterator[pa.Field]:
    yield field
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        yield from _fields(pa.field("values", kind.value_type))
    elif pa.types.is_map(kind):
        yield from _fields(kind.key_field)
        yield from _fields(kind.item_field)
    elif pa.types.is_struct(kind) or pa.types.is_union(kind):
        for place in range(kind.num_fields):
            part = kind[place] if pa.types.is_struct(kind) else kind.field(place)
            yield from _fields(part)
    elif hasattr(kind, "value_field"):
        yield from _fields(kind.value_field)
