"""The settings of MTMS, and what follows from them for a problem."""

import dataclasses
from collections.abc import Mapping, Sequence

from tfmtl.declare.checks import at_least, check_settings, one_of
from tfmtl.declare.features import Categorical, Feature, Numerical
from tfmtl.declare.layout import has_ids
from tfmtl.declare.problem import ProblemSpec
from tfmtl.declare.sequences import SequenceFeature
from tfmtl.errors import SpecError, did_you_mean
from tfmtl.plain import freeze

EVERY = "*"
LOSSES = ("mtms", "mtms_literal", "cvr_click", "esmm")
COUNTS = (
    "most_components",
    "fine_tune_epochs",
    "window",
    "history",
    "min_count",
    "expire_after",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MTMS:
    """Components, networks and slots (Tan et al., MTMS, §III).

    It reads of the experiment's `Model`: `dim` and `l2`; `numeric_mode` and `numeric_units` in the
    update; `tower_dropout` and `tower_batch_norm` in the fine-tuning. It reads of `Training` all
    but `patience`, `monitor`, `decay` and `checkpoint_every`: a slot has no validation rows to
    choose an epoch by.

    Args:
        scenes: Values of the problem's scene, each with its own components. Rows of other scenes
            are not trained on; in serving they get the first scene's predictions.
        losses: What updates a funnel's embeddings: `mtms` (eq. 2: clicks, conversions of clicked
            rows, and their product), `mtms_literal` (conversions of all rows, as printed),
            `cvr_click` (clicks and conversions apart) or `esmm` (eq. 1).
        shared: Whether a scene's clicks and conversions share one set of tables, as in ESMM.
        contributors: Scenes whose components a scene's fine-tuned networks read beside its own:
            `{"feed": ("search",)}`; `"*"` stands for every scene not named. Every scene reads
            every scene where nothing is given.
        most_components: Most components one network may read: its input is that wide.
        aggregate: False lets a network read the tables of its own component alone.
        fields: Features of a scene, where it does not have all.
        update_units: Widths of a component's network in the embedding update.
        fine_tune_units: Widths of a fine-tuned network.
        fine_tune_epochs: Passes of the fine-tuning; `Training.epochs` is those of the update.
        targets: Tasks to fine-tune and serve; all that are served, by default. The product of a
            funnel has no network: it is that of the click's and the conversion's.
        window: Slots whose rows a slot is trained on, the last being its own (the paper's three
            days).
        history: Slots whose rows the first slot is trained on; as `window` if not given (the
            paper's three months).
        min_count: A new id with fewer rows in the window gets no row of its own and trains the
            row of unknown ids instead. With 1, the default, that row stays zero.
        expire_after: Slots after which an id that no row had is dropped; never, by default.

    Raises:
        SpecError: A setting contradicts another.
    """

    scenes: Sequence[str]
    losses: str = "mtms"
    shared: bool = False
    contributors: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    most_components: int = 16
    aggregate: bool = True
    fields: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    update_units: Sequence[int] = (256, 128)
    fine_tune_units: Sequence[int] = (512, 256, 128)
    fine_tune_epochs: int = 2
    targets: Sequence[str] | None = None
    window: int = 3
    history: int | None = None
    min_count: int = 1
    expire_after: int | None = None

    def __post_init__(self) -> None:
        freeze(self)
        check_settings(
            "mtms.",
            self,
            {
                "losses": one_of(LOSSES),
                "update_units": at_least(1),
                "fine_tune_units": at_least(1),
                **dict.fromkeys(COUNTS, at_least(1)),
            },
        )
        if not self.scenes or len(set(self.scenes)) < len(self.scenes):
            raise SpecError(
                f"mtms.scenes={tuple(self.scenes)}; one or more, each named once, would be right."
            )
        for field in ("contributors", "fields"):
            for scene in getattr(self, field):
                if scene not in self.scenes and (scene, field) != (EVERY, "contributors"):
                    raise SpecError(
                        f"mtms: {field} names {scene!r}; scenes are {list(self.scenes)}."
                        f"{did_you_mean(scene, self.scenes)}"
                    )
        for scene, read in self.contributors.items():
            for other in read:
                if other not in self.scenes:
                    raise SpecError(
                        f"mtms: contributors[{scene!r}] names {other!r}; scenes are "
                        f"{list(self.scenes)}.{did_you_mean(other, self.scenes)}"
                    )

    @property
    def first_window(self) -> int:
        """Slots whose rows the first slot is trained on."""
        return self.history or self.window

    def check_problem(self, problem: ProblemSpec, dim: int) -> None:
        """Refuses a problem whose ids would not be the same from slot to slot.

        Args:
            problem: The declaration.
            dim: Width of all embeddings.

        Raises:
            SpecError: The message says what to declare.
        """
        scene_feature(problem)
        for feature in problem.features:
            _check_feature(feature, dim)
        known = [f.name for f in problem.features]
        for scene, names in self.fields.items():
            for name in names:
                if name not in known:
                    raise SpecError(
                        f"mtms: fields[{scene!r}] names {name!r}, which is no feature; features "
                        f"are {known}.{did_you_mean(name, known)}"
                    )
        for scene in self.scenes:
            if not any(map(has_ids, self.features_of(problem, scene))):
                raise SpecError(
                    f"mtms: scene {scene!r} has no feature with ids, so its components would have "
                    "no tables; declare a categorical feature besides the scene."
                )
        for task in problem.tasks:
            if task.name == "network":
                raise SpecError("mtms: a task is called 'network', as is a file beside its tables.")
            if task.head is not None or task.pseudo_label is not None:
                raise SpecError(
                    f"mtms: task {task.name!r} has a head or pseudo-labels of another; here every "
                    "task learns from labels of its own."
                )
        for name in self.targets or ():
            if name not in problem.task_names:
                raise SpecError(
                    f"mtms: targets name {name!r}; tasks are {list(problem.task_names)}."
                    f"{did_you_mean(name, problem.task_names)}"
                )
        for scene in self.scenes:
            for target in self.target_tasks(problem):
                read = len(self.inputs_of(problem, scene, target))
                if read > self.most_components:
                    raise SpecError(
                        f"mtms: task {target!r} of scene {scene!r} would read {read} components, "
                        f"more than most_components={self.most_components}: its network would be "
                        "as wide as all of them. Name the scenes it reads, as contributors="
                        f"{{'*': ({self.scenes[0]!r},)}}."
                    )

    def features_of(self, problem: ProblemSpec, scene: str) -> tuple[Feature, ...]:
        """The features of a scene: those it has, without the scene itself, which is one value."""
        names = self.fields.get(scene, [f.name for f in problem.features])
        scene_name = scene_feature(problem).name
        return tuple(f for f in problem.features if f.name in names and f.name != scene_name)

    def units(self, problem: ProblemSpec) -> tuple[tuple[str, ...], ...]:
        """Tasks by what their losses tie together: the funnel, and every other task alone."""
        funnel = problem.funnel() or ()
        others = tuple((t,) for t in problem.task_names if t not in funnel)
        return (funnel, *others) if funnel else others

    def owners(self, unit: Sequence[str]) -> tuple[str, ...]:
        """Tasks of a unit that own tables; the product of a funnel owns none."""
        if len(unit) == 1:
            return tuple(unit)
        click, conversion, _ = unit
        return (f"{click}+{conversion}",) if self.shared else (click, conversion)

    def unit_of(self, problem: ProblemSpec, owner: str) -> tuple[str, ...]:
        """The unit whose tables an owner's are."""
        return next(unit for unit in self.units(problem) if owner in self.owners(unit))

    def target_tasks(self, problem: ProblemSpec) -> tuple[str, ...]:
        """Tasks that are fine-tuned, in the problem's order; of a product, its factors."""
        funnel = problem.funnel()
        product = funnel[2] if funnel else None
        wanted = set(self.targets or (t.name for t in problem.served))
        if funnel and product in wanted:
            wanted |= set(funnel[:2])
        return tuple(t for t in problem.task_names if t in wanted and t != product)

    def inputs_of(self, problem: ProblemSpec, scene: str, task: str) -> tuple[tuple[str, str], ...]:
        """Components, (scene, owner of tables), that a fine-tuned network reads, its own first."""
        units = self.units(problem)
        unit_of_task = next(unit for unit in units if task in unit)
        if not self.aggregate:
            owners = self.owners(unit_of_task)
            return ((scene, owners[0] if len(owners) == 1 else task),)
        others = self.contributors.get(scene, self.contributors.get(EVERY))
        if others is None:
            others = () if self.contributors else self.scenes
        scenes = dict.fromkeys((scene, *others))
        return tuple((s, owner) for s in scenes for unit in units for owner in self.owners(unit))


def scene_feature(problem: ProblemSpec) -> Categorical:
    """The feature that holds a row's scene.

    Raises:
        SpecError: There is none whose ids follow from the scene's name.
    """
    if problem.scene is None:
        raise SpecError("mtms: the problem declares no scene; ProblemSpec(scene='scene') does.")
    feature = problem.scene_feature()
    if feature is not None and feature.encoding["name"] == "hash":
        return feature
    raise SpecError(
        f"mtms: rows find their components by the scene, which must be a feature whose ids follow "
        f"from its name: add categorical({problem.scene!r}, encoding='hash', size=2**20) to "
        "features."
    )


def meaning(feature: Feature) -> str:
    """What a feature's ids and numbers depend on; where it changes, they change.

    Example:
        >>> from tfmtl.declare.problem import categorical
        >>> meaning(categorical("user", encoding="hash", size=64))
        'user (encoding=hash, dtype=string, size=64, pooling=mean)'
    """
    encoding = getattr(feature, "encoding", {"name": None})
    facts = {
        "encoding": encoding["name"],
        "dtype": getattr(feature, "dtype", None),
        **{argument: value for argument, value in encoding.items() if argument != "name"},
        "pooling": getattr(feature, "pooling", None),
    }
    given = ", ".join(f"{name}={value}" for name, value in facts.items() if value is not None)
    return f"{feature.name} ({given})"


def _check_feature(feature: Feature, dim: int) -> None:
    if isinstance(feature, SequenceFeature) or getattr(feature, "of", None) is not None:
        raise SpecError(
            f"mtms: feature {feature.name!r} shares a table with another feature or is a sequence; "
            "components keep one table of rows per feature, which no other reads. Declare a list "
            "as categorical(…, encoding='hash', max_values=…), which is pooled by mean, sum or max."
        )
    width = getattr(feature, "dim", None)
    if width not in (None, dim):
        raise SpecError(
            f"mtms: feature {feature.name!r} has dim={width}; all tables of MTMS have one width, "
            f"model.dim={dim}."
        )
    if isinstance(feature, Categorical | Numerical) and feature.encoder.refitted:
        right = (
            "encoding='hash' (tables hold the ids that were seen, so size= may be 2**30)"
            if isinstance(feature, Categorical)
            else "encoding='standard' or 'log'"
        )
        raise SpecError(
            f"mtms: feature {feature.name!r} has ids that are numbered anew in every slot, while "
            f"tables are carried from slot to slot. Use {right}."
        )
