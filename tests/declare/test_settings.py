"""Every setting is checked where its object is made, however that is, and named in the message."""

import dataclasses
import json

import pytest

from tfmtl.data.sources import Source
from tfmtl.declare import (
    evaluation,
    experiment,
    features,
    meta,
    model,
    mtms,
    replay,
    search,
    split,
    tasks,
    total_value,
    training,
    tuning,
)
from tfmtl.declare.experiment import ExperimentConfig, Replay, Training, Tuning
from tfmtl.declare.meta import Meta
from tfmtl.declare.mtms import MTMS
from tfmtl.declare.problem import (
    ProblemSpec,
    binary,
    categorical,
    count_encoding,
    numerical,
    regression,
    target_encoding,
)
from tfmtl.declare.search import AutoMTL
from tfmtl.declare.split import Sampling, by_column, by_hash, by_row_number, by_time
from tfmtl.declare.total_value import TotalValue
from tfmtl.errors import SpecError

NAN, INF = float("nan"), float("inf")

PROBLEM = ProblemSpec(
    features=(
        categorical("user", side="user"),
        categorical("tags", side="ad", max_values=3, weights="tag_weights"),
        categorical("scene", encoding="hash", size=2**20),
        numerical("price", side="ad"),
        numerical("age", encoding="quantile", bins=5),
        count_encoding("ad"),
        target_encoding("ad", task="ctr"),
    ),
    tasks=(
        binary("ctr", label="click"),
        binary("cvr", label="conversion", observed_if="click"),
        binary("ctcvr", label="conversion"),
        regression("cqs", label="quality"),
    ),
    scene="scene",
    request_id="request",
)
EXPERIMENT = ExperimentConfig(
    name="tiny",
    problem=PROBLEM,
    split=by_hash("request"),
    value=TotalValue(actions={"cpc": "click"}),
    replay=Replay(),
    sampling=Sampling(column="row_type", rates={"R3": 0.5}),
)
WITH = {
    "tuning": EXPERIMENT.replace_path("tuning", Tuning(space={"training.epochs": [1]})),
    "meta": EXPERIMENT.replace_path("meta", Meta()),
    "search": EXPERIMENT.replace_path("search", AutoMTL()),
    "mtms": ExperimentConfig(
        name="slots",
        problem=dataclasses.replace(
            PROBLEM,
            features=(
                categorical("user", encoding="hash", size=2**20),
                categorical("scene", encoding="hash", size=2**20),
            ),
        ),
        split=by_hash("request"),
        mtms=MTMS(scenes=("feed",)),
    ),
}

