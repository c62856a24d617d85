"""A small log with a history per row, and its declaration."""

import numpy as np

from tfmtl.declare.problem import ProblemSpec, binary, categorical, event, numerical, sequence

CTR = binary("ctr", label="click")
CVR = binary("cvr", label="conversion", observed_if="click")
CTCVR = binary("ctcvr", label="conversion")


def problem(pooling="din", *, tasks=(CTR, CVR, CTCVR), encoding=None, size=None, **changes):
    """Users, ads with categories, and the ads that a user clicked, with actions and times."""
    settings = {
        "events": (
            event("clicked_ads", of="ad"),
            event("clicked_categories", of="category"),
            event("clicked_actions", encoding="identity", size=4, dim=3),
        ),
        "order": "oldest_first",
        "time": "clicked_times",
        "row_time": "now",
        "max_length": 5,
    }
    return ProblemSpec(
        features=(
            categorical("user", side="user", encoding=encoding, size=size),
            categorical("ad", side="ad", encoding=encoding, size=size),
            categorical("category", side="ad", dim=6, encoding=encoding, size=size),
            categorical("scene"),
            numerical("price", side="ad"),
            sequence("clicked", pooling=pooling, **(settings | changes)),
        ),
        tasks=tasks,
        scene="scene",
        request_id="request",
    )


def rows(count: int, seed: int = 0) -> dict:
    """Raw columns; a click is likelier on a category of the history."""
    rng = np.random.default_rng(seed)
    ads = rng.integers(0, 12, count)
    lengths = rng.integers(0, 9, count)
    lengths[:2] = 0, 8
    histories = [rng.integers(0, 15, n) for n in lengths]
    match = np.array(
        [np.mean(h % 3 == a % 3) if len(h) else 0.3 for h, a in zip(histories, ads, strict=True)]
    )
    click = rng.random(count) < 0.1 + 0.7 * match
    now = 1_700_000_000 + 60 * np.arange(count)
    return {
        "user": [f"u{u}" for u in rng.integers(0, 9, count)],
        "ad": [f"a{a}" for a in ads],
        "category": [f"c{a % 3}" for a in ads],
        "scene": np.where(rng.random(count) < 0.5, "feed", "search").tolist(),
        "price": rng.lognormal(size=count).astype(np.float32),
        "clicked_ads": [[f"a{a}" for a in h] for h in histories],
        "clicked_categories": [[f"c{a % 3}" for a in h] for h in histories],
        "clicked_actions": [(h % 4).tolist() for h in histories],
        "clicked_times": [
            sorted((t - rng.integers(1, 10**6, n)).tolist())
            for t, n in zip(now, lengths, strict=True)
        ],
        "now": now,
        "click": click.astype(np.float32),
        "conversion": (click & (rng.random(count) < 0.4)).astype(np.float32),
        "request": [f"r{i // 4}" for i in range(count)],
    }
