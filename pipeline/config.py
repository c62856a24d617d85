"""Configurations: those of this project by name, and any other by the path of its file.

A configuration is a Python file that defines

- `EXPERIMENT`, an `ExperimentConfig` (by convention, the file also has its `ProblemSpec` as
  `PROBLEM`),
- `SOURCE`, how to read text files, if the defaults do not fit (optional),
- `DATA`, the path of the data, relative to the file (optional),
- `SPANS`, the pattern of the files of one day, if the experiment declares `mtms` (optional; the
  default is `day-{SPAN}/*`),
- `REPLAY`, the path of the replay log, relative to the file, if the experiment declares `replay`
  (optional),
- `generate(path)`, which writes the data to a folder if none are given (optional). If the
  experiment declares `replay`, it writes the data to `path/log` and the replay log to
  `path/replay`.
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
from tfmtl.data.readers import Source
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.errors import DataError, SpecError, did_you_mean
from tfmtl.tuning.space import check_tuning

SPANS = "day-{SPAN}/*"
"""The default pattern of one day's files in the folder of a log."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The contents of a configuration file.

    Args:
        experiment: Problem, model, training and evaluation.
        path: The file.
        source: How to read text files.
        data: Path of the data, unless the user gives one.
        replay: Path of the replay log, unless the user gives one.
        generate: Writes the data to a folder, if there are none.
        spans: Pattern of one day's files in a log that grows day by day.
    """

    experiment: ExperimentConfig
    path: str
    source: Source | None = None
    data: str | None = None
    replay: str | None = None
    generate: Callable[[str], None] | None = None
    spans: str = SPANS


def known_names() -> tuple[str, ...]:
    """Names of the configurations of this project, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(configs.__path__)))


def load(name_or_path: str) -> Config:
    """Loads a configuration.

    Args:
        name_or_path: A name of `known_names`, or the path of a Python file.

    Raises:
        SpecError: There is no such configuration, it raises an error, or it lacks `EXPERIMENT`.
    """
    if name_or_path.endswith(".py") or os.sep in name_or_path:
        module = _import_file(name_or_path)
    elif name_or_path in known_names():
        module = importlib.import_module(f"{configs.__name__}.{name_or_path}")
    else:
        known = known_names()
        raise SpecError(
            f"no configuration {name_or_path!r}; this project has {list(known)}. Give your own "
            "file by its path, for example my_config.py."
            f"{did_you_mean(name_or_path, known)}"
        )
    path = os.path.abspath(str(module.__file__))
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, ExperimentConfig):
        defined = [name for name in vars(module) if name.isupper()]
        problem = f"is {experiment!r}" if experiment is not None else "is not defined"
        raise SpecError(
            f"{path}: EXPERIMENT {problem}; EXPERIMENT = ExperimentConfig(name=…, problem=…, "
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
    """Refuses an experiment that would fail only after the data were read.

    What an experiment can refuse by itself it has refused when it was made.

    Raises:
        SpecError: The candidates of a search do not fit the experiment, or slots and the split
            contradict each other.
    """
    check_slots(experiment)
    # Imported here, because it loads TensorFlow and --help does not have to wait for it.
    from tfmtl.automtl.checks import check_space

    check_tuning(experiment)
    if experiment.search is not None:
        check_space(experiment)


def check_slots(experiment: ExperimentConfig) -> None:
    """Refuses slots without whole days, whole days without slots, and settings unknown to slots.

    Raises:
        SpecError: See above; the message names a correct value.
    """
    split = experiment.split
    if experiment.mtms is None:
        if split.rule == "whole":
            raise SpecError(
                "split=whole() keeps the rows of a day together, to test on them first and to "
                "train on them later. Only an experiment with mtms=MTMS(…) does this. Use "
                "by_hash(…) or by_time(…)."
            )
        return
    if split.rule != "whole":
        raise SpecError(
            f"mtms: the pipeline tests on the whole next day and trains on whole days, but split "
            f"is {split}; split=whole() would be right."
        )
    for name in ("tuning", "replay", "sampling"):
        if getattr(experiment, name) is not None:
            raise SpecError(
                f"mtms: {name} is declared, but the training of a slot does not support it; remove "
                f"it, for example by --set {name}=None."
            )


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
        raise SpecError(
            f"{path!r} is not a Python file; a configuration is one, for example my_config.py."
        )
    module = importlib.util.module_from_spec(spec)
    # The file can import its neighbours, as a script can. They are last, so they shadow nothing.
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
