"""What MTMS serves: each row by its own scene's networks, and nothing of the update."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.mtms_rows import PROBLEM, as_rows, component, experiment, of_scene, raw
from tfmtl.declare.features import FIRST
from tfmtl.errors import DataError
from tfmtl.features.fit import Preprocessor
from tfmtl.mtms.fine_tuning import fine_tuned, frozen_fields
from tfmtl.mtms.frozen import ComponentTables
from tfmtl.mtms.model import MTMSModel
from tfmtl.serving.export import export, to_examples

SCENES = ("feed", "search", "video")
HAVING = {"feed": ("ctr", "cvr"), "search": ("cvr",), "video": ("ctr", "cvr")}
EXPERIMENT = experiment(scenes=SCENES, contributors={"feed": ("video",), "video": ("search",)})
PREPROCESSOR = Preprocessor(PROBLEM)
ARRAYS = {name: v.numpy() for name, v in PREPROCESSOR.fit(raw(200)).items()}

RELOAD = """
import json, sys
import numpy as np
import tensorflow as tf
examples = tf.constant([bytes.fromhex(line) for line in open(sys.argv[1]).read().split()])
signature = tf.saved_model.load(sys.argv[2]).signatures["serving_default"]
print(json.dumps({k: v.numpy().tolist() for k, v in signature(examples).items()}))
"""


def half_known(rng, features):
    """A component with a row for about half of the ids of the rows."""
    seen = np.concatenate([ARRAYS[f"ids_{s}"].ravel() for s in ("user", "ad", "context")])
    return component(rng, {f: rng.choice(seen[seen >= FIRST], 40) for f in features})


@pytest.fixture(scope="module")
def model():
    """A model of random tables and random networks; search has none for clicks."""
    rng, mtms = np.random.default_rng(0), EXPERIMENT.mtms
    fields = {
        s: [f.name for f in mtms.features_of(PROBLEM, s) if f.kind == "categorical"] for s in SCENES
    }
    names = [(scene, owner) for scene in SCENES for owner in ("ctr", "cvr")]
    every = ("query", "user", "tags", "ad", "slot")
    tables = ComponentTables({n: half_known(rng, fields[n[0]]) for n in names}, every)
    networks = {}
    for scene, tasks in HAVING.items():
        for task in tasks:
            read = frozen_fields(EXPERIMENT, scene, tables, mtms.inputs_of(PROBLEM, scene, task))
            network = fine_tuned(EXPERIMENT, scene, task, read)
            network.heads(network.backbone(tf.zeros([1, read.width])))
            for variable in network.trainable_variables:
                variable.assign(rng.normal(size=variable.shape, scale=0.4))
            networks.setdefault(scene, {})[task] = network
    return MTMSModel(PROBLEM, SCENES, networks, tables)


def predicted(model, arrays):
    return {k: v.numpy() for k, v in model({n: tf.constant(v) for n, v in arrays.items()}).items()}


def some(arrays, rows):
    return {name: value[rows] for name, value in arrays.items()}


def test_every_row_is_predicted_by_its_own_scenes_networks(model):
    mixed = predicted(model, ARRAYS)
    assert list(mixed) == ["ctr", "cvr", "ctcvr"]
    for scene in SCENES:
        rows = of_scene(ARRAYS, EXPERIMENT, scene)
        assert rows.sum() > 40
        own = {n: tf.constant(v) for n, v in some(ARRAYS, rows).items()}
        for task in ("ctr", "cvr"):
            # Without a network for clicks, search falls back on the first scene's.
            network = model.networks[scene].get(task, model.networks["feed"][task])
            np.testing.assert_allclose(mixed[task][rows], network(own)[task], rtol=1e-5)
            others = [
                n[task] for s, n in model.networks.items() if task in n and n[task] is not network
            ]
            for other in others:
                assert np.abs(other(own)[task] - mixed[task][rows]).max() > 0.01


def test_the_product_is_the_product(model):
    mixed = predicted(model, ARRAYS)
    np.testing.assert_allclose(mixed["ctcvr"], mixed["ctr"] * mixed["cvr"], rtol=1e-6)
    assert (mixed["ctcvr"] < mixed["cvr"]).mean() > 0.9


def test_a_row_does_not_depend_on_the_rows_beside_it(model):
    mixed = predicted(model, ARRAYS)
    order = np.random.default_rng(1).permutation(len(mixed["cvr"]))
    shuffled = predicted(model, some(ARRAYS, order))
    for task, values in mixed.items():
        np.testing.assert_allclose(shuffled[task], values[order], rtol=1e-5)
        for row in (0, 17):
            alone = predicted(model, some(ARRAYS, [row]))
            np.testing.assert_allclose(alone[task], values[[row]], rtol=1e-5)


def test_rows_of_an_unknown_scene_get_the_first_scenes_networks(model):
    columns = {k: v for k, v in raw(60, seed=4).items() if k in PROBLEM.feature_columns()}
    found = {}
    for scene in ("feed", "nowhere", "search"):
        named = {**columns, "scene": np.full(60, scene)}
        found[scene] = predicted(model, PREPROCESSOR(named))["cvr"]
    np.testing.assert_array_equal(found["nowhere"], found["feed"])
    assert np.abs(found["search"] - found["feed"]).max() > 0.01


def test_an_empty_batch_has_no_predictions(model):
    assert all(len(v) == 0 for v in predicted(model, some(ARRAYS, [])).values())


def test_evaluation_is_of_all_rows_whatever_the_batches(model):
    large, small = (model.evaluate(as_rows(ARRAYS).batches(n)) for n in (200, 7))
    assert {"ctr/auc@imp", "cvr/auc@click", "ctcvr/auc@imp"} <= set(large)
    for name, value in large.items():
        np.testing.assert_allclose(small[name], value, rtol=1e-3, err_msg=name)


def test_without_networks_for_clicks_there_is_no_product(model):
    networks = {s: {"cvr": n["cvr"]} for s, n in model.networks.items()}
    own = MTMSModel(PROBLEM, SCENES, networks, model.tables)
    found = predicted(own, ARRAYS)
    assert list(found) == ["cvr"]
    np.testing.assert_allclose(found["cvr"], predicted(model, ARRAYS)["cvr"], rtol=1e-5)
    assert "cvr/auc@click" in own.evaluate(as_rows(ARRAYS).batches(64))
    with pytest.raises(DataError, match="no scene has a fine-tuned network"):
        MTMSModel(PROBLEM, SCENES, {}, model.tables)


def test_exported_it_predicts_the_same_in_a_fresh_process_and_holds_no_more(model, tmp_path):
    columns = {k: v for k, v in raw(60, seed=4).items() if k in PROBLEM.feature_columns()}
    columns["scene"][0] = "nowhere"
    expected = predicted(model, PREPROCESSOR(columns))
    lists = {
        k: [list(v) for v in values.to_list()] if isinstance(values, tf.RaggedTensor) else values
        for k, values in columns.items()
    }
    examples = to_examples(PROBLEM, lists)
    (tmp_path / "examples").write_text("\n".join(e.hex() for e in examples))
    path = export(model, PREPROCESSOR, str(tmp_path / "model"))
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path / "examples"), path],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(expected)
    for task, values in expected.items():
        np.testing.assert_allclose(found[task], values, rtol=1e-5, err_msg=task)
    saved = tf.train.load_checkpoint(os.path.join(path, "variables", "variables"))
    shapes = saved.get_variable_to_shape_map()
    values = [tuple(s) for n, s in shapes.items() if n.endswith("VARIABLE_VALUE")]
    # One table with its keys, kernel and bias of two layers a network, and nothing else.
    networks = [n for of_scene in model.networks.values() for n in of_scene.values()]
    expected = [tuple(v.shape) for n in networks for v in n.dense_variables]
    expected += [tuple(v.shape) for v in (model.tables.keys, model.tables.table)]
    assert len(expected) == 4 * len(networks) + 2
    assert sorted(values) == sorted(expected)
