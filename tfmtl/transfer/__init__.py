"""Does sharing help a task, or hurt it: gains over single-task twins, gradients and gates.

- `report`: `TransferReport`, the results.
- `twins`: the single-task model of a task, with the same sizes, seed and rows.
- `gates`: how evenly tasks use experts.
- `intervals`: of a gain, over seeds or over rows.
- `runs`: one training's outcome on disk.
- `picture`: the report drawn.
- `negative_transfer`: trains what is compared.
"""
