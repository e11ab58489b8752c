import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rec.errors import ConfigError, DataError
from rec.metrics import (
    METRICS,
    coverage,
    hits,
    mean_over_users,
    novelty,
    paired_difference,
    parse_metric,
    per_user,
)

NAMES = [f"{kind}@{k}" for kind in METRICS for k in (1, 3, 10)]


def _random_problem(rng, users=40, n_items=30, k=10):
    lists = np.stack([rng.permutation(n_items)[:k] for _ in range(users)]).astype(np.int32)
    relevant = [rng.choice(n_items, rng.integers(1, 20), replace=False) for _ in range(users)]
    indptr = np.concatenate([[0], np.cumsum([len(run) for run in relevant])])
    return lists, indptr, np.concatenate(relevant)


def test_a_worked_example():
    # The list 7, 3, 5 with 3, 5 and 9 relevant: hits at ranks 2 and 3. DCG = 1/log2(3) + 1/log2(4) = 1.130930,
    # ideal at 3 = 1 + 1/log2(3) + 1/2 = 2.130930.
    values = per_user(
        np.array([[7, 3, 5]]),
        np.array([0, 3]),
        np.array([9, 3, 5]),
        ["recall@3", "precision@3", "ndcg@3", "mrr@3", "hit_rate@3", "hit_rate@1"],
    )
    assert {name: round(float(value[0]), 6) for name, value in values.items()} == {
        "recall@3": 0.666667,
        "precision@3": 0.666667,
        "ndcg@3": 0.530721,
        "mrr@3": 0.5,
        "hit_rate@3": 1.0,
        "hit_rate@1": 0.0,
    }


def test_the_ideal_list_holds_no_more_than_k():
    # Two of twenty relevant items fill a list of two: nothing better is possible.
    relevant = np.arange(20)
    assert per_user(np.array([[4, 11]]), np.array([0, 20]), relevant, ["ndcg@2"])["ndcg@2"][0] == 1.0


def test_equal_to_ranx_on_random_data(monkeypatch):
    import numba

    # Uncompiled, ranx needs no minutes for five metrics of a hundred users.
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    from ranx import Qrels, Run
    from ranx import evaluate as ranx_evaluate

    lists, indptr, relevant = _random_problem(np.random.default_rng(0), users=100)
    qrels = Qrels({str(b): {str(i): 1 for i in relevant[indptr[b] : indptr[b + 1]]} for b in range(len(lists))})
    run = Run({str(b): {str(i): float(-rank) for rank, i in enumerate(row)} for b, row in enumerate(lists)})
    ours = per_user(lists, indptr, relevant, NAMES)
    theirs = ranx_evaluate(qrels, run, NAMES, return_mean=False)
    order = [int(query) for query in run.keys()]
    for name in NAMES:
        np.testing.assert_allclose(ours[name][order], theirs[name], err_msg=name)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_hits_are_membership(seed):
    lists, indptr, relevant = _random_problem(np.random.default_rng(seed), users=5)
    lists[:, 7:] = -1
    expected = [[int(i) in set(relevant[indptr[b] : indptr[b + 1]].tolist()) for i in lists[b]] for b in range(5)]
    np.testing.assert_array_equal(hits(lists, indptr, relevant), expected)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_longer_lists_find_no_less(seed):
    lists, indptr, relevant = _random_problem(np.random.default_rng(seed))
    values = per_user(lists, indptr, relevant, [f"{kind}@{k}" for kind in METRICS for k in range(1, 11)])
    for kind in ("recall", "hit_rate", "mrr"):
        for k in range(1, 10):
            assert (values[f"{kind}@{k}"] <= values[f"{kind}@{k + 1}"]).all()
    for kind in METRICS:
        assert ((values[f"{kind}@10"] >= 0) & (values[f"{kind}@10"] <= 1)).all()


def test_a_list_that_is_short_finds_nothing_in_its_empty_places():
    # Item 0 is relevant: an empty place must not be taken for it.
    values = per_user(np.array([[-1, -1]]), np.array([0, 1]), np.array([0]), ["recall@2", "ndcg@2", "mrr@2"])
    assert all(value[0] == 0.0 for value in values.values())


def test_lists_and_users_that_cannot_be_judged_are_refused():
    with pytest.raises(DataError, match="names item 3 twice") as repeated:
        hits(np.array([[1, 2], [3, 3]]), np.array([0, 1, 2]), np.array([3, 3]))
    assert repeated.value.row == 1
    with pytest.raises(DataError, match="needs a relevant item"):
        per_user(np.array([[1], [2]]), np.array([0, 1, 1]), np.array([1]), ["recall@1"])
    with pytest.raises(ConfigError, match="needs lists of 5 items; these hold 1"):
        per_user(np.array([[1]]), np.array([0, 1]), np.array([1]), ["recall@5"])


@pytest.mark.parametrize(
    "name", ["ndgc@10", "ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@ten", "ndcg@²", "ndcg@１", "ndcg@9999999"]
)
def test_a_misspelt_metric_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"no metric '{name}'.*ndcg"):
        parse_metric(name)


def test_novelty_is_the_surprise_of_what_is_shown():
    # Of 8 users, 8 know item 0 (0 bits), 2 know item 1 (2 bits), none know item 2 (taken as one: 3 bits).
    lists = np.array([[0, 1], [1, 2], [2, -1], [-1, -1]])
    np.testing.assert_allclose(novelty(lists, np.array([8, 2, 0]), 8, 2), [1.0, 2.5, 3.0, 0.0])


def test_coverage_is_the_share_of_the_catalogue_shown_with_the_jackknifes_error():
    rng = np.random.default_rng(1)
    lists = np.stack([rng.permutation(60)[:5] for _ in range(12)])
    estimate = coverage(lists, 60, 5)
    assert estimate.value == len(np.unique(lists)) / 60
    without = [len(np.unique(np.delete(lists, b, axis=0))) / 60 for b in range(12)]
    expected = math.sqrt(11 / 12 * np.square(without - np.mean(without)).sum())
    assert estimate.std_error == pytest.approx(expected)
    assert coverage(lists[:, :2], 60, 2) == coverage(lists, 60, 2)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(2)
    intervals = [mean_over_users(rng.exponential(size=200)) for _ in range(2000)]
    held = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert abs(held - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_the_paired_test_is_students():
    rng = np.random.default_rng(3)
    a, b = rng.random(50), rng.random(50)
    ours, theirs = paired_difference(a, b), stats.ttest_rel(a, b)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_the_paired_test_is_antisymmetric_and_silent_on_equals():
    rng = np.random.default_rng(4)
    a, b = rng.random(50), rng.random(50)
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert (forward.difference, forward.low, forward.p_value) == (
        -backward.difference,
        -backward.high,
        backward.p_value,
    )
    same = paired_difference(a, a)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_pairing_sees_a_small_difference_between_correlated_models():
    # The users differ far more than the models do.
    rng = np.random.default_rng(5)
    users = rng.random(200)
    better, worse = users + 0.02 + rng.normal(0, 0.02, 200), users
    assert paired_difference(better, worse).p_value < 1e-6
    assert stats.ttest_ind(better, worse).pvalue > 0.05


def test_one_user_has_a_mean_and_no_interval():
    one = mean_over_users(np.array([0.5]))
    assert one.to_json() == {"value": 0.5, "std_error": None, "low": None, "high": None, "n": 1}
    assert paired_difference(np.array([0.5]), np.array([0.1])).p_value == 1.0
    with pytest.raises(DataError, match="no users"):
        mean_over_users(np.array([]))
