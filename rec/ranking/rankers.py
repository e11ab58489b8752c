"""Rankers: what orders the candidates of the retriever, and what they learn from."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rec.config import RankerKind, TrainConfig
from rec.features.ranking import RankingFeatures
from rec.models.expert_ranker import ExpertRanker
from rec.models.lambdamart import LambdaMART
from rec.models.logistic import LogisticRanker
from rec.ranking.data import FeatureLayout
from rec.state import Candidates, UserStates


class Ranker(Protocol):
    """Scores the candidates of one user: the higher, the earlier."""

    def score(self, state: UserStates, candidates: Candidates) -> NDArray[np.float64]:
        """Scores of one user's candidates, (M,); state and candidates hold one row."""
        ...


class RankingModel(Protocol):
    """Maps rows of ranking features to scores; the learned half of a ranker."""

    filename: ClassVar[str]

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scores (R,) of feature rows (R, F)."""
        ...

    def save(self, folder: Path) -> None:
        """Writes `filename` into the folder."""
        ...

    @classmethod
    def load(cls, folder: Path, layout: FeatureLayout) -> Self:
        """Reads what `save` wrote.

        Raises: BundleError: when the model was trained on other features than `layout` names.
        """
        ...


@runtime_checkable
class ProbabilityModel(Protocol):
    """A ranking model that says how likely the first task's success is, and so can be wrong about it."""

    def probabilities(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of feature rows (R, F), (R,)."""
        ...


RANKING_MODELS: Final[dict[RankerKind, type[RankingModel]]] = {
    "lambdamart": LambdaMART,
    "logistic": LogisticRanker,
    "mmoe": ExpertRanker,
    "ple": ExpertRanker,
}


@dataclass(frozen=True, slots=True)
class FeatureRanker:
    """A ranker that scores feature rows with a model, and lets the retriever's score count beside it.

    score = model + retrieval_scale * retriever's score. The model learned from few queries what the retriever learned
    from all interactions; together they order better than either alone.

    Attributes:
        features: make the rows.
        model: scores them.
        retrieval_scale: at least 0.
    """

    features: RankingFeatures
    model: RankingModel
    retrieval_scale: float

    @classmethod
    def of(cls, features: RankingFeatures, model: RankingModel, config: TrainConfig) -> Self:
        """The ranker of a config, whose `retrieval_weight` counts the retriever's score as a logit."""
        scale = config.ranker.retrieval_weight / config.retriever.softmax_temperature
        return cls(features, model, scale)

    def score(self, state: UserStates, candidates: Candidates) -> NDArray[np.float64]:
        """Scores of one user's candidates, (M,); -inf where there is no candidate."""
        return self.score_many(state, candidates)[0]

    def score_many(self, states: UserStates, candidates: Candidates) -> NDArray[np.float64]:
        """Scores of the candidates of B users, (B, M); -inf where there is no candidate."""
        matrix = self.features.matrix(states, candidates.items, candidates.scores)
        model = self.model.predict(matrix).reshape(candidates.items.shape)
        there = candidates.items >= 0
        return np.where(there, model + self.retrieval_scale * np.where(there, candidates.scores, 0.0), -np.inf)
