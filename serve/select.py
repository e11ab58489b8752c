"""The last stage: a slate drawn from the ranked candidates, with the probability of every draw."""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rec.eligibility import Eligible
from rec.policy import Slate, sample_slate
from rec.recommender import Recommender
from rec.state import Candidates, UserStates
from serve.config import PolicyConfig

EXPLORE: Final = "explore"


@final
@dataclass(frozen=True, slots=True)
class Selected:
    """One item of a slate; `score` is None and `sources` is `explore` alone for one that was no candidate.

    `propensity` is the probability of the item at its position given the items above it, among `n_eligible` items.
    """

    item_id: str
    title: str | None
    position: int
    score: float | None
    propensity: float
    sources: tuple[str, ...]
    n_eligible: int

    @property
    def source(self) -> str:
        """The first of the sources that found it, `explore` for what was no candidate."""
        return self.sources[0]


@final
@dataclass(frozen=True, slots=True)
class Considered:
    """What a slate was drawn from, by item id: the user's latest items, oldest first, and the ranked candidates."""

    history: list[str]
    candidates: list[str]
    scores: list[float]
    sources: list[str]


@final
@dataclass(frozen=True, slots=True)
class Selection:
    """The slate of one user, top first, by a version of the model; `short` when items ran out.

    `considered` is there where it is to be logged.
    """

    version: str
    items: tuple[Selected, ...]
    short: bool
    considered: Considered | None = None

    @property
    def n_eligible(self) -> int:
        """How many items might have been shown at the first position."""
        return self.items[0].n_eligible if self.items else 0


@final
class SelectStage:
    """Draws slates. Every call has a random stream of its own, spawned from `seeds`."""

    def __init__(self, recommender: Recommender, seeds: np.random.SeedSequence, *, logged: bool = False) -> None:
        self._recommender = recommender
        self._seeds = seeds
        self._logged = logged

    def __call__(
        self, states: UserStates, candidates: Candidates, scores: NDArray[np.float64], n: int, policy: PolicyConfig
    ) -> list[Selection]:
        """One slate of n items a user, fewer where the catalogue has no more that may be shown."""
        recommender = self._recommender
        eligible = Eligible(recommender.n_items, states.excluded_indptr, states.excluded, recommender.cap)
        slate = sample_slate(
            scores,
            candidates.items,
            eligible,
            n,
            epsilon=policy.epsilon,
            temperature=policy.temperature,
            rng=np.random.default_rng(self._seeds.spawn(1)[0]),
        )
        return [
            self._selection(
                slate,
                user,
                candidates,
                scores[user],
                self._considered(states.history[user], user, candidates, scores[user]) if self._logged else None,
            )
            for user in range(len(states))
        ]

    def _considered(
        self, history: NDArray[np.int32], user: int, candidates: Candidates, scores: NDArray[np.float64]
    ) -> Considered:
        item_ids = self._recommender.item_ids
        (columns,) = np.nonzero(candidates.items[user] >= 0)
        return Considered(
            history=item_ids[history[history >= 0]].tolist(),
            candidates=item_ids[candidates.items[user, columns]].tolist(),
            scores=scores[columns].tolist(),
            sources=[candidates.sources_of(user, column)[0] for column in columns.tolist()],
        )

    def _selection(
        self,
        slate: Slate,
        user: int,
        candidates: Candidates,
        scores: NDArray[np.float64],
        considered: Considered | None,
    ) -> Selection:
        shown = zip(
            slate.item_ids[user].tolist(),
            slate.column[user].tolist(),
            slate.propensity[user].tolist(),
            slate.n_eligible[user].tolist(),
            strict=True,
        )
        items = tuple(
            Selected(
                item_id=str(self._recommender.item_ids[item]),
                title=self._recommender.titles[item],
                position=position,
                score=float(scores[column]) if column >= 0 else None,
                propensity=propensity,
                sources=candidates.sources_of(user, column) if column >= 0 else (EXPLORE,),
                n_eligible=n_eligible,
            )
            for position, (item, column, propensity, n_eligible) in enumerate(shown)
            if item >= 0
        )
        return Selection(self._recommender.version, items, len(items) < slate.item_ids.shape[1], considered)
