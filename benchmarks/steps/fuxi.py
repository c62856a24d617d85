"""FuxiCTR: networks of its layers, with its Adam.

Its multi-task models lie in its repository and not in its package, so they are put together here
from `FeatureEmbedding` and `MLP_Block`. Its step also clips gradients, which is left out. The
numbers are part of the networks' input as they are; its own linear layer per number would make
the input five times as wide.
"""

from collections import OrderedDict
from importlib.metadata import version

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import FeatureEmbedding, MLP_Block
from fuxictr.pytorch.torch_utils import get_optimizer
from torch import nn

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


class SharedBottom(nn.Module):
    """One bottom for both tasks."""

    def __init__(self, case: Case, width: int) -> None:
        super().__init__()
        self.bottom = _hidden(case, width)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.bottom(x)] * 2


class Mixture(nn.Module):
    """A gate over some experts' outputs."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.logits = MLP_Block(width, [], output_dim=experts)

    def forward(self, x: torch.Tensor, experts: list[torch.Tensor]) -> torch.Tensor:
        weights = torch.softmax(self.logits.mlp[0](x), dim=-1)
        return torch.sum(weights.unsqueeze(-1) * torch.stack(experts, dim=1), dim=1)


class MMoE(nn.Module):
    """Shared experts and a gate per task."""

    def __init__(self, case: Case, width: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(_hidden(case, width) for _ in range(EXPERTS))
        self.gates = nn.ModuleList(Mixture(width, EXPERTS) for _ in range(2))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        experts = [expert(x) for expert in self.experts]
        return [gate(x, experts) for gate in self.gates]


class Level(nn.Module):
    """One level of PLE."""

    def __init__(self, case: Case, width: int, last: bool) -> None:
        super().__init__()
        counts = (SPECIFIC, SPECIFIC, SHARED)
        self.experts = nn.ModuleList(
            nn.ModuleList(_hidden(case, width) for _ in range(count)) for count in counts
        )
        mixed = [SPECIFIC + SHARED] * 2 + ([] if last else [sum(counts)])
        self.gates = nn.ModuleList(Mixture(width, count) for count in mixed)

    def forward(self, branches: list[torch.Tensor]) -> list[torch.Tensor]:
        first, second, shared = (
            [expert(x) for expert in experts]
            for experts, x in zip(self.experts, branches, strict=True)
        )
        mixed = [first + shared, second + shared, first + second + shared]
        return [
            gate(x, experts) for gate, x, experts in zip(self.gates, branches, mixed, strict=False)
        ]


class PLE(nn.Module):
    """Levels, each branch reading its own mixture of the one below."""

    def __init__(self, case: Case, width: int) -> None:
        super().__init__()
        widths = [width] + [case.units[-1]] * (LEVELS - 1)
        self.levels = nn.ModuleList(
            Level(case, each, last=i == LEVELS - 1) for i, each in enumerate(widths)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        branches = [x] * 3
        for level in self.levels:
            branches = level(branches)
        return branches


NETWORKS = {"shared_bottom": SharedBottom, "mmoe": MMoE, "ple": PLE}


def _hidden(case: Case, width: int) -> MLP_Block:
    return MLP_Block(
        width, list(case.units), dropout_rates=case.dropout, batch_norm=case.batch_norm
    )


class Network(nn.Module):
    """Embeddings, the network and the towers."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        features = FeatureMap("benchmark", "")
        features.features = OrderedDict(
            (f"category_{i}", {"type": "categorical", "source": "", "vocab_size": size})
            for i, size in enumerate(case.sizes)
        )
        self.embedding = FeatureEmbedding(features, case.dim)
        width = len(case.sizes) * case.dim + NUMBERS
        self.network = NETWORKS[case.architecture](case, width)
        self.towers = nn.ModuleList(
            MLP_Block(
                case.units[-1],
                list(case.tower_units),
                output_dim=1,
                dropout_rates=case.dropout,
                batch_norm=case.batch_norm,
            )
            for _ in range(2)
        )

    def forward(self, ids: dict[str, torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.embedding(ids, flatten_emb=True), numbers], dim=1)
        hidden = self.network(x)
        return torch.cat([t(h) for t, h in zip(self.towers, hidden, strict=True)], dim=1)


def make(case: Case) -> tuple[Step, dict[str, str]]:
    """The step and the versions."""
    torch.manual_seed(1)
    model = Network(case)
    optimizer = get_optimizer("adam", model.parameters(), 1e-3)
    loss_of = nn.BCEWithLogitsLoss()
    batches = [
        (
            {f"category_{i}": torch.from_numpy(column.copy()) for i, column in enumerate(ids.T)},
            torch.from_numpy(numbers),
            torch.from_numpy(labels),
        )
        for ids, numbers, labels in case.batches()
    ]
    model.train()

    def step(turn: int) -> float:
        ids, numbers, labels = batches[turn]
        optimizer.zero_grad()
        loss = loss_of(model(ids, numbers), labels)
        loss.backward()
        optimizer.step()
        return float(loss)

    packages = ("fuxictr", "torch")
    return step, {package: version(package) for package in packages}


if __name__ == "__main__":
    serve(make)