BAD = [
    # Path, value, what the message says besides the path.
    ("model.dim", 0, "must be at least 1"),
    ("model.dim", -8, "must be at least 1"),
    ("model.dim", "8", "must be a whole number"),
    ("model.dim", 2.5, "must be a whole number"),
    ("model.dim", NAN, "must be a whole number"),
    ("model.dim", True, "must be a whole number"),
    ("model.dim", None, "must be a whole number"),
    ("model.numeric_mode", "joined", "Did you mean 'joint'"),
    ("model.numeric_units", 64, "a list of whole numbers"),
    ("model.numeric_units", (0,), "at least 1, each of them"),
    ("model.tower_units", (64, -1), "at least 1, each of them"),
    ("model.tower_units", "64", "a list of whole numbers"),
    ("model.tower_units", ((64,),), "a list of whole numbers"),
    ("model.tower_dropout", 1.5, r"must be in \[0, 1\)"),
    ("model.tower_dropout", 1, r"must be in \[0, 1\)"),
    ("model.tower_dropout", NAN, "a finite number"),
    ("model.tower_batch_norm", "no", "True or False"),
    ("model.tower_batch_norm", 1, "True or False"),
    ("model.conv_semantics", "essm", "Did you mean 'esmm'"),
    ("model.terms", {}, "must be a list of terms"),
    ("model.terms", "pwiser", "must be a list of terms"),
    ("model.terms", ({"name": "pwise"},), "Did you mean 'pwiser'"),
    ("model.l2", -1, "must be at least 0"),
    ("model.l2", "1e-6", "a finite number"),
    ("model.loss_reduction", "mean", "none of"),
    ("model.backbone", 3, "a backbone is a name"),
    ("model.backbone", "mmo", "Did you mean 'mmoe'"),
    ("model.backbone", "json:dumps", "no backbone"),
    ("model.balancer", "pcgrd", "Did you mean 'pcgrad'"),
    ("model.balancer", {}, "needs a 'name'"),
    ("model.interaction", "crss", "Did you mean 'cross'"),
    ("training.epochs", 0, "at least 1"),
    ("training.epochs", 2.5, "a whole number"),
    ("training.batch_size", -1, "at least 1"),
    ("training.batch_size", "64", "a whole number"),
    ("training.learning_rate", NAN, "a finite number"),
    ("training.learning_rate", INF, "a finite number"),
    ("training.learning_rate", "1e-3", "a finite number"),
    ("training.learning_rate", 0, "above 0"),
    ("training.learning_rate", -0.01, "above 0"),
    ("training.embedding_learning_rate", -0.01, "above 0, or None"),
    ("training.decay", "cosin", "Did you mean 'cosine'"),
    ("training.optimizer", "adamw", "Did you mean 'adam'"),
    ("training.embedding_optimizer", "adamm", "unknown optimizer 'adamm'"),
    ("training.patience", -1, "at least 0"),
    ("training.monitor", "ctr/aucc@imp", "Did you mean 'auc'"),
    ("training.monitor", "ctrr/auc@imp", "Did you mean 'ctr'"),
    ("training.monitor", "cvr/auc@imp", "the name is 'cvr/auc@click'"),
    ("training.monitor", "auc", "full name"),
    ("training.monitor", "mean_acu", "Did you mean 'mean_auc'"),
    ("training.monitor", "ctr/calibration@imp", "neither high nor low"),
    ("training.monitor", 3, "text"),
    ("training.checkpoint_every", 0, "at least 1"),
    ("training.seed", -1, "from 0 to"),
    ("training.seed", 1.0, "a whole number"),
    ("training.seed", True, "a whole number"),
    ("evaluation.slices", "scene", r"several names: \('scene',\)"),
    ("evaluation.slices", (3,), "a list"),
    ("evaluation.bounds", {"ctr/auc@imp": NAN}, "a finite number"),
    ("evaluation.bounds", {"ctr/auc@imp": "0.6"}, "a finite number"),
    ("evaluation.bounds", {"ctr/auc@imp": (0.9, 0.1)}, "lies above"),
    ("evaluation.bounds", {"ctr/auc@imp": (None, None)}, "a finite number"),
    ("evaluation.bounds", [0.6], "a mapping"),
    ("evaluation.slice_bounds", {"ctr/auc@imp": True}, "a finite number"),
    ("evaluation.max_fall", -0.1, "at least 0"),
    ("evaluation.max_slice_fall", NAN, "a finite number"),
    ("evaluation.min_slice_rows", "many", "a whole number"),
    ("split.shares", (0.5, 0.1, 0.1), "summing to 1"),
    ("split.shares", (0.9, 0.1), "3"),
    ("split.shares", (1.2, -0.1, -0.1), "above 0"),
    ("split.shares", (NAN, 0.1, 0.1), "finite"),
    ("split.rule", "hsh", "Did you mean 'hash'"),
    ("split.rule", "time", "split.bounds is missing"),
    ("split.column", None, "split.column is missing"),
    ("split.column", 3, "text"),
    ("split.salt", 7, "text"),
    ("sampling.rates", {"R3": 1.5}, "a share from 0 to 1"),
    ("sampling.rates", {"R3": NAN}, "a share from 0 to 1"),
    ("sampling.rates", {"R3": "half"}, "a share from 0 to 1"),
    ("sampling.rates", 0.5, "a mapping"),
    ("sampling.rates", {}, "is empty"),
    ("value.actions", "click", "a mapping"),
    ("value.actions.cpc", "clicks", "Did you mean 'click'"),
    ("value.quality", {"name": "linear", "scale": "2"}, "a finite number"),
    ("replay.k", 0, "at least 1"),
    ("replay.ks", 5, "a list of whole numbers"),
    ("replay.ks", (5, 0), "at least 1"),
    ("replay.bounds", {"tvd": NAN}, "a finite number"),
    ("replay.max_fall", -1, "at least 0"),
    ("tuning.trials", 0, "at least 1"),
    ("tuning.algorithm", "grids", "Did you mean 'grid'"),
    ("tuning.space", {}, "is empty"),
    ("meta.inner_rate", "2e-4", "a finite number"),
    ("meta.second_order", "no", "True or False"),
    ("meta.finetune_scope", "towers", "several names"),
    ("meta.finetune_patience", -1, "at least 0"),
    ("search.tower_units", (0,), "at least 1"),
    ("search.selection", 0, "True or False"),
    ("search.learning_rate", NAN, "a finite number"),
    ("mtms.window", 1.5, "a whole number"),
    ("mtms.scenes", "feed", "several names"),
    ("mtms.contributors", {"feed": "search"}, "several names"),
    ("mtms.losses", "mtsm", "Did you mean 'mtms'"),
    ("mtms.update_units", (0,), "at least 1"),
    ("problem.scene", 3, "text"),
    ("problem.orphans", "negativ", "Did you mean 'negative'"),
    ("problem.indicators", "shown", "several names"),
    ("name", "a b", "becomes a folder"),
    ("training", {"epochs": 3}, "of type Training"),
    ("training", None, "of type Training"),
]


