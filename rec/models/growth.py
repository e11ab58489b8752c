"""A trained two-tower model under grown vocabularies: it answers as it did, and can learn what is new."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rec.config import RetrieverConfig
from rec.features.encoders import Encoders
from rec.models.tower import FeatureEmbedding, Tower
from rec.models.two_tower import TwoTower


def grown_weights(
    model: TwoTower, before: Encoders, config: RetrieverConfig, after: Encoders, *, seed: int
) -> dict[str, Tensor]:
    """The weights of a model with the vocabularies of `after` that embeds everything as the given model does.

    What both vocabularies hold keeps its row, what is new gets the row by which it was known until now, that of its
    slot for unknown values, and what is gone falls back to such a slot. Where a larger vocabulary makes an embedding
    wider, the new numbers are random and the layer above begins by ignoring them (function-preserving growth: Chen et
    al. 2016, arXiv:1511.05641).

    Args: model: trained with the encoders `before`. config: of towers of the same sizes. after: made of `before` by
        `rec.features.growth.grown`. seed: of the random numbers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        larger = TwoTower(config, after.specs)
    rows = {name: _rows(name, before, after) for name in after.vocabularies}
    with torch.no_grad():
        for old, new in ((model.user_tower, larger.user_tower), (model.item_tower, larger.item_tower)):
            _copy_tables(old, new, rows)
            _copy_layers(old, new)
    return larger.state_dict()


def _rows(name: str, before: Encoders, after: Encoders) -> NDArray[np.int64]:
    """For each slot of a feature after, the slot before whose row it takes."""
    unknown = np.arange(before.first_unknown(name), before.cardinality(name))
    return np.concatenate([[0], before.slots(name, after.vocabularies[name]), unknown])


def _copy_tables(old: Tower, new: Tower, rows: Mapping[str, NDArray[np.int64]]) -> None:
    for name, embedding in new.embeddings.items():
        source = old.embeddings[name]
        assert isinstance(embedding, FeatureEmbedding) and isinstance(source, FeatureEmbedding)
        if embedding.table is not None and source.table is not None:
            weight = source.table.weight
            if name in rows:
                weight = weight[torch.from_numpy(rows[name])]
            embedding.table.weight[:, : source.size] = weight


def _copy_layers(old: Tower, new: Tower) -> None:
    joined: list[NDArray[np.int64]] = []
    width = 0
    for features, source, branch in zip(new.branch_features, old.branches, new.branches, strict=True):
        columns = _columns(features, old.sizes, new.sizes)
        size = sum(new.sizes[name] for name in features)
        linear = [layer for layer in branch.children() if isinstance(layer, nn.Linear)]
        if linear:
            _copy_linear(source, branch, columns)
            size = linear[-1].out_features
            columns = np.arange(size)
        joined.append(width + columns)
        width += size
    _copy_linear(old.join, new.join, np.concatenate(joined))


def _columns(features: Sequence[str], old: Mapping[str, int], new: Mapping[str, int]) -> NDArray[np.int64]:
    """Where each number of the features as they were side by side is now."""
    starts = np.cumsum([0, *(new[name] for name in features)])
    return np.concatenate([start + np.arange(old[name]) for start, name in zip(starts, features, strict=False)])


def _copy_linear(old: nn.Module, new: nn.Module, columns: NDArray[np.int64]) -> None:
    """Copies the linear layers of one MLP into another, whose first has the old inputs in these columns."""
    for source, layer in zip(old.children(), new.children(), strict=True):
        if isinstance(source, nn.Linear) and isinstance(layer, nn.Linear):
            if layer.in_features == source.in_features:
                layer.weight.copy_(source.weight)
            else:
                layer.weight.zero_()
                layer.weight[:, torch.from_numpy(columns)] = source.weight
            assert layer.bias is not None and source.bias is not None
            layer.bias.copy_(source.bias)
