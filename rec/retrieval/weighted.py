"""Items by a weighted sum of how near they are to what a user likes, how much viewed, and whether of an interest."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from rec.config import CosineConfig, WeightedScoreConfig
from rec.data.dataset import Interactions
from rec.errors import ConfigError
from rec.i2i.cosine import CosineSums, action_scores
from rec.i2i.interests import interest_scores, is_interest, predicted_interests
from rec.i2i.neighbors import ItemNeighbors
from rec.i2i.weighted_score import weighted_score
from rec.item_groups import ItemGroups
from rec.retrieval.arrays import forget, read_arrays, write_arrays
from rec.retrieval.item_neighbors import NEIGHBOR_ARRAYS, CosineSource
from rec.retrieval.liked import LIKED_ARRAYS
from rec.retrieval.top_k import best_of_catalogue
from rec.state import Candidates, UserStates


@final
@dataclass(frozen=True, slots=True)
class WeightedScoreSource:
    """The score of an item is `rec.i2i.weighted_score`; those of score 0 are none.

    A user who is not in the training data is scored by history and views, without interests.

    Attributes:
        cosine: how near items are to what users like.
        views: interactions of each item, float64, (N,).
        category: of each item, -1 for none, int64, (N,).
        interests: the categories that interest each training user, as predicted, bool, (U, C).
        config: the weights.
    """

    cosine: CosineSource
    views: NDArray[np.float64]
    category: NDArray[np.int64]
    interests: NDArray[np.bool_]
    config: WeightedScoreConfig
    name: ClassVar[str] = "weighted_score"

    @classmethod
    def fit(
        cls,
        log: Interactions,
        groups: ItemGroups,
        config: WeightedScoreConfig | None = None,
        *,
        cosine: CosineConfig | None = None,
        liked: Interactions | None = None,
        n_interests: int = 2,
        neighbors: ItemNeighbors | None = None,
    ) -> Self:
        """Counts views and similarities, and predicts interests.

        Args: log: all that was done. groups: the items by what may interest. cosine: of the similarity; without scores
            of actions that of `liked`. liked: what of the log users are scored from; None: all. n_interests: of a user.
            neighbors: by that cosine, where it was counted elsewhere.
        Raises: ConfigError: for a log that says no more than what was done, as then nothing tells interests apart.
        """
        cosine = cosine or CosineConfig()
        liked = log if liked is None else liked
        scores = interest_scores(log, _worth(log, cosine), groups.codes, n_categories=len(groups.names))
        if neighbors is None:
            neighbors = CosineSums.build(liked if cosine.scores is None else log, cosine).neighbors()
        return cls(
            CosineSource.of(neighbors, liked),
            np.bincount(log.item, minlength=log.n_items).astype(np.float64),
            groups.codes,
            predicted_interests(scores, n_interests),
            config or WeightedScoreConfig(),
        )

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The items of the highest score but 0."""

        def score(block: UserStates) -> NDArray[np.float64]:
            near = self.cosine.near(self.cosine.liked.profiles(block))
            scores = weighted_score(near, self.views, self._of_interest(block), self.config)
            return np.where(scores == 0, -np.inf, scores)

        return best_of_catalogue(states, k, len(self.views), score, self.name)

    def _of_interest(self, states: UserStates) -> NDArray[np.bool_]:
        """Whether each item is of an interest of each user, (B, N)."""
        known = (states.user >= 0) & (states.user < len(self.interests))
        interests = np.zeros((len(states), self.interests.shape[1]), np.bool_)
        interests[known] = self.interests[states.user[known]]
        forget(self.interests)
        return is_interest(interests, self.category)

    def extended(self, n_items: int) -> Self:
        """The same for a catalogue to which items were added at the end: not viewed, near nothing, of no category."""
        added = (0, n_items - len(self.views))
        return replace(
            self,
            cosine=self.cosine.extended(n_items),
            views=np.pad(self.views, added),
            category=np.pad(self.category, added, constant_values=-1),
        )

    def save(self, folder: Path) -> list[str]:
        """Writes weighted_score.safetensors."""
        own = {name: np.array([float(value)]) for name, value in self.config.model_dump().items()}
        arrays = {"views": self.views, "category": self.category, "interests": self.interests}
        return write_arrays(folder, self.name, {**self.cosine.arrays(), **arrays, **own})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads weighted_score.safetensors."""
        weights = tuple(WeightedScoreConfig.model_fields)
        names = (*NEIGHBOR_ARRAYS, "views", "category", "interests", *weights)
        read = read_arrays(folder, cls.name, *names, mapped=(*LIKED_ARRAYS, "interests"))
        arrays = dict(zip(names, read, strict=True))
        return cls(
            CosineSource.from_arrays(*(arrays[name] for name in NEIGHBOR_ARRAYS)),
            arrays["views"],
            arrays["category"],
            arrays["interests"],
            WeightedScoreConfig.model_validate({name: arrays[name].item() for name in weights}),
        )


def _worth(log: Interactions, cosine: CosineConfig) -> NDArray[np.float64]:
    """What each interaction says, (n,)."""
    if cosine.scores is not None:
        return action_scores(log, cosine.scores)
    if log.rating is not None:
        return log.rating.astype(np.float64)
    raise ConfigError(
        "interests are predicted from what actions are worth, or from ratings, and there are neither; give a score of "
        "each action, or leave weighted_score out",
        field="sources.cosine.scores",
    )
