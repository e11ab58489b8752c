"""What a model that goes on from another learns from."""

import numpy as np
import pytest

from rec.config import QueriesConfig
from rec.retriever.data import NewPeriod, build_retrieval_data

QUERIES = QueriesConfig(snapshots=20, horizon_days=20, half_life_days=50)


def _data(checkerboard, new: NewPeriod | None = None):
    liked = checkerboard.dataset.interactions
    return build_retrieval_data(
        checkerboard.dataset, checkerboard.encoders, liked, liked, QUERIES, end_ms=checkerboard.cut_ms, new=new
    )


@pytest.mark.parametrize("replay", [0.0, 0.25, 0.8])
def test_the_share_of_what_is_drawn_from_before_is_the_replay(checkerboard, replay):
    start_ms = checkerboard.cut_ms * 3 // 4
    data = _data(checkerboard, NewPeriod(start_ms, replay))
    liked = checkerboard.dataset.interactions.before(checkerboard.cut_ms)
    # The moment of a like is its time, which its first target tells: targets begin with the like itself.
    order = np.lexsort((liked.timestamp, liked.user))
    at_ms = liked.timestamp[order][data.queries.target_start]
    share = data.queries.weight[at_ms < start_ms].sum() / data.queries.weight.sum()
    assert share == pytest.approx(replay, abs=1e-6)
    n_new = int((liked.timestamp >= start_ms).sum())
    assert data.n_likes == round(n_new / (1 - replay))
    assert len(data.queries) == (n_new if not replay else len(liked))
    drawn = np.exp(data.log_q.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(drawn[drawn > 0], 1, atol=1e-4)


def test_what_all_learn_from_is_what_is_new_since_the_beginning(checkerboard):
    everything, since = _data(checkerboard), _data(checkerboard, NewPeriod(0))
    for name in ("user", "snapshot", "history_end"):
        np.testing.assert_array_equal(getattr(since.queries.moments, name), getattr(everything.queries.moments, name))
    np.testing.assert_allclose(np.exp(since.log_q), np.exp(everything.log_q), atol=1e-6)
    assert since.n_likes == everything.n_likes


def test_nothing_of_before_the_oldest_is_replayed(checkerboard):
    start_ms, oldest_ms = checkerboard.cut_ms // 2, checkerboard.cut_ms // 4
    data = _data(checkerboard, NewPeriod(start_ms, 0.5, oldest_ms))
    liked = checkerboard.dataset.interactions.before(checkerboard.cut_ms)
    assert len(data.queries) == (liked.timestamp >= oldest_ms).sum()


def test_rows_known_since_are_learned_from_with_others_spread_over_the_past():
    known_ms = np.arange(100)
    new = NewPeriod(80, replay=0.5, oldest_ms=40)
    rows = new.rows(known_ms)
    assert rows[80:].all() and not rows[:40].any() and rows[40:80].sum() == 20
    assert np.diff(np.flatnonzero(rows[40:80])).max() == 2
    assert NewPeriod(80).rows(known_ms).sum() == 20
    assert NewPeriod(99, replay=0.9).rows(known_ms).sum() == 10
    assert NewPeriod(50, replay=0.9).rows(known_ms).all()
