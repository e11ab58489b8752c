"""EASE: the linear model of items by items that has a closed form."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs

from rec.data.dataset import Interactions
from rec.errors import ConfigError, TrainingError
from rec.retrieval.arrays import read_arrays, write_arrays
from rec.retrieval.liked import LIKED_ARRAYS, LikedItems, where_evident
from rec.retrieval.top_k import best_of_catalogue
from rec.state import Candidates, UserStates

MAX_ITEMS: Final = 20_000


@final
@dataclass(frozen=True, slots=True)
class EASE:
    """Scores of an item are the weights from the items a user likes: X B, with B of a zero diagonal.

    Attributes:
        weights: from the row's item to the column's, float32, (N, N).
        liked: the training matrix; see LikedItems.profiles for what users are scored from.
    """

    weights: NDArray[np.float32]
    liked: LikedItems
    name: ClassVar[str] = "ease"

    @classmethod
    def fit(cls, interactions: Interactions, *, regularization: float) -> Self:
        """Inverts the Gram matrix: P = (X'X + regularization I)^-1, B_ij = -P_ij / P_jj, B_jj = 0.

        Source: Steck (2019), equation 8, doi:10.1145/3308558.3313710. Takes O(N^3) time and two matrices N x N of
        float64.

        Args:
            interactions: each pair of user and item counts once.
            regularization: lambda, above 0.

        Raises: TrainingError: for more than MAX_ITEMS items, for which the matrix would not fit.
        """
        if interactions.n_items > MAX_ITEMS:
            raise TrainingError(
                f"EASE holds a dense matrix of items by items and takes at most {MAX_ITEMS} items; this catalogue has "
                f"{interactions.n_items}; leave it out, or use item_knn, which is sparse"
            )
        if not regularization > 0.0:
            raise ConfigError(f"must be above 0, found {regularization}", field="regularization")
        liked = LikedItems.of(interactions)
        matrix = liked.matrix().astype(np.float64)
        gram = np.asfortranarray((matrix.T @ matrix).toarray())
        gram[np.diag_indices_from(gram)] += regularization
        inverse = _inverse(gram)
        weights = (inverse / -np.diag(inverse)).astype(np.float32)
        np.fill_diagonal(weights, 0.0)
        return cls(weights, liked)

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The items of the highest score but 0; users about whom nothing is known get the most popular ones."""

        def score(block: UserStates) -> NDArray[np.floating]:
            profiles = self.liked.profiles(block)
            return where_evident(profiles @ self.weights, profiles, self.liked.item_users)

        return best_of_catalogue(states, k, self.liked.n_items, score, self.name)

    def extended(self, n_items: int) -> Self:
        """The same for a catalogue to which items were added at the end: no weight leads to them, or from them."""
        added = n_items - len(self.weights)
        return type(self)(np.pad(self.weights, (0, added)), self.liked.extended(n_items))

    def save(self, folder: Path) -> list[str]:
        """Writes ease.safetensors."""
        arrays = {"weights": self.weights, "indptr": self.liked.indptr, "items": self.liked.items}
        return write_arrays(folder, self.name, arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads ease.safetensors."""
        names = ("weights", "indptr", "items")
        weights, indptr, items = read_arrays(folder, cls.name, *names, mapped=LIKED_ARRAYS)
        return cls(weights, LikedItems(indptr, items, len(weights)))


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a symmetric positive definite matrix in Fortran order, which it overwrites."""
    factorise, invert = get_lapack_funcs(("potrf", "potri"), (matrix,))
    factor, failed = factorise(matrix, lower=1, clean=1, overwrite_a=1)
    if failed:
        raise TrainingError("the Gram matrix is not positive definite; use a larger regularization")
    lower, _ = invert(factor, lower=1, overwrite_c=1)
    diagonal = np.diag(lower).copy()
    inverse = lower + lower.T
    np.fill_diagonal(inverse, diagonal)
    return inverse
