"""The `preprocessing_fn` of the Transform component."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from components.analyzers import TransformAnalyzers
from tfmtl.declare.experiment import ExperimentConfig
from tfmtl.features.encode import encode


def preprocessing_fn(
    inputs: Mapping[str, Any], custom_config: Mapping[str, str]
) -> dict[str, tf.Tensor]:
    """Encodes raw columns as packed tensors.

    Args:
        inputs: Raw columns, dense or sparse according to the schema.
        custom_config: `experiment`, the experiment's JSON.
    """
    problem = ExperimentConfig.from_json(custom_config["experiment"]).problem
    return encode(problem, inputs, TransformAnalyzers())
