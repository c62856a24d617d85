"""Memory returns after each call of what a notebook calls again and again."""

import json
import subprocess
import sys

import pytest

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

def keep_a_table():
    keys = tf.strings.as_string(tf.range(WIDE))
    initializer = tf.lookup.KeyValueTensorInitializer(keys, tf.zeros(WIDE))
    tf.lookup.StaticHashTable(initializer, 0.0)

if sys.argv[1] in ("train", "export"):
    PREPROCESSOR, DATA = packed()
if sys.argv[1] == "export":
    from tfmtl.model.multitask import MultiTaskModel
    MODEL = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, experiment().model)
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


# A table of 100,000 keys is 8 MB, and preparation made ten of them.
MOST = {"prepare": 4, "prepare_and_trace": 4, "train": 8, "search": 12, "export": 8}


def test_the_measurement_notices_a_table_that_is_kept():
    assert kept_per_call("keep_a_table") > MOST["prepare"]


def test_prepare_gives_its_memory_back():
    assert kept_per_call("prepare") < MOST["prepare"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MOST if name != "prepare"])
def test_memory_returns_after_each_call(name):
    assert kept_per_call(name) < MOST[name]
