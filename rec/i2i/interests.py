"""What a user is interested in, predicted from what the user did with items of each category."""

import numpy as np
from numpy.typing import NDArray

from rec.data.dataset import Interactions


def interest_scores(
    interactions: Interactions,
    values: NDArray[np.float64],
    item_category: NDArray[np.integer],
    *,
    n_categories: int,
    prior: float = 10.0,
) -> NDArray[np.float64]:
    """How much more each user likes each category than users do on average, shrunk towards 0.

    A user's mean value in a category is taken as if `prior` interactions of that category's overall mean had come
    before, less that overall mean: sum over the user's interactions in c of (value - mean_c), over (n_uc + prior).
    So a user about whom nothing is known is interested in nothing.

    Args: values: what each interaction says, such as `action_scores`, (n,). item_category: of each item, 0..C-1,
        -1 for items of none, (N,). n_categories: C. prior: strength of the shrinkage, above 0.
    Returns: (U, C).
    """
    category = item_category[interactions.item]
    of_some = category >= 0
    category, values, user = category[of_some], values[of_some], interactions.user[of_some]
    counts = np.bincount(category, minlength=n_categories)
    means = np.bincount(category, values, minlength=n_categories) / np.maximum(counts, 1)
    cell = user.astype(np.int64) * n_categories + category
    n_cells = interactions.n_users * n_categories
    surplus = np.bincount(cell, values - means[category], minlength=n_cells)
    scores = surplus / (np.bincount(cell, minlength=n_cells) + prior)
    return scores.reshape(interactions.n_users, n_categories)


def predicted_interests(scores: NDArray[np.float64], n_interests: int) -> NDArray[np.bool_]:
    """The n_interests categories of the highest score above 0, ties by category, (U, C)."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :n_interests]
    chosen = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(chosen, best, True, axis=1)
    return chosen & (scores > 0)


def is_interest(interests: NDArray[np.bool_], item_category: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether each item is of a category that interests the user: (U, C) and (M,) or (U, M) to (U, M)."""
    category = np.broadcast_to(item_category, (len(interests), item_category.shape[-1]))
    of_interest = np.take_along_axis(interests, np.maximum(category, 0), axis=1)
    return of_interest & (category >= 0)
