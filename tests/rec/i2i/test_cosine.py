from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from rec import i2i
from rec.config import CosineConfig
from rec.data.dataset import Interactions
from rec.errors import BundleError, ConfigError, DataError
from rec.i2i import INSTATOK_SCORES, CosineSums, action_scores


@pytest.fixture
def log() -> Interactions:
    rng = np.random.default_rng(0)
    return Interactions(
        user_ids=np.array([f"u{i}" for i in range(20)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(12)], dtype=object),
        user=rng.integers(20, size=90).astype(np.int32),
        item=rng.integers(11, size=90).astype(np.int32),
        timestamp=np.arange(90),
    )


def test_two_of_two_and_three_users():
    # u0: a b, u1: a b, u2: b; so cos(a, b) = 2 / sqrt(2 * 3)
    log = Interactions(
        user_ids=np.array(["u0", "u1", "u2"], dtype=object),
        item_ids=np.array(["a", "b", "c"], dtype=object),
        user=np.array([0, 0, 1, 1, 2, 2], dtype=np.int32),
        item=np.array([0, 1, 0, 1, 1, 1], dtype=np.int32),
        timestamp=np.arange(6),
    )
    neighbors = i2i.cosine(log, top_k=5)
    assert_array_equal(neighbors.indptr, [0, 1, 2, 2])
    assert_array_equal(neighbors.indices, [1, 0])
    assert_allclose(neighbors.scores, 2 / np.sqrt(6))


def test_it_equals_the_dense_formula_sorted_by_score_then_item(log):
    likes = np.zeros((20, 12))
    likes[log.user, log.item] = 1
    n = likes.sum(axis=0)
    with np.errstate(invalid="ignore"):
        dense = np.nan_to_num(likes.T @ likes / np.sqrt(np.outer(n, n)))
    np.fill_diagonal(dense, 0)
    neighbors = i2i.cosine(log, top_k=4)
    for row in range(12):
        expected = [column for column in np.lexsort((np.arange(12), -dense[row])) if dense[row, column] > 0][:4]
        run = slice(neighbors.indptr[row], neighbors.indptr[row + 1])
        assert_array_equal(neighbors.indices[run], expected)
        assert_allclose(neighbors.scores[run], dense[row, expected])


def test_the_order_of_the_log_does_not_matter_and_the_table_holds_all(log):
    neighbors = i2i.cosine(log, top_k=4)
    shuffled = i2i.cosine(replace(log, user=log.user[::-1], item=log.item[::-1]), top_k=4)
    read = i2i.neighbors_from_frame(i2i.neighbors_frame(neighbors, "cosine"), log.item_ids)
    for same in (shuffled, read):
        assert_array_equal(same.indptr, neighbors.indptr)
        assert_array_equal(same.indices, neighbors.indices)
        assert_array_equal(same.scores, neighbors.scores)


def test_a_table_of_items_of_another_catalogue_is_refused(log):
    frame = i2i.neighbors_frame(i2i.cosine(log, top_k=4), "cosine")
    with pytest.raises(BundleError, match="items of this catalogue"):
        i2i.neighbors_from_frame(frame, log.item_ids[:-3])


SCORED = CosineConfig(top_k=6, scores=dict(INSTATOK_SCORES))


def test_scores_of_one_user_add_up_and_the_cosine_is_of_the_sums():
    # Of a, u0 thinks 1 + 2 = 3 and u1 -2; of b, u0 thinks 2 and u1 -.5: (3 * 2 + 2 * .5) / sqrt(13 * 4.25).
    log = Interactions(
        user_ids=np.array(["u0", "u1"], dtype=object),
        item_ids=np.array(["a", "b"], dtype=object),
        user=np.array([0, 0, 1, 0, 1], dtype=np.int32),
        item=np.array([0, 0, 0, 1, 1], dtype=np.int32),
        timestamp=np.arange(5),
        action=np.array([0, 2, 1, 2, 3], dtype=np.int16),
        actions=("watched", "skipped", "liked", "other"),
    )
    neighbors = CosineSums.build(log, SCORED).neighbors()
    assert_array_equal(neighbors.indices, [1, 0])
    assert_allclose(neighbors.scores, 7 / np.sqrt(13 * 4.25), rtol=1e-15)


