"""Tables in memory to the rows that a model is trained on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfmtl.data.columns import null_values_of
from tfmtl.declare.problem import ProblemSpec
from tfmtl.features.fit import Preprocessor
from tfmtl.features.rows import ArrayRows, PackedData


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Packed rows of three splits, and the preprocessor that packed them.

    Attributes:
        preprocessor: Fitted on the training rows; packs any further rows and is exported.
        data: Training and validation rows, for `train`.
        test: Test rows, for one final `model.evaluate`.
    """

    preprocessor: Preprocessor
    data: PackedData
    test: ArrayRows


def prepare(
    problem: ProblemSpec,
    tables: Mapping[str, Any],
    *,
    null_values: Sequence[str] | None = None,
) -> Prepared:
    """Fits the preprocessing on the training table and packs all three.

    Args:
        problem: The declaration.
        tables: `train`, `validation` and `test`, as `read_table` returns them: Arrow tables,
            pandas frames or mappings of arrays.
        null_values: Text that means "missing", in these tables and in rows that are served; by
            default the texts that `read_table` used, and empty text for other tables.
    """
    if null_values is None:
        null_values = null_values_of(tables["train"])
    preprocessor = Preprocessor(problem, null_values=null_values)
    train = ArrayRows(preprocessor.fit(tables["train"]))
    validation = ArrayRows(preprocessor(tables["validation"]))
    data = PackedData(train, validation, preprocessor.table_rows())
    return Prepared(preprocessor, data, ArrayRows(preprocessor(tables["test"])))
