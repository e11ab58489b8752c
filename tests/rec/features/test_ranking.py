from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rec import i2i
from rec.features import ranking
from rec.features.ranking import RankingFeatures

AT_MS = 30 * 86_400_000


@pytest.fixture
def features(world, snapshot) -> RankingFeatures:
    return RankingFeatures(snapshot, i2i.cosine(world.interactions.before(AT_MS), top_k=6))


@pytest.fixture
def query(snapshot):
    """States of 5 users, one of them unknown and one silent, with 8 candidates each, some missing."""
    rng = np.random.default_rng(3)
    items = rng.integers(0, len(snapshot.item_ids), size=(5, 8)).astype(np.int32)
    items[1, 5:] = -1
    return (
        snapshot.user_states(np.array([0, 3, -1, 14, 7])),
        items,
        np.where(items >= 0, rng.normal(size=(5, 8)), -np.inf),
    )


def columns(features: RankingFeatures, query) -> dict[str, np.ndarray]:
    matrix = features.matrix(*query)
    assert matrix.dtype == np.float32 and matrix.shape == (40, len(features.names))
    return {name: matrix[:, column].reshape(5, 8) for column, name in enumerate(features.names)}


def test_columns_equal_a_plain_loop(snapshot, features, query, world):
    states, items, scores = query
    found = columns(features, query)
    neighbors = i2i.cosine(world.interactions.before(AT_MS), top_k=6)
    similarity = np.zeros((40, 40))
    for row in range(40):
        run = slice(neighbors.indptr[row], neighbors.indptr[row + 1])
        similarity[row, neighbors.indices[run]] = neighbors.scores[run]
    genres = [set(values) for values in snapshot.item_table["genres"]]
    for b in range(5):
        history = states.history[b][states.history[b] >= 0]
        for m in range(8):
            item = items[b, m]
            if item < 0:
                continue
            assert found["retrieval_rank"][b, m] == (scores[b] > scores[b, m]).sum()
            assert_allclose(found["retrieval_gap"][b, m], scores[b].max() - scores[b, m], rtol=1e-6)
            assert found["item_count_7d"][b, m] == snapshot.items["item_count_7d"][item]
            assert found["studio"][b, m] == snapshot.items["studio"][item]
            assert found["country"][b, m] == states.features["country"][b]
            assert found["history_size"][b, m] == np.float32(np.log1p(len(history)))
            shares = [np.mean([value in genres[h] for h in history]) for value in genres[item]] if len(history) else []
            assert_allclose(found["affinity_genres"][b, m], np.mean(shares) if shares else 0, rtol=1e-6)
            years = snapshot.items["year"]
            taste = years[item] - years[history].mean() if len(history) else 0
            assert_allclose(found["taste_year"][b, m], taste, rtol=1e-5, atol=1e-6)
            to_history = similarity[history, item]
            assert_allclose(found["i2i_sum"][b, m], to_history.sum(), rtol=1e-6)
            assert_allclose(found["i2i_sum_10"][b, m], to_history[-10:].sum(), rtol=1e-6)
            assert_allclose(found["i2i_max"][b, m], to_history.max(initial=0), rtol=1e-6)


def test_everything_is_finite_also_where_nothing_is_known(features, query):
    assert np.isfinite(features.matrix(*query)).all()
    states, items, scores = query
    nothing = np.full_like(items, -1)
    assert np.isfinite(features.matrix(states, nothing, np.full(items.shape, -np.inf))).all()
    assert features.matrix(states, items[:, :0], scores[:, :0]).shape == (0, len(features.names))


def test_users_do_not_touch_each_other(snapshot, features, query):
    states, items, scores = query
    together = features.matrix(states, items, scores).reshape(5, 8, -1)
    for b, user in enumerate([0, 3, -1, 14, 7]):
        alone = features.matrix(snapshot.user_states([user]), items[b : b + 1], scores[b : b + 1])
        assert_array_equal(alone, together[b])


def test_rows_follow_their_candidates(features, query):
    states, items, scores = query
    order = np.random.default_rng(4).permutation(8)
    matrix = features.matrix(states, items, scores).reshape(5, 8, -1)
    permuted = features.matrix(states, items[:, order], scores[:, order]).reshape(5, 8, -1)
    present = (items >= 0)[:, order]
    assert_array_equal(permuted[present], matrix[:, order][present])


def test_percentiles_stay_when_all_traffic_doubles(snapshot):
    counts = {"item_count_7d", "item_count_30d", "item_count_90d", "item_count_all"}
    doubled = {
        name: np.log1p(2 * np.expm1(values)) if name in counts else values
        for name, values in snapshot.item_as_of.items()
    }
    percentile = ranking._percentiles(replace(snapshot, item_as_of=doubled))
    for name, values in ranking._percentiles(snapshot).items():
        assert_array_equal(percentile[name], values)
        assert_allclose(values.mean(), 0.5, atol=1e-6)


def test_without_neighbours_there_are_no_columns_for_them(snapshot, query):
    plain = RankingFeatures(snapshot)
    assert not any(name.startswith("i2i") for name in plain.names)
    assert plain.categorical == ("studio", "country")
    assert set(plain.categorical) < set(plain.names)
    assert len(set(plain.names)) == len(plain.names)
    assert plain.matrix(*query).shape == (40, len(plain.names))
