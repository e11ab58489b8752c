"""Laws of the filter, on worked examples."""

import numpy as np

from rec.state import Candidates, UserStates
from serve.retriever import without_excluded


def states(*excluded: list[int]) -> UserStates:
    n = len(excluded)
    return UserStates(
        user=np.zeros(n, np.int32),
        at_ms=np.zeros(n, np.int64),
        history=np.full((n, 1), -1, np.int32),
        features={},
        excluded_indptr=np.cumsum([0, *map(len, excluded)]),
        excluded=np.array([item for items in excluded for item in items], np.int32),
    )


def candidates(*items: list[int]) -> Candidates:
    found = np.array(items, np.int32)
    scores = np.where(found >= 0, -np.arange(found.shape[1], dtype=float), -np.inf)
    return Candidates(found, scores, "source")


def test_each_user_loses_their_own_exclusions_and_keeps_the_order():
    kept = without_excluded(candidates([5, 3, 9, 1], [5, 3, 9, -1]), states([3, 7], [5, 9, 0]))
    assert kept.items.tolist() == [[5, 9, 1, -1], [3, -1, -1, -1]]
    assert kept.scores.tolist() == [[0, -2, -3, -np.inf], [-1, -np.inf, -np.inf, -np.inf]]
    assert kept.source == "source"


def test_candidates_that_may_all_be_shown_pass_as_they_are():
    given = candidates([5, 3, -1])
    assert without_excluded(given, states([4, 6])) is given
    assert without_excluded(given, states([])) is given


def test_no_place_is_taken_for_an_item():
    assert without_excluded(candidates([-1, -1]), states([0, 1])).items.tolist() == [[-1, -1]]
