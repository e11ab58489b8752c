"""A tower: the features of one side, embedded, in branches, joined into one vector."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rec.config import TowerConfig
from rec.errors import ConfigError
from rec.features.encoders import FeatureSpec

FULL_SIZE = frozenset({"user_id", "item_id"})
TEXT_DIM = 16
EMBEDDING_STD = 0.1


def mlp(sizes: Sequence[int], *, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers from sizes[0] to sizes[-1] with ReLU, and then dropout, between them."""
    layers: list[nn.Module] = []
    for place, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        if place:
            layers.append(nn.ReLU())
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(n_in, n_out))
    return nn.Sequential(*layers)


def embedding_size(name: str, spec: FeatureSpec, embedding_dim: int) -> int:
    """How many numbers a feature becomes: an id embedding_dim, n values about 4 * n ** (1/4), text at most 16."""
    if spec.kind == "numeric":
        return 1
    if spec.kind == "vector":
        return spec.dim
    if name in FULL_SIZE:
        return embedding_dim
    if spec.kind == "text":
        return min(embedding_dim, TEXT_DIM)
    return min(embedding_dim, round(4 * spec.cardinality**0.25))


class FeatureEmbedding(nn.Module):
    """One feature as a vector; of several values the mean of their embeddings, and zeros for none.

    Args: name: of the feature. spec: its kind and number of slots; slot 0 is padding. embedding_dim: of ids.
        sparse: whether the table's gradient is sparse.
    """

    def __init__(self, name: str, spec: FeatureSpec, embedding_dim: int, *, sparse: bool) -> None:
        super().__init__()
        self.size = embedding_size(name, spec, embedding_dim)
        self.table: nn.EmbeddingBag | nn.Embedding | None = None
        if spec.kind == "categorical":
            self.table = nn.Embedding(spec.cardinality, self.size, padding_idx=0, sparse=sparse)
        elif spec.kind in ("multi_hot", "text"):
            self.table = nn.EmbeddingBag(spec.cardinality, self.size, padding_idx=0, mode="mean", sparse=sparse)
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=EMBEDDING_STD)
            with torch.no_grad():
                self.table.weight[0].zero_()

    def forward(self, values: Tensor) -> Tensor:
        """Slots (B,) or (B, L), numbers (B,) or vectors (B, D) to (B, size)."""
        if self.table is not None:
            return self.table(values)
        return values.float().reshape(len(values), self.size)


class Tower(nn.Module):
    """Branches of features, each with layers of its own, joined by an MLP.

    Args: side: names the tower in errors. config: branches and sizes. specs: the features the side has.
        pooled: sizes of inputs that are vectors already, by name. output_dim: size of the result.
        sparse: whether embedding tables have sparse gradients.
    Raises: ConfigError: when a branch names a feature that the side does not have, or nothing is left to read.
    """

    def __init__(
        self,
        side: str,
        config: TowerConfig,
        specs: Mapping[str, FeatureSpec],
        *,
        pooled: Mapping[str, int],
        output_dim: int,
        sparse: bool,
    ) -> None:
        super().__init__()
        self.id_dropout = config.id_dropout
        self.branch_features = branch_features(side, config, [*specs, *pooled])
        read = [name for features in self.branch_features for name in features]
        self.embeddings = nn.ModuleDict(
            {
                name: FeatureEmbedding(name, spec, config.embedding_dim, sparse=sparse)
                for name, spec in specs.items()
                if name in read
            }
        )
        # What a user did is known as soon as it is done, from the history; of an item, when training goes on.
        self._of_new = {
            name: spec
            for name, spec in specs.items()
            if name in self.embeddings
            and (spec.first_unknown is not None or (side == "item" and spec.without_events is not None))
        }
        self.sizes = {name: embedding_size(name, spec, config.embedding_dim) for name, spec in specs.items()}
        self.sizes.update(pooled)
        hidden = [branch.hidden for branch in config.branches] or [()]
        self.branches = nn.ModuleList()
        joined = 0
        for features, layers in zip(self.branch_features, hidden, strict=True):
            size = sum(self.sizes[name] for name in features)
            branch = mlp([size, *layers], dropout=config.dropout)
            if layers:
                branch.append(nn.ReLU())
            self.branches.append(branch)
            joined += layers[-1] if layers else size
        self.join = mlp([joined, *config.hidden, output_dim], dropout=config.dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Inputs by feature name, each (B,) or (B, L), to (B, output_dim)."""
        if self.training and self.id_dropout:
            inputs = {**inputs, **self._as_if_new(inputs)}
        embedded = {name: embedding(inputs[name]) for name, embedding in self.embeddings.items()}
        parts = [
            branch(torch.cat([embedded[name] if name in embedded else inputs[name] for name in features], dim=1))
            for branch, features in zip(self.branches, self.branch_features, strict=True)
        ]
        return self.join(torch.cat(parts, dim=1))

    def _as_if_new(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What differs of inputs of which a share of rows, drawn at random, is as if training did not hold them.

        Source: Volkovs, Yu and Poutanen (2017), DropoutNet: Addressing Cold Start in Recommender Systems. Differs from
        it in: what is dropped is an id and counts, no vectors of another model, and the loss stays that of the task.
        """
        changed: dict[str, Tensor] = {}
        new: Tensor | None = None
        for name, spec in self._of_new.items():
            values = inputs[name]
            if new is None:
                new = torch.rand(len(values), device=values.device) < self.id_dropout
            if spec.first_unknown is not None:
                unknown = torch.randint_like(values, spec.first_unknown, spec.cardinality)
            else:
                unknown = torch.full_like(values, spec.without_events or 0.0)
            changed[name] = torch.where(new, unknown, values)
        return changed


def branch_features(side: str, config: TowerConfig, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The features each branch of a tower reads.

    Raises: ConfigError: when a branch or `without` names a feature there is not, or a branch is left empty.
    """
    branches = [branch.features for branch in config.branches] or [tuple(names)]
    named = {"without": config.without} | {"branches": tuple(name for b in config.branches for name in b.features)}
    for field, features in named.items():
        unknown = [name for name in features if name not in names]
        if unknown:
            raise ConfigError(
                f"no {side} feature {', '.join(map(repr, unknown))}; there are {', '.join(names)}",
                field=f"{side}_tower.{field}",
            )
    kept = [tuple(name for name in branch if name not in config.without) for branch in branches]
    if not all(kept):
        raise ConfigError(f"a branch of the {side} tower has no feature to read", field=f"{side}_tower")
    return kept
