"""AutoMTL: the search for a network's architecture, for multi-task ranking.

The input is an experiment with `search`, and packed rows. The output is an `Architecture`, plain
data from which an ordinary experiment is made. Searches for other settings belong to `tuning`.
"""
