import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec.errors import ScoreError
from rec.retrieval.top_k import blocks, top_k


@given(seed=st.integers(0, 2**32 - 1), n_items=st.integers(1, 30), k=st.integers(1, 35))
@settings(max_examples=60, deadline=None)
def test_equal_to_sorting_by_score_and_position(seed, n_items, k):
    # Few distinct scores: most are ties.
    rng = np.random.default_rng(seed)
    scores = rng.choice([-np.inf, -1.0, 0.0, 2.0], (7, n_items))
    items, values = top_k(scores, k)
    for row in range(7):
        best = sorted((-score, item) for item, score in enumerate(scores[row]) if np.isfinite(score))[:k]
        padding = k - len(best)
        assert items[row].tolist() == [item for _, item in best] + [-1] * padding
        assert values[row].tolist() == [-score for score, _ in best] + [-np.inf] * padding


def test_a_score_that_is_not_a_number_is_refused():
    for wrong in (np.nan, np.inf):
        with pytest.raises(ScoreError, match="item 1 has"):
            top_k(np.array([[0.0, wrong]]), 1)


def test_blocks_cover_every_row_once():
    assert [list(range(10))[rows] for rows in blocks(10, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(blocks(0, 4)) == []
