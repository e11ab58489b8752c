"""Items near those a user likes, by lists of neighbours: Swing, item-item cosine and ItemKNN as sources."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rec.config import CosineConfig, SwingConfig
from rec.data.dataset import Interactions
from rec.i2i.cosine import CosineSums, cosine
from rec.i2i.neighbors import ItemNeighbors
from rec.i2i.swing import SwingSums
from rec.retrieval.arrays import read_arrays, write_arrays
from rec.retrieval.liked import LIKED_ARRAYS, LikedItems, extended_similarity, where_evident
from rec.retrieval.top_k import best_of_catalogue
from rec.state import Candidates, UserStates

NEIGHBOR_ARRAYS: Final = ("similarity", "columns", "rows", "indptr", "items")


@dataclass(frozen=True, slots=True)
class NeighborSource:
    """The score of an item is the sum of its similarities to the liked items that have it among their neighbours.

    Abstract: what counts the neighbours gives it its name, and a `fit`.

    Attributes:
        similarity: row i holds what liking item i adds to the score of each item, float32, (N, N).
        liked: the training matrix; see LikedItems.profiles for what users are scored from.
    """

    similarity: sparse.csr_array
    liked: LikedItems
    name: ClassVar[str]

    @classmethod
    def of(cls, neighbors: ItemNeighbors, interactions: Interactions) -> Self:
        """Takes neighbours that were counted elsewhere, or updated, under the vocabulary of what users liked."""
        liked = LikedItems.of(interactions)
        parts = (neighbors.scores.astype(np.float32), neighbors.indices, neighbors.indptr)
        similarity = sparse.csr_array(parts, shape=(liked.n_items, liked.n_items))
        similarity.sort_indices()
        return cls(similarity, liked)

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The items of the highest score but 0; users about whom nothing is known get the most popular ones."""

        def score(block: UserStates) -> NDArray[np.floating]:
            profiles = self.liked.profiles(block)
            return where_evident(self.near(profiles), profiles, self.liked.item_users)

        return best_of_catalogue(states, k, self.liked.n_items, score, self.name)

    def near(self, profiles: sparse.csr_array) -> NDArray[np.floating]:
        """How near each item is to what users like, (B, N) both; 0 where there is nothing between them."""
        return sparse.csr_array(profiles @ self.similarity).toarray()

    def extended(self, n_items: int) -> Self:
        """The same for a catalogue to which items were added at the end: they are near nothing."""
        return type(self)(extended_similarity(self.similarity, n_items), self.liked.extended(n_items))

    def save(self, folder: Path) -> list[str]:
        """Writes NAME.safetensors."""
        return write_arrays(folder, self.name, self.arrays())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads NAME.safetensors."""
        return cls.from_arrays(*read_arrays(folder, cls.name, *NEIGHBOR_ARRAYS, mapped=LIKED_ARRAYS))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What it consists of, in the order of NEIGHBOR_ARRAYS."""
        return {
            "similarity": self.similarity.data,
            "columns": self.similarity.indices,
            "rows": self.similarity.indptr,
            "indptr": self.liked.indptr,
            "items": self.liked.items,
        }

    @classmethod
    def from_arrays(
        cls,
        values: NDArray[np.float32],
        columns: NDArray[np.integer],
        rows: NDArray[np.integer],
        indptr: NDArray[np.int64],
        items: NDArray[np.int32],
    ) -> Self:
        """What `arrays` took apart."""
        n_items = len(rows) - 1
        similarity = sparse.csr_array((values, columns, rows), shape=(n_items, n_items))
        return cls(similarity, LikedItems(indptr, items, n_items))


@final
class SwingSource(NeighborSource):
    """Items near those a user likes, by Swing."""

    __slots__ = ()
    name: ClassVar[str] = "swing"

    @classmethod
    def fit(cls, interactions: Interactions, config: SwingConfig | None = None, *, rng: np.random.Generator) -> Self:
        """Counts Swing from what users liked; `rng` decides which interactions of the same time a cap keeps."""
        return cls.of(SwingSums.build(interactions, config or SwingConfig(), rng=rng).neighbors(), interactions)


@final
class CosineSource(NeighborSource):
    """Items near those a user likes, by the cosine of what users think of both."""

    __slots__ = ()
    name: ClassVar[str] = "cosine"

    @classmethod
    def fit(
        cls, interactions: Interactions, config: CosineConfig | None = None, *, liked: Interactions | None = None
    ) -> Self:
        """Counts the cosine.

        Args: interactions: what counts; with scores of actions, all of the log. liked: which of them users are scored
            from; None: all.
        """
        neighbors = CosineSums.build(interactions, config or CosineConfig()).neighbors()
        return cls.of(neighbors, interactions if liked is None else liked)


@final
class ItemKNN(NeighborSource):
    """Items like those a user liked: the cosine with the liked ones among an item's own nearest neighbours.

    Source: Sarwar et al. (2001), section 3.1.1, doi:10.1145/371920.372071. The neighbours are those of `CosineSource`;
    there the liked items say which items they are near, here each item says which liked ones are near it, so that a
    popular item, which is among the neighbours of many, has no more of them that count than any other.
    """

    __slots__ = ()
    name: ClassVar[str] = "item_knn"

    @classmethod
    def fit(cls, interactions: Interactions, *, n_neighbors: int = 200) -> Self:
        """Keeps for each item the n_neighbors most similar others, ties by item position.

        Args:
            interactions: each pair of user and item counts once.
            n_neighbors: kept for each item, at least 1.
        """
        nearest = cls.of(cosine(interactions, top_k=n_neighbors), interactions)
        return replace(nearest, similarity=sparse.csr_array(nearest.similarity.T))
