"""Configurations, by the name of one that comes with the project or by the path of a file.

A configuration is a Python file that defines

- `EXPERIMENT`, an `ExperimentConfig` (and `PROBLEM`, by custom, its `ProblemSpec`),
- `SOURCE`, how text files are read, where the defaults do not fit (optional),
- `DATA`, the data's path, relative to the file (optional),
- `SPANS`, the pattern of a day's files, where the experiment declares `mtms` (optional; by default
  `day-{SPAN}/*`),
- `REPLAY`, the replay log's path likewise, where the experiment declares `replay` (optional),
- `generate(path)`, which writes the data to a folder where none are given; where the experiment
  declares `replay`, the data to `path/log` and the replay log to `path/replay` (optional).
"""

import dataclasses
import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable
from types import ModuleType

from pipeline import configs
from tfmtl import registry
from tfmtl.data.readers import Source
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import DataError, SpecError, did_you_mean
from tfmtl.metrics.monitor import lower_is_better
from tfmtl.metrics.sliced import split_name
from tfmtl.tuning.space import check_tuning

SPANS = "day-{SPAN}/*"
"""What a day's files are called in a log's folder, where the configuration does not say."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What a configuration file defines.

    Args:
        experiment: Problem, model, training and evaluation.
        path: The file.
        source: How text files are read.
        data: Where the data lie, unless the user says otherwise.
        replay: Where the replay log lies, unless the user says otherwise.
        generate: Writes the data to a folder, where there are none.
        spans: Pattern of a day's files in a log that grows day by day.
    """

    experiment: ExperimentConfig
    path: str
    source: Source | None = None
    data: str | None = None
    replay: str | None = None
    generate: Callable[[str], None] | None = None
    spans: str = SPANS


