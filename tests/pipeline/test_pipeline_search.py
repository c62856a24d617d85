"""A network's search in the Tuner, from a CSV to a pushed model that knows nothing of it."""

import json
import re

import numpy as np
import pytest

from tests.doubles.shop import run, run_until, steps_of, write_shop
from tfmtl.automtl.architecture import Architecture

SEARCHED = """
from tests.doubles.shop import EXPERIMENT as SHOP
from tfmtl import AutoMTL
import dataclasses

EXPERIMENT = dataclasses.replace(
    SHOP,
    search=AutoMTL(
        num_experts=3,
        num_blocks=1,
        n_chosen=2,
        interactions=(("skip", {"name": "skip"}), ("cross-1", {"name": "cross", "layers": 1})),
        poolings=(("sum", {"name": "sum"}), ("attentive", {"name": "attentive"})),
        hidden=(("skip", {"name": "skip"}), ("mlp-16", {"name": "mlp", "units": 16})),
        epochs=3,
        warm_up_epochs=1,
        tower_units=(8,),
    ),
)
"""
KILLED = "killed/artifacts/checkpoints/search-*/search/trial_*/found/checkpoints/at-*/state.json"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = write_shop(tmp_path_factory.mktemp("shop"))
    (folder / "searched.py").write_text(SEARCHED)
    return folder


@pytest.fixture(scope="module")
def whole(shop):
    """A run from beginning to end."""
    done = run(shop, config="searched.py", output="whole")
    assert done.returncode == 0, done.stderr
    return done


def architecture_of(shop, output):
    text = (shop / output / "architecture/architecture.json").read_text()
    return Architecture.from_json(text)


def rebuilt(shop, version):
    """The model that the served experiment declares, without weights."""
    import tensorflow_transform as tft

    from pipeline.trainer_module import table_rows
    from tfmtl.declare.experiment import ExperimentConfig
    from tfmtl.model.multitask import MultiTaskModel

    experiment = ExperimentConfig.from_json((version / "assets.extra/experiment.json").read_text())
    assert experiment.search is None
    (graph,) = (shop / "whole/artifacts/Transform/transform_graph").iterdir()
    rows = table_rows(experiment.problem, tft.TFTransformOutput(str(graph)))
    return MultiTaskModel.build_from(experiment.problem, rows, experiment.model)


def by_name(variables):
    """Variables by their names, without what Keras puts before them or counts up."""
    before = r"^multi_task_model(_\d+)?/(auto_mtl_network/)?|(?<=^dense)_\d+(?=/)"
    named = {re.sub(before, "", v.name.split(":")[0]): v for v in variables}
    assert len(named) == len({id(v) for v in named.values()})
    return {name: v for name, v in named.items() if name not in ("count", "total")}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_search_is_told_drawn_and_trained_from_its_json(shop, whole):
    assert "Blessed: all" in whole.stdout and "Tuner" in steps_of(whole.stdout)
    found = architecture_of(shop, "whole")
    assert "Found by the search in" in whole.stdout
    said = whole.stdout.split("Found by the search in")[1]
    for expert in found.experts:
        assert f"expert {expert.id}" in said and expert.pooling.label in said
    folder = shop / "whole/architecture"
    assert f"Its picture is   {folder}/architecture.png" in said
    for name in ("architecture", "beta_heatmap", "skip_counts", "gradient_direction"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "checkpoints").exists()
    assert {len(selection.experts) for selection in found.tasks.values()} == {2}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_pushed_model_is_the_found_network_and_nothing_of_the_search(shop, whole):
    import tensorflow as tf

    (version,) = (shop / "whole/serving/shop").iterdir()
    loaded = tf.saved_model.load(str(version))
    signatures = loaded.signatures
    request = json.loads((shop / "whole/request.json").read_text())
    (row,) = request["instances"]
    kinds = signatures["predict"].structured_input_signature[1]
    served = signatures["predict"](**{k: tf.constant([v], kinds[k].dtype) for k, v in row.items()})
    columns = {k: tf.train.Feature() for k in row}
    for name, value in row.items():
        if isinstance(value, str):
            columns[name].bytes_list.value.append(value.encode())
        else:
            columns[name].float_list.value.append(value)
    example = tf.train.Example(features=tf.train.Features(feature=columns))
    packed = signatures["transform_features"](tf.constant([example.SerializeToString()]))

    model = rebuilt(shop, version)
    model.predict_served(packed)
    # The same network, made from its JSON alone, has the same variables: no candidate more.
    ours, theirs = (
        by_name(variables)
        for variables in (model.variables, signatures["serving_default"].variables)
    )
    assert set(ours) == set(theirs)
    for name, variable in theirs.items():
        ours[name].assign(variable)
    for task, expected in model.predict_served(packed).items():
        np.testing.assert_allclose(served[task], expected, atol=1e-6)
    stored = [name for name, _ in tf.train.list_variables(f"{version}/variables/variables")]
    assert len([name for name in stored if "VARIABLE_VALUE" in name]) == len(theirs)
    assert not [name for name in theirs if "alpha" in name or "supernet" in name]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_killed_inside_tuner_finds_the_same_network(shop, whole):
    arguments = {"config": "searched.py", "output": "killed"}
    run_until(lambda: [*shop.glob(KILLED)], shop, **arguments)
    assert not (shop / "killed/architecture").exists()
    resumed = run(shop, **arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "Resumed at epoch" in resumed.stdout
    assert steps_of(resumed.stdout)["Transform"] == ["cached"]
    assert not [*shop.glob(KILLED)]
    one, other = (architecture_of(shop, output) for output in ("whole", "killed"))
    assert one.line == other.line and one.frozen_ops == other.frozen_ops
    table = whole.stdout.split("task  ")[1].split("Blessed")[0]
    assert resumed.stdout.split("task  ")[1].split("Blessed")[0] == table
    again = run(shop, **arguments)
    assert steps_of(again.stdout)["Tuner"] == ["cached"]
    assert architecture_of(shop, "killed") == other