@pytest.mark.parametrize(("path", "value", "words"), BAD)
def test_a_wrong_setting_is_refused_and_named(path, value, words):
    declared = WITH.get(path.split(".")[0], EXPERIMENT)
    with pytest.raises(SpecError, match=words) as raised:
        declared.replace_path(path, value)
    named = ".".join(path.split(".")[:2])
    assert named in str(raised.value) or named == "value.actions.cpc"


@pytest.mark.parametrize(
    ("place", "field", "value", "words"),
    [
        ("features.0", "dim", 0, "categorical 'user': dim=0 must be at least 1"),
        ("features.0", "dim", "8", "categorical 'user': dim='8' must be a whole number"),
        ("features.0", "side", "users", "Did you mean 'user'"),
        ("features.0", "dtype", "int32", "dtype='int32' is none of"),
        ("features.0", "pooling", "meen", "Did you mean 'mean'"),
        ("features.0", "encoding", {"name": "hash", "size": 2.5}, "encoding.size=2.5"),
        ("features.0", "encoding", {"name": "hash", "size": "9"}, "encoding.size='9'"),
        ("features.0", "encoding", "hsh", "Did you mean 'hash'"),
        ("features.1", "max_values", -1, "max_values=-1 must be at least 0"),
        ("features.1", "max_values", 0, "give max_values="),
        ("features.3", "indicator", "no", "indicator='no' must be True or False"),
        ("features.3", "dim", 4, "makes numbers"),
        ("features.4", "encoding", {"name": "quantile", "bins": NAN}, "encoding.bins=nan"),
        ("features.4", "encoding", {"name": "quantile", "bins": "8"}, "encoding.bins='8'"),
        ("features.5", "side", "add", "Did you mean 'ad'"),
        ("features.6", "folds", 1, "folds=1 must be at least 2"),
        ("features.6", "folds", 2.5, "folds=2.5 must be a whole number"),
        ("features.6", "smoothing", NAN, "smoothing=nan must be a finite number"),
        ("tasks.0", "served", "no", "task 'ctr': served='no' must be True or False"),
        ("tasks.0", "trained", 0, "task 'ctr': trained=0 must be True or False"),
        ("tasks.0", "soft", "yes", "soft='yes' must be True or False"),
        ("tasks.0", "label", 3, "label=3 must be text"),
        ("tasks.0", "pseudo_weight", -1, "pseudo_weight=-1 must be at least 0"),
        ("tasks.0", "positive_weight", True, "positive_weight=True must be a finite number"),
        ("tasks.0", "negative_weight", "2", "negative_weight='2' must be a finite number"),
        ("tasks.0", "loss", {"name": "focal", "gamma": "1"}, "loss.gamma='1'"),
        ("tasks.0", "metrics", 3, "must be a list of metrics"),
        ("tasks.0", "kind", "binery", "Did you mean 'binary'"),
    ],
)
def test_a_part_of_a_problem_is_checked_by_a_path_and_from_json_alike(place, field, value, words):
    with pytest.raises(SpecError, match=words):
        EXPERIMENT.replace_path(f"problem.{place}.{field}", value)
    plain = json.loads(EXPERIMENT.to_json())
    parts, index = place.split(".")
    plain["problem"][parts][int(index)][field] = value
    with pytest.raises(SpecError, match=words):
        ExperimentConfig.from_json(json.dumps(plain))


