"""An experiment: a problem, a model and how it is trained and judged, as plain data.

Its JSON is all that crosses from the pipeline's definition into its components.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tfmtl.declare.calibration import Calibration
from tfmtl.declare.checks import check_settings, from_plain, shown
from tfmtl.declare.down_sampling import down_sampling_of
from tfmtl.declare.evaluation import Evaluation
from tfmtl.declare.meta import Meta
from tfmtl.declare.model import Model, Part
from tfmtl.declare.monitors import check_monitor
from tfmtl.declare.mtms import MTMS
from tfmtl.declare.parts import check_embedding_optimizer, check_parts
from tfmtl.declare.paths import replaced
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.replay import Replay
from tfmtl.declare.search import AutoMTL
from tfmtl.declare.split import Sampling, Split
from tfmtl.declare.total_value import TotalValue
from tfmtl.declare.training import Training
from tfmtl.declare.tuning import Tuning
from tfmtl.errors import SpecError
from tfmtl.plain import check_plain_name

__all__ = [
    "PARTS",
    "Calibration",
    "Evaluation",
    "ExperimentConfig",
    "Model",
    "Part",
    "Replay",
    "Training",
    "Tuning",
]


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
        calibration: Calibrators that are fitted after training; none, by default.

    Raises:
        SpecError: A setting is wrong, or two contradict each other. Parts that are not the default
            ones, or have arguments, are made once to check them, which loads TensorFlow.
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
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        check_plain_name("name", self.name)
        check_settings("", self, {})
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
        self._check_training()
        self._check_scale()
        check_monitor(self.training.monitor, self.problem)
        check_embedding_optimizer(self.training.embedding_optimizer)
        check_parts(self.problem, self.model, meta=self.meta is not None)

    def _check_training(self) -> None:
        settings = self.training
        changing = settings.changing_rate()
        if self.mtms is not None and changing is not None:
            raise SpecError(
                f"training.{changing}={getattr(settings, changing)!r}: the updates of mtms count "
                "on from slot to slot, so that a rate that changes would be at its end after the "
                f"first; leave {changing} out."
            )
        for loop in ("mtms", "search"):
            if getattr(self, loop) is not None and self.model.members > 1:
                raise SpecError(
                    f"model.members={self.model.members} is of networks that are trained as a "
                    f"whole, and {loop} does not support it; leave it out."
                )
        for loop in ("mtms", "meta"):
            for name in ("ema", "reset_tables"):
                if getattr(self, loop) is not None and getattr(settings, name):
                    raise SpecError(
                        f"training.{name}={getattr(settings, name)} is of ordinary training, and "
                        f"{loop} has a loop of its own that does not support it; leave it out."
                    )

    def _check_scale(self) -> None:
        """Refuses what would leave predictions on another scale than the labels."""
        if self.calibration is not None:
            self.calibration.check_problem(self.problem)
            if self.model.members > 1:
                raise SpecError(
                    f"model.members={self.model.members} and calibration are both declared, and a "
                    "calibrator changes one prediction, not those of members; leave one out."
                )
            if self.mtms is not None:
                raise SpecError(
                    "mtms and calibration are both declared, and mtms holds back no validation "
                    "rows to fit calibrators on; leave calibration out."
                )
        if down_sampling_of(self.sampling, self.problem) is None or self.sampling is None:
            return
        terms = [term.get("name") for term in self.model.terms]
        if self.sampling.correct == "offset" and "pwiser" in terms:
            raise SpecError(
                "sampling.correct='offset' with the term 'pwiser': the term compares rows of a "
                "request, some of which are left out. Take correct='weight', or leave one out."
            )
        if self.search is not None:
            raise SpecError(
                "sampling.correct with search: the search does not correct its losses. Search "
                "without it, and give it to the experiment that was found."
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
        """The experiment that `to_json` wrote.

        Raises:
            SpecError: The text is no JSON of an experiment; the message names the field.
        """
        try:
            plain = json.loads(text)
        except ValueError as error:
            raise SpecError(f"the text is no JSON of an experiment: {error}") from None
        if not isinstance(plain, Mapping):
            raise SpecError(f"an experiment is a mapping of its fields; got {shown(plain)}.")
        parts = {
            name: from_plain(PARTS[name], name, value) if name in PARTS and value else value
            for name, value in plain.items()
        }
        if "problem" in parts:
            parts["problem"] = ProblemSpec.from_json(parts["problem"])
        return from_plain(cls, "experiment", parts)

    def replace_path(self, path: str, value: Any) -> "ExperimentConfig":
        """A copy with one field replaced, by dotted path: `"model.backbone.num_experts"`.

        A number reaches into a list: `"model.terms.0.weight"` is the first term's.

        Raises:
            SpecError: The path names no field, or the field refuses the value.
        """
        experiment: ExperimentConfig = replaced(self, path, value)
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
    "calibration": Calibration,
}
