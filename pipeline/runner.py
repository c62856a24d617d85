"""TFX's local runner, which also prints the progress and records the executions."""

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import local_dag_runner
from tfx.orchestration.portable import launcher
from tfx.proto.orchestration import pipeline_pb2

from pipeline.console import Steps

CACHED = metadata_store_pb2.Execution.CACHED
RESOLVER = "tfx.dsl.components.common.resolver.Resolver"


class Runner(local_dag_runner.LocalDagRunner):
    """Runs the components one after the other and prints one line per component.

    It uses TFX's own runner and launcher. It adds only the printed lines and `executions`. `run`
    is inherited, because `tfx pipeline create` replaces it on the parent class.

    Attributes:
        executions: Id of the execution in ML Metadata by component; empty before the run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.executions: dict[str, int] = {}

    @staticmethod
    def only_reads(pipeline: tfx_pipeline.Pipeline) -> bool:
        """Whether the pipeline is only read, not run, as by `tfx pipeline create`.

        The call itself runs nothing. `tfx pipeline create` accepts only one definition and takes
        the one that this call gives it.
        """
        probe = _Probe()
        probe.run(pipeline)
        return not probe.reached

    def run_with_ir(
        self,
        pipeline: pipeline_pb2.Pipeline,
        run_options: pipeline_pb2.RunOptions | None = None,
    ) -> None:
        """See `LocalDagRunner.run_with_ir`."""
        steps = Steps()
        original = launcher.Launcher
        launcher.Launcher = _launcher(steps, self)
        try:
            with steps.watching():
                super().run_with_ir(pipeline, run_options)
        finally:
            launcher.Launcher = original


class _Probe(local_dag_runner.LocalDagRunner):
    """Records whether `run` really starts the pipeline."""

    reached = False

    def run_with_ir(self, pipeline, run_options=None) -> None:
        self.reached = True


def _launcher(steps: Steps, runner: Runner) -> type[launcher.Launcher]:
    class ReportingLauncher(launcher.Launcher):
        """Launches a component and prints its line."""

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
            # A Resolver looks up its artifact in each run, but TFX records it as cached.
            steps.finish("cached" if cached and self.node.type.name != RESOLVER else None)
            return execution

    return ReportingLauncher


def _state(connection: metadata.Metadata, execution: int) -> int:
    with connection as handle:
        (record,) = handle.store.get_executions_by_id([execution])
    return record.last_known_state
