"""Measurements with targets: run `python -m benchmarks.NAME`. `contract` has the common flags."""
