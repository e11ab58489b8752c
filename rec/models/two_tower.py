"""The two-tower model: users and items as vectors whose product says how well they match."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rec.config import RetrieverConfig
from rec.errors import ConfigError
from rec.features.encoders import FeatureSpec
from rec.models.tower import Tower
from rec.tensors import on_device

HISTORY = "history"
# Rows embedded at once.
BLOCK = 8192


class TwoTower(nn.Module):
    """Two towers of the same output size; the user tower may pool the history with the item tower's id embeddings.

    Args: config: both towers. specs: all features by name, of both sides.
    Raises: ConfigError: when a tower is configured to read what there is not.
    """

    def __init__(self, config: RetrieverConfig, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__()
        self.windows = config.user_tower.history_windows
        self.history_dropout = config.user_tower.history_dropout
        of_side = {side: {name: spec for name, spec in specs.items() if spec.side == side} for side in ("user", "item")}
        self.item_tower = Tower(
            "item",
            config.item_tower,
            of_side["item"],
            pooled={},
            output_dim=config.output_dim,
            sparse=config.sparse_embeddings,
        )
        pooled = {HISTORY: len(self.windows) * config.item_tower.embedding_dim} if self.windows else {}
        self.user_tower = Tower(
            "user",
            config.user_tower,
            of_side["user"],
            pooled=pooled,
            output_dim=config.output_dim,
            sparse=config.sparse_embeddings,
        )
        self.reads_history = any(HISTORY in features for features in self.user_tower.branch_features)
        if self.reads_history and "item_id" not in self.item_tower.embeddings:
            raise ConfigError(
                "the history is pooled with the embeddings of item_id, which the item tower does not read; "
                "read item_id there, or set user_tower.history_windows to nothing",
                field="item_tower",
            )

    @property
    def history_length(self) -> int:
        """How many of the latest items the user tower reads."""
        return max(self.windows) if self.reads_history else 0

    def forward(self, users: Mapping[str, Tensor], items: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings of users (B, D) and of items (C, D)."""
        return self.embed_users(users), self.embed_items(items)

    def embed_items(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Item inputs by feature name to L2-normalised embeddings, (C, D)."""
        return functional.normalize(self.item_tower(inputs), dim=1)

    def embed_users(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """User inputs by feature name, and `history`, to L2-normalised embeddings, (B, D).

        `history` holds slots of item_id, oldest first, padded on the left with 0, (B, H).
        """
        if self.reads_history:
            inputs = {**inputs, HISTORY: self._pool(inputs[HISTORY])}
        return functional.normalize(self.user_tower(inputs), dim=1)

    def _pool(self, history: Tensor) -> Tensor:
        """Mean embedding of the last n items for each window n, (B, H) to (B, windows * size)."""
        table = self.item_tower.embeddings["item_id"].table
        if not isinstance(table, nn.Embedding):
            raise TypeError("item_id is embedded as a category")
        if self.training and self.history_dropout:
            dropped = torch.rand(history.shape, device=history.device) < self.history_dropout
            history = history.masked_fill(dropped, 0)
        pooled = [
            functional.embedding_bag(
                history[:, -window:].contiguous(), table.weight, mode="mean", sparse=table.sparse, padding_idx=0
            )
            for window in self.windows
        ]
        return torch.cat(pooled, dim=1)


@torch.inference_mode()
def user_vectors(model: TwoTower, features: Mapping[str, NDArray], history: NDArray[np.integer]) -> NDArray[np.float32]:
    """Embeddings of users (B, D); features: encoded, by name, (B, ...); history: slots of item_id, (B, H)."""
    if model.training:  # walking through all layers takes longer than embedding one user
        model.eval()
    inputs = {**{name: features[name] for name in model.user_tower.embeddings}, HISTORY: history}
    return _in_blocks(model.embed_users, inputs, len(history), BLOCK, _device(model))


@torch.inference_mode()
def item_vectors(model: TwoTower, features: Mapping[str, NDArray], *, block: int = BLOCK) -> NDArray[np.float32]:
    """Embeddings of items (N, D); features: encoded, by name, (N, ...)."""
    model.eval()
    inputs = {name: features[name] for name in model.item_tower.embeddings}
    return _in_blocks(model.embed_items, inputs, len(next(iter(inputs.values()))), block, _device(model))


def _in_blocks(embed, inputs: Mapping[str, NDArray], rows: int, block: int, device: torch.device) -> NDArray:
    parts = [
        embed({name: on_device(values[start : start + block], device) for name, values in inputs.items()})
        for start in range(0, max(rows, 1), block)
    ]
    return torch.cat(parts).float().cpu().numpy()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
