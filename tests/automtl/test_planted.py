"""The search finds what the labels were made with."""

import numpy as np
import pytest

from tests.doubles import searches
from tfmtl.automtl.search import search
from tfmtl.features.rows import PackedData

INTERACTIONS = (
    ("skip", {"name": "skip"}),
    ("gate-bit", {"name": "gate_bit"}),
    ("gate-vector", {"name": "gate_vector"}),
    ("product-inner", {"name": "product_inner"}),
    ("cross-1", {"name": "cross", "layers": 1}),
    ("sa-2", {"name": "self_attention", "heads": 2}),
)
OF_TWO_FIELDS = {"product-inner", "cross-1", "sa-2"}


def product_of_two_fields(world):
    """Labels by the product of a vector of the user and one of the ad, and by nothing else."""
    vectors = np.random.default_rng(world).normal(size=(2, searches.SIZE + 2, 4))

    def label(ids, rng):
        products = (vectors[0][ids[:, 0]] * vectors[1][ids[:, 1]]).sum(-1)
        return rng.random([2, len(ids)]).T < 1 / (1 + np.exp(-2 * products))[:, np.newaxis]

    return label


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_label_of_two_fields_product_gets_an_operation_of_two_fields():
    found = []
    for seed in range(1, 6):
        label = product_of_two_fields(50 + seed)
        data = PackedData(
            searches.rows(16384, seed, label),
            searches.rows(8192, 100 + seed, label),
            searches.TABLE_ROWS,
        )
        declared = searches.declared(
            interactions=INTERACTIONS,
            poolings=None,
            hidden=(("skip", {"name": "skip"}), ("mlp-16", {"name": "mlp", "units": 16})),
            tower_units=(8,),
            epochs=6,
            search_patience=6,
            # So few steps take larger ones.
            learning_rate=0.1,
            embedding_rate=0.01,
            architecture_rate=0.01,
        )
        config = searches.experiment(declared, batch_size=256, seed=seed)
        found.append(search(config, data, verbose=0).architecture.interaction.label)
    assert sum(label in OF_TWO_FIELDS for label in found) >= 4, found
