"""Sources as a config names them: fitted on what was known at a time, blended, saved and loaded."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from rec.candidate_tables import read_candidates
from rec.config import TrainConfig
from rec.data.dataset import Interactions
from rec.errors import ConfigError
from rec.features.as_of import DAY_MS
from rec.features.snapshot import Snapshot
from rec.i2i import ItemNeighbors
from rec.item_groups import ItemGroups
from rec.neighbor_sums import NeighborSums
from rec.retrieval.batch import BatchSource
from rec.retrieval.blend import Blend, Retriever
from rec.retrieval.business import Business
from rec.retrieval.ease import EASE
from rec.retrieval.fresh import Fresh
from rec.retrieval.item_neighbors import CosineSource, ItemKNN, SwingSource
from rec.retrieval.popularity import Popularity, RecentPopularity
from rec.retrieval.protocol import CandidateSource, ExtensibleSource
from rec.retrieval.two_tower import TwoTowerSource
from rec.retrieval.weighted import WeightedScoreSource

SourceFit = Callable[[Interactions, Interactions, Snapshot, TrainConfig], CandidateSource]
"""Fits on what was liked, or on all that was done, both before the snapshot."""


def _fresh(_liked: Interactions, log: Interactions, snapshot: Snapshot, config: TrainConfig) -> Fresh:
    column = config.sources.fresh_column
    if column is None:
        return Fresh.fit(log, snapshot.added_ms)
    numeric = [feature.name for feature in snapshot.encoders.schema.of_side("item") if feature.kind == "numeric"]
    if column not in numeric:
        raise ConfigError(
            f"must be a numeric feature of the items ({', '.join(numeric) or 'there is none'}); found {column!r}",
            field="sources.fresh_column",
        )
    return Fresh.of(snapshot.item_table[column].to_numpy(np.float64), until=snapshot.at_ms)


def _recent(liked: Interactions, _log: Interactions, snapshot: Snapshot, config: TrainConfig) -> RecentPopularity:
    return RecentPopularity.fit(liked, window_ms=config.popularity_days * DAY_MS, until_ms=snapshot.at_ms)


def _weighted(
    liked: Interactions,
    log: Interactions,
    snapshot: Snapshot,
    config: TrainConfig,
    neighbors: ItemNeighbors | None = None,
) -> WeightedScoreSource:
    sources = config.sources
    assert sources.interest_column is not None, "the source comes with its column"
    groups = ItemGroups.of(snapshot.item_table, sources.interest_column, field="sources.interest_column")
    return WeightedScoreSource.fit(
        log,
        groups,
        sources.weighted_score,
        cosine=sources.cosine,
        liked=liked,
        n_interests=sources.n_interests,
        neighbors=neighbors,
    )


def _batch(liked: Interactions, log: Interactions, snapshot: Snapshot, config: TrainConfig) -> BatchSource:
    assert config.sources.batch is not None, "a quota of the batch comes with its table"
    return BatchSource.build(read_candidates(config.sources.batch), snapshot, _recent(liked, log, snapshot, config))


SOURCE_FITS: Final[dict[str, SourceFit]] = {
    "ease": lambda liked, log, snapshot, config: EASE.fit(liked, regularization=config.sources.ease_regularization),
    "item_knn": lambda liked, log, snapshot, config: ItemKNN.fit(liked, n_neighbors=config.sources.item_knn_neighbors),
    "swing": lambda liked, log, snapshot, config: SwingSource.fit(
        liked, config.sources.swing, rng=np.random.default_rng(config.seed)
    ),
    # Without scores of actions every interaction counts alike, and what was refused would count as liked.
    "cosine": lambda liked, log, snapshot, config: CosineSource.fit(
        liked if config.sources.cosine.scores is None else log, config.sources.cosine, liked=liked
    ),
    "weighted_score": _weighted,
    "popularity": lambda liked, log, snapshot, config: Popularity.fit(liked),
    "recent_popularity": _recent,
    "fresh": _fresh,
    "business": lambda liked, log, snapshot, config: Business.of(config.sources.business, snapshot.item_ids),
    "batch": _batch,
}


def _load_batch(folder: Path) -> BatchSource:
    return BatchSource.load(folder, RecentPopularity.load(folder))


SOURCE_LOADS: Final[dict[str, Callable[[Path], CandidateSource]]] = {
    **{
        source.name: source.load
        for source in (
            EASE,
            ItemKNN,
            SwingSource,
            CosineSource,
            WeightedScoreSource,
            Popularity,
            RecentPopularity,
            Fresh,
            Business,
        )
    },
    BatchSource.name: _load_batch,
}


def fit_sources(
    liked: Interactions,
    snapshot: Snapshot,
    config: TrainConfig,
    *,
    log: Interactions | None = None,
    answering: bool = True,
    sums: NeighborSums | None = None,
) -> dict[str, CandidateSource]:
    """The sources of a config but the two-tower model, by name, from what was known at the snapshot's time.

    Args: liked: what to learn from; interactions at or after the snapshot are not looked at. log: all that was done,
        liked or not, for the cosine of scored actions, views and interests; None: what was liked. answering: whether
        the sources are to answer users. Else they are for learning from what happened next, which the model that filled
        a table of candidates has seen: they go without that. sums: of the neighbours, as of the snapshot; None: counted
        here.
    Raises: ConfigError: for a list or a column that this catalogue does not have. TrainingError: for a catalogue too
        large for a source. DataError: for a table of candidates that is not there or not finished.
    """
    known = liked.before(snapshot.at_ms)
    everything = known if log is None else log.before(snapshot.at_ms)
    fits = {name: SOURCE_FITS[name] for name in config.sources.names if name in SOURCE_FITS}
    if not answering:
        fits.pop(BatchSource.name, None)
    sums = sums or NeighborSums()
    if sums.swing is not None and SwingSource.name in fits:
        swing = sums.swing.sums.neighbors()
        fits[SwingSource.name] = lambda liked, log, snapshot, config: SwingSource.of(swing, liked)
    if sums.cosine is not None:
        cosine = sums.cosine.sums.neighbors()
        counted: dict[str, SourceFit] = {
            CosineSource.name: lambda liked, log, snapshot, config: CosineSource.of(cosine, liked),
            WeightedScoreSource.name: partial(_weighted, neighbors=cosine),
        }
        fits |= {name: fit for name, fit in counted.items() if name in fits}
    return {name: fit(known, everything, snapshot, config) for name, fit in fits.items()}


def extend_sources(
    sources: Mapping[str, CandidateSource], snapshot: Snapshot, config: TrainConfig, *, until_ms: int
) -> dict[str, CandidateSource]:
    """The same sources for a catalogue to which items were added at the end, of which they have counted nothing.

    Args: snapshot: with the new catalogue. until_ms: when it is; `fresh_column` is read anew as of then.
    """
    extended: dict[str, CandidateSource] = {}
    for name, source in sources.items():
        if not isinstance(source, ExtensibleSource):
            raise TypeError(f"a source of a bundle can be extended; {name} cannot")
        extended[name] = source.extended(len(snapshot.item_ids))
    if (column := config.sources.fresh_column) is not None:
        extended[Fresh.name] = Fresh.of(snapshot.item_table[column].to_numpy(np.float64), until=until_ms)
    return extended


def load_sources(folder: Path, config: TrainConfig) -> dict[str, CandidateSource]:
    """The sources that `fit_sources` made, from the files they saved."""
    return {name: SOURCE_LOADS[name](folder) for name in config.sources.names if name in SOURCE_LOADS}


def as_retriever(two_tower: TwoTowerSource, others: dict[str, CandidateSource], config: TrainConfig) -> Retriever:
    """The first stage of a config: the two-tower model, or a blend in which it scores.

    Args: others: as `fit_sources` made them; the first source finds what one that is not there would have.
    """
    if not others:
        return two_tower
    sources: dict[str, CandidateSource] = {two_tower.name: two_tower, **others}
    first = config.sources.first
    quotas = {name: quota for name, quota in sorted(config.sources.quotas.items()) if name in sources}
    left = config.ranker.n_candidates - sum(quotas.values())
    return Blend(tuple(sources[name] for name in (first, *quotas)), (left, *quotas.values()), two_tower)
