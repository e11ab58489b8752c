"""The queries of one period, as rankers learn from them and are judged by them."""

from collections.abc import Sequence

import numpy as np

from rec.config import RankerConfig, TaskConfig
from rec.data.dataset import Interactions
from rec.features.as_of import EventIndex
from rec.features.ranking import RankingFeatures
from rec.features.snapshot import Snapshot
from rec.ranking.data import RankingData, build_ranking_data, draw_moments
from rec.retrieval.blend import Retriever


def period_queries(
    snapshot: Snapshot,
    features: RankingFeatures,
    source: Retriever,
    config: RankerConfig,
    tasks: Sequence[TaskConfig],
    *,
    liked: Interactions,
    log: Interactions,
    end_ms: int,
    until_ms: int,
    rng: np.random.Generator,
) -> RankingData:
    """Moments of the period that begins with the snapshot, with candidates and with what was done from then on.

    Args:
        snapshot: everything known at the beginning of the period.
        features: feature rows computed from that snapshot.
        source: fitted on what came before the period.
        config: how many queries, of which items.
        tasks: what the labels are, resolved.
        liked: what histories are made of and moments are drawn from, up to `until_ms`.
        log: everything that was done, liked or not.
        end_ms: of the period.
        until_ms: of what may be looked at for answers.
        rng: draws moments and negatives.
    """
    index = EventIndex(liked)
    moments = draw_moments(
        index,
        liked,
        start_ms=snapshot.at_ms,
        end_ms=end_ms,
        n=config.queries_per_period,
        session_share=config.session_share,
        rng=rng,
    )
    later = log.between(snapshot.at_ms, until_ms)
    return build_ranking_data(snapshot, index, features, source, moments, later, config, tasks, rng)
