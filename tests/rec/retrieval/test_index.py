import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec.config import IndexConfig
from rec.errors import BundleError, ScoreError
from rec.retrieval import index as index_module
from rec.retrieval.index import ItemIndex

KINDS = ("flat", "hnsw", "ivf")


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def runs(lists: list[list[int]]) -> dict[str, np.ndarray]:
    lengths = [len(items) for items in lists]
    return {
        "excluded_indptr": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "excluded": np.array([item for items in lists for item in items], np.int32),
    }


def by_hand(embeddings, queries, k, lists=None, eligible=None):
    """Every product in float64, sorted by (-score, position)."""
    items, scores = [], []
    for row, query in enumerate(queries):
        allowed = np.ones(len(embeddings), bool) if eligible is None else eligible.copy()
        allowed[lists[row] if lists else []] = False
        products = np.array([np.sum(query.astype(np.float64) * vector) for vector in embeddings])
        best = sorted(np.flatnonzero(allowed), key=lambda item: (-products[item], item))[:k]
        items.append([*best, *[-1] * (k - len(best))])
        scores.append([*products[best], *[-np.inf] * (k - len(best))])
    return np.array(items), np.array(scores)


@pytest.mark.parametrize("n_items", [1, 7, 400, 3000])
def test_a_flat_index_finds_exactly_the_best(n_items):
    rng = np.random.default_rng(0)
    embeddings, queries = unit(rng, n_items, 16), unit(rng, 9, 16)
    lists = [
        rng.choice(n_items, min(n_items, size), replace=False).tolist() for size in (0, 1, 5, 60, 9, 0, 0, 2, 3000)
    ]
    eligible = rng.random(n_items) < 0.7
    index = ItemIndex.build(embeddings)
    for filters in ({}, {"lists": lists}, {"eligible": eligible}, {"lists": lists, "eligible": eligible}):
        given_runs = runs(filters["lists"]) if "lists" in filters else {}
        items, scores = index.search(queries, 20, **given_runs, eligible=filters.get("eligible"))
        expected_items, expected_scores = by_hand(embeddings, queries, 20, **filters)
        np.testing.assert_array_equal(items, expected_items)
        np.testing.assert_array_equal(scores, expected_scores)


def test_ties_go_by_position_even_across_the_last_place():
    rng = np.random.default_rng(1)
    embeddings = np.repeat(unit(rng, 20, 8), 100, axis=0)[rng.permutation(2000)]
    queries = unit(rng, 5, 8)
    items, scores = ItemIndex.build(embeddings).search(queries, 150)
    expected_items, expected_scores = by_hand(embeddings, queries, 150)
    np.testing.assert_array_equal(items, expected_items)
    np.testing.assert_array_equal(scores, expected_scores)


def test_embeddings_nearer_than_float32_can_tell_are_ordered_by_their_product():
    rng = np.random.default_rng(2)
    embeddings = (unit(rng, 1, 32) + 1e-7 * rng.standard_normal((3000, 32))).astype(np.float32)
    queries = unit(rng, 3, 32)
    items, _ = ItemIndex.build(embeddings).search(queries, 10)
    np.testing.assert_array_equal(items, by_hand(embeddings, queries, 10)[0])


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_small_catalogue_with_any_filter(data):
    n_items = data.draw(st.integers(1, 30))
    coordinates = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=3, max_size=3)
    embeddings = np.array([data.draw(coordinates) for _ in range(n_items)], np.float32)
    queries = np.array([data.draw(coordinates) for _ in range(2)], np.float32)
    lists = [data.draw(st.lists(st.integers(0, n_items - 1), max_size=40)) for _ in queries]
    eligible = np.array(data.draw(st.lists(st.booleans(), min_size=n_items, max_size=n_items)))
    k = data.draw(st.integers(1, 35))
    items, scores = ItemIndex.build(embeddings).search(queries, k, **runs(lists), eligible=eligible)
    expected_items, expected_scores = by_hand(embeddings, queries, k, lists, eligible)
    np.testing.assert_array_equal(items, expected_items)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_finds_what_each_query_finds_alone(kind):
    rng = np.random.default_rng(3)
    index = ItemIndex.build(unit(rng, 5000, 16), IndexConfig(kind=kind))
    queries = unit(rng, 40, 16)
    lists = [rng.choice(5000, size, replace=False).tolist() for size in rng.integers(0, 900, 40)]
    items, scores = index.search(queries, 30, **runs(lists))
    for row, query in enumerate(queries):
        alone = index.search(query[None], 30, **runs(lists[row : row + 1]))
        np.testing.assert_array_equal(alone[0][0], items[row])
        np.testing.assert_array_equal(alone[1][0], scores[row])


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_approximate_index_finds_most_of_the_best_and_never_what_is_excluded(kind):
    rng = np.random.default_rng(4)
    embeddings, queries = unit(rng, 20_000, 16), unit(rng, 50, 16)
    lists = [rng.choice(20_000, 100, replace=False).tolist() for _ in queries]
    eligible = rng.random(20_000) < 0.8
    config = IndexConfig(kind=kind, ivf_lists=100)
    items, scores = ItemIndex.build(embeddings, config).search(queries, 50, **runs(lists), eligible=eligible)
    exact, _ = ItemIndex.build(embeddings).search(queries, 50, **runs(lists), eligible=eligible)
    found = np.mean([len(np.intersect1d(*pair)) / 50 for pair in zip(items, exact, strict=True)])
    assert found > 0.9
    assert (items >= 0).all()
    assert (np.diff(scores) <= 0).all()
    assert eligible[items].all()
    assert not any(np.isin(row, blocked).any() for row, blocked in zip(items, lists, strict=True))


