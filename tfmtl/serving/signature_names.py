"""Signature inputs under the users' own column names, whatever characters they hold.

A column may be called `user id`, `价格` or `ad/id`. TensorFlow turns such names into others when it
traces a function, and two of them may then collide. So the functions are traced with safe argument
names, and the saved signatures are renamed to the columns' own names afterwards.
"""

import keyword
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

SAFE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def argument_names(columns: Iterable[str]) -> dict[str, str]:
    """An argument name for each column: the column's own where TensorFlow keeps it as it is.

    Example:
        >>> argument_names(["ad_id", "user id", "价格"])
        {'ad_id': 'ad_id', 'user id': 'column_1_user_id', '价格': 'column_2___'}
    """
    columns = list(columns)
    names: dict[str, str] = {}
    for place, column in enumerate(columns):
        name = column
        if not SAFE.fullmatch(column) or keyword.iskeyword(column) or column == "self":
            name = f"column_{place}_{re.sub('[^A-Za-z0-9_]', '_', column)}"
            while name in columns:
                name += "_"
        names[column] = name
    return names


def rename_inputs(path: str, names: Mapping[str, str]) -> None:
    """Gives the inputs of all signatures of a SavedModel the columns' own names.

    Args:
        path: Folder of the SavedModel.
        names: Argument name by column, as `argument_names` gives them.
    """
    columns = {name: column for column, name in names.items() if name != column}
    if not columns:
        return
    # Imported here: TensorFlow hands the protos on under no public name.
    from tensorflow.core.protobuf import saved_model_pb2

    file = os.path.join(path, "saved_model.pb")
    saved = saved_model_pb2.SavedModel()
    with tf.io.gfile.GFile(file, "rb") as opened:
        saved.ParseFromString(opened.read())
    for graph in saved.meta_graphs:
        # What TensorFlow Serving reads.
        for signature in graph.signature_def.values():
            for name in [name for name in signature.inputs if name in columns]:
                signature.inputs[columns[name]].CopyFrom(signature.inputs[name])
                del signature.inputs[name]
        # What Python's loader reads.
        for node in graph.object_graph_def.nodes:
            if node.WhichOneof("kind") == "bare_concrete_function":
                function = node.bare_concrete_function
                renamed = [columns.get(name, name) for name in function.argument_keywords]
                del function.argument_keywords[:]
                function.argument_keywords.extend(renamed)
    with tf.io.gfile.GFile(file, "wb") as opened:
        opened.write(saved.SerializeToString(deterministic=True))


def named_inputs(signature: Any) -> dict[str, tf.TensorSpec]:
    """Shape and type of each input of a loaded signature, by the name it is called with.

    In Python a signature is called by keyword, so a column named `self` cannot be given there;
    TensorFlow Serving has no such limit.
    """
    return {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name)
        for name, tensor in zip(signature._arg_keywords, signature.inputs, strict=False)
    }
