"""Rows of ranking features as a network reads them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rec.models.multi_task import moments
from rec.ranking.data import RankingData

CODE_DIM = 8


class RowInputs(nn.Module):
    """Standardised numbers, 0 where one is missing, and embedded codes.

    Args: cardinalities: number of codes of each column, 0 for a number.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, cardinalities: Sequence[int]) -> None:
        super().__init__()
        self.numeric = [column for column, n_codes in enumerate(cardinalities) if not n_codes]
        self.coded = [column for column, n_codes in enumerate(cardinalities) if n_codes]
        self.embeddings = nn.ModuleList(nn.Embedding(cardinalities[column], CODE_DIM) for column in self.coded)
        self.register_buffer("mean", torch.zeros(len(self.numeric)))
        self.register_buffer("std", torch.ones(len(self.numeric)))
        self.size = len(self.numeric) + CODE_DIM * len(self.coded)

    def standardise_by(self, train: RankingData) -> None:
        """Takes means and deviations from training rows."""
        mean, std = moments(train.matrix[:, self.numeric])
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, matrix: Tensor) -> Tensor:
        """Feature rows (B, F) to (B, size)."""
        numbers = torch.nan_to_num((matrix[:, self.numeric] - self.mean) / self.std)
        parts = [numbers.clamp(-10, 10)]
        for column, embedding in zip(self.coded, self.embeddings, strict=True):
            codes = torch.nan_to_num(matrix[:, column]).long()
            assert isinstance(embedding, nn.Embedding)
            known = (codes >= 0) & (codes < embedding.num_embeddings)
            parts.append(embedding(torch.where(known, codes, 0)))
        return torch.cat(parts, dim=1)


def cardinalities_of(*parts: RankingData) -> tuple[int, ...]:
    """Number of codes of each column that any of the data hold, 0 for a number."""
    largest = np.max([part.matrix.max(axis=0, initial=0) for part in parts], axis=0)
    layout = parts[0].layout
    return tuple(
        int(most) + 1 if name in layout.categorical else 0 for name, most in zip(layout.names, largest, strict=True)
    )
