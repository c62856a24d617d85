"""torch-rechub: its models with its layers, and the step of its `MTLTrainer`.

Its hidden layers are always normalised, those of its gates too. The numbers are part of its
networks' input as they are.
"""

from importlib.metadata import version

import torch
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import AITM, MMOE, PLE, SharedBottom

from benchmarks.steps.worker import (
    EXPERTS,
    LEVELS,
    NUMBERS,
    SHARED,
    SPECIFIC,
    Case,
    Step,
    serve,
)

KINDS = ["classification"] * 2


def make(case: Case) -> tuple[Step, dict[str, str]]:
    """The step and the versions."""
    torch.manual_seed(1)
    names = [f"category_{i}" for i in range(len(case.sizes))]
    features = [
        *(SparseFeature(n, size, case.dim) for n, size in zip(names, case.sizes, strict=True)),
        DenseFeature("numbers", embed_dim=NUMBERS),
    ]
    hidden = {"dims": list(case.units), "dropout": case.dropout}
    towers = [{"dims": list(case.tower_units), "dropout": case.dropout}] * 2
    model = {
        "shared_bottom": lambda: SharedBottom(features, KINDS, hidden, towers),
        "mmoe": lambda: MMOE(features, KINDS, EXPERTS, hidden, towers),
        "ple": lambda: PLE(features, KINDS, LEVELS, SPECIFIC, SHARED, hidden, towers),
        "aitm": lambda: AITM(features, 2, hidden, towers),
    }[case.architecture]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = torch.nn.BCELoss()
    batches = [
        (
            {
                **{name: torch.from_numpy(ids[:, i].copy()) for i, name in enumerate(names)},
                "numbers": torch.from_numpy(numbers),
            },
            torch.from_numpy(labels),
        )
        for ids, numbers, labels in case.batches()
    ]
    model.train()

    def step(turn: int) -> float:
        features, labels = batches[turn]
        predictions = model(features)
        losses = [loss_of(predictions[:, k], labels[:, k]) for k in range(2)]
        loss = sum(losses) / 2
        model.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    packages = ("torch-rechub", "torch")
    return step, {package: version(package) for package in packages}


if __name__ == "__main__":
    serve(make)
