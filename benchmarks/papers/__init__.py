"""Published tables, one folder or file each; its name is the one `benchmarks.reproduce` takes.

Beside a table lies all that belongs to its paper alone: the arms it compares, and what its method
costs. It defines `PAPER`, a `benchmarks.paper.Paper`: the published cells as data, and a function
that measures ours.
"""
