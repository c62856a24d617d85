"""The row-wise optimizers against Keras' dense ones, and what they leave untouched."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tfmtl import registry
from tfmtl.model.optimizers import RowwiseAdagrad, RowwiseAdam, unique_rows

ROWS, DIM = 7, 3
PAIRS = pytest.mark.parametrize(
    ("rowwise", "dense"),
    [(RowwiseAdam, keras.optimizers.Adam), (RowwiseAdagrad, keras.optimizers.Adagrad)],
    ids=["adam", "adagrad"],
)
BOTH = pytest.mark.parametrize("rowwise", [RowwiseAdam, RowwiseAdagrad], ids=["adam", "adagrad"])
CLIPS = pytest.mark.parametrize(
    "clip", [{}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.3}]
)


def make_table(rows=ROWS, seed=0, name="table"):
    values = np.random.default_rng(seed).normal(size=(rows, DIM)).astype("float32")
    return tf.Variable(values, name=name)


def make_slices(ids, seed, rows=ROWS, scale=1.0):
    values = scale * np.random.default_rng(seed).normal(size=(len(ids), DIM))
    return tf.IndexedSlices(
        tf.constant(values, tf.float32), tf.constant(ids, tf.int64), tf.constant([rows, DIM])
    )


def make_dense(slices, rows=ROWS):
    total = np.zeros((rows, DIM), "float64")
    np.add.at(total, slices.indices.numpy(), slices.values.numpy())
    return tf.constant(total, tf.float32)


def slots_of(optimizer):
    return [v.numpy() for v in optimizer.variables if v.shape == (ROWS, DIM)]


def every_row_and_some_again(seed):
    rng = np.random.default_rng(seed)
    ids = np.concatenate([np.arange(ROWS), rng.integers(0, ROWS, 6)])
    return rng.permutation(ids)


# --- unique_rows ---------------------------------------------------------------------------


def test_unique_rows_names_each_row_once_and_is_the_same_dense_tensor():
    slices = make_slices([4, 1, 4, 4, 0, 1], seed=1)
    unique = unique_rows(slices)
    assert unique.indices.numpy().tolist() == [4, 1, 0]
    assert unique.values.shape == (3, DIM)
    np.testing.assert_allclose(tf.convert_to_tensor(unique), make_dense(slices), rtol=1e-6)


def test_unique_rows_of_no_rows_is_no_rows():
    unique = unique_rows(make_slices([], seed=1))
    assert unique.values.shape == (0, DIM)
    assert unique.indices.shape == (0,)


def test_unique_rows_refuses_a_dense_gradient():
    with pytest.raises(TypeError, match=r"takes tf\.IndexedSlices"):
        unique_rows(tf.ones([2, 2]))


# --- the same numbers as the dense optimizer -----------------------------------------------


@PAIRS
@CLIPS
def test_where_every_row_is_touched_table_and_slots_are_those_of_the_dense_optimizer(
    rowwise, dense, clip
):
    ours, theirs = make_table(), make_table()
    a, b = rowwise(learning_rate=0.05, **clip), dense(learning_rate=0.05, **clip)
    for step in range(12):
        slices = make_slices(every_row_and_some_again(step), seed=step)
        a.apply_gradients([(slices, ours)])
        b.apply_gradients([(make_dense(slices), theirs)])
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)
    for mine, other in zip(slots_of(a), slots_of(b), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    assert np.abs(ours.numpy() - make_table().numpy()).min() > 1e-3


@PAIRS
def test_a_dense_gradient_gets_the_ordinary_update(rowwise, dense):
    ours, theirs = make_table(), make_table()
    a, b = rowwise(learning_rate=0.05), dense(learning_rate=0.05)
    for step in range(5):
        gradient = make_dense(make_slices(every_row_and_some_again(step), seed=step))
        a.apply_gradients([(gradient, ours)])
        b.apply_gradients([(gradient, theirs)])
    # TensorFlow's kernel of Adam computes 1 − 0.999 in float32, Keras in float64: 5e-5 of it.
    np.testing.assert_allclose(ours, theirs, atol=5 * 0.05 * 5e-5)


@PAIRS
def test_two_tables_and_a_kernel_share_one_optimizer(rowwise, dense):
    def variables():
        return [make_table(seed=1, name="a"), make_table(seed=2, name="b"), make_table(seed=3)]

    ours, theirs = variables(), variables()
    a = rowwise(learning_rate=0.05, global_clipnorm=1.0)
    b = dense(learning_rate=0.05, global_clipnorm=1.0)
    for step in range(4):
        first = make_slices(every_row_and_some_again(step), seed=step)
        second = make_slices(every_row_and_some_again(step + 50), seed=step + 50)
        kernel = make_dense(make_slices(range(ROWS), seed=step + 90))
        a.apply_gradients(zip([first, second, kernel], ours, strict=True))
        dense_gradients = [make_dense(first), make_dense(second), kernel]
        b.apply_gradients(zip(dense_gradients, theirs, strict=True))
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-6, atol=2e-6)


@PAIRS
def test_a_learning_rate_schedule_is_followed_step_by_step(rowwise, dense):
    def schedule():
        return keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.1, 0.01, 0.0])

    ours, theirs = make_table(), make_table()
    a, b = rowwise(learning_rate=schedule()), dense(learning_rate=schedule())
    history = []
    for step in range(6):
        slices = make_slices(every_row_and_some_again(step), seed=step)
        a.apply_gradients([(slices, ours)])
        b.apply_gradients([(make_dense(slices), theirs)])
        history.append(ours.numpy())
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)
    np.testing.assert_array_equal(history[-1], history[-2])
    assert not np.array_equal(history[2], history[3])


# --- rows that were not looked up ----------------------------------------------------------


@BOTH
def test_rows_that_were_not_looked_up_keep_value_and_slots_bit_for_bit(rowwise):
    table, optimizer = make_table(), rowwise(learning_rate=0.05)
    optimizer.apply_gradients([(make_slices(range(ROWS), seed=0), table)])
    before = [table.numpy(), *slots_of(optimizer)]
    for step in range(1, 5):
        optimizer.apply_gradients([(make_slices([2, 5, 2], seed=step), table)])
    absent = [0, 1, 3, 4, 6]
    for old, new in zip(before, [table.numpy(), *slots_of(optimizer)], strict=True):
        np.testing.assert_array_equal(old[absent], new[absent])
        assert (old[[2, 5]] != new[[2, 5]]).all()


def test_adam_counts_the_steps_of_the_optimizer_and_does_not_decay_in_absence():
    beta_1, beta_2, epsilon, rate = 0.9, 0.999, 1e-7, 0.05
    table = make_table()
    optimizer = RowwiseAdam(learning_rate=rate)
    seen = {1: make_slices([3], seed=1), 4: make_slices([3], seed=4)}
    w = make_table().numpy()[3].astype("float64")
    m = v = np.zeros(DIM)
    for step in range(1, 5):
        optimizer.apply_gradients([(seen.get(step, make_slices([0, 6], seed=step)), table)])
        if step in seen:
            g = seen[step].values.numpy()[0].astype("float64")
            m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
            alpha = rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
            w = w - alpha * m / (np.sqrt(v) + epsilon)
    # 1 - 0.999 in float32 is off by 5e-5, which a step of 0.05 carries on to 1e-6.
    np.testing.assert_allclose(table.numpy()[3], w, atol=2e-6)


def test_a_row_first_seen_late_moves_by_the_documented_multiple_of_the_learning_rate():
    table, optimizer = make_table(), RowwiseAdam(learning_rate=0.01)
    optimizer.build([table])
    optimizer.iterations.assign(1_000_000)
    before = table.numpy()[3]
    optimizer.apply_gradients([(make_slices([3], seed=1), table)])
    moved = np.abs(table.numpy()[3] - before) / 0.01
    np.testing.assert_allclose(moved, 0.1 / np.sqrt(0.001), rtol=1e-3)


@PAIRS
def test_adagrad_is_the_dense_optimizer_on_absent_rows_too_and_adam_is_not(rowwise, dense):
    ours, theirs = make_table(), make_table()
    a, b = rowwise(learning_rate=0.05), dense(learning_rate=0.05)
    for step in range(6):
        slices = make_slices([step, step, (2 * step) % ROWS], seed=step)
        a.apply_gradients([(slices, ours)])
        b.apply_gradients([(make_dense(slices), theirs)])
    same = np.allclose(ours, theirs, rtol=2e-6, atol=2e-6)
    assert same == (rowwise is RowwiseAdagrad)


# --- the cost ------------------------------------------------------------------------------


def traced_step(optimizer, table, ids, dim=DIM):
    """A compiled lookup, loss and update, and its graph."""
    optimizer.build([table])

    @tf.function
    def step(rows):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(tf.gather(table, rows) - 1.0))
        optimizer.minimize(loss, [table], tape=tape)

    return step.get_concrete_function(tf.TensorSpec([len(ids)], tf.int64))


def table_sized_ops(graph, rows):
    shapes = [(op.type, t.shape) for op in graph.get_operations() for t in op.outputs]
    return [kind for kind, s in shapes if s.rank and s[0] == rows]


@PAIRS
@CLIPS
def test_no_tensor_of_a_traced_step_is_as_long_as_the_table(rowwise, dense, clip):
    rows = 12_345
    graph = traced_step(rowwise(**clip), make_table(rows), range(9)).graph
    assert table_sized_ops(graph, rows) == []
    assert [op for op in graph.get_operations() if op.type == "ReadVariableOp"], "graph is empty"
    assert not [op for op in graph.get_operations() if "PartitionedCall" in op.type]
    if dense is keras.optimizers.Adam:
        graph = traced_step(dense(**clip), make_table(rows), range(9)).graph
        assert table_sized_ops(graph, rows), "this test would not notice a dense update"


@BOTH
@pytest.mark.parametrize("clip", [{}, {"global_clipnorm": 0.5}])
def test_duplicates_are_summed_once_per_table(rowwise, clip):
    graph = traced_step(rowwise(**clip), make_table(), range(9)).graph
    kinds = [op.type for op in graph.get_operations()]
    assert kinds.count("Unique") == kinds.count("UnsortedSegmentSum") == 1


def seconds_per_step(steps, batches):
    """Seconds of the fastest call of each of `steps`, measured in turn."""
    taken = [[] for _ in steps]
    for k in range(60):
        for step, ids, times in zip(steps, batches, taken, strict=True):
            start = time.perf_counter()
            step(ids[k % len(ids)])
            times.append(time.perf_counter() - start)
    # Other work on the machine only ever adds time, so the least is the step's own.
    return [min(times) for times in taken]


@pytest.mark.slow
@BOTH
def test_a_step_on_a_million_rows_takes_at_most_twice_that_on_ten_thousand(rowwise):
    batch, dim, small, large = 8192, 16, 10_000, 1_000_000
    rng = np.random.default_rng(0)
    few = [np.sort(rng.choice(small, batch // 2, replace=False)).repeat(2) for _ in range(4)]
    batches = [[tf.constant(ids * k, tf.int64) for ids in few] for k in (1, large // small)]
    steps = [
        traced_step(rowwise(), tf.Variable(tf.zeros([rows, dim])), batches[0][0])
        for rows in (small, large)
    ]
    short, long = seconds_per_step(steps, batches)
    assert long <= 2.0 * short


# --- as a Keras optimizer ------------------------------------------------------------------


@BOTH
def test_a_traced_step_gives_the_numbers_of_an_eager_one(rowwise):
    eager, traced = make_table(), make_table()
    a, b = rowwise(learning_rate=0.05), rowwise(learning_rate=0.05)
    ids = [1, 3, 1, 6]
    step = traced_step(b, traced, ids)
    for _ in range(4):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(tf.gather(eager, ids) - 1.0))
        a.minimize(loss, [eager], tape=tape)
        step(tf.constant(ids, tf.int64))
    np.testing.assert_allclose(eager, traced, rtol=1e-6)


@BOTH
def test_a_config_builds_the_same_optimizer_again(rowwise):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 100, 0.5)
    own = {"beta_1": 0.8} if rowwise is RowwiseAdam else {"initial_accumulator_value": 0.3}
    first = rowwise(learning_rate=schedule, epsilon=1e-5, clipnorm=2.0, name="tables", **own)
    second = rowwise.from_config(first.get_config())
    assert second.get_config() == first.get_config()
    assert first.get_config()["learning_rate"]["config"]["decay_rate"] == 0.5
    third = keras.optimizers.deserialize(keras.optimizers.serialize(first))
    assert type(third) is rowwise
    assert third.get_config() == first.get_config()
    ours, theirs = make_table(), make_table()
    for step in range(3):
        slices = make_slices([1, 2, 1], seed=step)
        first.apply_gradients([(slices, ours)])
        third.apply_gradients([(slices, theirs)])
    np.testing.assert_array_equal(ours, theirs)


@BOTH
def test_training_resumed_from_a_checkpoint_continues_bit_for_bit(rowwise, tmp_path):
    def run(optimizer, table, steps):
        for step in steps:
            optimizer.apply_gradients([(make_slices([step % 3, 5, 5], seed=step), table)])

    table, optimizer = make_table(), rowwise(learning_rate=0.05)
    run(optimizer, table, range(4))
    path = tf.train.Checkpoint(table=table, optimizer=optimizer).save(str(tmp_path / "step"))
    run(optimizer, table, range(4, 8))

    again, resumed = make_table(seed=99), rowwise(learning_rate=0.05)
    status = tf.train.Checkpoint(table=again, optimizer=resumed).restore(path)
    # The slots exist only after the first step; restoring waits for them.
    run(resumed, again, range(4, 8))
    status.assert_consumed()
    np.testing.assert_array_equal(table, again)
    for mine, other in zip(slots_of(optimizer), slots_of(resumed), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert int(resumed.iterations) == 8


@PAIRS
def test_a_checkpoint_of_the_dense_optimizer_can_be_continued_row_by_row(rowwise, dense, tmp_path):
    table, optimizer = make_table(), dense(learning_rate=0.05)
    optimizer.apply_gradients([(make_dense(make_slices(range(ROWS), seed=0)), table)])
    path = tf.train.Checkpoint(table=table, optimizer=optimizer).save(str(tmp_path / "step"))
    again, resumed = make_table(seed=99), rowwise(learning_rate=0.01)
    resumed.build([again])
    tf.train.Checkpoint(table=again, optimizer=resumed).restore(path).assert_consumed()
    for mine, other in zip(slots_of(optimizer), slots_of(resumed), strict=True):
        np.testing.assert_array_equal(mine, other)


@BOTH
def test_a_model_is_trained_saved_and_loaded_with_its_optimizer(rowwise, tmp_path):
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Embedding(50, 4), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input([2], dtype="int64"), *layers])
    model.compile(optimizer=rowwise(learning_rate=0.1), loss="mse")
    ids = np.random.default_rng(0).integers(0, 20, [64, 2])
    target = (ids[:, :1] < 10).astype("float32")
    untouched = model.layers[0].embeddings.numpy()[20:]
    losses = model.fit(ids, target, batch_size=16, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.2 * losses[0]
    np.testing.assert_array_equal(model.layers[0].embeddings.numpy()[20:], untouched)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is rowwise
    for m in (model, loaded):
        m.fit(ids, target, batch_size=16, epochs=1, verbose=0, shuffle=False)
    np.testing.assert_array_equal(model.get_weights()[0], loaded.get_weights()[0])


def train_on_repeated_ids(rowwise):
    ids = np.random.default_rng(0).zipf(1.3, 20_000) % 500
    table = make_table(500)
    step = traced_step(rowwise(learning_rate=0.05), table, ids)
    for _ in range(5):
        step(tf.constant(ids, tf.int64))
    return table.numpy()


@pytest.mark.slow
def test_two_runs_are_equal_bit_for_bit_with_deterministic_ops():
    # TensorFlow has no way back from deterministic ops, hence a process of its own.
    program = """
