from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rec import i2i
from rec.data.dataset import Interactions
from rec.errors import BundleError


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


@pytest.mark.parametrize("block", [1024, 5])
def test_it_equals_the_dense_formula_sorted_by_score_then_item(log, monkeypatch, block):
    monkeypatch.setattr(i2i, "_BLOCK", block)
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
