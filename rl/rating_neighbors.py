"""Ratings from neighbours: a second family of models, to see whether results survive a change of simulator."""

from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rec.data.dataset import Interactions
from rec.errors import DataError
from rl.config import RatingNeighborsConfig
from rl.pmf import HIGHEST, LOWEST

Integers = NDArray[np.integer[Any]]


@final
@dataclass(frozen=True, slots=True)
class RatingNeighbors:
    """rating(u, i) = mean + b_u + b_i + sum_j s_ij e_uj / (shrinkage + sum_j |s_ij|), kept within the scale.

    j runs over the items user u rated among the most similar ones of i, and e_uj is what u's rating of j is above
    mean + b_u + b_j. Biases are shrunk means; s_ij is the cosine of e_i and e_j over all users, which is small where
    few users rated both. No factors are involved: what it has in common with matrix factorisation are the biases.

    Source: Koren (2010), section 2.2, doi:10.1145/1644873.1644874.

    Attributes: table: predicted ratings of all pairs, float32, (U, N).
    """

    table: NDArray[np.float32]

    @classmethod
    def fit(cls, ratings: Interactions, config: RatingNeighborsConfig) -> Self:
        """Counts the ratings and fills the table.

        Args: ratings: all that the model may know, a pair at most once. config: neighbours and shrinkage.
        """
        if ratings.rating is None:
            raise DataError("ratings are required; this log has actions", field="rating")
        rating = ratings.rating.astype(np.float64)
        mean = float(rating.mean())
        item_bias = _shrunk_mean(ratings.item, rating - mean, ratings.n_items, config.bias_shrinkage)
        rest = rating - mean - item_bias[ratings.item]
        user_bias = _shrunk_mean(ratings.user, rest, ratings.n_users, config.bias_shrinkage)
        above = rest - user_bias[ratings.user]
        shape = (ratings.n_users, ratings.n_items)
        residuals = sparse.csr_array((above, (ratings.user, ratings.item)), shape=shape)
        rated = sparse.csr_array((np.ones(len(above)), (ratings.user, ratings.item)), shape=shape)
        nearest = _nearest(residuals, config.n_neighbors)
        table = sparse.csr_array(residuals @ nearest).toarray()
        table /= sparse.csr_array(rated @ sparse.csr_array(abs(nearest))).toarray() + config.shrinkage
        table += mean + user_bias[:, None] + item_bias
        return cls(np.clip(table, LOWEST, HIGHEST).astype(np.float32))

    def predict(self, users: Integers, items: Integers) -> NDArray[np.float64]:
        """Expected ratings within the scale; positions, of shapes that broadcast."""
        return self.table[users, items].astype(np.float64)

    def predict_all(self, users: Integers) -> NDArray[np.float64]:
        """Expected ratings of all items, (S,) -> (S, N)."""
        return self.table[users].astype(np.float64)


def _shrunk_mean(groups: Integers, values: NDArray[np.float64], n_groups: int, shrinkage: float) -> NDArray[np.float64]:
    """Sum over count plus shrinkage of each group, (G,)."""
    sums = np.bincount(groups, values, minlength=n_groups)
    return sums / np.maximum(np.bincount(groups, minlength=n_groups) + shrinkage, 1e-12)


def _nearest(residuals: sparse.csr_array, n_neighbors: int) -> sparse.csr_array:
    """Column i holds the cosines of item i with its most similar others, (N, N)."""
    norm = np.sqrt(np.asarray((residuals * residuals).sum(axis=0)).reshape(-1))
    unit = sparse.csr_array(residuals @ sparse.diags_array(np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)))
    cosine = (unit.T @ unit).toarray()
    np.fill_diagonal(cosine, 0.0)
    if n_neighbors < len(cosine):
        least = np.partition(abs(cosine), -n_neighbors, axis=0)[-n_neighbors]
        cosine[abs(cosine) < least] = 0.0
    return sparse.csr_array(cosine)
