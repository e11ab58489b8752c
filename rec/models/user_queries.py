"""The user tower as NumPy computes it: a request is so small that torch's calls would cost more than its arithmetic."""

from collections.abc import Callable, Mapping
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from rec.models.tower import FeatureEmbedding
from rec.models.two_tower import HISTORY, TwoTower

Floats = NDArray[np.float32]
# Users at once: what is pooled of their histories is held in memory.
BLOCK: Final = 1024


@final
class UserQueries:
    """Embeds users as `TwoTower.embed_users` does when it does not train, but for rounding.

    Args: model: its weights are copied.
    """

    def __init__(self, model: TwoTower) -> None:
        tower = model.user_tower
        self._embed = {name: _embedding(embedding) for name, embedding in tower.embeddings.items()}
        self._branches = [
            (features, _layers(branch)) for features, branch in zip(tower.branch_features, tower.branches, strict=True)
        ]
        self._join = _layers(tower.join)
        self._windows = model.windows if model.reads_history else ()
        self._items = _weight(model.item_tower.embeddings["item_id"]) if self._windows else None

    def __call__(self, features: Mapping[str, NDArray[Any]], history: NDArray[np.integer]) -> Floats:
        """Embeddings of users (B, D); features: encoded, by name, (B, ...); history: slots of item_id, (B, H)."""
        blocks = [slice(start, start + BLOCK) for start in range(0, max(len(history), 1), BLOCK)]
        return np.concatenate([self._of(features, history, rows) for rows in blocks])

    def _of(self, features: Mapping[str, NDArray[Any]], history: NDArray[np.integer], rows: slice) -> Floats:
        embedded = {name: embed(features[name][rows]) for name, embed in self._embed.items()}
        if self._items is not None:
            embedded[HISTORY] = _pooled(self._items, history[rows], self._windows)
        parts = [_through(layers, np.hstack([embedded[name] for name in names])) for names, layers in self._branches]
        users = _through(self._join, np.hstack(parts))
        return users / np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-12)


Layer = Callable[[Floats], Floats]


def _layers(modules: nn.Module) -> list[Layer]:
    layers: list[Layer] = []
    for module in modules.children():
        match module:
            case nn.Linear():
                layers.append(_linear(_array(module.weight), _array(module.bias)))
            case nn.ReLU():
                layers.append(lambda values: np.maximum(values, 0))
            case nn.Dropout():
                pass  # trains only
            case _:
                raise TypeError(f"a tower has linear layers, ReLU and dropout; found {module}")
    return layers


def _linear(weight: Floats, bias: Floats) -> Layer:
    # Row by row: what is said of a user does not depend on who is asked for in the same call, to the last bit.
    return lambda values: (values[:, None] @ weight.T)[:, 0] + bias


def _through(layers: list[Layer], values: Floats) -> Floats:
    for layer in layers:
        values = layer(values)
    return values


def _embedding(embedding: nn.Module) -> Callable[[NDArray[Any]], Floats]:
    assert isinstance(embedding, FeatureEmbedding)
    table, size = embedding.table, embedding.size
    if table is None:
        return lambda values: values.astype(np.float32).reshape(len(values), size)
    weight = _weight(embedding)
    if isinstance(table, nn.Embedding):
        return lambda values: weight[values]
    return lambda values: _mean(weight, values)


def _mean(weight: Floats, slots: NDArray[np.integer]) -> Floats:
    """Mean embedding of each row's slots, of which 0 is padding; zeros for none. (B, L) to (B, D)."""
    return weight[slots].sum(axis=1) / np.maximum((slots != 0).sum(axis=1), 1).astype(np.float32)[:, None]


def _pooled(weight: Floats, history: NDArray[np.integer], windows: tuple[int, ...]) -> Floats:
    """Mean embedding of the last n items for each window n, (B, H) to (B, windows * D)."""
    return np.hstack([_mean(weight, history[:, -window:]) for window in windows])


def _weight(embedding: nn.Module) -> Floats:
    """The embeddings of a feature's slots, those of slot 0 as zeros."""
    assert isinstance(embedding, FeatureEmbedding) and embedding.table is not None
    weight = _array(embedding.table.weight)
    weight[0] = 0
    return weight


def _array(parameter: Tensor) -> Floats:
    return parameter.detach().float().cpu().numpy().copy()
