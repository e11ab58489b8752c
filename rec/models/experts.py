"""What mixtures of experts are built from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rec.config.ranker import ExpertsConfig
from rec.models.tower import mlp


class Expert(nn.Module):
    """A network whose output is not negative, (B, n_in) to (B, expert_dim)."""

    def __init__(self, n_in: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.layers = mlp([n_in, *config.expert_hidden, config.expert_dim], dropout=config.dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, n_in) to (B, expert_dim)."""
        return self.layers(inputs).relu()


class Gate(nn.Module):
    """How much is taken of each expert: shares that sum to one, (B, n_in) to (B, E)."""

    def __init__(self, n_in: int, n_experts: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.layers = mlp([n_in, *config.gate_hidden, n_experts])

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, n_in) to (B, E)."""
        return self.layers(inputs).softmax(dim=1)


class Towers(nn.Module):
    """A network for each task, of which each reads its own mixture and gives one number."""

    def __init__(self, n_tasks: int, config: ExpertsConfig) -> None:
        super().__init__()
        sizes = [config.expert_dim, *config.tower_hidden, 1]
        self.of_tasks = nn.ModuleList(mlp(sizes, dropout=config.dropout) for _ in range(n_tasks))

    def forward(self, mixed: Sequence[Tensor]) -> Tensor:
        """T mixtures (B, D) to (B, T)."""
        return torch.cat([tower(rows) for tower, rows in zip(self.of_tasks, mixed, strict=True)], dim=1)


def mix(shares: Tensor, experts: Sequence[Tensor]) -> Tensor:
    """The experts' outputs weighted by their shares, (B, E) and E of (B, D) to (B, D)."""
    return torch.einsum("be,ebd->bd", shares, torch.stack(list(experts)))
