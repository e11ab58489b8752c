"""Hashed logistic regression: which slots a row has, and that the optimum is what is found."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from rec.config import LogisticConfig, TaskConfig, TrainingConfig
from rec.errors import BundleError, ConfigError
from rec.models.crosses import HashedCrosses, crossed_pairs
from rec.models.logistic import LogisticDesign, LogisticRanker
from rec.models.row_task import RowTask, predict_rows
from rec.ranking.data import FeatureLayout, RankingData
from rec.training import fit

LAYOUT = FeatureLayout(("a", "b", "colour", "shape"), ("colour", "shape"))
CONFIG = LogisticConfig(bins=4, crosses=(("a", "colour"),), bits=20)


def _matrix(rows: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns = [rng.normal(size=rows), rng.integers(0, 2, rows), rng.integers(0, 5, rows), rng.integers(0, 3, rows)]
    return np.stack(columns, axis=1).astype(np.float32)


def _one_hot(matrix: np.ndarray, crosses: HashedCrosses) -> np.ndarray:
    """The same rows as 0 and 1, one column for each value that occurs; written without hashing."""
    a = np.searchsorted(np.array(crosses.edges[0], np.float32), matrix[:, 0], side="right")
    b, colour, shape = (matrix[:, column].astype(int) for column in (1, 2, 3))
    columns = [a, b, colour, shape, a * 10 + colour, colour * 10 + shape]
    return np.concatenate([values[:, None] == np.unique(values) for values in columns], axis=1).astype(float)


def test_rows_share_a_slot_where_they_share_a_value_or_a_combination() -> None:
    matrix = _matrix()
    crosses = HashedCrosses.fit(LAYOUT, matrix, CONFIG)
    slots = crosses.slots(matrix)
    assert slots.shape == (400, 6) and slots.min() >= 0 and slots.max() < 2**20
    hot = _one_hot(matrix, crosses)
    shared = (slots[:, None, :] == slots[None, :, :]).sum(axis=2)
    np.testing.assert_array_equal(shared, hot @ hot.T)
    # 2**20 slots for these few values: none collide, in any column.
    assert len(np.unique(slots)) == hot.shape[1]


def test_numbers_are_read_by_quantiles_and_a_common_value_is_one_bin() -> None:
    matrix = _matrix(4000)
    matrix[:3000, 1] = 7.0
    matrix[3000:, 1] = 8.0
    crosses = HashedCrosses.fit(LAYOUT, matrix, CONFIG)
    bins = np.searchsorted(crosses.edges[0], matrix[:, 0], side="right")
    np.testing.assert_allclose(np.bincount(bins) / 4000, 0.25, atol=0.001)
    assert len(np.unique(crosses.slots(matrix)[:, 1])) == len(crosses.edges[1]) + 1 <= 2


def test_what_is_missing_or_was_never_seen_has_slots_too() -> None:
    matrix = _matrix()
    crosses = HashedCrosses.fit(LAYOUT, matrix, CONFIG)
    odd = np.array([[np.nan, 1e30, np.nan, 999], [0, -1e30, -1, 999]], np.float32)
    slots = crosses.slots(odd)
    assert slots.shape == (2, 6) and slots.min() >= 0
    assert slots[0, 2] == slots[1, 2], "a category that is none is missing"
    assert slots[0, 0] not in crosses.slots(matrix)[:, 0]


def test_slots_follow_the_names_of_features_not_their_order() -> None:
    matrix = _matrix()
    crosses = HashedCrosses.fit(LAYOUT, matrix, CONFIG)
    turned = FeatureLayout(("b", "a", "colour", "shape"), ("colour", "shape"))
    other = HashedCrosses.fit(turned, matrix[:, [1, 0, 2, 3]], CONFIG)
    np.testing.assert_array_equal(np.sort(other.slots(matrix[:, [1, 0, 2, 3]])), np.sort(crosses.slots(matrix)))


def test_patterns_stand_for_all_they_match_and_a_misspelt_name_is_refused() -> None:
    layout = FeatureLayout(("x", "affinity_genre", "affinity_year"), ())
    found = crossed_pairs(layout, LogisticConfig(crosses=(("affinity_*", "x"), ("x", "affinity_genre"), ("z*", "x"))))
    assert found == ((0, 1), (0, 2))
    with pytest.raises(ConfigError, match="no feature afinity_genre; there are x, affinity_genre"):
        crossed_pairs(layout, LogisticConfig(crosses=(("afinity_genre", "x"),)))


def test_it_begins_where_the_mean_prediction_is_the_base_rate_whatever_the_positions_add() -> None:
    """Far down nobody looks: at the top, from which positions are counted, success is likelier than on the whole."""
    matrix = _matrix()
    positions = (np.arange(400) % 20).astype(np.int16)
    rng = np.random.default_rng(2)
    labels = rng.random((400, 2)) < (0.9 * 0.8**positions)[:, None] * [1, 0.5]
    labels = np.where(rng.random((400, 2)) < 0.2, np.nan, labels).astype(np.float32)
    train = RankingData(LAYOUT, matrix, labels, np.array([400]), ("click", "like"), positions=positions)
    tasks = (TaskConfig(name="click"), TaskConfig(name="like"))
    for n_positions in (0, 20):
        design = LogisticDesign(HashedCrosses.fit(LAYOUT, matrix, CONFIG), tasks, CONFIG, n_positions)
        network = RowTask(design, train, None, 400, seed=0).build_model()
        predicted = predict_rows(network, design.rows(matrix), positions=positions if n_positions else None)
        means = [predicted[~np.isnan(label), task].mean() for task, label in enumerate(labels.T)]
        np.testing.assert_allclose(means, np.nanmean(labels, axis=0), atol=1e-5)


def _fitted(matrix: np.ndarray, labels: np.ndarray, l2: float, *, weight: float = 1.0) -> LogisticRanker:
    config = CONFIG.model_copy(update={"l2": l2})
    train = RankingData(LAYOUT, matrix, labels[:, None].astype(np.float32), np.array([len(matrix)]), ("click",))
    design = LogisticDesign(
        HashedCrosses.fit(LAYOUT, matrix, config), (TaskConfig(name="click", weight=weight),), config
    )
    settings = TrainingConfig(workers=0, epochs=400, batch_size=400, learning_rate=0.05, weight_decay=0.0)
    return LogisticRanker.of(design, fit(RowTask(design, train, None, 400, seed=0), settings, seed=0).weights)


@pytest.mark.parametrize(
    ("l2", "weight"), [pytest.param(1.0, 1.0, marks=pytest.mark.slow), pytest.param(10.0, 1.0), pytest.param(10.0, 4.0)]
)
def test_it_finds_the_optimum_of_the_penalised_likelihood(l2: float, weight: float) -> None:
    """Of a task by itself: what it weighs beside others does not change it, as it shares no parameter with them."""
    matrix = _matrix()
    rng = np.random.default_rng(1)
    labels = rng.random(400) < 1 / (1 + np.exp(-(matrix[:, 0] + (matrix[:, 2] == matrix[:, 3]))))
    ranker = _fitted(matrix, labels, l2, weight=weight)
    hot = _one_hot(matrix, ranker.design.crosses)

    def objective(weights: np.ndarray) -> float:
        logits = hot @ weights[1:] + weights[0]
        return np.logaddexp(0, np.where(labels, -logits, logits)).sum() + l2 / 2 * (weights[1:] ** 2).sum()

    best = minimize(objective, np.zeros(hot.shape[1] + 1), method="L-BFGS-B", options={"maxiter": 500}).x
    expected = 1 / (1 + np.exp(-(hot @ best[1:] + best[0])))
    np.testing.assert_allclose(ranker.probabilities(matrix), expected, atol=2e-3)


@pytest.mark.slow
def test_a_product_is_learned_by_crossing() -> None:
    matrix = _matrix(2000)
    same = (matrix[:, 2] % 2 == matrix[:, 3] % 2).astype(np.float32)
    crossed = _fitted(matrix, same, 0.1)
    assert (
        (crossed.probabilities(_matrix(500, 5)) > 0.5) == (_matrix(500, 5)[:, 2] % 2 == _matrix(500, 5)[:, 3] % 2)
    ).all()


def test_saved_and_loaded_it_is_the_same_and_other_features_are_refused(
    tmp_path: Path, three_tasks: Callable[..., RankingData], tasks: tuple[TaskConfig, ...]
) -> None:
    train = three_tasks()
    config = LogisticConfig(crosses=(), bits=10, formula={"share": 0.0})
    design = LogisticDesign(HashedCrosses.fit(train.layout, train.matrix, config), tasks, config, n_positions=3)
    train = replace(train, positions=np.zeros(len(train.matrix), np.int16))
    fitted = fit(RowTask(design, train, None, 256, 0), TrainingConfig(workers=0, epochs=1), seed=0)
    ranker = LogisticRanker.of(design, fitted.weights)
    ranker.save(tmp_path)
    loaded = LogisticRanker.load(tmp_path, train.layout)
    np.testing.assert_array_equal(loaded.predict(train.matrix), ranker.predict(train.matrix))
    assert loaded.design == ranker.design
    with pytest.raises(BundleError, match="trained on other features"):
        LogisticRanker.load(tmp_path, LAYOUT)
    (tmp_path / LogisticRanker.filename).write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=r"ranker\.safetensors"):
        LogisticRanker.load(tmp_path, train.layout)
