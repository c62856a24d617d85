"""A small exported model with random weights, for tests that ask a server."""

import tensorflow as tf

import tfmtl.model.multitask  # noqa: F401  registers the parts
from tests.doubles.worlds import PROBLEM, SMALL, experiment, packed, rows
from tfmtl.model.multitask import MultiTaskModel
from tfmtl.serving.export import export

PREPROCESSOR, DATA = packed()


def random_model(backbone: str = "mmoe", seed: int = 0, scale: float = 0.3) -> MultiTaskModel:
    """A model of `PROBLEM` whose weights are normal."""
    config = experiment(backbone={"name": backbone, **SMALL[backbone]}).model
    model = MultiTaskModel.build_from(PROBLEM, DATA.table_rows, config)
    model(next(iter(DATA.train.batches(2))))
    generator = tf.random.Generator.from_seed(seed)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(variable.shape, stddev=scale))
    return model


def exported(path: str, *, backbone: str = "mmoe", seed: int = 0, **options) -> str:
    """Exports `random_model` to a folder, which is returned."""
    return export(random_model(backbone, seed), PREPROCESSOR, path, **options)


def request_rows(count: int, seed: int = 5) -> list[dict]:
    """Raw feature columns as a list of dicts, lists as lists."""
    columns = {
        name: values.to_list() if isinstance(values, tf.RaggedTensor) else values.tolist()
        for name, values in rows(count, seed=seed).items()
        if name in PROBLEM.feature_columns()
    }
    columns["tags"] = [[tag.decode() for tag in tags] for tags in columns["tags"]]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
