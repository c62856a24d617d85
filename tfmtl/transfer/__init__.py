"""Does sharing help a task, or hurt it: gains over single-task twins, gradients and gates.

In go an experiment and packed rows; out comes a `TransferReport`. What changes gradients in
training belongs to `balancing`.

- `negative_transfer`: trains what is compared; `runs`: the outcome of one training on disk.
- `twins`: for each task a model of its own, with the same sizes, seed and rows.
- `gates`: how evenly tasks use experts.
- `intervals`: of a gain, over seeds or over rows.
- `report`: `TransferReport`; `picture`: the report drawn.
"""