def test_scored_cosine_equals_the_dense_formula_and_keeps_what_is_above_0(make_log):
    log = make_log()
    dense = np.zeros((log.n_users, log.n_items))
    np.add.at(dense, (log.user, log.item), action_scores(log, INSTATOK_SCORES))
    norm = np.linalg.norm(dense, axis=0)
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(dense.T @ dense / np.outer(norm, norm))
    np.fill_diagonal(expected, 0)
    neighbors = CosineSums.build(log, SCORED).neighbors()
    for row in range(log.n_items):
        run = slice(neighbors.indptr[row], neighbors.indptr[row + 1])
        best = np.sort(expected[row][expected[row] > 1e-12])[::-1][:6]
        assert_allclose(neighbors.scores[run], best)
        assert_allclose(expected[row, neighbors.indices[run]], best)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), config=st.sampled_from([SCORED, CosineConfig(top_k=4)]), n_days=st.integers(2, 4))
def test_updates_day_by_day_equal_a_rebuild(make_log, seed, config, n_days):
    log = make_log(seed, n=150)
    day = np.random.default_rng(seed).integers(n_days, size=len(log))
    state = CosineSums.build(log.take(day == 0), config)
    for later in range(1, n_days):
        state = state.update(log.take(day == later))
    rebuilt = CosineSums.build(log, config)
    assert_array_equal(state.norms, rebuilt.norms)
    for name in ("keys", "sums"):
        assert_array_equal(getattr(state.pairs, name), getattr(rebuilt.pairs, name))
    for name in ("indptr", "indices", "scores"):
        assert_array_equal(getattr(state.neighbors(), name), getattr(rebuilt.neighbors(), name))


def test_an_update_goes_over_the_users_who_changed_and_may_bring_new_items(make_log):
    log = make_log()
    first = replace(log.take((log.item < 15) & (log.user != 4)), item_ids=log.item_ids[:15])
    state = CosineSums.build(first, SCORED)
    shuffled = np.random.default_rng(5).permutation(log.n_items)
    later = log.take((log.user == 4) | (log.item >= 15))
    moved = replace(later, item_ids=log.item_ids[shuffled], item=np.argsort(shuffled)[later.item].astype(np.int32))
    updated = state.update(moved)
    assert updated.changed_users == len(np.unique(later.user)) < len(np.unique(log.user))
    whole = replace(log, item_ids=moved.item_ids, item=np.argsort(shuffled)[log.item].astype(np.int32))
    for name in ("indptr", "indices", "scores"):
        rebuilt = CosineSums.build(whole, SCORED).neighbors()
        assert_array_equal(getattr(updated.neighbors(), name), getattr(rebuilt, name))


def test_scores_that_cannot_be_had_are_named(make_log):
    log = make_log()
    with pytest.raises(ConfigError, match="liked, other"):
        CosineSums.build(log, CosineConfig(scores={"watched": 1, "skipped": -2}))
    with pytest.raises(ConfigError, match="thousandths"):
        CosineSums.build(log, CosineConfig(scores={**INSTATOK_SCORES, "liked": 1 / 3}))
    with pytest.raises(DataError, match="no"):
        CosineSums.build(replace(log, action=None, actions=()), SCORED)


def test_an_update_refuses_sums_that_a_build_refuses():
    ids = {name: np.array([f"{name}{k}" for k in range(12)], dtype=object) for name in ("user", "item")}
    log = Interactions(
        ids["user"],
        ids["item"],
        np.repeat(np.arange(12), 2).astype(np.int32),
        np.tile([0, 1], 12).astype(np.int32),
        np.arange(24),
        action=np.zeros(24, np.int16),
        actions=("bought",),
    )
    twice = log.take(np.array([0, 0]))  # 2^63 thousandths, of which two add up to 0 in 64 bits
    with pytest.raises(DataError, match="64 bits"):
        CosineSums.build(twice, CosineConfig(scores={"bought": 2**63 / 1000}))
    config = CosineConfig(scores={"bought": 1e6})
    with pytest.raises(DataError, match="64 bits"):
        CosineSums.build(log, config)
    sums = CosineSums.build(log.take(log.user < 4), config)
    with pytest.raises(DataError, match="64 bits"):
        sums.update(log.take(log.user >= 4))
    with pytest.raises(DataError, match="64 bits"):
        sums.update(log.take((log.user >= 4) & (log.user < 8))).update(log.take(log.user >= 8))
