"""Which version of a model answers, and the change to a new one while requests run.

As TensorFlow Serving by default, the largest version number in the folder is served. A new version
is loaded and warmed up beside the old one, and the old one answers until the new one is ready.
"""

import asyncio
import dataclasses
import os
from typing import Any

from absl import logging

from tfmtl.errors import DataError
from tfmtl.serving.server.loaded import LoadedModel
from tfmtl.serving.server.refused import Refused

MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
LOADING, AVAILABLE, END = "LOADING", "AVAILABLE", "END"


@dataclasses.dataclass(frozen=True)
class State:
    """What happened to one version.

    Args:
        name: `LOADING`, `AVAILABLE` or `END`.
        error: Why it could not be loaded; empty otherwise.
    """

    name: str
    error: str = ""


class Versions:
    """The versions of one model in a folder.

    Args:
        path: A folder of numbered versions, or the folder of one SavedModel, which is then served
            alone.
        threads: Threads of TensorFlow.

    Raises:
        DataError: The folder is not there.
    """

    def __init__(self, path: str, *, threads: int = 0) -> None:
        if not os.path.isdir(path):
            raise DataError(
                f"{path} is no folder. Give the folder of a model's versions, such as serving/ads "
                "with serving/ads/1 in it, or one version's folder."
            )
        self.path, self._threads = os.path.abspath(path), threads
        self.states: dict[int, State] = {}
        self.current: LoadedModel | None = None
        # A version that could not be loaded is tried again when its files changed.
        self._failed: dict[int, float] = {}

    @property
    def default_name(self) -> str:
        """The model's name, where none is given: that of the folder of versions."""
        folder, last = os.path.split(self.path)
        return os.path.basename(folder) if is_whole(self.path) and last.isdecimal() else last

    def found(self) -> dict[int, str]:
        """Folders by version, of those that hold a whole SavedModel."""
        if is_whole(self.path):
            last = os.path.basename(self.path)
            return {int(last) if last.isdecimal() else 1: self.path}
        names = [name for name in os.listdir(self.path) if name.isdecimal()]
        paths = {int(name): os.path.join(self.path, name) for name in names}
        return {version: path for version, path in paths.items() if is_whole(path)}

    def get(self, version: int | None) -> LoadedModel:
        """The model that answers a request.

        Args:
            version: The one that was asked; `None` for the one that is served.

        Raises:
            Refused: That version is not served, or none is.
        """
        model = self.current
        if model is None:
            raise Refused("UNAVAILABLE", "no version of the model is loaded yet.")
        if version is not None and version != model.version:
            raise Refused(
                "NOT_FOUND", f"version {version} is not served; version {model.version} is."
            )
        return model

    async def update(self) -> bool:
        """Loads the newest version if it is not served yet; returns whether it changed."""
        paths = self.found()
        version = max((v for v in paths if self._may_load(v, paths[v])), default=None)
        if version is None or (self.current and self.current.version == version):
            return False
        path = paths[version]
        self.states[version] = State(LOADING)
        logging.info("Loading version %d from %s.", version, path)
        loop = asyncio.get_running_loop()
        try:
            model = await loop.run_in_executor(None, self._load, path, version)
        except Exception as error:
            logging.exception("Version %d cannot be loaded.", version)
            self._failed[version] = _changed(path)
            self.states[version] = State(END, f"{type(error).__name__}: {error}"[:500])
            return False
        before, self.current = self.current, model
        self.states[version] = State(AVAILABLE)
        logging.info("Version %d is served, after %.1f s.", version, model.seconds_to_load)
        if before is not None:
            self.states[before.version] = State(END)
            before.retire()
        return True

    def close(self) -> None:
        """Gives the model's memory back."""
        if self.current is not None:
            self.states[self.current.version] = State(END)
            self.current.retire()
            self.current = None

    def status(self) -> dict[str, Any]:
        """The states as REST shows them, newest first."""
        return {
            "model_version_status": [
                {
                    "version": str(version),
                    "state": state.name,
                    "status": {
                        "error_code": "UNKNOWN" if state.error else "OK",
                        "error_message": state.error,
                    },
                }
                for version, state in sorted(self.states.items(), reverse=True)
            ]
        }

    def _load(self, path: str, version: int) -> LoadedModel:
        return LoadedModel(path, version, threads=self._threads)

    def _may_load(self, version: int, path: str) -> bool:
        return version not in self._failed or self._failed[version] != _changed(path)


def is_whole(path: str) -> bool:
    """Whether a folder holds a SavedModel."""
    return any(os.path.isfile(os.path.join(path, name)) for name in MODEL_FILES)


def _changed(path: str) -> float:
    times = [os.path.getmtime(os.path.join(path, name)) for name in os.listdir(path)]
    return max(times, default=0.0)
