"""The `preprocessing_fn` of the Transform component."""

import json
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
        inputs: Raw columns, dense or sparse as the schema has them.
        custom_config: `experiment`, the experiment's JSON, and `null_values`, a JSON list of
            the text that meant "missing" where rows were read.
    """
    problem = ExperimentConfig.from_json(custom_config["experiment"]).problem
    null_values = json.loads(custom_config.get("null_values", "[]"))
    return encode(problem, inputs, TransformAnalyzers(), null_values=null_values)
