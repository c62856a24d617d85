"""A small configuration of every balancer, with arguments other than the defaults."""

BALANCERS = {
    "fixed": {"task_weights": {"cvr": 2.0}, "reduction": "sum"},
    "uncertainty": {"form": "paper_eq3", "positive": True},
    "dwa": {"temperature": 3.0, "reduction": "sum"},
    "gradnorm": {"alpha": 0.5, "first_batches": 7, "least": 0.01},
    "pcgrad": {"seed": 4, "reduction": "sum"},
    "mgda": {"normalize": "l2", "ub": True},
    "cagrad": {"c": 0.3},
    "nash_mtl": {"every": 3, "reduction": "sum"},
    "famo": {"learning_rate": 0.1, "decay": 0.0, "floors": {"cvr": 0.01}, "every": 2},
}
