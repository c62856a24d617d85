"""The settings of a search: what is refused, and how many experts a task gets."""

import pytest

from tfmtl.declare.search import AutoMTL
from tfmtl.errors import SpecError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": "differential"}, "'differential' is none of .* mean 'differentiable'"),
        ({"stopping": "windows"}, "stopping='windows' is none of .* mean 'window'"),
        ({"direction": "cos"}, r"direction='cos' is none of \['half', 'cosine'\]"),
        ({"embedding_optimizer": "adamw"}, "embedding_optimizer='adamw' .* mean 'adam'"),
        ({"num_experts": 0}, "num_experts=0 must be at least 1"),
        ({"num_blocks": -1}, "num_blocks=-1 must be at least 0"),
        ({"epochs": 2.5}, "epochs=2.5 must be a whole number, at least 1"),
        ({"threshold": -0.5}, "threshold=-0.5 must be at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a finite number, at least 0"),
        ({"momentum": 1.0}, r"momentum=1.0 must be in \[0, 1\)"),
        ({"n_chosen": 0}, "n_chosen=0 of 8 experts; a whole number from 1 to 8"),
        ({"n_chosen": 3, "num_experts": 2}, "n_chosen=3 of 2 experts"),
        ({"n_chosen": 1.5}, "n_chosen=1.5 must be a whole number, or None"),
    ],
)
def test_a_mistaken_setting_is_refused(settings, message):
    with pytest.raises(SpecError, match=rf"search\..*{message}"):
        AutoMTL(**settings)


def test_with_gates_in_place_of_a_selection_every_task_has_all_experts():
    assert AutoMTL(selection=False, n_chosen=2).chosen_of(2) == 8
    assert AutoMTL(num_experts=1).chosen_of(4) == 1
