"""Sources as a config names them: fitted on what was known at a time, blended, saved and loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from rec.config import TrainConfig
from rec.data.dataset import Interactions
from rec.errors import ConfigError
from rec.features.as_of import DAY_MS
from rec.features.snapshot import Snapshot
from rec.retrieval.blend import Blend, Retriever
from rec.retrieval.business import Business
from rec.retrieval.ease import EASE
from rec.retrieval.fresh import Fresh
from rec.retrieval.item_knn import ItemKNN
from rec.retrieval.popularity import Popularity, RecentPopularity
from rec.retrieval.protocol import CandidateSource
from rec.retrieval.two_tower import TwoTowerSource

SourceFit = Callable[[Interactions, Snapshot, TrainConfig], CandidateSource]
"""Fits on interactions that are all before the snapshot."""


def _fresh(train: Interactions, snapshot: Snapshot, config: TrainConfig) -> Fresh:
    column = config.sources.fresh_column
    if column is None:
        return Fresh.fit(train)
    numeric = [feature.name for feature in snapshot.encoders.schema.of_side("item") if feature.kind == "numeric"]
    if column not in numeric:
        raise ConfigError(
            f"must be a numeric feature of the items ({', '.join(numeric) or 'there is none'}); found {column!r}",
            field="sources.fresh_column",
        )
    return Fresh.of(snapshot.item_table[column].to_numpy(np.float64), until=snapshot.at_ms)


SOURCE_FITS: Final[dict[str, SourceFit]] = {
    "ease": lambda train, snapshot, config: EASE.fit(train, regularization=config.sources.ease_regularization),
    "item_knn": lambda train, snapshot, config: ItemKNN.fit(train, n_neighbors=config.sources.item_knn_neighbors),
    "popularity": lambda train, snapshot, config: Popularity.fit(train),
    "recent_popularity": lambda train, snapshot, config: RecentPopularity.fit(
        train, window_ms=config.popularity_days * DAY_MS, until_ms=snapshot.at_ms
    ),
    "fresh": _fresh,
    "business": lambda train, snapshot, config: Business.of(config.sources.business, snapshot.item_ids),
}

SOURCE_LOADS: Final[dict[str, Callable[[Path], CandidateSource]]] = {
    source.name: source.load for source in (EASE, ItemKNN, Popularity, RecentPopularity, Fresh, Business)
}


def fit_sources(train: Interactions, snapshot: Snapshot, config: TrainConfig) -> dict[str, CandidateSource]:
    """The sources of a config but the two-tower model, by name, from what was known at the snapshot's time.

    Args: train: the interactions to learn from; those at or after the snapshot are not looked at.
    Raises: ConfigError: for a list or a column that this catalogue does not have. TrainingError: for a catalogue too
        large for a source.
    """
    known = train.before(snapshot.at_ms)
    return {name: SOURCE_FITS[name](known, snapshot, config) for name in config.sources.names if name in SOURCE_FITS}


def load_sources(folder: Path, config: TrainConfig) -> dict[str, CandidateSource]:
    """The sources that `fit_sources` made, from the files they saved."""
    return {name: SOURCE_LOADS[name](folder) for name in config.sources.names if name in SOURCE_LOADS}


def as_retriever(two_tower: TwoTowerSource, others: dict[str, CandidateSource], config: TrainConfig) -> Retriever:
    """The first stage of a config: the two-tower model, or a blend in which it scores."""
    if not others:
        return two_tower
    wanted = config.sources
    sources: dict[str, CandidateSource] = {two_tower.name: two_tower, **others}
    quotas: dict[str, int] = {**wanted.quotas, wanted.first: config.ranker.n_candidates - sum(wanted.quotas.values())}
    return Blend(tuple(sources[name] for name in wanted.names), tuple(quotas[name] for name in wanted.names), two_tower)
