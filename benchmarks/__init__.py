"""Measurements with targets: `python -m benchmarks.NAME`, all with the flags of `contract`."""
