"""Training steps of tfmtl and its peers, each in a process and an environment of its own.

A module here makes the same network from the layers of one package. The peers' modules import
nothing of tfmtl, because their environments do not have it; `worker` needs NumPy alone.
"""