def test_a_graph_that_was_built_looking_further_is_a_better_one():
    rng = np.random.default_rng(5)
    embeddings, queries = unit(rng, 3000, 16), unit(rng, 50, 16)
    best = np.argsort(-(queries @ embeddings.T), axis=1, kind="stable")[:, :10]
    shares = []
    for looked_at in (1, 200):
        config = IndexConfig(kind="hnsw", hnsw_neighbors=8, hnsw_build=looked_at, hnsw_search=16)
        found, _ = ItemIndex.build(embeddings, config).search(queries, 10)
        shares.append(np.mean([len({*a} & {*b}) / 10 for a, b in zip(found, best, strict=True)]))
    assert shares[1] > shares[0]


@pytest.mark.parametrize("kind", KINDS)
def test_where_few_items_are_eligible_every_index_is_exact(kind):
    rng = np.random.default_rng(6)
    embeddings, queries = unit(rng, 6000, 16), unit(rng, 5, 16)
    eligible = np.zeros(6000, bool)
    eligible[rng.choice(6000, 150, replace=False)] = True
    lists = [rng.choice(np.flatnonzero(eligible), size, replace=False).tolist() for size in (0, 1, 20, 149, 150)]
    config = IndexConfig(kind=kind, hnsw_search=16, ivf_lists=64, ivf_probes=2)
    items, scores = ItemIndex.build(embeddings, config).search(queries, 10, **runs(lists), eligible=eligible)
    expected_items, expected_scores = by_hand(embeddings, queries, 10, lists, eligible)
    np.testing.assert_array_equal(items, expected_items)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("kind", KINDS)
