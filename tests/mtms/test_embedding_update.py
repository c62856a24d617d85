"""MTMS's settings, the networks of the update, and which reading of the loss is calibrated."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.doubles.mtms_rows import FIELDS, PROBLEM, as_rows, experiment, packed
from tests.doubles.worlds import CQS, CTCVR, CTR, CVR
from tfmtl.declare.layout import LABELS, WEIGHTS
from tfmtl.declare.mtms import MTMS
from tfmtl.declare.problem import ProblemSpec, binary, categorical, numerical
from tfmtl.errors import SpecError
from tfmtl.features.fit import Preprocessor
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.mtms import embedding_update
from tfmtl.mtms.embedding_update import network_of, update_embeddings
from tfmtl.mtms.units import by_scene, keys_of, pack, part_of
from tfmtl.simulator import Constants, draw_world, impression_log

FUNNEL = ("ctr", "cvr", "ctcvr")


@pytest.fixture(scope="module")
def rows():
    return by_scene(PROBLEM, ["feed"], as_rows(packed()))["feed"]


def network(rows, **mtms):
    """The update's network, before any step, and a batch of all its rows."""
    config = experiment(**mtms)
    part = part_of(PROBLEM, config.mtms.features_of(PROBLEM, "feed"), FUNNEL)
    keys = keys_of(PROBLEM, part, rows)
    sizes = {name: len(ids) for name, ids in keys.items()}
    model = MultiTaskModel.build_from(part, sizes, network_of(config, FUNNEL))
    batch = {k: tf.constant(v) for k, v in pack(PROBLEM, part, rows, keys).items()}
    model(batch)
    return model, batch


def gradients(model, batch, task):
    """Largest absolute gradient of one task's loss on each table."""
    with tf.GradientTape() as tape:
        _, losses = model.compute_loss(batch, training=True)
        loss = losses[model.heads.trained.index(task)]
    found = tape.gradient(loss, model.tables)
    return [0.0 if g is None else float(tf.reduce_max(tf.abs(g.values))) for g in found]


def test_clicks_teach_the_clicks_tables_alone_and_the_product_teaches_both(rows):
    model, batch = network(rows)
    ctr, cvr = (gradients(model, batch, task) for task in ("ctr", "cvr"))
    assert ctr[0] > 0 and ctr[1] == 0
    assert cvr[0] == 0 and cvr[1] > 0
    assert min(gradients(model, batch, "ctcvr")) > 0


@pytest.mark.parametrize(
    ("losses", "trained"),
    [
        ("mtms", ("ctr", "cvr", "ctcvr")),
        ("mtms_literal", ("ctr", "cvr", "ctcvr")),
        ("esmm", ("ctr", "ctcvr")),
        ("cvr_click", ("ctr", "cvr")),
    ],
)
def test_a_batch_without_clicks_moves_conversions_only_where_all_rows_count(rows, losses, trained):
    unclicked = rows.take(rows.weights[:, 1] == 0)
    assert len(unclicked) > 50
    model, batch = network(unclicked, losses=losses)
    assert model.heads.trained == trained
    total, each = model.compute_loss(batch, training=True)
    # Eq. 2 is a plain sum; what no row observes adds nothing and no NaN.
    assert np.isclose(total, sum(each) + model.l2 * regular(model, batch), rtol=1e-5)
    if "cvr" in trained and losses != "mtms_literal":
        assert each[trained.index("cvr")] == 0
        assert gradients(model, batch, "cvr") == [0, 0]
    through_product = "ctcvr" in trained and gradients(model, batch, "ctcvr")[1] > 0
    assert through_product == (losses != "cvr_click")


def regular(model, batch):
    _, squares = model.forward(batch)
    kernels = [tf.nn.l2_loss(v) for v in model.dense_variables if v.shape.rank > 1]
    return float(tf.add_n(kernels) + 0.5 * squares / len(batch[LABELS]))


def test_the_literal_loss_counts_every_row_and_the_other_the_clicked_ones(rows):
    literal, batch = network(rows, losses="mtms_literal")
    model, _ = network(rows)
    for ours, theirs in zip(model.variables, literal.variables, strict=True):
        ours.assign(theirs)
    cvr = literal(batch)["cvr"].numpy()
    converted, clicked = batch[LABELS][:, 2].numpy(), batch[WEIGHTS][:, 1].numpy() > 0

    def mean_loss(chosen):
        y, p = converted[chosen], cvr[chosen]
        return -np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))

    for own, chosen in ((literal, clicked | True), (model, clicked)):
        _, each = own.compute_loss(batch)
        np.testing.assert_allclose(each[1], mean_loss(chosen), rtol=1e-5)


