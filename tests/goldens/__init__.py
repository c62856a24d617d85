"""Goldens: recorded numbers of every registered part, every loss and every trainer.

A golden is one file `<kind>/<name>.npz` of what a part is given (`given/`: weights, inputs) and
what it makes of that (`forward/`, `gradients/`). `test_goldens.py` compares; it never writes.
`python -m tests.goldens --rewrite backbone/mmoe` writes, the goldens that are named and no others.

A new part needs a golden only. A new kind of part needs a function that records one part and one
row in `kinds.KINDS`.
"""
