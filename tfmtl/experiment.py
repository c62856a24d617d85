"""An experiment: a problem, a model and how it is trained and judged, as plain data.

Its JSON is all that crosses from the pipeline's definition into its components.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.errors import SpecError, did_you_mean
from tfmtl.problem import ProblemSpec

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """How rows become train, validation and test.

    Made by `by_hash`, `by_time`, `by_column` or `by_row_number`, which document the fields.
    """

    rule: str
    column: str | None = None
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    salt: str = ""
    bounds: tuple[Any, Any] | None = None
    values: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None = None
    modulo: int | None = None

    def __post_init__(self) -> None:
        _freeze(self)


def by_hash(column: str, *, shares: Sequence[float] = (0.8, 0.1, 0.1), salt: str = "") -> Split:
    """Splits by a hash of `column` (request or user), so that its rows stay together.

    Args:
        column: Column whose value decides.
        shares: Shares of train, validation and test; they sum to 1.
        salt: Another salt gives another split.
    """
    _check_shares("by_hash", shares)
    return Split(rule="hash", column=column, shares=tuple(shares), salt=salt)  # type: ignore[arg-type]


def by_time(column: str, *, validation_from: Any, test_from: Any) -> Split:
    """Splits by time: train before `validation_from`, test from `test_from` on.

    Args:
        column: Column with numbers or ISO dates; text is compared as text.
        validation_from: First value of validation: a number, an ISO date or a `date`.
        test_from: First value of test.
    """
    if not validation_from < test_from:
        raise SpecError(
            f"by_time: validation_from={validation_from!r} must lie before test_from={test_from!r}."
        )
    return Split(rule="time", column=column, bounds=(validation_from, test_from))


def by_column(
    column: str,
    *,
    train: Sequence[str] = ("train",),
    validation: Sequence[str] = ("validation", "valid", "val"),
    test: Sequence[str] = ("test",),
) -> Split:
    """Splits by an existing column's values; rows with any other value are an error."""
    values = (tuple(train), tuple(validation), tuple(test))
    flat = [v for part in values for v in part]
    if len(set(flat)) != len(flat):
        raise SpecError(f"by_column: a value stands in two splits: {values}.")
    return Split(rule="column", column=column, values=values)


