"""Laws of the sources that count; what all sources promise is in tests/contracts."""

import builtins
from functools import partial

import numpy as np
import pytest
from scipy import sparse

import rec.retrieval.ease as ease_module
from rec.errors import BundleError, ConfigError, TrainingError
from rec.retrieval.arrays import write_arrays
from rec.retrieval.ease import EASE
from rec.retrieval.ials import IALS
from rec.retrieval.item_neighbors import CosineSource, ItemKNN
from rec.retrieval.liked import LikedItems
from rec.retrieval.popularity import Popularity, RecentPopularity

DAY_MS = 86_400_000


def _dense(interactions):
    matrix = np.zeros((interactions.n_users, interactions.n_items))
    matrix[interactions.user, interactions.item] = 1.0
    return matrix


def test_popularity_counts_and_breaks_ties_by_position(make_interactions, make_states):
    interactions = make_interactions([(0, 3), (1, 3), (0, 1), (1, 0)], 2, 4)
    found = Popularity.fit(interactions).candidates(make_states([-1]), 4)
    assert found.items.tolist() == [[3, 0, 1, -1]]
    assert found.scores.tolist() == [[2.0, 1.0, 1.0, -np.inf]]


def test_recent_popularity_counts_its_window_and_then_all_time(make_interactions, make_states):
    # Until day 10, a window of 3 days begins on day 7: item 2 has one such interaction, item 0 has two old ones.
    pairs, days = [(0, 0), (1, 0), (0, 1), (1, 2), (0, 3)], [1, 2, 6, 7, 10]
    interactions = make_interactions(pairs, 2, 4, days)
    found = RecentPopularity.fit(interactions, window_ms=3 * DAY_MS, until_ms=10 * DAY_MS)
    assert found.candidates(make_states([-1]), 4).items.tolist() == [[2, 0, 1, 3]]


def test_ease_is_the_stationary_point_of_its_constrained_problem(random_interactions):
    # The gradient of |X - XB|^2 + weight |B|^2, G B - G + weight B, may differ from zero on the diagonal alone.
    weight = 7.0
    matrix = _dense(random_interactions)
    gram = matrix.T @ matrix
    weights = EASE.fit(random_interactions, regularization=weight).weights.astype(np.float64)
    assert (np.diag(weights) == 0).all()
    gradient = gram @ weights - gram + weight * weights
    np.testing.assert_allclose(gradient - np.diag(np.diag(gradient)), 0, atol=1e-4)


def test_ease_of_too_many_items_is_refused_by_number(random_interactions, monkeypatch):
    monkeypatch.setattr(ease_module, "MAX_ITEMS", 19)
    with pytest.raises(TrainingError, match="at most 19 items; this catalogue has 20"):
        EASE.fit(random_interactions, regularization=1.0)


def test_ease_wants_a_positive_regularization(random_interactions):
    with pytest.raises(ConfigError, match="above 0"):
        EASE.fit(random_interactions, regularization=0.0)


