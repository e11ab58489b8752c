"""Worked examples of what each source contributes."""

from typing import Any

import numpy as np
import pytest

from rec.evaluation import EvaluationPeriod
from rec.retrieval.blend import Blend
from rec.source_report import SourceReport, source_table
from rec.state import Candidates, UserStates

N_ITEMS = 12


class Listed:
    """A source of fixed lists, as a user's row says."""

    def __init__(self, name: str, *lists: list[int]) -> None:
        self.name = name
        self.lists = np.array(lists)

    def candidates(self, states: UserStates, k: int) -> Candidates:
        lists = np.pad(self.lists[states.user], ((0, 0), (0, k)), constant_values=-1)[:, :k].astype(np.int32)
        return Candidates(lists, np.where(lists >= 0, 0.0, -np.inf), self.name)


@pytest.fixture
def period() -> EvaluationPeriod:
    nothing = np.zeros(3, np.int64)
    states = UserStates(
        np.arange(2, dtype=np.int32), nothing[:2], np.full((2, 1), -1, np.int32), {}, nothing, np.zeros(0, np.int32)
    )
    # User 0 goes on to like 0, 4 and 9; user 1 likes 5 and 7.
    relevant = np.array([0, 4, 9, 5, 7], np.int32)
    return EvaluationPeriod(states, np.array([0, 3, 5]), relevant, np.ones(N_ITEMS, np.int64), 2, 5)


def report(period: EvaluationPeriod) -> SourceReport:
    sources: Any = (Listed("a", [0, 1, 2, 3], [0, 5, 2, 3]), Listed("b", [4, 0, 9], [5, 8, 7]))
    return SourceReport.of(Blend(sources, (2, 2), sources[0]), period, 4)


def test_hits_belong_to_who_found_them(period: EvaluationPeriod):
    # Candidates: user 0: 0 (a, b), 1 (a), 4 (b), 2 (a fills); user 1: 0 (a), 5 (a, b), 8 (b), 2 (a fills).
    # Hits: 0 (a, b), 4 (b), 5 (a, b).
    found = report(period)
    assert found.recall.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    a, b = found.sources
    assert (a.hits, b.hits) == pytest.approx((2 / 3, 1.0))
    assert (a.hits_first, b.hits_first) == pytest.approx((2 / 3, 1 / 3))
    assert (a.hits_only, b.hits_only) == pytest.approx((0.0, 1 / 3))
    assert a.overlap.tolist() == pytest.approx([1.0, 2 / 6])
    assert b.overlap.tolist() == pytest.approx([2 / 4, 1.0])


def test_recall_is_of_the_quota_and_of_the_source_alone(period: EvaluationPeriod):
    a, b = report(period).sources
    assert a.recall.value == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert b.recall.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert b.recall_alone.value == pytest.approx((3 / 3 + 2 / 2) / 2)


def test_the_table_says_what_the_json_says(period: EvaluationPeriod):
    lines = source_table(report(period).to_json())
    assert lines[0].split() == ["source", "quota", "recall", "alone", "at", "4", "hits", "first", "only"]
    assert lines[2].startswith("b ") and lines[2].endswith("100.0%  33.3%  33.3%")
    assert lines[-1].split() == ["b", "50%", "100%"]
