"""iALS: implicit-feedback matrix factorisation, fitted by the `implicit` library of the bench extra."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rec.data.dataset import Interactions
from rec.errors import ConfigError
from rec.retrieval.arrays import read_arrays, write_arrays
from rec.retrieval.liked import LIKED_ARRAYS, LikedItems, where_evident
from rec.retrieval.top_k import best_of_catalogue
from rec.state import Candidates, UserStates


@final
@dataclass(frozen=True)
class IALS:
    """Scores are inner products of item factors and a user's factors, which are solved for when the user asks.

    Only the item factors are kept, so loading and answering need NumPy alone, and users of the training data, of
    later history, and never seen ones are treated alike.

    Attributes:
        factors: of items, float32, (N, D).
        alpha: confidence of a liked pair, where the others have 1.
        regularization: of the factors, lambda.
        liked: the training matrix; see LikedItems.profiles for what users are scored from.
    """

    factors: NDArray[np.float32]
    alpha: float
    regularization: float
    liked: LikedItems
    name: ClassVar[str] = "ials"

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        *,
        n_factors: int,
        alpha: float,
        regularization: float,
        n_iterations: int = 15,
        seed: int = 0,
    ) -> Self:
        """Alternates least squares over users and items.

        Source: Hu, Koren and Volinsky (2008), equation 4, doi:10.1109/ICDM.2008.22. Differs from it in: the confidence
        of a liked pair is alpha, not 1 + alpha times a count; at alpha 1 liked pairs weigh as much as the others.

        Raises: ConfigError: when `implicit` is not installed.
        """
        try:
            from implicit.cpu.als import AlternatingLeastSquares
            from threadpoolctl import threadpool_limits
        except ImportError as error:
            raise ConfigError("iALS needs the implicit library: pip install 'tandem-rec[bench]'") from error
        liked = LikedItems.of(interactions)
        # implicit parallelises over rows; threads of BLAS inside would only fight with it.
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                factors=n_factors,
                alpha=alpha,
                regularization=regularization,
                iterations=n_iterations,
                random_state=seed,
            )
            model.fit(sparse.csr_matrix(liked.matrix()), show_progress=False)
        return cls(np.asarray(model.item_factors, np.float32), alpha, regularization, liked)

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The items of the highest score but 0; users about whom nothing is known get the most popular ones."""

        def score(block: UserStates) -> NDArray[np.floating]:
            profiles = self.liked.profiles(block)
            users = self._fold_in(profiles)
            return where_evident(users @ self.factors.T, profiles, self.liked.item_users)

        return best_of_catalogue(states, k, self.liked.n_items, score, self.name)

    @cached_property
    def _of_all_items(self) -> NDArray[np.float64]:
        """Y'Y + lambda I, (D, D)."""
        factors = self.factors.astype(np.float64)
        return factors.T @ factors + self.regularization * np.eye(factors.shape[1])

    def _fold_in(self, profiles: sparse.csr_array) -> NDArray[np.float64]:
        """Factors of users, (B, D): (Y'Y + lambda I + (alpha - 1) Y_u'Y_u)^-1 alpha Y_u'1, Y_u the items they like."""
        users = np.zeros((len(profiles.indptr) - 1, self.factors.shape[1]))
        for row in range(len(users)):
            liked = self.factors[profiles.indices[profiles.indptr[row] : profiles.indptr[row + 1]]].astype(np.float64)
            system = self._of_all_items + (self.alpha - 1.0) * (liked.T @ liked)
            users[row] = np.linalg.solve(system, self.alpha * liked.sum(axis=0))
        return users

    def save(self, folder: Path) -> list[str]:
        """Writes ials.safetensors."""
        arrays = {
            "factors": self.factors,
            "alpha": np.array([self.alpha]),
            "regularization": np.array([self.regularization]),
            "indptr": self.liked.indptr,
            "items": self.liked.items,
        }
        return write_arrays(folder, self.name, arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads ials.safetensors."""
        names = ("factors", "alpha", "regularization", "indptr", "items")
        factors, alpha, regularization, indptr, items = read_arrays(folder, cls.name, *names, mapped=LIKED_ARRAYS)
        return cls(factors, float(alpha[0]), float(regularization[0]), LikedItems(indptr, items, len(factors)))
