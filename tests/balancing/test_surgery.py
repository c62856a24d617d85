"""Surgery on a model's gradients: solved toys, which variables it reaches, what it leaves alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed
from tfmtl import registry
from tfmtl.balancing import gram as of_gram
from tfmtl.balancing.base import Step, TaskLosses
from tfmtl.balancing.surgery import MGDA, CAGrad, PCGrad, Surgery
from tfmtl.balancing.task_gradients import TaskGradients, plus
from tfmtl.declare.experiment import Model
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.problem import ProblemSpec, binary, categorical
from tfmtl.errors import SpecError
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.training.epochs import compile_model

EVERY = [n for n in registry.names("balancer") if issubclass(registry.get("balancer", n), Surgery)]
every_method = pytest.mark.parametrize("name", EVERY)

_, DATA = packed(train=128, validation=16)
BATCH = next(iter(DATA.train.batches(64)))
ADS = ProblemSpec(
    features=tuple(categorical(n, encoding="identity", size=5) for n in ("ad", "user")),
    tasks=(binary("ctr", label="click"), binary("like", label="like")),
)


def model_of(backbone="mmoe", balancer="fixed", **changes):
    keras.utils.set_random_seed(3)
    of_backbone = {"name": backbone, **SMALL[backbone], **changes.pop("more", {})}
    balancer = {"name": balancer} if isinstance(balancer, str) else balancer
    settings = experiment(backbone=of_backbone, balancer=balancer, **changes)
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, settings.model)
    compile_model(model, settings.training)
    model(BATCH)
    return model


def gradients_of(model, batch=BATCH):
    """A step's gradients, by the model's balancer."""
    with tf.GradientTape(persistent=True) as tape:
        found = model.task_losses(batch, training=True)
        total = found.total(model.balancer)
    step = model.step_of(tape, found, total)
    return step, model.balancer.gradients(step)


def toy_step(functions, *, own=()):
    """A step at `θ` on losses given as functions of it; `own` has a private variable a task."""
    theta = tf.Variable([0.0, 0.0])
    privates = [tf.Variable(value) for value in own]

    def at(values):
        theta.assign(values)
        with tf.GradientTape(persistent=True) as tape:
            each = [f(theta) for f in functions]
            if privates:
                each = [loss + p * p for loss, p in zip(each, privates, strict=True)]
        losses = TaskLosses(each, tf.constant([True] * len(each)), [], {})
        variables = [theta, *privates]
        return Step(tape, losses, tf.add_n(each), variables, [theta], {}, {})

    return theta, at


def everyone(count):
    return tf.constant([True] * count)


def one_order(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(count) for _ in range(count)]).astype(np.int32)


# --- the methods as balancers ------------------------------------------------------------------


def test_the_order_of_pcgrad_is_drawn_anew_each_step_and_follows_from_the_seed():
    balancers = [PCGrad(list("abc"), seed=seed) for seed in (1, 1, 2)]
    orders = []
    for balancer in balancers:
        drawn = []
        for _ in range(8):
            drawn.append(balancer.order().numpy())
            balancer.coefficients(tf.eye(3, dtype=tf.float64), None, everyone(3))
        orders.append(np.stack(drawn))
    assert (np.sort(orders[0], axis=-1) == np.arange(3)).all()
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).any() and (orders[0][0] != orders[0][1:]).any()


def test_normalizing_divides_by_norm_and_loss_before_weights_are_sought():
    g, losses = np.array([[8.0, 0.0], [0.0, 2.0]]), np.array([1.0, 4.0])
    divisors = {"none": [1, 1], "l2": [8, 2], "loss": [1, 4], "loss+": [8, 8]}
    for normalize, by in divisors.items():
        balancer = MGDA(["a", "b"], normalize=normalize)
        found = balancer.coefficients(tf.constant(g @ g.T), tf.constant(losses), everyone(2))
        # Of orthogonal vectors the weights are as the inverse squares; times the two tasks.
        inverse = 1 / (np.diag(g) / by) ** 2
        np.testing.assert_allclose(found, 2 * inverse / inverse.sum(), atol=1e-7)


# --- toys: quadratics in the plane -------------------------------------------------------------


def quadratic(centre, curvature=(1.0, 1.0)):
    centre, curvature = tf.constant(centre), tf.constant(curvature)
    return lambda theta: 0.5 * tf.reduce_sum(curvature * tf.square(theta - centre))


TOYS = {
    # At (0, 1) the gradients are (1, 1) and (−1, 1): no conflict, the plain sum, over 2.
    "pcgrad": ({"name": "pcgrad"}, (0.0, 1.0), (0.0, 1.0)),
    # The shortest of the hull of (1, 1) and (−1, 1) is (0, 1).
    "mgda": ({"name": "mgda", "normalize": "none"}, (0.0, 1.0), (0.0, 1.0)),
    # g_0 = g_w = (0, 1), so half more of the same.
    "cagrad": ({"name": "cagrad"}, (0.0, 1.0), (0.0, 1.5)),
    # At (0, 0.5) they are (1, 1/2) and (−1, 1/2), with ⟨,⟩ = −3/4 and norms 5/4: each loses
    # −3/5 of the other, and 8/5 of the mean (0, 1/2) is left.
    "pcgrad in conflict": ({"name": "pcgrad"}, (0.0, 0.5), (0.0, 0.8)),
    # Orthogonal (1, 1) and (−1, 1) of one length: α = 1/√2 each, along the plain sum.
    "nash_mtl": ({"name": "nash_mtl"}, (0.0, 1.0), (0.0, 1.0)),
    # Two tasks agree on the bisector: of (3, 1)/√10 and (−1, 1)/√2, with the length √(1/2) of the
    # mean of (3/2, 1/2) and (−1/2, 1/2).
    "nash_mtl off the axis": ({"name": "nash_mtl"}, (0.5, 0.5), (0.162460, 0.688192)),
    # Off the axis: (2, 1) and (0, 1) do not conflict, and the shorter one is the shortest.
    "mgda off the axis": ({"name": "mgda", "normalize": "none"}, (1.0, 1.0), (0.0, 1.0)),
}


@pytest.mark.parametrize("case", TOYS, ids=lambda name: name.replace(" ", "-"))
def test_a_method_takes_the_known_step_on_two_quadratics(case):
    config, at, want = TOYS[case]
    balancer = registry.build("balancer", config, ["a", "b"])
    _, step_at = toy_step([quadratic([-1.0, 0.0]), quadratic([1.0, 0.0])])
    (found,) = balancer.gradients(step_at(at))
    np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "pcgrad"},
        {"name": "mgda"},
        {"name": "mgda", "normalize": "none"},
        {"name": "cagrad"},
    ],
    ids=str,
)
def test_descent_ends_where_no_direction_helps_both_quadratics(config):
    balancer = registry.build("balancer", config, ["a", "b"])
    theta, step_at = toy_step([quadratic([-1.0, 0.0], (1.0, 4.0)), quadratic([1.0, 0.0])])
    at = np.array([0.3, 2.0], np.float32)
    gradient = tf.function(lambda theta: balancer.gradients(step_at(theta))[0], autograph=False)
    for _ in range(120):
        at = at - 0.2 * gradient(tf.constant(at)).numpy()
    # Pareto optimal are the points between the centres.
    assert abs(at[1]) < 1e-3 and -1.001 <= at[0] <= 1.001


@every_method
def test_private_variables_of_a_toy_descend_their_own_loss_and_no_others(name):
    balancer = registry.build("balancer", {"name": name, "reduction": "sum"}, ["a", "b"])
    _, step_at = toy_step([quadratic([-1.0, 0.0]), quadratic([1.0, 0.0])], own=(3.0, -5.0))
    shared, *own = balancer.gradients(step_at((0.3, 0.5)))
    assert [float(g) for g in own] == [6.0, -10.0]
    assert np.abs(shared - np.array([0.6, 1.0])).max() > 1e-3


# --- which variables --------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("backbone", ["mmoe", "ple", "aitm", "esmm"])
def test_private_variables_get_the_plain_steps_gradient_bit_for_bit(name, backbone):
    terms = {"more": {"stop_gradient": True}} if backbone == "aitm" else {}
    plain, cut = (
        model_of(backbone, b, l2=1e-3, conv_semantics="ctcvr_direct", **terms)
        for b in ("fixed", name)
    )
    plain.terms, cut.terms = [], []
    _, want = gradients_of(plain)
    step, found = gradients_of(cut)
    own = TaskGradients(step, cut.balancer.plain_weight).private
    private = [i for i, g in enumerate(own) if g is not None]
    shared = [i for i in range(len(own)) if own[i] is None]
    assert {i for i, v in enumerate(step.variables) if "heads" in v.name} <= set(private)
    for i in private:
        np.testing.assert_array_equal(found[i], want[i], err_msg=step.variables[i].name)
    changed = [i for i in shared if np.abs(dense(found[i]) - dense(want[i])).max() > 1e-7]
    assert len(changed) >= len(shared) / 2


def dense(gradient):
    return tf.convert_to_tensor(gradient).numpy()


def test_of_mmoe_the_experts_and_tables_are_shared_and_the_gates_are_not():
    step, _ = gradients_of(model_of("mmoe", "pcgrad"))
    tasks = TaskGradients(step)
    shared = {step.variables[part.place].name for part in tasks.shared}
    every = {v.name for v in step.variables}
    assert shared == {n for n in every if "heads" not in n and "gates" not in n}
    assert any("table" in n for n in shared) and any("gates" in n for n in every - shared)


def test_where_a_product_reads_two_gates_their_blocks_alone_are_shared():
    step, found = gradients_of(model_of("mmoe", "cagrad", conv_semantics="mtms", l2=0.0))
    tasks = TaskGradients(step, 1 / 4)
    (place,) = (i for i, v in enumerate(step.variables) if "gates" in v.name and v.shape.rank == 3)
    (part,) = (p for p in tasks.shared if p.place == place)
    # ctr and cvr are read by their own losses and by their product's, quality by its own.
    assert part.blocks == (True, True, False)
    (_, _, _, quality) = (
        step.tape.gradient(loss, step.variables[place]) for loss in step.losses.each
    )
    np.testing.assert_allclose(found[place][2], quality[2] / 4, rtol=1e-5, atol=1e-9)
    whole = np.concatenate(
        [p.stack.numpy()[:, list(p.blocks)].reshape(4, -1) for p in tasks.shared], axis=1
    )
    np.testing.assert_allclose(tasks.gram(), whole @ whole.T, rtol=1e-4, atol=1e-9)


def test_of_a_dot_product_of_towers_a_tasks_kernels_are_its_own():
    step, _ = gradients_of(
        model_of("two_tower", "pcgrad", more={"interaction": "dot"}, tower_units=())
    )
    shared = {step.variables[part.place].name for part in TaskGradients(step).shared}
    assert not [n for n in shared if "_kernel_" in n]
    assert [v.name for v in step.variables if "_kernel_ctr" in v.name]


@every_method
def test_the_sparse_path_is_the_dense_path_on_a_small_table(name):
    ids = [[0, 3, 3], [3, 1, 1], [1, 1, 4]]
    factors = tf.constant([[2.0, -1.0, 0.5], [-3.0, 1.0, 2.0], [0.3, 0.3, -0.7]])
    table = tf.Variable(np.random.default_rng(0).normal(size=(6, 2)).astype("float32"))

    def step(look_up):
        with tf.GradientTape(persistent=True) as tape:
            each = [
                tf.reduce_sum(factor[:, tf.newaxis] * tf.square(look_up(rows) - 1.0))
                for rows, factor in zip(ids, factors, strict=True)
            ]
        losses = TaskLosses(each, everyone(3), [], {})
        return Step(tape, losses, tf.add_n(each), [table], [table], {}, {})

    def by_product(rows):
        return tf.matmul(tf.one_hot(rows, 6), table)

    found = []
    for look_up in (lambda rows: tf.gather(table, rows), by_product):
        balancer = registry.build("balancer", {"name": name}, list("abc"))
        found += balancer.gradients(step(look_up))
    sparse, full = found
    assert isinstance(sparse, tf.IndexedSlices) and not isinstance(full, tf.IndexedSlices)
    assert sorted(sparse.indices.numpy()) == [0, 1, 3, 4]
    np.testing.assert_allclose(dense(sparse), full, rtol=1e-5, atol=1e-6)
    assert np.abs(full[1]).max() > 0.01


def test_sums_of_gradients_stay_sparse_where_they_can():
    rows = tf.IndexedSlices(tf.ones([2, 1]), tf.constant([0, 2]), tf.constant([3, 1]))
    assert isinstance(plus(rows, rows), tf.IndexedSlices)
    np.testing.assert_array_equal(dense(plus(rows, rows))[:, 0], [2, 0, 2])
    np.testing.assert_array_equal(plus(rows, None, tf.ones([3, 1]))[:, 0], [2, 1, 2])
    assert plus(None, None) is None


# --- what is no task's, and tasks that are not there -------------------------------------------


@every_method
def test_terms_and_weight_decay_are_added_as_they_are(name):
    without = model_of("aitm", name, l2=0.0)
    without.terms = []
    whole = model_of("aitm", name, l2=0.1)
    assert whole.terms
    _, bare = gradients_of(without)
    step, found = gradients_of(whole)
    np.testing.assert_array_equal(whole.balancer.last, without.balancer.last)
    others = step.tape.gradient(list(step.losses.others), step.variables)
    for one, other, total in zip(bare, others, found, strict=True):
        want = dense(plus(one, other))
        np.testing.assert_allclose(dense(total), want, rtol=1e-4, atol=1e-6)


@every_method
def test_a_task_without_a_row_changes_nothing_of_the_others_step(name):
    weights = BATCH[WEIGHTS].numpy()
    weights[:, 1] = 0
    batch = {**BATCH, WEIGHTS: tf.constant(weights)}
    model = model_of("mmoe", name)
    step, found = gradients_of(model, batch)
    assert all(np.isfinite(dense(g)).all() for g in found if g is not None)
    assert model.balancer.last[1] == 1.0
    gram = TaskGradients(step, model.balancer.plain_weight).gram().numpy()
    assert (gram[1] == 0).all() and (np.delete(np.diag(gram), 1) > 0).all()
    # The same, of three tasks that know of no fourth.
    kept = [0, 2, 3]
    three = registry.build("balancer", {"name": name}, ["a", "b", "c"])
    losses = tf.gather(step.losses.stacked, kept)
    if name == "pcgrad":  # Whose order is drawn for all tasks.
        order = one_order(4)
        of_four = of_gram.pcgrad(tf.constant(gram), tf.constant(order))
        places = np.array([[kept.index(j) for j in row if j != 1] for row in order[kept]], np.int32)
        of_three = of_gram.pcgrad(tf.constant(gram[np.ix_(kept, kept)]), tf.constant(places))
        np.testing.assert_allclose(tf.gather(of_four, kept), of_three, atol=1e-9)
        return
    of_three = three.coefficients(tf.constant(gram[np.ix_(kept, kept)]), losses, everyone(3))
    np.testing.assert_allclose(tf.gather(model.balancer.last, kept), of_three, rtol=1e-5)


@every_method
def test_a_batch_in_which_nothing_is_observed_leaves_finite_zeros(name):
    batch = {**BATCH, WEIGHTS: tf.zeros_like(BATCH[WEIGHTS])}
    _, found = gradients_of(model_of("mmoe", name, l2=0.0), batch)
    assert all((dense(g) == 0).all() for g in found if g is not None)


@every_method
def test_one_task_alone_takes_the_plain_step(name):
    problem = ProblemSpec(features=ADS.features, tasks=ADS.tasks[:1])
    batch = ads_batch(1)
    found = []
    for balancer in ("fixed", name):
        keras.utils.set_random_seed(1)
        model = ads_model(balancer, problem)
        model(batch)
        found.append(gradients_of(model, batch)[1])
    for one, other in zip(*found, strict=True):
        # Weight decay of a row that occurs twice is added in another order.
        np.testing.assert_allclose(dense(one), dense(other), rtol=1e-5, atol=1e-8)


def ads_model(balancer, problem=ADS, backbone=None):
    config = Model(
        backbone=backbone or {"name": "shared_bottom", "bottom_units": (8,)},
        dim=4,
        tower_units=(4,),
        balancer={"name": balancer} if isinstance(balancer, str) else balancer,
    )
    model = MultiTaskModel.build_from(problem, {"ad": 7, "user": 7}, config)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    return model


def ads_batch(tasks=2, count=16):
    rng = np.random.default_rng(0)
    return {
        "ids_context": tf.constant(rng.integers(0, 7, (count, 2))),
        LABELS: tf.constant(rng.integers(0, 2, (count, tasks)), tf.float32),
        WEIGHTS: tf.ones([count, tasks]),
    }


# --- MGDA by the representation -----------------------------------------------------------------


def test_mgda_by_the_representation_weighs_by_its_gradients_and_leaves_private_ones():
    balancer = {"name": "mgda", "normalize": "none", "ub": True}
    model = model_of("shared_bottom", balancer, l2=0.0)
    step, found = gradients_of(model)
    (read, *_) = step.losses.representations.values()
    z = [step.tape.gradient(loss, read).numpy().ravel() for loss in step.losses.each]
    gram = np.stack(z) @ np.stack(z).T
    weights = of_gram.min_norm(tf.constant(gram, tf.float64), everyone(4)).numpy()
    np.testing.assert_allclose(model.balancer.last / 4, weights, atol=1e-5)
    tasks = TaskGradients(step, 1 / 4)
    for one, other in zip(tasks.combined(model.balancer.last), found, strict=True):
        np.testing.assert_allclose(dense(one), dense(other), rtol=1e-4, atol=1e-7)


def test_mgda_by_the_representation_refuses_tasks_that_read_different_ones():
    with pytest.raises(SpecError, match="each task reads its own"):
        gradients_of(model_of("mmoe", {"name": "mgda", "ub": True}))


# --- refusals and configurations ----------------------------------------------------------------


@pytest.mark.parametrize("name", [*EVERY, "gradnorm"])
def test_tasks_that_share_nothing_have_no_conflict_to_settle(name):
    with pytest.raises(SpecError, match="shares nothing"):
        model_of("single_task", name)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MGDA(["a"], normalize="loss-"), "Did you mean 'loss"),
        (lambda: CAGrad(["a"], c=-0.1), "c=-0.1 must be at least 0"),
        (lambda: PCGrad(["a"], reduction="median"), "'mean' or 'sum'"),
    ],
)
def test_a_mistake_in_a_method_is_refused(build, message):
    with pytest.raises(SpecError, match=message):
        build()


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_step_on_a_table_of_five_million_rows_makes_a_dense_gradient_of_it():
    # A process of its own, whose peak memory is the step's.
    program = '''
import numpy as np, tensorflow as tf, tf_keras as keras
from tfmtl import registry
from tfmtl.declare.experiment import Model
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.declare.problem import ProblemSpec, binary, categorical

ROWS, DIM = 5_000_000, 16
problem = ProblemSpec(
    features=(categorical("ad", encoding="identity", size=ROWS),),
    tasks=(binary("ctr", label="click"), binary("like", label="like")),
)
rng = np.random.default_rng(0)
batch = {
    "ids_context": tf.constant(rng.integers(0, ROWS, (2048, 1))),
    LABELS: tf.constant(rng.integers(0, 2, (2048, 2)), tf.float32),
    WEIGHTS: tf.ones([2048, 2]),
}
config = Model(
    backbone={"name": "mmoe", "num_experts": 2, "expert_units": (16,)}, dim=DIM, tower_units=(8,)
)
model = MultiTaskModel.build_from(problem, {"ad": ROWS + 2}, config)
model.compile(optimizer=keras.optimizers.SGD(0.1))
model(batch)
model.embedding_optimizer.build(model.tables)

def grown(act):
    """MiB by which memory rose above what it was, at most, while `act` ran."""
    def read(key):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # The peak starts anew.
    before = read("VmRSS:")
    act()
    return round(read("VmHWM:") - before)

def dense():
    (table,) = model.tables
    rows = tf.IndexedSlices(tf.ones([1, DIM]), tf.constant([7]), tf.shape(table))
    return tf.convert_to_tensor(rows)

print("dense", grown(dense))
plain = model.balancer
for name in ("pcgrad", "mgda", "cagrad", "nash_mtl", "famo", "gradnorm"):
    # Another balancer on the same tables: a model of its own would need them twice.
    model.balancer = registry.build("balancer", {"name": name}, plain.tasks, plain.kinds)
    step = tf.function(model.train_step)
    before = tf.gather(model.tables[0], batch["ids_context"][:, 0] + 1).numpy()
    print(name, grown(lambda: [step(batch) for _ in range(3)]))
    after = tf.gather(model.tables[0], batch["ids_context"][:, 0] + 1).numpy()
    assert (before != after).any(axis=1).all()
'''
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = {name: int(grown) for name, grown in map(str.split, run.stdout.splitlines())}
    table = 4 * 5_000_000 * 16 / 2**20
    assert found.pop("dense") > 0.9 * table, "this test would not notice a dense gradient"
    assert sorted(found) == ["cagrad", "famo", "gradnorm", "mgda", "nash_mtl", "pcgrad"]
    assert max(found.values()) < table / 2, found
