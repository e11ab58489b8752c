"""Whether the ranker of a bundle predicts probabilities that come true in the period held out."""

import numpy as np

from rec.calibration import Calibration, calibration
from rec.preparation import Prepared
from rec.ranking.data import RankingData
from rec.ranking.queries import period_queries
from rec.ranking.rankers import ProbabilityModel
from rec.recommender import Recommender


def held_out_calibration(recommender: Recommender, ready: Prepared) -> Calibration | None:
    """Probabilities of the first task's success beside what happened in queries of the test period.

    The queries are of the kind the ranker learned from, so that a probability is one of the same population: with
    `learn_from` candidates, successes are as frequent as `negatives_per_query` leaves them. With `position_bias` a
    probability is that at the top of a slate, and items shown there are looked at alone.

    Args: ready: the data the bundle was trained on.
    Returns: None where the ranker predicts no probabilities, no time divides the data, or there is no query.
    """
    model = recommender.ranker.model
    if not isinstance(model, ProbabilityModel) or ready.split.cut_ms is None:
        return None
    queries = held_out_queries(recommender, ready)
    answered = ~np.isnan(queries.labels[:, 0])
    if recommender.config.ranker.position_bias and queries.positions is not None:
        answered &= queries.positions == 0
    if not answered.any():
        return None
    return calibration(model.probabilities(queries.matrix[answered]), queries.labels[answered, 0] > 0)


def held_out_queries(recommender: Recommender, ready: Prepared) -> RankingData:
    """Queries of the test period, as the ranker's own were drawn."""
    config, interactions = recommender.config, ready.dataset.interactions
    end_ms = int(interactions.timestamp.max()) + 1
    return period_queries(
        recommender.snapshot,
        recommender.ranker.features,
        recommender.source,
        config.ranker,
        [task.resolved(config.data) for task in config.ranker.tasks],
        liked=interactions.positives(min_rating=config.data.min_rating, positive_actions=config.data.positive_actions),
        log=interactions,
        end_ms=end_ms,
        until_ms=end_ms,
        rng=np.random.default_rng([config.seed, len(ready.period_starts)]),
    )
