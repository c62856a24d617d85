"""A client of TensorFlow Serving and of `tfmtl serve`: rows to probabilities and total value."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from tfmtl.declare.checks import at_least, check_setting, filled
from tfmtl.declare.total_value import TotalValue
from tfmtl.errors import DataError, SpecError, did_you_mean
from tfmtl.serving import client_rows
from tfmtl.serving.transport import Transport, transport_of
from tfmtl.serving.transport_errors import ServingError

__all__ = ["Client", "ServingError"]

TOTAL_VALUE = "total_value"

Rows: TypeAlias = "Sequence[Mapping[str, Any]] | Mapping[str, Any] | pd.DataFrame | pa.Table"


class Client(contextlib.AbstractContextManager["Client"]):
    """Asks a served model.

    A value has the text that it has in training: 7.0 beside a gap is "7", true is "True". A missing
    value is `None`, NaN, or a key that a row lacks.

    Args:
        address: `localhost:8500` for gRPC, `http://localhost:8501` for REST.
        model: The model's name.
        version: Its version; by default the one that is served.
        value: How predictions become one value; `predict` then adds the column `total_value`.
        timeout: Seconds that a call may take, all attempts together.
        attempts: How often a call is tried where the server is not reachable. A wrong request is
            not tried again.
        batch_rows: Most rows of one request; more rows are sent in several.

    Raises:
        SpecError: The address or a setting is wrong.

    One user, 500 ads, the best 20:

        with Client("localhost:8500", model="ads", value=value) as client:
            best = client.rank({"user_id": "u7", "age": 31.0}, ads, top=20)
    """

    def __init__(
        self,
        address: str,
        *,
        model: str,
        version: int | None = None,
        value: TotalValue | None = None,
        timeout: float = 10.0,
        attempts: int = 4,
        batch_rows: int = 4096,
    ) -> None:
        check_setting("address", address, str, filled())
        check_setting("model", model, str, filled())
        check_setting("timeout", timeout, float, at_least(0.001))
        check_setting("attempts", attempts, int, at_least(1))
        check_setting("batch_rows", batch_rows, int, at_least(1))
        self.value = value
        self._batch_rows = batch_rows
        self._transport: Transport = transport_of(
            address, model=model, version=version, timeout=timeout, attempts=attempts
        )
        self._signatures: dict[str, client_rows.Inputs] = {}

    def predict(
        self, rows: Rows, *, signature: str = "predict", timeout: float | None = None
    ) -> pd.DataFrame:
        """Predictions of rows.

        Args:
            rows: A list of dicts, a mapping of columns, a data frame or an Arrow table, with the
                signature's columns; others are not sent.
            signature: A signature that takes raw columns.
            timeout: Seconds for this call, instead of the client's.

        Returns:
            A frame with a column per output, such as `ctr`, and `total_value` if the client has a
            `value`; its index is that of `rows`. An output of several values a row, such as a
            tower's vector, is a column of arrays.

        Raises:
            DataError: A column is missing, or a value is not of its type.
            ServingError: The server refused the request or was not reachable.
        """
        table = client_rows.frame_of(rows)
        inputs = self._inputs(signature, timeout)
        missing = [name for name in inputs if name not in table]
        if missing:
            raise DataError(
                f"the rows lack the column {missing[0]!r}, which signature {signature!r} takes; "
                f"they have {list(table)}.{did_you_mean(missing[0], list(table))}"
            )
        parts = []
        for start in range(0, len(table), self._batch_rows):
            part = table.iloc[start : start + self._batch_rows]
            arrays = client_rows.arrays_of(inputs, part, start)
            parts.append(self.call(signature, arrays, timeout=timeout))
        names = parts[0] if parts else self._transport.signatures(timeout)[signature].outputs
        outputs = {name: _column([part[name] for part in parts]) for name in names}
        frame = pd.DataFrame(outputs, index=table.index)
        if self.value is not None:
            frame[TOTAL_VALUE] = self._total(self.value, frame, table)
        return frame

    def rank(
        self,
        user: Mapping[str, Any],
        ads: Rows,
        *,
        top: int | None = None,
        by: str | None = None,
        timeout: float | None = None,
    ) -> pd.DataFrame:
        """The best ads for one user.

        Args:
            user: The columns of the user and of the context.
            ads: One row an ad, with the columns of the ads, and those of `value`.
            top: How many ads to return; all of them by default.
            by: The column to rank by; `total_value` by default.
            timeout: Seconds for this call, instead of the client's.

        Returns:
            The ads' columns and the predictions, the best first, equal ones in the order of `ads`.

        Raises:
            SpecError: Nothing says what to rank by.
            DataError: See `predict`.
            ServingError: See `predict`.
        """
        by = by or (TOTAL_VALUE if self.value is not None else None)
        if by is None:
            raise SpecError(
                "rank needs by=, such as by='ctr', or a client with value=TotalValue(…)."
            )
        table = client_rows.frame_of(ads)
        both = [name for name in user if name in table]
        if both:
            raise DataError(
                f"the columns {both} are those of the user and of the ads; which counts?"
            )
        whole = table.assign(**{name: [value] * len(table) for name, value in user.items()})
        predicted = self.predict(whole, timeout=timeout)
        if by not in predicted:
            raise SpecError(f"by={by!r} is none of {list(predicted)}.{did_you_mean(by, predicted)}")
        best = np.argsort(-predicted[by].to_numpy(), kind="stable")[:top]
        return pd.concat([table, predicted], axis=1).iloc[best]

    def call(
        self, signature: str, inputs: Mapping[str, ArrayLike], *, timeout: float | None = None
    ) -> dict[str, NDArray[Any]]:
        """Calls a signature with arrays, such as `rank` with vectors.

        Args:
            signature: Its name.
            inputs: `[rows, …]` by name. They take the types that the signature names.
            timeout: Seconds for this call, instead of the client's.

        Returns:
            `[rows, …]` by output; texts are bytes.

        Raises:
            DataError: An input cannot have the signature's type.
            ServingError: See `predict`.
        """
        known = self._inputs(signature, timeout)
        typed = {
            name: client_rows.cast(name, values, known[name].dtype if name in known else None)
            for name, values in inputs.items()
        }
        return self._transport.predict(signature, typed, timeout)

    def signatures(self) -> dict[str, client_rows.SignatureShape]:
        """The inputs and outputs of the served model's signatures."""
        return dict(self._transport.signatures(None))

    def status(self) -> dict[int, str]:
        """The state of each version, such as `{2: "AVAILABLE", 1: "END"}`."""
        return self._transport.status(None)

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _inputs(self, signature: str, timeout: float | None) -> client_rows.Inputs:
        if signature not in self._signatures:
            known = self._transport.signatures(timeout)
            if signature not in known:
                raise SpecError(
                    f"the model has no signature {signature!r}; it has {sorted(known)}."
                    f"{did_you_mean(signature, known)}"
                )
            self._signatures[signature] = known[signature].inputs
        return self._signatures[signature]

    def _total(
        self, value: TotalValue, frame: pd.DataFrame, table: pd.DataFrame
    ) -> NDArray[np.float64]:
        for name in (value.ctr, *([value.cqs] if value.cqs else [])):
            if name not in frame:
                raise SpecError(f"value: {name!r} is no output; the model has {list(frame)}.")
        for name in (value.bid, value.objective):
            if name not in table:
                raise DataError(
                    f"the rows lack the column {name!r}, which the total value needs; they have "
                    f"{list(table)}.{did_you_mean(name, list(table))}"
                )
        predictions = {name: frame[name].to_numpy() for name in frame}
        columns = {name: table[name].to_numpy() for name in table}
        return value.of_rows(predictions, columns)


def _column(parts: Sequence[NDArray[Any]]) -> Any:
    if not parts:
        return []
    values = np.concatenate(parts)
    return values if values.ndim == 1 else list(values)
