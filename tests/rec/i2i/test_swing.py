from collections import defaultdict
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from rec.config import SwingConfig
from rec.data.dataset import Interactions
from rec.errors import DataError
from rec.i2i import SwingSums, swing, swing_pairs
from rec.i2i.swing_pairs import UserPairs, unit_bits


def capped_items(events, max_items_per_user, max_users_per_item):
    """Items of each user after both caps; events are pairs in the order in which they happened."""
    latest = {pair: place for place, pair in enumerate(events)}
    of_user = defaultdict(list)
    for user, item in sorted(latest, key=latest.get, reverse=True):
        of_user[user].append(item)
    left = {(user, item) for user, items in of_user.items() for item in items[:max_items_per_user]}
    of_item = defaultdict(list)
    for user, item in sorted(left, key=latest.get, reverse=True):
        of_item[item].append(user)
    kept = defaultdict(set)
    for item, users in of_item.items():
        for user in users[:max_users_per_item]:
            kept[user].add(item)
    return kept


def plain_scores(kept, alpha, user_offset, user_power, unit_bits=None):
    """score(i, j) of items i < j, as multiples of 2^-unit_bits to which every addend is rounded; None: not rounded."""
    scores = defaultdict(int)
    for u, v in combinations(sorted(kept), 2):
        both = kept[u] & kept[v]
        if len(both) < 2:
            continue  # no pair of items
        weights = [(len(kept[user]) + user_offset) ** -user_power for user in (u, v)]
        addend = weights[0] * weights[1] / (alpha + len(both))
        if unit_bits is not None:
            addend = round(addend * 2**unit_bits)
        for pair in combinations(sorted(both), 2):
            scores[pair] += addend
    return scores


def plain_neighbors(scores, top_k):
    """The top_k others of each item by (-score, item)."""
    rows = defaultdict(list)
    for (i, j), score in scores.items():
        rows[i].append((-score, j))
        rows[j].append((-score, i))
    return {item: [(other, -score) for score, other in sorted(row)[:top_k]] for item, row in rows.items()}


def as_rows(neighbors):
    """Neighbours of each item that has any, as ids and scores."""
    rows = {}
    for row, item in enumerate(neighbors.item_ids):
        run = slice(neighbors.indptr[row], neighbors.indptr[row + 1])
        others = neighbors.item_ids[neighbors.indices[run]].tolist()
        if others:
            rows[item] = list(zip(others, neighbors.scores[run].tolist(), strict=True))
    return rows


def assert_same(left, right):
    for name in ("item_ids", "indptr", "indices", "scores"):
        assert_array_equal(getattr(left, name), getattr(right, name))


def expected_rows(events, config):
    kept = capped_items(events, config.max_items_per_user, config.max_users_per_item)
    bits = unit_bits(config)
    scores = plain_scores(kept, config.alpha, config.user_offset, config.user_power, bits)
    return {
        item: [(other, score * 0.5**bits) for other, score in row]
        for item, row in plain_neighbors(scores, config.top_k).items()
    }


def test_three_users_by_hand():
    # u: a b c, v: a b, w: a b c d; alpha 1, weights (|I| + 5)^-.35.
    # (a, b) is shared by all three pairs of users: uv has 2 in common, uw 3, vw 2; (a, c) and (b, c) by uw only.
    users = ["u", "u", "u", "v", "v", "w", "w", "w", "w"]
    items = ["a", "b", "c", "a", "b", "a", "b", "c", "d"]
    u, v, w = 8**-0.35, 7**-0.35, 9**-0.35
    neighbors = swing(users, items, rng=np.random.default_rng(0))
    assert neighbors.item_ids.tolist() == ["a", "b", "c", "d"]
    rows = as_rows(neighbors)
    assert [other for other, _ in rows["a"]] == ["b", "c"]
    assert [other for other, _ in rows["c"]] == ["a", "b"]
    assert "d" not in rows
    assert_allclose([score for _, score in rows["a"]], [u * v / 3 + u * w / 4 + v * w / 3, u * w / 4], rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdefg")), max_size=60),
    max_items_per_user=st.integers(2, 6),
    max_users_per_item=st.integers(2, 6),
    alpha=st.floats(0, 5),
    user_offset=st.floats(0, 5),
    user_power=st.floats(0, 1),
    top_k=st.integers(1, 8),
)
def test_it_is_the_plain_implementation_bit_for_bit(events, **options):
    config = SwingConfig(**options)
    neighbors = swing(
        [user for user, _ in events], [item for _, item in events], **options, rng=np.random.default_rng(0)
    )
    assert as_rows(neighbors) == expected_rows(events, config)


