"""The search space: fields of an experiment, by dotted path.

Keras Tuner takes numbers and text only, so a candidate that is neither (the widths of a network) is
passed as JSON. `tfmtl.tuning.tune` runs the search.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.automtl.architecture import Architecture
from tfmtl.declare.experiment import ExperimentConfig, Tuning
from tfmtl.errors import SpecError, did_you_mean

SAMPLINGS = ("linear", "log", "reverse_log")
ARCHITECTURE = "architecture"
"""Name of the hyper-parameter that holds the JSON of a searched network, not a field's path."""
RANGE_KEYS = ("min", "max", "step", "sampling")


def check_tuning(experiment: ExperimentConfig) -> None:
    """Refuses a search space that does not fit the experiment.

    Raises:
        SpecError: A path names no field, a field refuses a candidate, a range is empty, or a
            setting is unknown.
    """
    tuning = experiment.tuning
    if tuning is None:
        return
    for path, candidates in tuning.space.items():
        if path.split(".")[0] not in ("model", "training"):
            raise SpecError(
                f"tuning.space: {path!r} is no field of model or training; the data and how a "
                "model is judged are the same for every trial."
            )
        if isinstance(candidates, Mapping):
            _check_range(path, candidates)
            candidates = (candidates["min"], candidates["max"])
        elif isinstance(candidates, str) or not isinstance(candidates, Sequence) or not candidates:
            raise SpecError(
                f"tuning.space: {path!r} has {candidates!r}; a list of values or "
                '{"min": …, "max": …} would be right.'
            )
        for value in candidates:
            experiment.replace_path(path, value)


def choices(candidates: Sequence[Any]) -> list[Any]:
    """Candidates as Keras Tuner takes them: values of one plain type, or all of them as JSON.

    Example:
        >>> choices([4, 8]), choices([(64,), (64, 32)])
        ([4, 8], ['[64]', '[64, 32]'])
    """
    for plain in (bool, int, float, str):
        if all(type(value) is plain for value in candidates):
            return list(candidates)
    return [json.dumps(value) for value in candidates]


def apply_hyperparameters(
    experiment: ExperimentConfig, hyperparameters: Mapping[str, Any]
) -> ExperimentConfig:
    """Returns the experiment with the fields, or the network, that a search chose.

    Args:
        experiment: The experiment that declares the search.
        hyperparameters: `{path: value}`, or Keras Tuner's configuration, which has that under
            `values`.

    Raises:
        SpecError: A path names no field.
    """
    space = experiment.tuning.space if experiment.tuning is not None else {}
    for path, value in hyperparameters.get("values", hyperparameters).items():
        if path == ARCHITECTURE:
            experiment = Architecture.from_json(value).apply(experiment)
            continue
        candidates = space.get(path, ())
        as_json = not isinstance(candidates, Mapping) and list(candidates) != choices(candidates)
        experiment = experiment.replace_path(path, json.loads(value) if as_json else value)
    return experiment


def trial_experiment(
    experiment: ExperimentConfig, tuning: Tuning, hyperparameters: Mapping[str, Any]
) -> ExperimentConfig:
    """Returns the experiment of one trial, with its fields and the epochs of a trial."""
    trial = apply_hyperparameters(experiment, hyperparameters)
    return trial.replace_path("training.epochs", tuning.epochs)


def _check_range(path: str, candidates: Mapping[str, Any]) -> None:
    for key in candidates:
        if key not in RANGE_KEYS:
            raise SpecError(
                f"tuning.space: {path!r} has {key!r}; a range has {list(RANGE_KEYS)}."
                f"{did_you_mean(key, RANGE_KEYS)}"
            )
    if "min" not in candidates or "max" not in candidates:
        raise SpecError(f"tuning.space: {path!r} is a range and needs both 'min' and 'max'.")
    if not candidates["min"] < candidates["max"]:
        raise SpecError(
            f"tuning.space: {path!r} goes from {candidates['min']} to {candidates['max']}; "
            "'min' must lie below 'max'."
        )
    sampling = candidates.get("sampling", "linear")
    if sampling not in SAMPLINGS:
        raise SpecError(
            f"tuning.space: {path!r} has sampling={sampling!r}, which is none of "
            f"{list(SAMPLINGS)}.{did_you_mean(sampling, SAMPLINGS)}"
        )
    if sampling != "linear" and candidates["min"] <= 0:
        raise SpecError(
            f"tuning.space: {path!r} is sampled {sampling!r} from {candidates['min']}; the "
            "least value must be above 0."
        )
