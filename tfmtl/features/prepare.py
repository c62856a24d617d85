"""From tables in memory to rows a model trains on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfmtl.declare.problem import ProblemSpec
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows, PackedData


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Packed rows of three splits and what they were packed with.

    Attributes:
        preprocessor: Fitted on the training rows; packs any further rows and is exported.
        data: Training and validation rows, for `train`.
        test: Test rows, for one final `model.evaluate`.
    """

    preprocessor: Preprocessor
    data: PackedData
    test: ArrayRows


def prepare(problem: ProblemSpec, tables: Mapping[str, Any]) -> Prepared:
    """Fits the preprocessing on the training table and packs all three.

    Args:
        problem: The declaration.
        tables: `train`, `validation` and `test`, as `read_table` returns them: Arrow tables,
            pandas frames or mappings of arrays.
    """
    preprocessor = Preprocessor(problem)
    train = ArrayRows(preprocessor.fit(tables["train"]))
    validation = ArrayRows(preprocessor(tables["validation"]))
    data = PackedData(train, validation, preprocessor.table_rows())
    return Prepared(preprocessor, data, ArrayRows(preprocessor(tables["test"])))