@pytest.mark.parametrize("caps", [(200, 1000), (8, 12)])
def test_rounding_is_finer_than_anyone_sees(make_log, caps):
    log = make_log()
    events = [(f"u{user}", f"i{item}") for user, item in zip(log.user, log.item, strict=True)]
    exact = plain_scores(capped_items(events, *caps), 1.0, 5.0, 0.35)
    config = SwingConfig(max_items_per_user=caps[0], max_users_per_item=caps[1])
    ordered = replace(log, timestamp=np.arange(len(log)))
    sums = SwingSums.build(ordered, config, rng=np.random.default_rng(0))
    i, j = sums.pairs.items()
    found = {
        tuple(sorted((log.item_ids[a], log.item_ids[b]))): total * 0.5 ** unit_bits(config)
        for a, b, total in zip(i, j, sums.pairs.sums.tolist(), strict=True)
    }
    assert found.keys() == exact.keys()
    assert_allclose([found[pair] for pair in exact], list(exact.values()), rtol=1e-11)


@pytest.mark.parametrize("places", [(0, 2), (10**9, 2)])
@pytest.mark.parametrize("dense", [1, 10**6])
def test_tables_and_hashes_and_whole_rows_add_up_to_the_same(make_log, places, dense):
    # The compiled loop takes its constants when it is compiled, so here it runs as the Python it is written in.
    direct_pairs, hash_places = places
    log = make_log(n=120)
    state = SwingSums.build(log, SwingConfig(), rng=np.random.default_rng(0))
    pairs = UserPairs.of(state.log.user, state.log.item, log.n_items, SwingConfig())
    expected, additions = pairs.sums(0, pairs.n_chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swing_pairs, "_DIRECT_PAIRS", direct_pairs)
        patch.setattr(swing_pairs, "_HASH_PLACES", hash_places)
        patch.setattr(swing_pairs, "_DENSE", dense)
        for name in ("_place", "_rehashed", "_listed", "_sums"):
            patch.setattr(swing_pairs, name, getattr(swing_pairs, name).py_func)
        with np.errstate(over="ignore"):
            found, again = pairs.sums(0, pairs.n_chosen)
    assert_array_equal(found.keys, expected.keys)
    assert_array_equal(found.sums, expected.sums)
    assert again == additions


@pytest.mark.parametrize("n_blocks", [1, 2, 5, 100])
def test_any_division_of_the_users_adds_up_to_the_same(make_log, n_blocks):
    log = make_log()
    state = SwingSums.build(log, SwingConfig(max_items_per_user=9), rng=np.random.default_rng(0))
    kept = state.log.take(state.kept)
    pairs = UserPairs.of(kept.user, kept.item, log.n_items, state.config)
    blocks = pairs.blocks(n_blocks)
    assert blocks[0][0] == 0 and blocks[-1][1] == pairs.n_chosen
    assert all(left[1] == right[0] for left, right in pairwise(blocks))
    whole = swing_pairs.PairSums.total([pairs.sums(*block)[0] for block in blocks[::-1]])
    assert_array_equal(whole.keys, state.pairs.keys)
    assert_array_equal(whole.sums, state.pairs.sums)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), caps=st.tuples(st.integers(2, 10), st.integers(2, 15)), n_days=st.integers(2, 4))
