"""Published tables, one folder or file per paper. `benchmarks.reproduce` takes its name.

The folder holds all that belongs only to this paper: the table, the arms that it compares, and the
cost of its method. The module defines `PAPER`, a `benchmarks.paper.Paper`: the published cells as
data, and a function that measures ours.
"""
