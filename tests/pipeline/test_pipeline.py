import dataclasses
import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from tfx.types import standard_artifacts

from pipeline import pipeline as pipelines
from pipeline.baseline import LatestOtherBlessedModel
from pipeline.config import known_names, load
from pipeline.console import Steps
from pipeline.fingerprint import code_hash
from tfmtl.declare.experiment import Tuning
from tfmtl.errors import SpecError

ROOT = Path(__file__).parents[2]


def pipeline_of(tmp_path, experiment, **arguments):
    data = tmp_path / "rows.csv"
    data.write_text("x\n1\n")
    arguments = {"replay_path": str(data)} | arguments
    return pipelines.create_pipeline(
        experiment=experiment,
        source=None,
        data_path=str(data),
        pipeline_root=str(tmp_path / "artifacts"),
        serving_dir=str(tmp_path / "serving"),
        metadata_path=str(tmp_path / "metadata.sqlite"),
        **arguments,
    )


def component(pipeline, name):
    (found,) = (c for c in pipeline.components if c.id == name)
    return found


def parameters(pipeline, name):
    return component(pipeline, name).exec_properties


@pytest.mark.parametrize("name", [n for n in known_names() if load(n).experiment.mtms is None])
def test_every_configuration_makes_a_pipeline_that_ends_in_a_push(tmp_path, name):
    experiment = load(name).experiment
    pipeline = pipeline_of(tmp_path, experiment)
    assert pipeline.pipeline_info.pipeline_name == name
    expected = [
        "ArrowExampleGen",
        "ReplayGen",
        "StatisticsGen",
        "SchemaGen",
        "ExampleValidator",
        "Transform",
        "Tuner",
        "Trainer",
        "Baseline",
        "RankingEvaluator",
        "ConsistencyEvaluator",
        "Pusher",
    ]
    absent = set()
    if experiment.replay is None:
        absent |= {"ReplayGen", "ConsistencyEvaluator"}
    if experiment.tuning is None and experiment.search is None:
        absent |= {"Tuner"}
    ids = [c.id for c in pipeline.components]
    assert ids == [name for name in expected if name not in absent]
    judge = "RankingEvaluator" if experiment.replay is None else "ConsistencyEvaluator"
    assert component(pipeline, "Pusher").inputs["model_blessing"].producer_component_id == judge


def test_the_second_evaluator_hears_the_first(tmp_path):
    pipeline = pipeline_of(tmp_path, load("early_stage").experiment)
    inputs = component(pipeline, "ConsistencyEvaluator").inputs
    assert inputs["ranking_blessing"].producer_component_id == "RankingEvaluator"
    assert inputs["baseline_model"].producer_component_id == "Baseline"


def test_a_declared_replay_without_a_log_is_refused(tmp_path):
    with pytest.raises(SpecError, match="no replay log is given"):
        pipeline_of(tmp_path, load("early_stage").experiment, replay_path=None)


def test_a_declared_search_runs_before_training_and_feeds_it(tmp_path):
    experiment = load("hillstrom").experiment
    tuning = Tuning(space={"training.learning_rate": (1e-3, 1e-2)})
    pipeline = pipeline_of(tmp_path, dataclasses.replace(experiment, tuning=tuning))
    ids = [c.id for c in pipeline.components]
    assert ids.index("Tuner") == ids.index("Trainer") - 1
    (trainer,) = (c for c in pipeline.components if c.id == "Trainer")
    assert trainer.inputs["hyperparameters"].producer_component_id == "Tuner"


def test_a_given_schema_takes_the_place_of_the_inferred_one(tmp_path):
    schema = str(tmp_path / "schema.pbtxt")
    pipeline = pipeline_of(tmp_path, load("hillstrom").experiment, schema_path=schema)
    assert parameters(pipeline, "ImportSchemaGen")["schema_file"] == schema


def test_a_component_runs_again_only_for_settings_it_depends_on(tmp_path):
    experiment = load("hillstrom").experiment
    before = pipeline_of(tmp_path, experiment)
    faster = pipeline_of(tmp_path, experiment.replace_path("training.learning_rate", 0.1))
    stricter = pipeline_of(tmp_path, experiment.replace_path("evaluation.max_fall", 0.1))
    for name, after, changed in [
        ("Transform", faster, False),
        ("Trainer", faster, True),
        ("RankingEvaluator", faster, False),
        ("Trainer", stricter, False),
        ("RankingEvaluator", stricter, True),
    ]:
        assert (parameters(before, name) != parameters(after, name)) == changed, name