def test_no_index_returns_fewer_than_are_left(kind):
    rng = np.random.default_rng(5)
    embeddings, queries = unit(rng, 4000, 8), unit(rng, 4, 8)
    eligible = np.zeros(4000, bool)
    eligible[rng.choice(4000, 25, replace=False)] = True
    index = ItemIndex.build(embeddings, IndexConfig(kind=kind, ivf_probes=1, hnsw_search=16))
    items, scores = index.search(queries, 30, eligible=eligible)
    assert ((items >= 0).sum(axis=1) == 25).all()
    assert np.isneginf(scores[:, 25:]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_finds_the_same(tmp_path, kind):
    rng = np.random.default_rng(6)
    index = ItemIndex.build(unit(rng, 3000, 12), IndexConfig(kind=kind))
    queries = unit(rng, 20, 12)
    index.save(tmp_path / "index.faiss")
    loaded = ItemIndex.load(tmp_path / "index.faiss", index.config)
    np.testing.assert_array_equal(loaded.embeddings, index.embeddings)
    for one, other in zip(loaded.search(queries, 40), index.search(queries, 40), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_flat_index_agrees_with_faiss_and_so_does_its_file(tmp_path):
    rng = np.random.default_rng(7)
    embeddings, queries = unit(rng, 3000, 24), unit(rng, 40, 24)
    index = ItemIndex.build(embeddings)
    index.save(tmp_path / "ours.faiss")
    theirs = faiss.IndexFlatIP(24)
    theirs.add(embeddings)
    faiss.write_index(theirs, str(tmp_path / "theirs.faiss"))
    assert (tmp_path / "ours.faiss").read_bytes() == (tmp_path / "theirs.faiss").read_bytes()
    lists = [rng.choice(3000, 200, replace=False) for _ in queries]
    items, scores = index.search(queries, 25, **runs(lists))
    for row, blocked in enumerate(lists):
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(blocked))
        expected, found = theirs.search(queries[row : row + 1], 25, params=faiss.SearchParameters(sel=selector))
        np.testing.assert_array_equal(items[row], found[0])
        np.testing.assert_allclose(scores[row], expected[0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_faiss_every_index_is_flat(tmp_path, monkeypatch, kind):
    rng = np.random.default_rng(7)
    embeddings, queries = unit(rng, 3000, 12), unit(rng, 20, 12)
    monkeypatch.setattr(index_module, "faiss_module", lambda: None)
    index = ItemIndex.build(embeddings, IndexConfig(kind=kind))
    index.save(tmp_path / "index.faiss")
    expected = by_hand(embeddings, queries, 10)
    for own in (index, ItemIndex.load(tmp_path / "index.faiss", index.config)):
        for one, other in zip(own.search(queries, 10), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_scores_of_given_items_are_those_of_the_search():
    rng = np.random.default_rng(8)
    index = ItemIndex.build(unit(rng, 300, 8))
    queries = unit(rng, 6, 8)
    items, scores = index.search(queries, 400)
    np.testing.assert_array_equal(index.scores(queries, items), scores)


def test_an_item_is_nearest_to_itself():
    embeddings = unit(np.random.default_rng(9), 2000, 8)
    items, scores = ItemIndex.build(embeddings).search(embeddings, 1)
    np.testing.assert_array_equal(items[:, 0], np.arange(2000))
    np.testing.assert_allclose(scores, 1, rtol=1e-6)


def test_an_empty_batch_and_an_empty_catalogue_have_empty_answers(tmp_path):
    rng = np.random.default_rng(10)
    items, scores = ItemIndex.build(unit(rng, 50, 8)).search(np.zeros((0, 8), np.float32), 5)
    assert items.shape == scores.shape == (0, 5)
    empty = ItemIndex.build(np.zeros((0, 8), np.float32))
    empty.save(tmp_path / "index.faiss")
    for index in (empty, ItemIndex.load(tmp_path / "index.faiss")):
        items, scores = index.search(unit(rng, 3, 8), 5)
        assert (items == -1).all()
        assert np.isneginf(scores).all()


def test_what_is_not_finite_is_named():
    embeddings = unit(np.random.default_rng(11), 50, 8)
    index = ItemIndex.build(embeddings)
    embeddings[17, 3] = np.nan
    with pytest.raises(ScoreError, match="embedding of item 17"):
        ItemIndex.build(embeddings)
    with pytest.raises(ScoreError, match="query 17"):
        index.search(embeddings, 5)


def test_every_truncation_of_an_index_is_named(tmp_path):
    file = tmp_path / "index.faiss"
    ItemIndex.build(unit(np.random.default_rng(12), 5, 3)).save(file)
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(BundleError) as caught:
            ItemIndex.load(file)
        assert caught.value.file == str(file)


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(BundleError) as caught:
        ItemIndex.load(tmp_path / "index.faiss")
    assert caught.value.file == str(tmp_path / "index.faiss")


def test_an_approximate_index_needs_faiss_to_be_read(tmp_path, monkeypatch):
    rng = np.random.default_rng(12)
    ItemIndex.build(unit(rng, 500, 8), IndexConfig(kind="hnsw")).save(tmp_path / "index.faiss")
    monkeypatch.setattr(index_module, "faiss_module", lambda: None)
    with pytest.raises(BundleError, match="install faiss-cpu"):
        ItemIndex.load(tmp_path / "index.faiss")


def test_an_index_of_distances_is_refused(tmp_path):
    index = faiss.IndexHNSWFlat(4, 8)
    index.add(np.eye(4, dtype=np.float32))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    with pytest.raises(BundleError, match="inner products"):
        ItemIndex.load(tmp_path / "index.faiss")
