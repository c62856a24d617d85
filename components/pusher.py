"""TFX's Pusher, whose versions appear whole or not at all.

TFX copies a model into `<version>/` file by file. Killed meanwhile, it leaves a folder that is
called as a version and holds none. Here the model is copied beside the versions, under a name
that TensorFlow Serving passes over, handed to the disk, and then renamed.
"""

import glob
import os
import shutil
from typing import Any

from tfx import types, v1
from tfx.components.pusher import executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from tfmtl.durable import remove, sync

PUSHING = ".pushing"
"""Folder beside the versions, where one is copied to before it has its name."""

MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
DESTINATION, VERSION = "pushed_destination", "pushed_version"


class Executor(executor.Executor):
    """Copies a blessed model to `<base_directory>/<version>`, as TFX's own, in one step."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """See `tfx.components.pusher.executor.Executor.Do`."""
        key = standard_component_specs.PUSH_DESTINATION_KEY
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties[key], destination)
        folder = destination.filesystem.base_directory
        building = os.path.join(folder, PUSHING)
        shutil.rmtree(building, ignore_errors=True)
        destination.filesystem.base_directory = building
        beside = {**exec_properties, key: proto_utils.proto_to_json(destination)}
        super().Do(input_dict, output_dict, beside)
        pushed = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.PUSHED_MODEL_KEY]
        )
        copied = pushed.get_string_custom_property(DESTINATION)
        if copied:
            path = _free(folder, int(os.path.basename(copied)))
            sync(copied)
            os.rename(copied, path)
            sync(folder)
            pushed.set_string_custom_property(DESTINATION, path)
            pushed.set_string_custom_property(VERSION, os.path.basename(path))
        shutil.rmtree(building, ignore_errors=True)


class Pusher(v1.components.Pusher):
    """TFX's Pusher with the executor above."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)


def sweep(folder: str) -> list[str]:
    """Removes what killed runs left among the versions of a served model.

    Args:
        folder: Where versions are pushed to; no run may be at work in it.

    Returns:
        Folders that are called as a version and hold no SavedModel; they are gone.
    """
    shutil.rmtree(os.path.join(folder, PUSHING), ignore_errors=True)
    halves = [
        path
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*")))
        if os.path.basename(path).isdecimal() and os.path.isdir(path) and not is_whole(path)
    ]
    for path in halves:
        remove(path)
    return halves


def is_whole(version: str) -> bool:
    """Whether a version's folder holds a SavedModel, whose main file is copied last."""
    return any(os.path.isfile(os.path.join(version, name)) for name in MODEL_FILES)


def newest_version(folder: str) -> str | None:
    """The version that TensorFlow Serving would choose in a folder; `None` where there is none."""
    paths = glob.glob(os.path.join(glob.escape(folder), "*"))
    versions = [os.path.basename(path) for path in paths if is_whole(path)]
    return max((v for v in versions if v.isdecimal()), key=int, default=None)


def _free(folder: str, version: int) -> str:
    # Two models pushed within a second would have one version.
    while os.path.lexists(os.path.join(folder, str(version))):
        version += 1
    return os.path.join(folder, str(version))