def test_another_bound_on_recall_runs_the_second_evaluator_again_and_nothing_else(tmp_path):
    experiment = load("early_stage").experiment
    before = pipeline_of(tmp_path, experiment)
    after = pipeline_of(tmp_path, experiment.replace_path("replay.max_fall", 0.5))
    changed = {
        c.id for c in before.components if parameters(before, c.id) != parameters(after, c.id)
    }
    assert changed == {"ConsistencyEvaluator"}


def test_an_edited_source_changes_the_parameters_of_transform_and_trainer(tmp_path, monkeypatch):
    source = tmp_path / "layer.py"
    source.write_text("x = 1")
    monkeypatch.setattr(pipelines, "CODE", (str(source),))
    experiment = load("hillstrom").experiment
    before = pipeline_of(tmp_path, experiment)
    same = pipeline_of(tmp_path, experiment)
    source.write_text("x = 2")
    after = pipeline_of(tmp_path, experiment)
    for name in ("Transform", "Trainer"):
        assert parameters(before, name) == parameters(same, name)
        assert parameters(before, name) != parameters(after, name)


def test_the_hash_of_the_code_covers_every_file_of_the_library():
    assert code_hash(["tfmtl"]) != code_hash(["tfmtl/model/multitask.py"])
    for path in pipelines.CODE:
        assert (ROOT / path).exists()


def artifact(kind, number, **properties):
    made = kind()
    made.id = number
    for name, value in properties.items():
        made.set_int_custom_property(name, value)
    return made


def blessing_of(number, model, blessed, evaluator=""):
    made = artifact(
        standard_artifacts.ModelBlessing, number, current_model_id=model, blessed=blessed
    )
    if evaluator:
        made.set_string_custom_property("component_id", evaluator)
    return made


def baseline_of(candidate, blessings):
    models = [artifact(standard_artifacts.Model, n) for n in (1, 2, 3)]
    found = LatestOtherBlessedModel().resolve_artifacts(
        None,
        {
            "candidate": [models[candidate - 1]],
            "model": models,
            "model_blessing": [blessing_of(10 + i, *said) for i, said in enumerate(blessings)],
        },
    )
    return [model.id for model in found["model"]]


def test_a_model_is_never_compared_with_itself():
    assert baseline_of(1, [(1, 1)]) == []
    assert baseline_of(2, [(1, 1), (2, 1)]) == [1]


def test_the_baseline_is_the_model_blessed_last_not_the_one_trained_last():
    assert baseline_of(3, [(1, 1), (2, 1), (1, 1)]) == [1]
    assert baseline_of(3, [(1, 1), (2, 0)]) == [1]
    assert baseline_of(3, []) == []


def test_a_model_that_any_evaluator_refused_is_no_baseline():
    recall = "ConsistencyEvaluator"
    assert baseline_of(3, [(1, 1), (1, 1, recall), (2, 1), (2, 0, recall)]) == [1]
    assert baseline_of(3, [(1, 1), (1, 0, recall)]) == []
    # The latest word of each counts: the bound was lowered, or raised, and the model judged again.
    assert baseline_of(3, [(1, 1), (1, 0, recall), (1, 1, recall)]) == [1]
    assert baseline_of(3, [(1, 1), (1, 1, recall), (1, 0, recall)]) == []
    assert baseline_of(3, [(1, 1), (1, 1, recall), (1, 0)]) == []


def test_a_steps_name_is_repeated_only_where_it_printed_something():
    stream = io.StringIO()
    with redirect_stdout(stream):
        steps = Steps()
        with steps.watching():
            steps.start("Silent")
            steps.finish("cached")
            steps.start("Talking")
            print("half way")
            steps.finish("done")
    assert [line.split() for line in stream.getvalue().splitlines()] == [
        ["Silent", "cached"],
        ["Talking"],
        ["half", "way"],
        ["Talking", "done"],
    ]
