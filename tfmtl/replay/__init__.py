"""How well an early ranking stage agrees with the final one, on replayed requests.

In go a log whose ads were all valued by the final stage, and scores; out come recall at K, the
divergence of total values, and their intervals. `python -m tfmtl.replay` measures scores in files.
Metrics of a task's own labels belong to `metrics`.
"""
