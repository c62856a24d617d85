"""A declaration is made without TensorFlow."""

import subprocess
import sys
import textwrap

import pytest

DECLARATION = """
    import importlib, pkgutil
    import tfmtl
    import tfmtl.declare
    for module in pkgutil.walk_packages(tfmtl.declare.__path__, "tfmtl.declare."):
        importlib.import_module(module.name)
    from tfmtl.declare.layout import layout_of
    import tfmtl.declare.early_stage as early_stage
    problem = tfmtl.ProblemSpec(
        features=(
            tfmtl.categorical("user"),
            tfmtl.categorical("ad", encoding="hash", size=9),
            tfmtl.categorical("slot", encoding="identity", size=9),
            tfmtl.categorical("scene", encoding={"name": "hash", "size": 2**20}),
            tfmtl.numerical("price", encoding="log"),
            tfmtl.numerical("age", encoding="quantile", bins=5),
            tfmtl.numerical("income", encoding="piecewise"),
            tfmtl.numerical("hour", encoding={"name": "cyclic", "period": 24}),
            tfmtl.count_encoding("ad"),
            tfmtl.target_encoding("ad", task="ctr"),
        ),
        tasks=(tfmtl.binary("ctr", label="click"), tfmtl.regression("cqs", label="quality")),
        scene="scene",
    )
    early_stage.tasks()
    layout_of(problem)
    experiment = tfmtl.ExperimentConfig(
        name="x", problem=problem, split=tfmtl.by_hash("user"), model=tfmtl.Model(),
        training=tfmtl.Training(), meta=tfmtl.Meta(),
    )
    assert tfmtl.ExperimentConfig.from_json(experiment.to_json()) == experiment
"""


def run(code):
    lines = textwrap.dedent(code) + "\nimport sys\nprint('tensorflow' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "True"


def test_a_problem_and_an_experiment_of_default_parts_load_no_tensorflow():
    assert not run(DECLARATION)


@pytest.mark.parametrize(
    "line",
    [
        'import tfmtl; tfmtl.binary("ctr", label="click", loss="focal")',
        "import tfmtl.features.raw",
    ],
)
def test_where_it_is_loaded_this_file_would_see_it(line):
    assert run(line)