import numpy as np, tensorflow as tf
from tests.model.test_optimizers import RowwiseAdagrad, RowwiseAdam, train_on_repeated_ids as train
tf.config.experimental.enable_op_determinism()
for rowwise in RowwiseAdam, RowwiseAdagrad:
    np.testing.assert_array_equal(train(rowwise), train(rowwise))
print("equal")
"""
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert run.stdout == "equal\n", run.stderr


# --- by name, and what is refused ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"), [("rowwise_adam", RowwiseAdam), ("rowwise_adagrad", RowwiseAdagrad)]
)
def test_a_configuration_names_the_optimizer_and_its_arguments(name, part):
    optimizer = registry.build("optimizer", {"name": name, "learning_rate": 0.25})
    assert type(optimizer) is part
    assert float(optimizer.learning_rate) == 0.25


@BOTH
@pytest.mark.parametrize("argument", ["weight_decay", "use_ema", "learning_rat"])
def test_an_argument_that_would_visit_every_row_or_is_misspelt_is_a_type_error(rowwise, argument):
    with pytest.raises(TypeError, match=argument):
        rowwise(**{argument: 0.1})


def test_values_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"beta_2 is a decay in \[0, 1\); got 1.0"):
        RowwiseAdam(beta_2=1.0)
    with pytest.raises(ValueError, match="epsilon must be positive; got 0.0"):
        RowwiseAdam(epsilon=0.0)
    with pytest.raises(ValueError, match="is not below 0; got -0.1"):
        RowwiseAdagrad(initial_accumulator_value=-0.1)