def test_components_share_no_variable_and_shared_ones_have_one_table(rows):
    model, _ = network(rows)
    assert len(model.tables) == 2 and model.tables[0] is not model.tables[1]
    parts = [
        {
            id(v)
            for layer in (model.embedding[t], model.backbone.bottoms[t])
            for v in layer.variables
        }
        | {id(v) for v in model.heads.logits[t].variables}
        for t in ("ctr", "cvr")
    ]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {id(v) for v in model.trainable_variables}
    shared, batch = network(rows, shared=True)
    assert len(shared.tables) == 1
    assert gradients(shared, batch, "ctr")[0] > 0 and gradients(shared, batch, "cvr")[0] > 0


def busy_world():
    """A world in which every third impression is clicked and every third click converts."""
    constants = Constants()
    events = dict(constants.events)
    events["click"] = dataclasses.replace(events["click"], bias=-2.3)
    events["conversion"] = dataclasses.replace(events["conversion"], bias=-1.2)
    return draw_world(0, constants=dataclasses.replace(constants, events=events))


def log_problem():
    def ids(name, side):
        return categorical(name, encoding="hash", size=2**30, side=side)

    return ProblemSpec(
        features=(
            *(ids(name, "user") for name in ("user_id", "segment")),
            *(ids(name, "ad") for name in ("ad_id", "category", "objective")),
            categorical("scene", encoding="hash", size=2**20),
        ),
        tasks=(CTR, CVR, CTCVR),
        scene="scene",
        request_id="request_id",
    )


def test_the_product_of_the_update_is_calibrated_unless_all_rows_teach_conversions(
    tmp_path, monkeypatch
):
    # The claim is about the update's own network: the fine-tuned one learns conversions from
    # clicked rows in every form.
    problem = log_problem()
    log = impression_log(busy_world(), impressions=20_000, seed=1)
    log = log.filter(np.asarray(log["scene"]) == "feed")
    preprocessor, first = Preprocessor(problem), len(log) * 2 // 3
    train = as_rows(preprocessor.fit(log.slice(0, first)))
    test = as_rows(preprocessor(log.slice(first)))
    train, test = (by_scene(problem, ["feed"], rows)["feed"] for rows in (train, test))
    models = []

    def keep(model, rows, **kwargs):
        models.append(model)
        return original(model, rows, **kwargs)

    original = embedding_update.train_passes
    monkeypatch.setattr(embedding_update, "train_passes", keep)
    calibration = {}
    for losses in ("mtms", "mtms_literal"):
        config = experiment(
            problem,
            training={"epochs": 2, "batch_size": 512, "learning_rate": 2e-3},
            model={"dim": 16},
            scenes=("feed",),
            fields={},
            losses=losses,
            update_units=(16,),
        )
        update_embeddings(config, "feed", FUNNEL, train, slot=1, folder=str(tmp_path))
        part = part_of(problem, config.mtms.features_of(problem, "feed"), FUNNEL)
        packed_test = as_rows(pack(problem, part, test, keys_of(problem, part, train)))
        found = models[-1].predict_rows(packed_test.batches(4096)).predictions
        calibration[losses] = found["ctcvr"].sum() / test.labels[:, 2].sum()
    assert test.labels[:, 2].sum() > 250
    assert 0.9 < calibration["mtms"] < 1.1
    assert calibration["mtms_literal"] < 0.6


def test_a_network_reads_its_own_components_first_and_then_what_contributes():
    scenes = ("feed", "search", "video")

    def read(scene, task="cvr", **mtms):
        return MTMS(scenes=scenes, **mtms).inputs_of(PROBLEM, scene, task)

    both = ("ctr", "cvr")
    assert read("search") == tuple((s, o) for s in ("search", "feed", "video") for o in both)
    assert read("search", aggregate=False) == (("search", "cvr"),)
    assert read("search", aggregate=False, shared=True) == (("search", "ctr+cvr"),)
    assert read("video", shared=True, contributors={"*": ("feed",)}) == (
        ("video", "ctr+cvr"),
        ("feed", "ctr+cvr"),
    )
    only = {"feed": ("video",)}
    assert {s for s, _ in read("feed", contributors=only)} == {"feed", "video"}
    assert {s for s, _ in read("search", contributors=only)} == {"search"}
    more = {"feed": ("video",), "*": ("feed",)}
    assert {s for s, _ in read("search", contributors=more)} == {"search", "feed"}
    assert {s for s, _ in read("feed", contributors=more)} == {"feed", "video"}