@pytest.mark.parametrize(
    ("keys", "name", "near"),
    [
        ((), "trainin", "training"),
        (("training",), "learning_rat", "learning_rate"),
        (("model",), "towerunits", "tower_units"),
        (("replay",), "max_fal", "max_fall"),
        (("split",), "share", "shares"),
        (("problem",), "scenes", "scene"),
        (("problem", "tasks", 0), "lable", "label"),
        (("problem", "features", 0), "colum", "column"),
    ],
)
def test_a_field_of_json_that_there_is_not_is_refused(keys, name, near):
    plain = json.loads(EXPERIMENT.to_json())
    node = plain
    for key in keys:
        node = node[key]
    node[name] = 1
    with pytest.raises(SpecError, match=f"{name}.*Did you mean '{near}'"):
        ExperimentConfig.from_json(json.dumps(plain))


@pytest.mark.parametrize("keys", [("name",), ("problem",), ("split", "rule"), ("value", "actions")])
def test_a_field_that_json_lacks_is_named(keys):
    plain = json.loads(EXPERIMENT.to_json())
    node = plain
    for key in keys[:-1]:
        node = node[key]
    del node[keys[-1]]
    with pytest.raises(SpecError, match=rf"\.{keys[-1]} is missing"):
        ExperimentConfig.from_json(json.dumps(plain))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"name": "x"}', "3"])
