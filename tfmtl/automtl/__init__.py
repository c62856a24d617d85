"""The search for a network (AutoMTL): interactions, experts, and which task reads which expert.

In go an experiment with `search=AutoMTL(…)` and packed rows; out comes an `Architecture`, plain
data from which the backbone `automtl` rebuilds the network. The candidates themselves are layers of
`operations`; searches over settings belong to `tuning`.

- `search`: the entrance; `bilevel` its loop, `random_search` the baseline.
- `supernet`: every candidate in one network; `derive`: the network that is left of it.
- `early_stopping`, `freezing`, `selection`: when an operation's weights stop, and how tasks choose.
- `architecture`, `found`: what was found; `outputs`, `curves`, `pictures`: how it is shown.
"""