def by_row_number(*, shares: Sequence[float] = (0.6, 0.2, 0.2), modulo: int = 10) -> Split:
    """Splits by row number `r % modulo`, for data without requests or users.

    Args:
        shares: Shares of train, validation and test, multiples of `1 / modulo`; `r % 10 < 6`
            is train for `(0.6, 0.2, 0.2)`.
        modulo: Length of the repeating pattern.
    """
    _check_shares("by_row_number", shares)
    for share in shares:
        if abs(share * modulo - round(share * modulo)) > 1e-9:
            raise SpecError(f"by_row_number: share {share} is no multiple of 1/{modulo}.")
    return Split(rule="row_number", shares=tuple(shares), modulo=modulo)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The network.

    Args:
        backbone: Registered backbone and its arguments, `{"name": "mmoe", "num_experts": 4}`.
        dim: Width of embeddings, where a feature does not say otherwise.
        numeric_mode: `joint` (all numbers through one dense layer, one field) or `fieldwise`
            (one field a number, `xⱼ·wⱼ + bⱼ`).
        numeric_units: Widths of ReLU layers below the joint field; none by default.
        tower_units: Widths of each task's tower; the backbone's own default if not given.
        tower_dropout: Share dropped in the towers.
        conv_semantics: `ctcvr_direct`, `cvr_click` or `esmm`; the backbone's default if not
            given. See `Heads`.
        balancer: Registered balancer and its arguments.
        terms: Further batch-level loss terms; the backbone's own are added by itself.
        l2: Weight of `½‖w‖²` over dense kernels and looked-up rows, the latter divided by the
            batch size.
    """

    backbone: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "mmoe"})
    dim: int = 16
    numeric_mode: str = "joint"
    numeric_units: Sequence[int] = ()
    tower_units: Sequence[int] | None = None
    tower_dropout: float = 0.0
    tower_batch_norm: bool = False
    conv_semantics: str | None = None
    balancer: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "fixed"})
    terms: Sequence[Mapping[str, Any]] = ()
    l2: float = 1e-6

    def __post_init__(self) -> None:
        _freeze(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How the network is trained.

    Args:
        epochs: Most passes over the training rows.
        batch_size: Rows a step.
        learning_rate: Of the dense variables.
        embedding_learning_rate: Of the tables; as `learning_rate` if not given.
        decay: `none`, or `cosine`: both rates fall to zero over `epochs`. Predictions of a
            constant rate keep the last batches' noise, which shows in their calibration.
        optimizer: `adam`, `adagrad` or `sgd`, for the dense variables.
        embedding_optimizer: Registered row-wise optimizer for the tables.
        patience: Epochs without a better `monitor` before training stops.
        monitor: A validation metric (`cvr/auc@click`), `mean_auc` over the binary tasks, or
            `loss` (regressions alone have no AUC).
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
        _freeze(self)
        for field in ("epochs", "batch_size", "checkpoint_every"):
            if getattr(self, field) < 1:
                raise SpecError(f"training.{field}={getattr(self, field)} must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a model is judged on the test split, and what it must hold to be pushed.

    Args:
        slices: Columns to slice by, besides the scene; two joined as `("scene", "segment")`.
        bounds: Least or most values that must hold, by metric name:
            `{"ctr/auc@imp": 0.6, "ctr/calibration@imp": (0.8, 1.25)}`; a number is a lower
            bound for AUC and GAUC and an upper bound for losses and errors.
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
        _freeze(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """A search over experiment fields, by dotted path.

    Args:
        space: Path to candidates: a list of values, or `{"min": 1e-4, "max": 1e-2, "sampling":
            "log"}` for a range: `{"training.learning_rate": …, "model.backbone.num_experts":
            [4, 8]}`.
        trials: How many are tried.
        epochs: Epochs of a trial.
        algorithm: `random` or `bayesian`.
    """

    space: Mapping[str, Any]
    trials: int = 8
    epochs: int = 2
    algorithm: str = "random"

    def __post_init__(self) -> None:
        _freeze(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything a run depends on, besides the data.

    Args:
        name: Name of the pipeline and of the served model.
        problem: What is known and asked.
        split: How rows become train, validation and test.
        model: The network.
        training: How it is trained.
        evaluation: How it is judged.
        tuning: What is searched before training; nothing, by default.
    """

    name: str
    problem: ProblemSpec
    split: Split
    model: Model = dataclasses.field(default_factory=Model)
    training: Training = dataclasses.field(default_factory=Training)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        if self.split.rule == "row_number" and self.problem.request_id:
            raise SpecError(
                "split: by_row_number would cut requests apart, and request_id="
                f"{self.problem.request_id!r} is declared. Use "
                f"by_hash({self.problem.request_id!r}) or by_time(...)."
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
        for part in ("split", "model", "training", "evaluation", "tuning"):
            if plain[part] is not None:
                plain[part] = dataclasses.asdict(plain[part])
        return json.dumps(plain, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ExperimentConfig":
        """The experiment that `to_json` wrote."""
        plain = json.loads(text)
        parts: dict[str, Any] = {
            "problem": ProblemSpec.from_json(plain["problem"]),
            "split": Split(**plain["split"]),
            "model": Model(**plain["model"]),
            "training": Training(**plain["training"]),
            "evaluation": Evaluation(**plain["evaluation"]),
            "tuning": Tuning(**plain["tuning"]) if plain["tuning"] else None,
        }
        return cls(name=plain["name"], **parts)

    def replace_path(self, path: str, value: Any) -> "ExperimentConfig":
        """A copy with one field replaced, by dotted path: `"model.backbone.num_experts"`.

        Raises:
            SpecError: The path names no field.
        """
        first, *rest = path.split(".")
        return _replace(self, path, [first, *rest], value)


def _freeze(node: Any) -> None:
    # JSON knows lists only; tuples everywhere make a round trip equal.
    for field in dataclasses.fields(node):
        object.__setattr__(node, field.name, _tuples(getattr(node, field.name)))


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    if isinstance(value, datetime.date):
        return value.isoformat()
    # NumPy's numbers, of a column's quantile or of a grid, are none to JSON.
    return value.item() if hasattr(value, "item") else value


def _replace(node: Any, path: str, keys: list[str], value: Any) -> Any:
    key, *rest = keys
    if isinstance(node, Mapping):
        return {**node, key: _replace(node.get(key), path, rest, value) if rest else value}
    known = [f.name for f in dataclasses.fields(node)]
    if key not in known:
        raise SpecError(
            f"{path!r}: {type(node).__name__} has no field {key!r}; it has {known}."
            f"{did_you_mean(key, known)}"
        )
    new = _replace(getattr(node, key), path, rest, value) if rest else value
    return dataclasses.replace(node, **{key: new})


def _check_shares(rule: str, shares: Sequence[float]) -> None:
    if len(shares) != 3 or abs(sum(shares) - 1) > 1e-6 or min(shares) <= 0:
        raise SpecError(
            f"{rule}: shares are train, validation and test, all above 0 and summing to 1; got "
            f"{tuple(shares)}."
        )
