"""Scores of a ranker that looks at how a candidate ranks among the others, as ours do."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from numpy.testing import assert_array_equal

from rec.retriever.ranker_scores import RankersAtHand, RankerTables
from rec.state import Candidates

N_USERS, N_ITEMS, N_CANDIDATES = 3, 12, 4
RETRIEVED = np.random.default_rng(0).permuted(np.tile(np.arange(N_ITEMS, dtype=float), (N_USERS, 1)), axis=1)
BEST = np.argsort(-RETRIEVED, axis=1)


@dataclass
class Stub:
    """Users and items whose retriever's scores are given; the ranker's score is `sign` times an item's rank."""

    at_ms: int
    sign: int

    @property
    def recommender(self) -> SimpleNamespace:
        source = SimpleNamespace(
            name="stub",
            candidates=lambda users, k: Candidates(BEST[users, :k].astype(np.int32), np.zeros((len(users), k)), "stub"),
            scores=lambda users, items: np.where(items < 0, -np.inf, RETRIEVED[users[:, None], items]),
        )
        return SimpleNamespace(
            snapshot=SimpleNamespace(at_ms=self.at_ms, user_states=lambda users: users, user_ids=np.arange(N_USERS)),
            source=source,
            n_items=N_ITEMS,
            config=SimpleNamespace(ranker=SimpleNamespace(n_candidates=N_CANDIDATES)),
            rank=self._rank,
        )

    def _rank(self, users, candidates: Candidates):
        above = (candidates.scores[:, None, :] > candidates.scores[:, :, None]).sum(axis=2)
        return np.where(candidates.items >= 0, self.sign * above, -np.inf)


RECOMMENDERS = (Stub(100, 1).recommender, Stub(200, -1).recommender)
USERS = np.array([2, 0, 2], np.int32)
AT_MS = np.array([150, 200, 250])


def test_items_stand_among_the_users_own_candidates_however_often_they_were_drawn():
    # The second best, one that is no candidate, the second best again, and the best.
    ranks = np.array([1, 9, 1, 0])
    items = BEST[USERS][:, ranks]
    scores = RankersAtHand(RECOMMENDERS).of_items(USERS, AT_MS, items)
    # Four candidates are above what is none of them; the later period's ranker has the other sign.
    assert_array_equal(scores, np.array([1, -1, -1])[:, None] * np.array([[1, 4, 1, 0]]))


def test_tables_hold_the_scores_of_the_period_a_round_was_in():
    tables = RankerTables.build(RECOMMENDERS)
    everything = tables.of(USERS, AT_MS)
    assert_array_equal(everything[:, :, None] == 0, (BEST[USERS][:, :1] == np.arange(N_ITEMS))[:, :, None])
    assert (everything[0] >= 0).all() and (everything[1:] <= 0).all()
    items = np.array([[0, 3, 3], [1, 2, 0], [11, 5, 6]])
    assert_array_equal(tables.of_items(USERS, AT_MS, items), np.take_along_axis(everything, items, axis=1))


def test_every_user_of_every_period_is_told_when_done():
    told: list[int] = []
    RankerTables.build(RECOMMENDERS, told.append)
    assert sum(told) == len(RECOMMENDERS) * N_USERS


def test_what_is_a_candidate_scores_as_in_the_tables():
    items = BEST[USERS][:, :N_CANDIDATES]
    tables, at_hand = RankerTables.build(RECOMMENDERS), RankersAtHand(RECOMMENDERS)
    assert_array_equal(at_hand.of_items(USERS, AT_MS, items), tables.of_items(USERS, AT_MS, items))