def known_names() -> tuple[str, ...]:
    """Names of the configurations that come with the project, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(configs.__path__)))


def load(name_or_path: str) -> Config:
    """Loads a configuration.

    Args:
        name_or_path: A name of `known_names`, or the path of a Python file.

    Raises:
        SpecError: There is no such configuration, it does not run, or it lacks `EXPERIMENT`.
    """
    if name_or_path.endswith(".py") or os.sep in name_or_path:
        module = _import_file(name_or_path)
    elif name_or_path in known_names():
        module = importlib.import_module(f"{configs.__name__}.{name_or_path}")
    else:
        known = known_names()
        raise SpecError(
            f"no configuration {name_or_path!r}; those that come with the project are "
            f"{list(known)}, and a file of your own is given by its path, as my_config.py."
            f"{did_you_mean(name_or_path, known)}"
        )
    path = os.path.abspath(str(module.__file__))
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, ExperimentConfig):
        defined = [name for name in vars(module) if name.isupper()]
        found = f"is {experiment!r}" if experiment is not None else "is not defined"
        raise SpecError(
            f"{path}: EXPERIMENT {found}; EXPERIMENT = ExperimentConfig(name=…, problem=…, "
            f"split=…) would be right. The file defines {defined}."
        )
    folder = os.path.dirname(path)
    data, replay = (getattr(module, name, None) for name in ("DATA", "REPLAY"))
    return Config(
        experiment=experiment,
        path=path,
        source=getattr(module, "SOURCE", None),
        data=os.path.join(folder, data) if data else None,
        replay=os.path.join(folder, replay) if replay else None,
        generate=getattr(module, "generate", None),
        spans=getattr(module, "SPANS", SPANS),
    )


def generate(config: Config, folder: str) -> None:
    """Has a configuration write its data to a folder.

    Raises:
        SpecError: Its function `generate` fails, or ends the program.
    """
    assert config.generate is not None
    try:
        config.generate(folder)
    except OSError:
        raise  # The disk's, more likely than the configuration's.
    except (Exception, SystemExit) as error:
        line, sentence = _line(error, config.path), _sentence(error)
        raise SpecError(f"{config.path}{line}: generate(…): {sentence}") from error


def check(experiment: ExperimentConfig) -> None:
    """Refuses an experiment that would fail late, after the data were read.

    Raises:
        SpecError: A part or one of its arguments is unknown, the tasks do not fit the model, or
            a search does not fit the experiment; or slots and the split contradict each other.
    """
    check_slots(experiment)
    # Imported here: they bring TensorFlow, which --help need not wait for. Not
    # tfmtl.model.multitask: it brings TFRS, which refuses to load where `tfx` was first to choose
    # the version of Keras.
    from tfmtl.automtl.checks import check_space
    from tfmtl.model.heads import check_semantics, impression_tasks
    from tfmtl.model.interaction import check_interaction

    tuning = experiment.tuning
    check_tuning(experiment)
    check_monitor(experiment)
    if experiment.search is not None:
        check_space(experiment)
    candidates = [experiment]
    for path, values in tuning.space.items() if tuning else ():
        values = values if isinstance(values, tuple) else (values["min"], values["max"])
        candidates += [experiment.replace_path(path, value) for value in values]
    for candidate in candidates:
        model = candidate.model
        registry.check("backbone", model.backbone)
        registry.check("balancer", model.balancer)
        registry.get("optimizer", candidate.training.embedding_optimizer)
        backbone, problem = registry.get("backbone", model.backbone["name"]), candidate.problem
        check_interaction(model.interaction, backbone, model.dim)
        if candidate.meta is not None:
            registry.get("balancer", model.balancer["name"]).check_weighs()
        backbone.check_declaration(problem)
        semantics = model.conv_semantics or backbone.conv_semantics
        check_semantics(problem, semantics)
        for term in model.terms:
            # Built and not only checked: it names tasks as well.
            registry.build("term", term, impression_tasks(problem, semantics), problem)


def check_slots(experiment: ExperimentConfig) -> None:
    """Refuses slots without whole days, whole days without slots, and what slots do not know.

    Raises:
        SpecError: The message says what would be right.
    """
    split = experiment.split
    if experiment.mtms is None:
        if split.rule == "whole":
            raise SpecError(
                "split=whole() keeps a day's rows together, to be tested on and then trained on, "
                "which only an experiment with mtms=MTMS(…) does. Use by_hash(…) or by_time(…)."
            )
        return
    if split.rule != "whole":
        raise SpecError(
            f"mtms: the pipeline tests on the whole next day and trains on whole days, and split "
            f"is {split}; split=whole() would be right."
        )
    for name in ("tuning", "replay", "sampling"):
        if getattr(experiment, name) is not None:
            raise SpecError(
                f"mtms: {name} is declared, which a slot's training does not know; leave it out, "
                f"as by --set {name}=None."
            )


def check_monitor(experiment: ExperimentConfig) -> None:
    """Refuses a `training.monitor` that is no metric of the problem.

    Raises:
        SpecError: The task or the metric is unknown, the task is measured on another space, or
            the metric is best neither high nor low.
    """
    monitor, problem = experiment.training.monitor, experiment.problem
    task, metric, _ = split_name(monitor)
    if not metric:
        if monitor not in ("mean_auc", "loss"):
            raise SpecError(
                f"training.monitor={monitor!r}; 'mean_auc', 'loss' or the full name of a metric "
                f"would be right, as {problem.metric_name(problem.tasks[0], 'auc')!r}."
            )
    elif monitor != problem.metric_name(task, metric):
        raise SpecError(
            f"training.monitor={monitor!r}: the rows of task {task!r} are "
            f"{problem.space_of(task)!r}, so it is {problem.metric_name(task, metric)!r}."
        )
    lower_is_better(monitor, problem)


def _import_file(path: str) -> ModuleType:
    folder, name = os.path.split(os.path.abspath(path))
    if not os.path.isfile(path):
        near = os.listdir(folder) if os.path.isdir(folder) else []
        raise SpecError(
            f"there is no file {path!r}."
            f"{did_you_mean(name, [n for n in near if n.endswith('.py')])}"
        )
    spec = importlib.util.spec_from_file_location(f"tfmtl_config_{name[:-3]}", path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path!r} is no Python file; a configuration is one, as my_config.py.")
    module = importlib.util.module_from_spec(spec)
    # Its neighbours can be imported, as from a script; last, so that they shadow nothing.
    sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise SpecError(f"{path}{_line(error, path)}: {_sentence(error)}") from error
    finally:
        sys.path.remove(folder)
    return module


def _line(error: BaseException, path: str) -> str:
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    same = os.path.abspath(path)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f.lineno for f in frames if os.path.abspath(f.filename) == same]
    return f", line {lines[-1]}" if lines else ""


def _sentence(error: BaseException) -> str:
    if isinstance(error, SpecError | DataError):
        return str(error)
    if isinstance(error, SystemExit):
        # With status 0, too: a run that did nothing must not pass for one that succeeded.
        return f"SystemExit({error.code!r}) ends the run; a configuration only defines things."
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}"
