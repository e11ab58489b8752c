"""The synthetic catalogue of the index benchmark, and what it calls recall."""

import numpy as np
import pytest

from benchmarks.scale.index import SIZE, Filter, asked, cheapest, recall, vectors
from rec.config import IndexConfig
from rec.retrieval.index import ItemIndex


def test_vectors_are_clustered_of_unit_length_and_the_same_under_a_seed():
    items, queries = vectors(2000, 20, 0)
    assert items.shape == (2000, SIZE) and queries.shape == (20, SIZE) and items.dtype == np.float32
    for rows in (items, queries):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    again, _ = vectors(2000, 20, 0)
    np.testing.assert_array_equal(items, again)
    noise = np.random.default_rng(0).standard_normal((2000, SIZE))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    # The nearest of uniform noise are hardly nearer than the rest; those of a catalogue are.
    nearest, of_noise = (np.sort(rows @ rows[0])[-11:-1].mean() for rows in (items, noise))
    assert nearest > of_noise + 0.2


def test_recall_counts_true_items_and_no_places_without_one():
    found = np.array([[1, 2, 3], [4, -1, -1]])
    assert recall(found, np.array([[3, 2, 9], [4, -1, -1]])) == 3 / 4
    assert recall(found, found) == 1


def test_the_cheapest_setting_of_a_good_recall_is_chosen_or_the_best():
    rows = [{"recall": 0.9, "mean": 1.0}, {"recall": 0.96, "mean": 3.0}, {"recall": 0.99, "mean": 2.0}]
    assert cheapest(rows) is rows[2]
    assert cheapest(rows[:1]) is rows[0]


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_filters_hold_and_a_flat_index_misses_nothing(kind: str):
    items, queries = vectors(3000, 10, 1)
    rng = np.random.default_rng(0)
    excluded = np.stack([rng.choice(3000, 40, replace=False) for _ in range(10)]).reshape(-1)
    leaves = Filter(np.arange(11) * 40, excluded, rng.random(3000) < 0.5)
    truth = ItemIndex.build(items).search(queries, 100, **leaves.of(slice(0, 10)))[0]
    for row in range(10):
        of_row = leaves.of(slice(row, row + 1))
        np.testing.assert_array_equal(of_row["excluded"], excluded[40 * row : 40 * row + 40])
        assert of_row["excluded_indptr"].tolist() == [0, 40]
        assert leaves.eligible is not None
        assert leaves.eligible[truth[row]].all() and not np.isin(truth[row], of_row["excluded"]).any()
    config = IndexConfig.model_validate({"kind": kind, "ivf_lists": 16, "ivf_probes": 4})
    told = asked(ItemIndex.build(items, config), queries, leaves, truth)
    assert told["recall"] == 1 if kind == "flat" else 0.7 < told["recall"] <= 1
    assert 0 < told["median"] <= told["p99"]