def test_tasks_outside_the_funnel_are_updated_alone_and_products_by_their_factors():
    problem = dataclasses.replace(PROBLEM, tasks=(CQS, *PROBLEM.tasks[::-1]))
    mtms = MTMS(scenes=("feed",))
    assert mtms.units(problem) == (FUNNEL, ("cqs",))
    assert mtms.target_tasks(problem) == ("cqs", "cvr", "ctr")
    product = dataclasses.replace(mtms, targets=("ctcvr",))
    assert product.target_tasks(problem) == ("cvr", "ctr")
    assert dataclasses.replace(mtms, targets=("cqs",)).target_tasks(problem) == ("cqs",)
    hidden = dataclasses.replace(
        PROBLEM, tasks=(binary("ctr", label="click", served=False), CVR, CTCVR)
    )
    assert mtms.target_tasks(hidden) == ("ctr", "cvr")


def with_feature(feature):
    features = [f for f in PROBLEM.features if f.name != feature.name]
    return dataclasses.replace(PROBLEM, features=(*features, feature))


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            with_feature(categorical("user")),
            "'user' has ids that are numbered anew.*Use encoding="
            "'hash' .tables hold the ids that were seen, so size= may be 2..30",
        ),
        (with_feature(numerical("hour", encoding="quantile")), "Use encoding='standard' or 'log'"),
        (with_feature(categorical("user", encoding="hash", size=9, dim=7)), "dim=7; .*model.dim=4"),
        (dataclasses.replace(PROBLEM, scene=None), "declares no scene; ProblemSpec.scene="),
        (with_feature(categorical("scene")), "add categorical.'scene', encoding='hash', size="),
        (
            dataclasses.replace(
                PROBLEM,
                tasks=(*PROBLEM.tasks, binary("teacher", label="click", head="ctr", served=False)),
            ),
            "'teacher' has a head",
        ),
    ],
)
def test_a_problem_whose_ids_or_scene_do_not_last_is_refused(problem, message):
    with pytest.raises(SpecError, match=message):
        experiment(problem)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scenes": ()}, "one or more, each named once"),
        ({"scenes": ("feed", "feed")}, "one or more, each named once"),
        ({"losses": "mtsm"}, "losses='mtsm' is none of .*Did you mean 'mtms'"),
        ({"fields": {"fed": ("user",)}}, "fields names 'fed'; .*Did you mean 'feed'"),
        ({"fields": {"feed": ("usr",)}}, "'usr', which is no feature.*Did you mean 'user'"),
        ({"fields": {"feed": ("price",)}}, "'feed' has no feature with ids"),
        ({"contributors": {"fed": ("search",)}}, "contributors names 'fed'"),
        ({"contributors": {"feed": ("serch",)}}, "names 'serch'; .*Did you mean 'search'"),
        ({"targets": ("cvrr",)}, "targets name 'cvrr'; .*Did you mean 'cvr'"),
        (
            {"most_components": 3},
            "'ctr' of scene 'feed' would read 4 components, more than "
            "most_components=3: .*Name the scenes it reads, as contributors=",
        ),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"contributors": {"feed": "search"}}, "must be several names: .'search',."),
        ({"targets": "cvr"}, "targets='cvr' must be several names: .'cvr',."),
        ({"expire_after": 0}, "expire_after=0 must be at least 1, or None"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_what_is_right_is_said(settings, message):
    with pytest.raises(SpecError, match=message):
        experiment(**settings)


def test_fifty_scenes_are_too_many_to_read_unless_contributors_are_named():
    scenes = tuple(f"scene{i}" for i in range(50))
    with pytest.raises(SpecError, match="would read 100 components"):
        experiment(scenes=scenes)
    own = experiment(scenes=scenes, contributors={"*": ("scene0",)})
    assert len(own.mtms.inputs_of(PROBLEM, "scene7", "cvr")) == 4


def test_settings_come_back_from_their_json():
    config = experiment(contributors={"*": ("feed",)}, fields=FIELDS, expire_after=3)
    assert type(config).from_json(config.to_json()) == config
