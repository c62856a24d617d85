"""TFX's local runner, which also tells how far it is and what it used."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.local import local_dag_runner
from tfx.orchestration.portable import launcher
from tfx.proto.orchestration import pipeline_pb2

from pipeline.console import Steps
from tfmtl.errors import DataError

CACHED = metadata_store_pb2.Execution.CACHED
RESOLVER = "tfx.dsl.components.common.resolver.Resolver"


class Runner(local_dag_runner.LocalDagRunner):
    """Runs the components one after the other, with a line each.

    It is TFX's own runner and launcher; what is added is printed, or noted in `executions`.
    `run` is inherited, because `tfx pipeline create` replaces it on the parent class.

    Args:
        folder: Folder of the run's outputs; two runs in one folder are refused.
        before: Called before the first component.

    Attributes:
        executions: Execution in ML Metadata by component; empty until the run.
        reused: Components whose outputs came from the cache.
    """

    def __init__(self, *, folder: str, before: Callable[[], None] = lambda: None):
        super().__init__()
        self.folder, self.before = folder, before
        self.executions: dict[str, int] = {}
        self.reused: set[str] = set()

    def run_with_ir(
        self,
        pipeline: pipeline_pb2.Pipeline,
        run_options: pipeline_pb2.RunOptions | None = None,
    ) -> None:
        """See `LocalDagRunner.run_with_ir`.

        Raises:
            DataError: Another run is at work in the folder.
        """
        with alone(self.folder):
            self.before()
            steps = Steps()
            reporting = _launcher(steps, self)
            original = launcher.Launcher
            launcher.Launcher = reporting
            try:
                with steps.watching():
                    super().run_with_ir(pipeline, run_options)
            finally:
                launcher.Launcher = original


def _launcher(steps: Steps, runner: Runner) -> type[launcher.Launcher]:
    class ReportingLauncher(launcher.Launcher):
        """Launches a component and tells so."""

        def __init__(self, pipeline_node, mlmd_connection, *args, **kwargs):
            super().__init__(pipeline_node, mlmd_connection, *args, **kwargs)
            self.node, self.connection = pipeline_node.node_info, mlmd_connection

        def launch(self):
            steps.start(self.node.id)
            try:
                execution = super().launch()
            except BaseException:
                steps.finish("failed")
                raise
            runner.executions[self.node.id] = execution.execution_id
            cached = _state(self.connection, execution.execution_id) == CACHED
            if cached and self.node.type.name != RESOLVER:
                runner.reused.add(self.node.id)
                steps.finish("cached")
            else:
                steps.finish()
            return execution

    return ReportingLauncher


def _state(connection: metadata.Metadata, execution: int) -> int:
    with connection as handle:
        (found,) = handle.store.get_executions_by_id([execution])
    return found.last_known_state


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Holds the folder for this process; the system lets go of it however the process ends.

    Raises:
        DataError: Another process holds it.
    """
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".lock"), "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise DataError(
                f"another run (process {file.read().strip()}) is at work in {folder}. Wait for "
                "it, or give this one a folder of its own by --output."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
