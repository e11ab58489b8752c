"""The weighted score: how similar, how much watched, and whether it is of the user's interests."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rec.config import WeightedScoreConfig


def weighted_score(
    similarity: NDArray[np.floating[Any]],
    views: NDArray[np.number[Any]],
    is_interest: NDArray[np.bool_],
    config: WeightedScoreConfig,
) -> NDArray[np.float64]:
    """w1 similarity + w2 views + w3 is_interest, with log(1 + views) in place of views under `log_views`.

    Source: the InstaTok notebook, final score.

    Args: similarity: summed over what the user took, (B, M). views: of the items, at least 0, (M,) or (B, M).
        is_interest: whether an item is of the user's interests, (B, M).
    Returns: float64, (B, M).
    """
    seen = np.log1p(views) if config.log_views else np.asarray(views, np.float64)
    return (
        config.similarity_weight * np.asarray(similarity, np.float64)
        + config.views_weight * seen
        + config.interest_weight * is_interest
    )
