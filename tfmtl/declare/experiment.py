"""An experiment: a problem, a model and how it is trained and judged, as plain data.

Its JSON is all that crosses from the pipeline's definition into its components.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tfmtl.declare.meta import Meta
from tfmtl.declare.mtms import MTMS
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.search import AutoMTL
from tfmtl.declare.split import Sampling, Split
from tfmtl.declare.total_value import TotalValue
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.plain import check_plain_name, freeze
from tfmtl.registry import config_of

Part: TypeAlias = Any
"""A name, a class or a mapping with a `name`; kept as the latter, which its readers rely on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The network.

    A part is given as a registered name, `"mmoe"`; as a class of your own at the top of a module;
    or as a mapping of either's `name` and its arguments, `{"name": "mmoe", "num_experts": 4}` or
    `{"name": "my_shop.parts:Tower"}`. It is kept as such a mapping.

    Args:
        backbone: Registered backbone and its arguments, `{"name": "mmoe", "num_experts": 4}`.
        interaction: Registered interaction of the fields below the backbone and its arguments,
            `{"name": "cross", "layers": 2}`; none by default. See `tfmtl.operations`.
        dim: Width of embeddings, where a feature does not say otherwise.
        numeric_mode: `joint` (all numbers through one dense layer, one field) or `fieldwise`
            (one field per number, `xⱼ·wⱼ + bⱼ`).
        numeric_units: Widths of ReLU layers below the joint field; none by default.
        tower_units: Widths of each task's tower; the backbone's default if not given.
        tower_dropout: Share dropped in the towers.
        conv_semantics: `ctcvr_direct`, `cvr_click`, `esmm`, `mtms` or `mtms_literal`; the
            backbone's default if not given. See `Heads`.
        balancer: Registered balancer and its arguments.
        terms: Further batch-level loss terms; those of the backbone are added automatically.
        l2: Weight of `½‖w‖²` over dense kernels and looked-up rows, the latter divided by the
            batch size.
    """

    backbone: Part = dataclasses.field(default_factory=lambda: {"name": "mmoe"})
    interaction: Part | None = None
    dim: int = 16
    numeric_mode: str = "joint"
    numeric_units: Sequence[int] = ()
    tower_units: Sequence[int] | None = None
    tower_dropout: float = 0.0
    tower_batch_norm: bool = False
    conv_semantics: str | None = None
    balancer: Part = dataclasses.field(default_factory=lambda: {"name": "fixed"})
    terms: Sequence[Part] = ()
    l2: float = 1e-6

    def __post_init__(self) -> None:
        parts = {
            "backbone": config_of("backbone", self.backbone),
            "balancer": config_of("balancer", self.balancer),
            "terms": tuple(config_of("term", term) for term in self.terms),
        }
        if self.interaction is not None:
            parts["interaction"] = config_of("interaction", self.interaction)
        for field, part in parts.items():
            object.__setattr__(self, field, part)
        freeze(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How the network is trained.

    Args:
        epochs: Most passes over the training rows.
        batch_size: Rows per step.
        learning_rate: Of the dense variables.
        embedding_learning_rate: Of the tables; as `learning_rate` if not given.
        decay: `none`, or `cosine`: both rates fall to zero over `epochs`. With a constant
            rate predictions keep the noise of the last batches, which shows in their calibration.
        optimizer: `adam`, `adagrad` or `sgd`, for the dense variables.
        embedding_optimizer: Registered row-wise optimizer for the tables.
        patience: Epochs without a better `monitor` before training stops.
        monitor: A validation metric (`cvr/auc@click`), `mean_auc` over the binary tasks, or
            `loss` (regressions alone have no AUC). It has a direction, which its declaration
            gives: see `tfmtl.metric`.
        checkpoint_every: Steps between checkpoints; an epoch's end always makes one.
        seed: Decides initial weights, the order of rows and dropout.
    """

    epochs: int = 10
    batch_size: int = 2048
    learning_rate: float = 1e-3
    embedding_learning_rate: float | None = None
    decay: str = "none"
    optimizer: str = "adam"
    embedding_optimizer: str = "rowwise_adam"
    patience: int = 2
    monitor: str = "mean_auc"
    checkpoint_every: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        freeze(self)
        for field in ("epochs", "batch_size", "checkpoint_every"):
            if getattr(self, field) < 1:
                raise SpecError(f"training.{field}={getattr(self, field)} must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a model is judged on the test split, and which bounds it must meet to be pushed.

    Args:
        slices: Columns to slice by, besides the scene; two joined as `("scene", "segment")`.
        bounds: Least or most values that must hold, by metric name:
            `{"ctr/auc@imp": 0.6, "ctr/calibration@imp": (0.8, 1.25)}`; a number bounds a metric
            from its worse side: AUC from below, losses and errors from above.
        slice_bounds: The same, for every slice with at least `min_slice_rows` rows.
        max_fall: How much each binary task's AUC may fall against the last blessed model,
            overall.
        max_slice_fall: The same, in every slice.
        min_slice_rows: Slices with fewer observed rows of a task do not decide.
    """

    slices: Sequence[str | Sequence[str]] = ()
    bounds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    slice_bounds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_fall: float = 0.005
    max_slice_fall: float = 0.02
    min_slice_rows: int = 1000

    def __post_init__(self) -> None:
        freeze(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """A search over experiment fields, by dotted path.

    Args:
        space: Path to candidates: a list of values, or `{"min": 1e-4, "max": 1e-2, "sampling":
            "log"}` for a range: `{"training.learning_rate": …, "model.backbone.num_experts":
            [4, 8]}`.
        trials: How many are tried.
        epochs: Epochs of a trial.
        algorithm: `random`, `bayesian` or `grid`.
    """

    space: Mapping[str, Any]
    trials: int = 8
    epochs: int = 2
    algorithm: str = "random"

    def __post_init__(self) -> None:
        freeze(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replay:
    """How a model's ranking is compared with the final stage's, on a replay log.

    The log has every retrieved ad of held-out requests, scored by the final stage (Wang et al.,
    AdKDD 2023, §3.3).

    Args:
        k: Ads that pass to the final stage, the `K` of the golden set.
        ks: Further `K` at which recall is reported.
        request_id: Column with the request.
        ad_id: Column with the ad.
        final_value: Column with the final stage's total value.
        final_cqs: Column with its consolidated quality score, where the log has it.
        final_pctr: Column with its click-through rate, where the log has it: the model's
            normalised entropy against it is then reported, on all that was retrieved.
        slices: Columns to slice by, one value per request, besides the scene.
        bounds: Lower or upper bounds that must hold, such as `{"soft_recall@20": 0.6}`; a number
            is a lower bound for recalls and an upper bound for `tvd` and errors.
        max_fall: How much soft recall at `k` may fall against the last blessed model.
    """

    k: int = 20
    ks: Sequence[int] = (5, 10, 50)
    request_id: str = "request_id"
    ad_id: str = "ad_id"
    final_value: str = "final_tv"
    final_cqs: str | None = "final_cqs"
    final_pctr: str | None = None
    slices: Sequence[str] = ()
    bounds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_fall: float = 0.01

    def __post_init__(self) -> None:
        freeze(self)
        for k in (self.k, *self.ks):
            if k < 1:
                raise SpecError(f"replay: K={k} must be at least 1.")
        if self.max_fall < 0:
            raise SpecError(f"replay: max_fall={self.max_fall} must be at least 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything a run depends on, besides the data.

    Args:
        name: Name of the pipeline, of the served model and of its folder, and part of its URL:
            letters, digits, `_`, `-` and `.`; see `check_plain_name`.
        problem: What is known and asked.
        split: How rows become train, validation and test.
        model: The network.
        training: How it is trained.
        evaluation: How it is judged.
        tuning: What is searched before training; nothing, by default.
        sampling: Which training rows are left out; none, by default.
        value: How predictions become what an auction ranks by, for a ranking stage.
        replay: How that ranking is compared with the final stage's; needs `value`.
        mtms: Trains components of scenes and tasks slot by slot, instead of one model once.
        meta: Trains the one model to adapt to tasks, in two stages, instead of on batches alone.
        search: Searches the network itself before it is trained.
    """

    name: str
    problem: ProblemSpec
    split: Split
    model: Model = dataclasses.field(default_factory=Model)
    training: Training = dataclasses.field(default_factory=Training)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    tuning: Tuning | None = None
    sampling: Sampling | None = None
    value: TotalValue | None = None
    replay: Replay | None = None
    mtms: MTMS | None = None
    meta: Meta | None = None
    search: AutoMTL | None = None

    def __post_init__(self) -> None:
        check_plain_name("name", self.name)
        if self.split.rule == "row_number" and self.problem.request_id:
            raise SpecError(
                "split: by_row_number would cut requests apart, and request_id="
                f"{self.problem.request_id!r} is declared. Use "
                f"by_hash({self.problem.request_id!r}) or by_time(...)."
            )

        if self.replay is not None and self.value is None:
            raise SpecError(
                "replay: recall ranks by total value; give value=TotalValue(actions={…}), which "
                "says what each objective pays for."
            )
        if self.value is not None:
            self.value.check_problem(self.problem)
        if self.mtms is not None:
            self.mtms.check_problem(self.problem, self.model.dim)
            if self.model.interaction is not None:
                raise SpecError(
                    f"model.interaction={dict(self.model.interaction)}: the networks of mtms read "
                    "components' vectors side by side and take no interaction; leave it out."
                )
        if self.meta is not None:
            self.meta.check_problem(self.problem)
            if self.mtms is not None:
                raise SpecError(
                    "mtms and meta are two ways to train: components slot by slot, or one model "
                    "on tasks. Declare one of them."
                )
        if self.search is not None:
            for name in ("tuning", "mtms"):
                if getattr(self, name) is not None:
                    raise SpecError(
                        f"search and {name} are both declared, and a run has one search of one "
                        f"network; leave out one of them, as by {name}=None."
                    )
        binary = any(task.kind == "binary" for task in self.problem.served)
        if self.training.monitor == "mean_auc" and not binary:
            raise SpecError(
                "training.monitor='mean_auc' is over served binary tasks, and there is none among "
                f"{[task.name for task in self.problem.served]}. Use Training(monitor='loss')."
            )

    def to_json(self) -> str:
        """Text from which `from_json` makes an equal experiment."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["problem"] = self.problem.to_json()
        for part in PARTS:
            if plain[part] is not None:
                plain[part] = dataclasses.asdict(plain[part])
        return json.dumps(plain, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ExperimentConfig":
        """The experiment that `to_json` wrote."""
        plain = json.loads(text)
        parts: dict[str, Any] = {
            name: kind(**plain[name]) if plain.get(name) is not None else None
            for name, kind in PARTS.items()
        }
        problem = ProblemSpec.from_json(plain["problem"])
        return cls(name=plain["name"], problem=problem, **parts)

    def replace_path(self, path: str, value: Any) -> "ExperimentConfig":
        """A copy with one field replaced, by dotted path: `"model.backbone.num_experts"`.

        A number reaches into a list: `"model.terms.0.weight"` is the first term's.

        Raises:
            SpecError: The path names no field.
        """
        experiment: ExperimentConfig = _replace(self, path, path.split("."), value)
        return experiment


PARTS: Mapping[str, Any] = {
    "split": Split,
    "model": Model,
    "training": Training,
    "evaluation": Evaluation,
    "tuning": Tuning,
    "sampling": Sampling,
    "value": TotalValue,
    "replay": Replay,
    "mtms": MTMS,
    "meta": Meta,
    "search": AutoMTL,
}


def _replace(node: Any, path: str, keys: list[str], value: Any) -> Any:
    key, *rest = keys
    if isinstance(node, Mapping):
        return {**node, key: _replace(node.get(key), path, rest, value) if rest else value}
    if isinstance(node, tuple):
        if not key.isdecimal() or int(key) >= len(node):
            raise SpecError(
                f"{path!r}: {key!r} is no place in a list of {len(node)}; places are counted "
                "from 0."
            )
        place = int(key)
        new = _replace(node[place], path, rest, value) if rest else value
        return (*node[:place], new, *node[place + 1 :])
    known = [f.name for f in dataclasses.fields(node)]
    if key not in known:
        raise SpecError(
            f"{path!r}: {type(node).__name__} has no field {key!r}; it has {known}."
            f"{did_you_mean(key, known)}"
        )
    new = _replace(getattr(node, key), path, rest, value) if rest else value
    return dataclasses.replace(node, **{key: new})
