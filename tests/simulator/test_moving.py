"""Users whose taste moves: what the log says of it, and what the history says."""

import numpy as np
import pytest

from tfmtl.metrics.tasks import auc
from tfmtl.simulator import Constants, draw_world, moving_tastes_log

WORLD = draw_world(3, constants=Constants(users=40, ads=300, advertisers=30))
LOG = moving_tastes_log(WORLD, impressions=8_000, seed=3, strength=2.5)


def matches(log):
    """How often each row's category is among the last three of the user's clicks."""
    pairs = zip(log["category"].to_pylist(), log["clicked_categories"].to_pylist(), strict=True)
    return np.array([(history or [])[-3:].count(category) for category, history in pairs])


def test_one_seed_gives_one_log_and_another_another():
    again = moving_tastes_log(WORLD, impressions=8_000, seed=3, strength=2.5)
    assert again.equals(LOG)
    assert not moving_tastes_log(WORLD, impressions=8_000, seed=4, strength=2.5).equals(LOG)


def test_histories_are_the_users_clicks_strictly_before_the_row():
    clicks: dict[int, list] = {}
    for row in LOG.to_pylist():
        before = [ad for at, ad in clicks.get(row["user_id"], []) if at < row["time"]][-20:]
        assert (row["clicked_ads"] or []) == before
        if row["click"]:
            clicks.setdefault(row["user_id"], []).append((row["time"], row["ad_id"]))


def test_the_last_clicks_tell_of_the_next_one_where_tastes_move():
    moving = auc(LOG["click"].to_numpy(), matches(LOG).astype(float))
    still = moving_tastes_log(WORLD, impressions=8_000, seed=3, strength=0.0)
    assert moving > auc(still["click"].to_numpy(), matches(still).astype(float)) + 0.05


def test_clicks_are_drawn_from_the_true_probabilities():
    true = LOG["true_ctr"].to_numpy()
    assert abs(LOG["click"].to_numpy().mean() - true.mean()) < 4 * np.sqrt(true.mean() / len(true))
    np.testing.assert_allclose(
        LOG["true_ctcvr"].to_numpy(), true * LOG["true_cvr"].to_numpy(), rtol=1e-12
    )


@pytest.mark.parametrize("changes", [{"impressions": 0}, {"moves": 1.5}, {"shown": -0.1}])
def test_an_argument_out_of_range_is_refused(changes):
    with pytest.raises(ValueError, match="at least 1, and shares"):
        moving_tastes_log(WORLD, **{"impressions": 10, **changes})
