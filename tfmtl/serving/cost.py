"""The cost of a request in multiply-adds, by which the models of a stage are compared.

The operations of the exported graphs are counted, by the shapes of their inputs and outputs:

- matrix products of a row with weights: dense layers, experts, gates, towers, logits, the joint
  layer of the numbers, projections of tables of another width;
- products between parts of a row: a gate that mixes experts (experts · width), attention, the dot
  products of DLRM, of which only the `F(F − 1)/2` pairs above the diagonal count, `D` each;
- elementwise products: `h_u ⊙ h_a`, the field `x·w` of a number, weights of a list's values, the
  scale of batch normalisation, the unit of a regression (1).

Look-ups, additions, activations, divisions and the few operations of the total value cost 0. So
does what only unserved tasks need: a teacher's head is not in the graph. (A part that a backbone
computes for all its tasks in one product, such as the gates of MMoE, counts in full.)
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfmtl.declare.layout import GROUP, LABELS, PSEUDO, WEIGHTS
from tfmtl.features.rows import packed_spec
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.towers import join_vectors, tower_vector, traced

# Matrix products, and the attribute that says that the first factor is transposed.
PRODUCTS = {"MatMul": "transpose_a", "BatchMatMulV2": "adj_x", "BatchMatMulV3": "adj_x"}
OPAQUE = {"PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf", "While"}
OPAQUE |= {"StatelessWhile", "BatchMatMul", "XlaLaunch"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """Multiply-adds of a model, by how often a request needs them.

    Args:
        user: Once per request.
        ad: Once per ad, unless its vector is cached.
        pair: Once per ad, always.
    """

    user: int = 0
    ad: int = 0
    pair: int = 0


def cost_of(model: MultiTaskModel) -> Cost:
    """Counts a model's multiply-adds; without towers, all of them count as `pair`.

    Args:
        model: Any model, trained or not.
    """
    packed = _one_row(model)
    model(packed)
    specs = {name: tf.TensorSpec(value.shape, value.dtype) for name, value in packed.items()}
    if model.backbone.tower_sides is None:
        return Cost(pair=_count(model.predict_served, specs))
    user, ad = (
        _count(functools.partial(tower_vector, model, tower), specs) for tower in ("user", "ad")
    )
    one_vector, two_vectors = (
        tf.TensorSpec([rows, model.backbone.width], tf.float32) for rows in (1, 2)
    )
    join = functools.partial(join_vectors, model)
    one, two = _count(join, one_vector, one_vector), _count(join, one_vector, two_vectors)
    # A second ad adds the cost of a pair; the rest is computed once, on the user's vector.
    return Cost(user=user + 2 * one - two, ad=ad, pair=two - one)


def request_macs(costs: Sequence[Cost], *, ads: int, cached: float = 0.0) -> float:
    """Multiply-adds of one request: `Σ C_user + N·((1 − cached)·C_ad + C_pair)`, over models.

    Separate models each compute a vector of the user and of every ad; one model for several tasks
    saves that.

    Args:
        costs: The cost of every model that scores the request.
        ads: Number of ads of the request, `N`.
        cached: Share of ads whose vectors are cached.

    Raises:
        ValueError: The number or the share is out of range.

    Example:
        >>> request_macs([Cost(user=100, ad=50, pair=10)], ads=20, cached=0.5)
        800.0
    """
    if ads < 0:
        raise ValueError(f"ads={ads}; a request has at least 0 ads.")
    if not 0.0 <= cached <= 1.0:
        raise ValueError(f"cached={cached}; a share lies from 0 to 1.")
    return float(sum(c.user + ads * ((1.0 - cached) * c.ad + c.pair) for c in costs))


def _one_row(model: MultiTaskModel) -> dict[str, tf.Tensor]:
    without = (LABELS, WEIGHTS, PSEUDO, GROUP)
    return {
        name: tf.zeros([1, *feature.shape], tf.int32 if name.startswith("ids_") else tf.float32)
        for name, feature in packed_spec(model.problem).items()
        if name not in without
    }


def _count(function: Callable[..., Any], *specs: Any) -> int:
    """Multiply-adds of a function of rows; `specs` give the number of rows."""
    graph = traced(function, *specs).graph
    rows = graph.inputs[: len(tf.nest.flatten(specs))]
    of_rows = _all_from([op for tensor in rows for op in tensor.consumers()], _readers)
    needed = _all_from([tensor.op for tensor in graph.outputs], _sources)
    return sum(_macs(op) for op in of_rows & needed)


def _all_from(
    first: Sequence[tf.Operation], following: Callable[[tf.Operation], list[tf.Operation]]
) -> set[tf.Operation]:
    reached: set[tf.Operation] = set()
    waiting = list(first)
    while waiting:
        op = waiting.pop()
        if op not in reached:
            reached.add(op)
            waiting += following(op)
    return reached


def _readers(op: tf.Operation) -> list[tf.Operation]:
    return [reader for tensor in op.outputs for reader in tensor.consumers()]


def _sources(op: tf.Operation) -> list[tf.Operation]:
    return [tensor.op for tensor in op.inputs]


def _macs(op: tf.Operation) -> int:
    if op.type == "Mul" and op.outputs[0].dtype.is_floating:
        return _size(op.outputs[0])
    if op.type == "Einsum":
        terms = op.get_attr("equation").decode().split("->")[0].split(",")
        sizes: dict[str, int] = {}
        for term, tensor in zip(terms, op.inputs, strict=True):
            sizes.update(zip(term, _shape(tensor), strict=True))
        return math.prod(sizes.values())
    if op.type in PRODUCTS:
        left, right = op.inputs
        transposed = op.get_attr(PRODUCTS[op.type])
        inner = _shape(left)[-2 if transposed else -1]
        if left is right:
            # A Gram matrix, of which only the pairs above the diagonal are read.
            *batch, rows, columns = _shape(op.outputs[0])
            return math.prod(batch) * rows * (columns - 1) // 2 * inner
        return _size(op.outputs[0]) * inner
    if op.type in OPAQUE:
        raise NotImplementedError(
            f"operation {op.name!r} is a {op.type}, whose inside is not counted; write the layer "
            "without a tf.function or a tensor condition of its own."
        )
    return 0


def _size(tensor: tf.Tensor) -> int:
    return math.prod(_shape(tensor))


def _shape(tensor: tf.Tensor) -> list[int]:
    shape = tensor.shape
    if not shape.is_fully_defined():
        raise ValueError(f"{tensor.name} has shape {shape}, which does not follow from one row's.")
    sizes: list[int] = shape.as_list()
    return sizes
