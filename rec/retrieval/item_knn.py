"""ItemKNN: items like those a user liked, by the cosine of who liked them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rec.data.dataset import Interactions
from rec.retrieval.arrays import read_arrays, write_arrays
from rec.retrieval.liked import LikedItems, extended_similarity, popularity_for_the_unknown
from rec.retrieval.top_k import BLOCK_SCORES, best_of_catalogue, blocks
from rec.state import Candidates, UserStates


@final
@dataclass(frozen=True, slots=True)
class ItemKNN:
    """The score of an item is the sum of its similarities to the liked ones among its nearest neighbours.

    Attributes:
        similarity: row j holds the cosine of item j with the items that have j among their nearest, float32, (N, N).
        liked: the training matrix; see LikedItems.profiles for what users are scored from.
    """

    similarity: sparse.csr_array
    liked: LikedItems
    name: ClassVar[str] = "item_knn"

    @classmethod
    def fit(cls, interactions: Interactions, *, n_neighbors: int = 200) -> Self:
        """Keeps for each item the n_neighbors most similar others, ties by item position.

        cos(i, j) = users who liked both / sqrt(users who liked i * users who liked j). Source: Sarwar et al. (2001),
        section 3.1.1, doi:10.1145/371920.372071.

        Args:
            interactions: each pair of user and item counts once.
            n_neighbors: kept for each item, at least 1.
        """
        liked = LikedItems.of(interactions)
        matrix = liked.matrix().astype(np.float64).tocsc()
        norm = np.sqrt(np.maximum(liked.item_users, 1.0))
        kept = [
            _nearest(matrix, norm, rows, n_neighbors)
            for rows in blocks(liked.n_items, max(1, BLOCK_SCORES // liked.n_items))
        ]
        nearest = sparse.csr_array(sparse.vstack(kept, format="csr"))
        return cls(sparse.csr_array(nearest.T.tocsr().astype(np.float32)), liked)

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The items of the highest score; users about whom nothing is known get the most popular ones."""

        def score(block: UserStates) -> NDArray[np.floating]:
            profiles = self.liked.profiles(block)
            scores = sparse.csr_array(profiles @ self.similarity).toarray()
            return popularity_for_the_unknown(scores, profiles, self.liked.item_users)

        return best_of_catalogue(states, k, self.liked.n_items, score, self.name)

    def extended(self, n_items: int) -> Self:
        """The same for a catalogue to which items were added at the end: they are near nothing."""
        return type(self)(extended_similarity(self.similarity, n_items), self.liked.extended(n_items))

    def save(self, folder: Path) -> list[str]:
        """Writes item_knn.safetensors."""
        arrays = {
            "similarity": self.similarity.data,
            "columns": self.similarity.indices,
            "rows": self.similarity.indptr,
            "indptr": self.liked.indptr,
            "items": self.liked.items,
        }
        return write_arrays(folder, self.name, arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads item_knn.safetensors."""
        names = ("similarity", "columns", "rows", "indptr", "items")
        values, columns, rows, indptr, items = read_arrays(folder, cls.name, *names)
        n_items = len(rows) - 1
        similarity = sparse.csr_array((values, columns, rows), shape=(n_items, n_items))
        return cls(similarity, LikedItems(indptr, items, n_items))


def _nearest(matrix: sparse.csc_array, norm: NDArray[np.float64], rows: slice, n_neighbors: int) -> sparse.csr_array:
    """Cosine of a block of items with their nearest others, (rows, N)."""
    together = (matrix[:, rows].T @ matrix).tocsr()
    together.sort_indices()
    columns: list[NDArray[np.integer]] = []
    values: list[NDArray[np.float64]] = []
    for row, item in enumerate(range(rows.start, rows.stop)):
        run = slice(together.indptr[row], together.indptr[row + 1])
        others = together.indices[run] != item
        column = together.indices[run][others]
        cosine = together.data[run][others] / (norm[item] * norm[column])
        best = np.argsort(-cosine, kind="stable")[:n_neighbors]
        columns.append(column[best])
        values.append(cosine[best])
    indptr = np.concatenate([[0], np.cumsum([len(column) for column in columns])])
    return sparse.csr_array((np.concatenate(values), np.concatenate(columns), indptr), shape=(len(columns), len(norm)))
