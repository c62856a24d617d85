"""Checks before a search begins, so that it does not fail after the data have been read."""

from tfmtl.automtl.derive import candidates_of
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.declare.search import AutoMTL
from tfmtl.errors import SpecError
from tfmtl.operations.candidates import operation
from tfmtl.operations.choice import check_candidates


def check_search(experiment: ExperimentConfig) -> AutoMTL:
    """Returns the experiment's settings of the search.

    Raises:
        SpecError: It has none, or they leave nothing to search.
    """
    declared = experiment.search
    if declared is None:
        raise SpecError(
            f"experiment {experiment.name!r} declares no search; "
            "ExperimentConfig(search=AutoMTL()) does."
        )
    if experiment.mtms is not None:
        raise SpecError(
            "mtms trains networks of its own, slot by slot; a search is for experiments without."
        )
    gradient = declared.algorithm == "differentiable"
    if gradient and declared.selection and declared.warm_up_epochs >= declared.epochs:
        raise SpecError(
            f"search: warm_up_epochs={declared.warm_up_epochs} of epochs={declared.epochs} leave "
            "none in which tasks choose between experts; give more epochs, or a shorter warm-up."
        )
    return declared


def check_space(experiment: ExperimentConfig) -> None:
    """Refuses candidates that do not exist, or that do not fit the width of the fields.

    Args:
        experiment: With `search`.

    Raises:
        SpecError: As `check_search` does; or an operation is unknown, has no such argument, or
            cannot take vectors of width `model.dim`; or two candidates have the same label.
    """
    declared, dim = check_search(experiment), experiment.model.dim
    for kind, candidates in candidates_of(declared).items():
        check_candidates(kind, candidates)
        # The check of the width does not depend on the number of fields.
        shape = (None, dim) if kind == "hidden" else (None, 1, dim)
        for candidate in candidates:
            if kind == "interaction" and not declared.interaction:
                continue
            operation(kind, candidate).build(shape)