def test_item_knn_sums_the_cosines_of_the_nearest(random_interactions, make_states):
    matrix = _dense(random_interactions)
    norm = np.sqrt(np.maximum(matrix.sum(axis=0), 1))
    cosine = matrix.T @ matrix / np.outer(norm, norm)
    np.fill_diagonal(cosine, -1)
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :4]
    expected = np.zeros((50, 20))
    for item in range(20):
        expected[:, item] = matrix[:, nearest[item]] @ cosine[item, nearest[item]]
    found = ItemKNN.fit(random_interactions, n_neighbors=4).candidates(make_states(list(range(50))), 20)
    known = matrix.sum(axis=1) > 0
    scores = np.where(found.items >= 0, np.take_along_axis(expected, found.items, axis=1), -np.inf)
    np.testing.assert_allclose(found.scores[known], scores[known], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal((found.items[known] >= 0).sum(axis=1), (expected[known] > 0).sum(axis=1))


def test_ials_folds_in_the_factors_that_implicit_has(checkerboard):
    # With exact solves, implicit's own user factors after a last half-step are those of the fold-in.
    from implicit.cpu.als import AlternatingLeastSquares

    source = IALS.fit(checkerboard, n_factors=4, alpha=5.0, regularization=0.5, n_iterations=30)
    theirs = AlternatingLeastSquares(factors=4, alpha=5.0, regularization=0.5, use_cg=False)
    theirs.item_factors = source.factors
    matrix = source.liked.matrix()
    ours = source._fold_in(matrix)
    expected = theirs.recalculate_user(np.arange(40), sparse.csr_matrix(matrix))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


def test_ials_without_its_library_says_what_to_install(checkerboard, monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("implicit"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"tandem-rec\[bench\]"):
        IALS.fit(checkerboard, n_factors=2, alpha=1.0, regularization=1.0)


@pytest.mark.parametrize(
    "fit",
    [
        partial(EASE.fit, regularization=20.0),
        partial(ItemKNN.fit, n_neighbors=5),
        partial(IALS.fit, n_factors=2, alpha=5.0, regularization=0.1),
    ],
    ids=["ease", "item_knn", "ials"],
)
def test_a_checkerboard_is_solved_for_users_known_and_new(fit, checkerboard, make_states):
    # Three items of their own colour are left to the users known; all of the other colour are left too.
    seen = [checkerboard.item[checkerboard.user == user].tolist() for user in range(40)]
    new = [[2, 6, 8], [1, 5, 17]]
    states = make_states([*range(40), -1, -1], [*[[] for _ in range(40)], *new], [*seen, *new])
    colour = np.array([*(np.arange(40) % 2), 0, 1])
    assert (fit(checkerboard).candidates(states, 3).items % 2 == colour[:, None]).all()


def test_a_profile_is_the_training_row_and_the_history_each_item_once(make_interactions, make_states):
    liked = LikedItems.of(make_interactions([(0, 3), (0, 1), (0, 3), (2, 0)], 3, 5))
    profiles = liked.profiles(make_states([0, 1, 2, -1, 9], [[1, 4], [], [2, 2], [3], []]))
    assert profiles.toarray().tolist() == [
        [0, 1, 0, 1, 1],
        [0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]


def test_nothing_to_learn_from_is_an_error(checkerboard):
    nothing = checkerboard.take(np.zeros(len(checkerboard), bool))
    for fit in (Popularity.fit, ItemKNN.fit):
        with pytest.raises(TrainingError, match="no interactions"):
            fit(nothing)


def test_a_file_of_another_source_is_refused(tmp_path):
    write_arrays(tmp_path, "popularity", {"counts": np.ones(3)})
    (tmp_path / "popularity.safetensors").rename(tmp_path / "ease.safetensors")
    with pytest.raises(BundleError, match="it is a popularity holding counts"):
        EASE.load(tmp_path)


def test_a_loaded_source_holds_no_more_of_the_users_than_it_is_asked_about(make_states, resident_mib, tmp_path):
    n_users, n_liked, n_items = 40_000, 100, 200
    indptr = np.arange(n_users + 1, dtype=np.int64) * n_liked
    items = np.tile(np.arange(0, n_items, 2, dtype=np.int32), n_users)
    fitted = CosineSource(sparse.csr_array(np.eye(n_items, dtype=np.float32)), LikedItems(indptr, items, n_items))
    file = tmp_path / fitted.save(tmp_path)[0]
    loaded = CosineSource.load(tmp_path)
    for start in range(0, n_users, 4000):
        states = make_states(list(range(start, start + 250)))
        np.testing.assert_array_equal(
            loaded.candidates(states, 3).items, np.tile(np.array([0, 2, 4], np.int32), (250, 1))
        )
        assert resident_mib(file) < 1
    np.testing.assert_array_equal(loaded.liked.item_users, fitted.liked.item_users)
    assert resident_mib(file) < 1
    # What is looked at and not forgotten is seen by this measure.
    assert loaded.liked.items.max() == n_items - 2 and resident_mib(file) > 15