def test_updates_day_by_day_equal_a_rebuild(make_log_once, seed, caps, n_days):
    config = SwingConfig(max_items_per_user=caps[0], max_users_per_item=caps[1], top_k=5)
    log = make_log_once(seed, n=150)
    day = np.random.default_rng(seed).integers(n_days, size=len(log))
    state = SwingSums.build(log.take(day == 0), config, rng=np.random.default_rng(1))
    for later in range(1, n_days):
        state = state.update(log.take(day == later))
    rebuilt = SwingSums.build(log, config, rng=np.random.default_rng(1))
    assert_same(state.neighbors(), rebuilt.neighbors())
    for name in ("keys", "sums"):
        assert_array_equal(getattr(state.pairs, name), getattr(rebuilt.pairs, name))


@pytest.fixture(scope="module")
def make_log_once():
    def make(seed, n):
        rng = np.random.default_rng(seed)
        return Interactions(
            user_ids=np.array([f"u{i}" for i in range(12)], dtype=object),
            item_ids=np.array([f"i{i}" for i in range(14)], dtype=object),
            user=(12 * rng.random(n) ** 2).astype(np.int32),
            item=(14 * rng.random(n) ** 2).astype(np.int32),
            timestamp=rng.integers(20, size=n),
        )

    return make


def test_an_update_may_bring_new_users_and_items_in_any_place_of_the_vocabulary(make_log):
    log = make_log()
    old = log.take((log.user < 20) & (log.item < 12))
    shuffled = np.random.default_rng(5).permutation
    users, items = shuffled(log.n_users), shuffled(log.n_items)
    # The same log under other vocabularies.
    moved = replace(
        log,
        user_ids=log.user_ids[users],
        item_ids=log.item_ids[items],
        user=np.argsort(users)[log.user].astype(np.int32),
        item=np.argsort(items)[log.item].astype(np.int32),
    )
    config = SwingConfig(max_items_per_user=6, max_users_per_item=9)
    first = replace(old, user_ids=old.user_ids[:20], item_ids=old.item_ids[:12])
    state = SwingSums.build(first, config, rng=np.random.default_rng(2))
    updated = state.update(moved.take(~((log.user < 20) & (log.item < 12))))
    assert_same(updated.neighbors(), SwingSums.build(moved, config, rng=np.random.default_rng(2)).neighbors())


def test_an_update_whose_vocabulary_has_lost_an_id_is_refused(make_log):
    log = make_log()
    state = SwingSums.build(log, SwingConfig(), rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="'i19'"):
        state.update(replace(log.take(log.item < 19), item_ids=log.item_ids[:19]))


def test_a_day_costs_the_pairs_of_its_users_and_no_news_cost_nothing(make_log):
    log = make_log(n=3000, n_users=300, n_items=60)
    state = SwingSums.build(log, SwingConfig(), rng=np.random.default_rng(0))
    assert state.update(log).additions == 0
    one = log.take(np.array([0]))
    fresh = replace(one, user=np.array([299], np.int32), timestamp=np.array([99]))
    assert state.update(fresh).additions < state.additions / 20


def test_equal_times_are_cut_at_random_but_the_same_way_whatever_the_order(make_log):
    log = replace(make_log(), timestamp=np.zeros(400, np.int64))
    config = SwingConfig(max_items_per_user=3, max_users_per_item=4)

    def found(rows, seed):
        return SwingSums.build(log.take(rows), config, rng=np.random.default_rng(seed)).neighbors()

    rows = np.arange(len(log))
    assert_same(found(rows, 0), found(rows[::-1], 0))
    assert as_rows(found(rows, 0)) != as_rows(found(rows, 1))


def test_no_interactions_and_a_single_user_have_no_neighbours():
    assert len(swing([], [], rng=np.random.default_rng(0)).indices) == 0
    assert len(swing(["u", "u"], ["a", "b"], rng=np.random.default_rng(0)).indices) == 0


