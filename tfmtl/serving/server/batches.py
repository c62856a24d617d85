"""Requests that wait at the same time are computed together.

A worker takes all waiting requests of one signature whose inputs fit together, up to a number of
rows. No request waits for others to come: a lone request is computed at once, and batches become
larger when the server has more to do.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging
from numpy.typing import NDArray

from tfmtl.serving.server.loaded import Arrays, LoadedModel, Signature, stacked
from tfmtl.serving.server.refused import Refused

Outputs = dict[str, NDArray[Any]]


@dataclasses.dataclass(eq=False)
class _Waiting:
    model: LoadedModel
    signature: Signature
    arrays: Arrays
    rows: int
    answer: "asyncio.Future[Outputs]"
    kind: tuple[Any, ...]


class Batcher:
    """Computes requests in threads of its own. All methods are called in one event loop.

    Args:
        workers: Batches at the same time.
        batch_rows: Most rows of a batch of several requests.
        waiting: Most requests that wait.
        observe: Told the rows of each batch and how many requests it held.
    """

    def __init__(
        self,
        *,
        workers: int,
        batch_rows: int,
        waiting: int,
        observe: Callable[[int, int], None],
    ) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(workers, "tfmtl-batch")
        self._free, self._batch_rows, self._most = workers, batch_rows, waiting
        self._observe = observe
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, model: LoadedModel, signature: Signature, arrays: Arrays) -> Outputs:
        """The outputs of one request.

        A request whose caller gives up while it waits is not computed.

        Raises:
            Refused: The graph refuses the values, or too many requests wait.
        """
        if len(self._waiting) >= self._most:
            raise Refused(
                "UNAVAILABLE", f"{self._most:,} requests wait already; try again in a while."
            )
        lengths = {len(array) for array in arrays.values()}
        # A request with one user's vector for all its ads cannot be joined with others.
        alone = object() if len(lengths) > 1 else None
        trailing = tuple(array.shape[1:] for array in arrays.values())
        answer: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        kind = (id(model), signature.name, trailing, alone)
        model.acquire()
        self._waiting.append(_Waiting(model, signature, arrays, max(lengths), answer, kind))
        self._start()
        return await answer

    async def close(self) -> None:
        """Waits for the batches that run, and ends the threads."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        self._pool.shutdown()

    def _start(self) -> None:
        while self._free and self._waiting:
            batch = self._next_batch()
            if batch:
                self._free -= 1
                task = asyncio.get_running_loop().create_task(self._compute(batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        others: collections.deque[_Waiting] = collections.deque()
        rows = 0
        for item in self._waiting:
            if item.answer.done():
                item.model.release()
            elif batch and (item.kind != batch[0].kind or rows + item.rows > self._batch_rows):
                others.append(item)
            else:
                batch.append(item)
                rows += item.rows
        self._waiting = others
        return batch

    async def _compute(self, batch: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        self._observe(sum(item.rows for item in batch), len(batch))
        try:
            answers = await loop.run_in_executor(self._pool, _outputs, batch)
        except Exception as error:
            logging.exception("A batch failed.")
            answers = [error] * len(batch)
        for item, answer in zip(batch, answers, strict=True):
            item.model.release()
            if item.answer.done():
                continue
            if isinstance(answer, Exception):
                item.answer.set_exception(answer)
            else:
                item.answer.set_result(answer)
        self._free += 1
        self._start()


def _outputs(batch: Sequence[_Waiting]) -> list[Outputs | Exception]:
    """Each request's outputs, or why it has none. Runs in a thread."""
    first = batch[0]
    if len(batch) == 1:
        try:
            return [first.signature(first.arrays)]
        except Refused as refused:
            return [refused]
    try:
        together = first.signature(stacked([item.arrays for item in batch]))
    except Refused:
        # One request's values are at fault, and the others have a right to their answers.
        return [answer for item in batch for answer in _outputs([item])]
    ends = np.cumsum([item.rows for item in batch])
    if any(len(values) != ends[-1] for values in together.values()):
        return [answer for item in batch for answer in _outputs([item])]
    return [
        {name: values[end - item.rows : end] for name, values in together.items()}
        for item, end in zip(batch, ends.tolist(), strict=True)
    ]