def test_text_that_is_no_experiment_is_refused(text):
    with pytest.raises(SpecError):
        ExperimentConfig.from_json(text)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: by_hash("c", shares=(0.5, 0.1, 0.1)), "summing to 1"),
        (lambda: by_hash("c", shares=0.8), "split.shares=0.8"),
        (lambda: by_column("c", train="train"), "split.values"),
        (lambda: by_column("c", train=()), "each of the three"),
        (lambda: by_row_number(modulo=0), "split.modulo=0"),
        (lambda: by_row_number(shares=(0.55, 0.25, 0.2)), "no multiple of"),
        (lambda: by_time("c", validation_from=NAN, test_from=2), "no time"),
        (lambda: by_time("c", validation_from=2, test_from=1), "must lie before"),
        (lambda: Training(learning_rate=NAN), "training.learning_rate"),
        (lambda: dataclasses.replace(Training(), seed=-1), "training.seed"),
        (lambda: categorical(""), "name='' must be text with a visible"),
        (lambda: binary("ctr", label=""), "label='' must be text with a visible"),
        (lambda: numerical("x", encoding="quantile", bins=3.5), "encoding.bins=3.5"),
        (lambda: EXPERIMENT.replace_path("tuning.trials", 3), "'tuning' is None"),
        (lambda: EXPERIMENT.replace_path("training.epochs.x", 3), "has no field 'x'"),
        (lambda: ProblemSpec(features=PROBLEM.features[0], tasks=PROBLEM.tasks), "features"),
        (lambda: ProblemSpec(features=PROBLEM.features, tasks="ctr"), "problem.tasks"),
        (lambda: ProblemSpec(features=PROBLEM.tasks, tasks=PROBLEM.tasks), "problem.features"),
    ],
)
def test_a_constructor_refuses_what_a_path_refuses(make, words):
    with pytest.raises(SpecError, match=words):
        make()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.backbone", {"name": "ple", "expert_units": (64, 32)}, "level by level"),
        ("model.backbone", {"name": "ple", "expert_units": ()}, "level by level"),
        ("model.backbone", {"name": "ple", "expert_units": ((64,), (0,))}, "at least 1"),
        ("model.backbone", {"name": "ple", "num_shared": 0}, "at least 1 expert"),
        ("model.backbone", {"name": "mmoe", "num_experts": 0}, "at least 1 expert"),
        ("model.backbone", {"name": "mmoe", "num_experts": 2.5}, "num_experts=2.5"),
        ("model.backbone", {"name": "mmoe", "expert_units": ((8,),)}, "expert_units"),
        ("model.backbone", {"name": "mmoe", "expert_units": 8}, "expert_units=8"),
        ("model.backbone", {"name": "mmoe", "expert_units": ()}, "at least one layer"),
        ("model.backbone", {"name": "mmoe", "dropout": 1.5}, r"a share in \[0, 1\)"),
        ("model.backbone", {"name": "mmoe", "dropout": "a"}, "dropout='a'"),
        ("model.backbone", {"name": "shared_bottom", "bottom_units": (-4,)}, "at least 1"),
        ("model.backbone", {"name": "aitm", "bottom_units": ()}, "at least one layer"),
        ("model.backbone", {"name": "aitm", "chain": ("ctr", "like")}, "chain names 'like'"),
        ("model.backbone", {"name": "man", "direction": "forwards"}, "Did you mean 'forward'"),
        ("model.backbone", {"name": "star", "num_scenes": 3}, "not to be given"),
        ("model.backbone", {"name": "mmoe", "num_expert": 3}, "Did you mean 'num_experts'"),
        ("model.interaction", {"name": "cross", "layers": 0}, "layers=0"),
        ("model.interaction", {"name": "self_attention", "heads": 3}, "heads=3"),
        ("model.interaction", {"name": "cross", "layers": "2"}, "layers='2'"),
        ("model.balancer", {"name": "fixed", "task_weights": {"ctrr": 1}}, "ctrr"),
        ("model.balancer", {"name": "dwa", "temperature": 0}, "temperature=0"),
        ("model.balancer", {"name": "dwa", "temperature": "2"}, "temperature='2'"),
        ("model.terms", ({"name": "order_calibration", "weight": -1},), "weight"),
        ("model.terms", ({"name": "order_calibration", "weight": "1"},), "weight='1'"),
    ],
)
def test_what_a_parts_arguments_contradict_is_said_when_the_experiment_is_made(path, value, words):
    with pytest.raises(SpecError, match=words) as raised:
        EXPERIMENT.replace_path(path, value)
    assert str(raised.value).startswith(path)


MODULES = (
    evaluation,
    experiment,
    features,
    meta,
    model,
    mtms,
    replay,
    search,
    split,
    tasks,
    total_value,
    training,
    tuning,
)
CHECKED = {
    part
    for module in MODULES
    for part in vars(module).values()
    if dataclasses.is_dataclass(part) and part.__module__ == module.__name__
}


@pytest.mark.parametrize("part", sorted(CHECKED - {features.Column}, key=lambda p: p.__name__))
def test_every_field_of_a_settings_class_refuses_what_is_of_no_type_of_its_own(part):
    samples = {
        type(value): value
        for declared in (EXPERIMENT, *WITH.values())
        for value in (
            declared,
            *(getattr(declared, f.name) for f in dataclasses.fields(declared)),
            *PROBLEM.features,
            *PROBLEM.tasks,
        )
    }
    sample = samples[part]
    for field in dataclasses.fields(sample):
        with pytest.raises(SpecError, match=field.name.rstrip("s")):
            dataclasses.replace(sample, **{field.name: object()})


@pytest.mark.parametrize("field", ["null_values", "column_names"])
def test_text_is_not_taken_for_its_letters(field):
    with pytest.raises(SpecError, match=rf"{field}='NA'\) must be several texts: \('NA',\)"):
        Source(**{field: "NA"})