def test_no_sum_overflows_where_everybody_has_everything():
    config = SwingConfig(alpha=0.0, user_offset=0.0, user_power=0.0, max_users_per_item=300)
    users, items = np.divmod(np.arange(600), 2)
    neighbors = swing(
        users.astype(str), items.astype(str), alpha=0.0, user_offset=0.0, user_power=0.0, max_users_per_item=300,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert neighbors.scores.tolist() == [300 * 299 / 2 / 2] * 2
    assert 2**61 < 300 * 299 / 4 * 2 ** unit_bits(config) <= 2**62


@pytest.mark.parametrize(
    ("options", "column", "row"),
    [
        ({"item_ids": ["a", "b"]}, "item_ids", None),
        ({"times": [1, 2]}, "times", None),
        ({"user_ids": ["u", None, "v"]}, "user_ids", 1),
        ({"item_ids": ["a", "b", float("nan")]}, "item_ids", 2),
        ({"times": [1.0, 2.0, float("nan")]}, "times", 2),
        ({"times": [1.0, 2.5, 3.0]}, "times", 1),
        ({"times": [float("inf"), 2.0, 3.0]}, "times", 0),
        ({"times": np.array(["2026-01-01", "NaT", "2026-01-02"], "datetime64[s]")}, "times", 1),
        ({"times": [1, None, 2]}, "times", None),
        ({"times": ["1", "2", "3"]}, "times", None),
        ({"user_ids": np.array([["u"], ["v"], ["u"]])}, "user_ids", None),
    ],
)
def test_columns_that_are_no_log_are_refused_by_name(options, column, row):
    columns = {"user_ids": ["u", "u", "v"], "item_ids": ["a", "b", "a"], "times": [3, 2, 1]}
    swing(**columns, rng=np.random.default_rng(0))
    with pytest.raises(DataError) as refused:
        swing(**{**columns, **options}, rng=np.random.default_rng(0))
    assert (refused.value.column, refused.value.row) == (column, row)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 1e9},
        {"user_offset": 1e9, "user_power": 10.0},
        {"user_power": 2.0},
        {"user_power": 10.0, "max_items_per_user": 8, "max_users_per_item": 30},
    ],
)
def test_weights_of_any_size_keep_their_neighbours(make_log, options):
    """No unit is so coarse that light weights vanish: scores are those of unrounded sums, relatively."""
    log = make_log()
    log = replace(log, timestamp=np.arange(len(log)))
    config = SwingConfig(**options)
    found = SwingSums.build(log, config, rng=np.random.default_rng(0))
    events = [(log.user_ids[u], log.item_ids[i]) for u, i in zip(log.user, log.item, strict=True)]
    kept = capped_items(events, config.max_items_per_user, config.max_users_per_item)
    expected = plain_scores(kept, config.alpha, config.user_offset, config.user_power)
    i, j = found.pairs.items()
    scores = found.pairs.sums * 0.5 ** unit_bits(config)
    assert len(scores) == len(expected) > 20
    for a, b, score in zip(log.item_ids[i], log.item_ids[j], scores, strict=True):
        assert_allclose(score, expected[tuple(sorted((a, b)))], rtol=0.01)


@pytest.mark.parametrize("option", [{"user_power": 3.0}, {"alpha": 1e300}, {"user_offset": 1e300}, {"user_power": 11}])
def test_weights_of_which_some_would_be_lost_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        SwingConfig(**option)
    with pytest.raises(ValueError, match="lost to rounding"):
        SwingConfig(user_power=3.0)


def test_it_is_the_plain_implementation_on_movielens(tandem_data):
    columns = np.loadtxt(tandem_data / "ml-1m" / "ratings.dat", delimiter=":", usecols=(0, 2, 6), dtype=np.int64)
    some = columns[columns[:, 0] <= 150]
    some = some[np.argsort(some[:, 2], kind="stable")]
    events = [(str(user), str(item)) for user, item, _ in some.tolist()]
    options = {"max_items_per_user": 100, "max_users_per_item": 40, "top_k": 50}
    neighbors = swing(*zip(*events, strict=True), **options, rng=np.random.default_rng(0))
    assert as_rows(neighbors) == expected_rows(events, SwingConfig(**options))
