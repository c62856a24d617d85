"""Memory returns after each call of what a notebook calls again and again."""

import dataclasses
import json
import subprocess
import sys

import pytest
import tensorflow as tf
from tensorflow.python.framework.ops import gradient_registry

from tests.doubles.worlds import experiment, packed
from tfmtl.operations.convolution import Convolution
from tfmtl.run import train

CALLS = 5

SCRIPT = """
import json, sys, tempfile
import numpy as np
import tensorflow as tf
from benchmarks.prepare import resident_bytes
from tests.doubles.worlds import PROBLEM, experiment, packed, rows
from tfmtl.features.fit import Preprocessor

WIDE = 100_000

def wide_preparation():
    from tfmtl.declare.problem import ProblemSpec, binary, categorical, target_encoding
    from tfmtl.features.prepare import prepare
    features = (categorical("x"), target_encoding("x", task="y"))
    problem = ProblemSpec(features=features, tasks=(binary("y", label="y"),))
    table = {
        "x": np.char.add("v", np.arange(WIDE).astype(str)),
        "y": (np.arange(WIDE) % 3 == 0).astype(np.float32),
    }
    few = {name: values[:1000] for name, values in table.items()}
    return prepare(problem, {"train": table, "validation": few, "test": few})

def prepare():
    wide_preparation()

def prepare_and_trace():
    preprocessor = wide_preparation().preprocessor
    spec = tf.TensorSpec([None], tf.string)
    tf.function(lambda x: preprocessor({"x": x})).get_concrete_function(spec)

def train():
    from tfmtl.run import train
    train(experiment(epochs=1), DATA, verbose=0)

def search():
    from tests.doubles import searches
    from tfmtl.automtl.search import search
    search(searches.experiment(), searches.data(), verbose=0)

def export():
    from tfmtl.serving.export import export
    with tempfile.TemporaryDirectory() as folder:
        export(MODEL, PREPROCESSOR, folder)

def evaluate():
    MODEL.evaluate(DATA.validation.batches(64))

def evaluate_a_new_model():
    new_model().evaluate(DATA.validation.batches(64))

def predict_rows():
    MODEL.predict_rows(DATA.validation.batches(64))

def cold_start():
    from tfmtl.declare.meta import Meta
    from tfmtl.few_shot.cold_start import cold_start
    groups = np.arange(DATA.validation.count()) % 6
    cold_start(
        MODEL, DATA.validation, groups, meta=Meta(inner_rate=0.1), ks=(0, 2),
        draws=1, samples=50, verbose=0,
    )

def train_boosters():
    from tests.boosting.test_boosters import SHOP, SMALL, TABLES
    from tfmtl.boosting.train import train_boosters
    train_boosters(SHOP, TABLES, **SMALL)

def train_chunked_pairs():
    import dataclasses
    from tfmtl.run import train
    terms = ({"name": "pwiser", "method": "chunked"},)
    plain = experiment(epochs=1)
    train(dataclasses.replace(plain, model=dataclasses.replace(plain.model, terms=terms)), DATA,
        verbose=0)

def trace_a_custom_gradient():
    x = tf.ones([1000, 250])
    @tf.custom_gradient
    def identity(x):
        return x + 0.0, lambda upstream: upstream
    def many(x):
        for _ in range(1000):
            x = x * 2.0
        return identity(x)
    tf.function(many).get_concrete_function(x)

def new_model():
    from tfmtl.model.multitask import MultiTaskModel
    return MultiTaskModel.build_from(PROBLEM, DATA.table_rows, experiment().model)

def keep_a_table():
    keys = tf.strings.as_string(tf.range(WIDE))
    initializer = tf.lookup.KeyValueTensorInitializer(keys, tf.zeros(WIDE))
    tf.lookup.StaticHashTable(initializer, 0.0)

if not sys.argv[1].startswith("prepare"):
    PREPROCESSOR, DATA = packed()
    MODEL = new_model()
    MODEL(next(iter(DATA.train.batches(2))))
resident = []
for _ in range(int(sys.argv[2])):
    globals()[sys.argv[1]]()
    resident.append(resident_bytes())
print(json.dumps(resident))
"""


def kept_per_call(name: str) -> float:
    """Growth of the resident memory per call after the first two, in MB.

    The first calls load libraries and fill TensorFlow's pools.
    """
    command = [sys.executable, "-c", SCRIPT, name, str(CALLS)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    resident = json.loads(done.stdout.splitlines()[-1])
    return (resident[-1] - resident[1]) / (len(resident) - 2) / 1e6


# A table of 100,000 keys is 8 MB, and preparation made ten of them. The graph of a training step is
# 26 MB, and TensorFlow's own pools grow by less than 1 MB in each of the first calls.
MOST = {
    "prepare": 4,
    "prepare_and_trace": 4,
    "train": 3,
    "train_chunked_pairs": 3,
    "search": 3,
    "export": 8,
    "evaluate": 3,
    "evaluate_a_new_model": 3,
    "predict_rows": 3,
    "cold_start": 3,
    "train_boosters": 3,
}


def test_the_measurement_notices_a_table_that_is_kept():
    assert kept_per_call("keep_a_table") > MOST["prepare"]


@pytest.mark.slow
def test_the_measurement_notices_a_graph_that_its_custom_gradient_keeps():
    assert kept_per_call("trace_a_custom_gradient") > MOST["train"]


def test_training_leaves_no_gradient_in_tensorflows_registry():
    # An entry of this registry is never removed, and holds the graph that it was traced in.
    _, data = packed()
    before = set(gradient_registry.list())
    pairs = ({"name": "pwiser", "method": "chunked"},)
    for terms in ((), pairs):
        config = experiment(epochs=1)
        model = dataclasses.replace(config.model, terms=terms)
        train(dataclasses.replace(config, model=model), data, verbose=0)
    assert set(gradient_registry.list()) == before


def test_a_convolution_is_registered_once_for_all_its_layers_and_graphs():
    layers = [Convolution(size=5, channels=3, num=2) for _ in range(2)]
    x = tf.random.normal([2, 4, 6])

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.add_n([tf.reduce_sum(layer(x)) for layer in layers])
        return tape.gradient(total, x)

    gradient()
    before = set(gradient_registry.list())
    for _ in range(2):
        tf.function(gradient).get_concrete_function()
    assert set(gradient_registry.list()) == before


def test_prepare_gives_its_memory_back():
    assert kept_per_call("prepare") < MOST["prepare"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MOST if name != "prepare"])
def test_memory_returns_after_each_call(name):
    assert kept_per_call(name) < MOST[name]
