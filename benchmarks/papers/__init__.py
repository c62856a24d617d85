"""Published tables, one file each; its name is the one `benchmarks.reproduce` takes.

A file defines `PAPER`, a `benchmarks.paper.Paper`: the published cells as data, and a function
that measures ours.
"""
