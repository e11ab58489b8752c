"""What every ranker promises. A new ranker joins by a line in RANKERS."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rec import training
from rec.config import LambdaMARTConfig, MMoEConfig, TaskConfig, TrainingConfig
from rec.features.encoders import Encoders
from rec.features.ranking import RankingFeatures
from rec.features.snapshot import Snapshot
from rec.i2i import cosine
from rec.models.lambdamart import fit_lambdamart
from rec.models.mmoe import MMoERanker, MMoETask
from rec.rankers import RANKING_MODELS, FeatureRanker, Ranker
from rec.ranking_data import FeatureLayout, RankingData
from rec.state import Candidates, UserStates
from rl.config import InstaTokConfig
from rl.instatok import InstaTok

TASKS = (TaskConfig(name="watched"), TaskConfig(name="liked"))


@dataclass(frozen=True)
class RankerCase:
    """A ranker under test and the world it lives in.

    Attributes:
        fit: a ranker, from a seed.
        save: writes it into a folder.
        load: reads what save wrote.
        states: at least three known users with histories.
        n_items: size of the catalogue.
    """

    fit: Callable[[int], Ranker]
    save: Callable[[Any, Path], object]
    load: Callable[[Path], Ranker]
    states: Callable[[], UserStates]
    n_items: int


@dataclass(frozen=True)
class _ScoreOfTheSource:
    """The least that a ranker can be; it keeps the suite itself under test."""

    factor: float

    def score(self, state: UserStates, candidates: Candidates) -> np.ndarray:
        found = candidates.items[0] >= 0
        return np.where(found, self.factor * np.where(found, candidates.scores[0], 0.0), -np.inf)


def _plain_states() -> UserStates:
    return UserStates(
        user=np.arange(3, dtype=np.int32),
        at_ms=np.full(3, 1_000, np.int64),
        history=np.array([[-1, 1], [2, 3], [4, 5]], np.int32),
        features={},
        excluded_indptr=np.array([0, 1, 3, 5], np.int64),
        excluded=np.array([1, 2, 3, 4, 5], np.int32),
    )


@cache
def _world() -> tuple[RankingFeatures, UserStates]:
    """What rankers read in a small world, and the states of three of its users."""
    dataset = InstaTok(InstaTokConfig(n_users=30, n_videos=40)).dataset()
    encoders = Encoders.fit(dataset, dataset.interactions)
    at_ms = int(dataset.interactions.timestamp.max()) + 1
    snapshot = Snapshot.build(dataset, encoders, dataset.interactions, at_ms, 20)
    return RankingFeatures(snapshot, cosine(dataset.interactions, top_k=10)), snapshot.user_states([0, 1, 2])


def _queries(seed: int) -> RankingData:
    features, states = _world()
    rng = np.random.default_rng(seed)
    items = np.tile(np.arange(40, dtype=np.int32), (3, 1))
    layout = FeatureLayout(tuple(features.names), tuple(features.categorical))
    matrix = features.matrix(states, items, rng.random(items.shape))
    labels = (rng.random((len(matrix), 2)) < 0.4).astype(np.float32)
    return RankingData(layout, matrix, labels, np.full(3, 40), tuple(task.name for task in TASKS))


def _fit_lambdamart(seed: int) -> FeatureRanker:
    model = fit_lambdamart(_queries(seed), LambdaMARTConfig(trees=5, min_data_in_leaf=3), seed=seed).model
    return FeatureRanker(_world()[0], model, 0.5)


def _fit_mmoe(seed: int) -> FeatureRanker:
    task = MMoETask(_queries(seed), None, TASKS, MMoEConfig(experts=2), 64, seed)
    fitted = training.fit(task, TrainingConfig(workers=0, epochs=2), seed=seed)
    return FeatureRanker(_world()[0], MMoERanker.of(task, fitted.weights), 0.5)


def _stored(kind: str, fit: Callable[[int], FeatureRanker]) -> RankerCase:
    features = _world()[0]
    layout = FeatureLayout(tuple(features.names), tuple(features.categorical))
    return RankerCase(
        fit=fit,
        save=lambda ranker, folder: ranker.model.save(folder),
        load=lambda folder: FeatureRanker(features, RANKING_MODELS[kind].load(folder, layout), 0.5),
        states=lambda: _world()[1],
        n_items=40,
    )


RANKERS: dict[str, Callable[[], RankerCase]] = {
    "score_of_the_source": lambda: RankerCase(
        fit=lambda seed: _ScoreOfTheSource(1.0 + seed),
        save=lambda ranker, folder: (folder / "factor.txt").write_text(repr(ranker.factor)),
        load=lambda folder: _ScoreOfTheSource(float((folder / "factor.txt").read_text())),
        states=_plain_states,
        n_items=12,
    ),
    "lambdamart": lambda: _stored("lambdamart", _fit_lambdamart),
    "mmoe": lambda: _stored("mmoe", _fit_mmoe),
}


def test_every_ranking_model_is_under_test():
    assert RANKING_MODELS.keys() <= RANKERS.keys()


@pytest.fixture(scope="module", params=RANKERS)
def case(request: pytest.FixtureRequest) -> RankerCase:
    return RANKERS[request.param]()


@pytest.fixture(scope="module")
def ranker(case: RankerCase) -> Ranker:
    return case.fit(0)


def _state(case: RankerCase, row: int = 0) -> UserStates:
    return case.states().rows(slice(row, row + 1))


def _candidates(items: list[int]) -> Candidates:
    positions = np.array([items], np.int32)
    scores = np.where(positions >= 0, np.linspace(1.0, 0.1, len(items)), -np.inf)
    return Candidates(positions, scores, "test")


def test_one_finite_score_a_candidate(case: RankerCase, ranker: Ranker):
    scores = ranker.score(_state(case), _candidates(list(range(case.n_items))))
    assert (scores.shape, scores.dtype) == ((case.n_items,), np.float64)
    assert np.isfinite(scores).all()


def test_places_without_a_candidate_come_last_and_change_nothing(case: RankerCase, ranker: Ranker):
    full = _candidates([7, 3, 5])
    padded = Candidates(np.append(full.items, [[-1, -1]], 1), np.append(full.scores, [[-np.inf] * 2], 1), "test")
    scores = ranker.score(_state(case), padded)
    assert np.isneginf(scores[3:]).all()
    # Networks add up float32 products in an order that depends on how many rows there are.
    np.testing.assert_allclose(scores[:3], ranker.score(_state(case), full), rtol=1e-6)


def test_a_loaded_ranker_scores_the_same(case: RankerCase, ranker: Ranker, tmp_path: Path):
    case.save(ranker, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".pkl", ".pickle", ".pt", ".joblib"}]
    loaded = case.load(tmp_path)
    for row in range(3):
        state, candidates = _state(case, row), _candidates(list(range(case.n_items)))
        np.testing.assert_array_equal(loaded.score(state, candidates), ranker.score(state, candidates))


def test_fitting_again_under_the_same_seed_scores_the_same(case: RankerCase, ranker: Ranker):
    state, candidates = _state(case, 1), _candidates(list(range(case.n_items)))
    np.testing.assert_allclose(
        case.fit(0).score(state, candidates), ranker.score(state, candidates), rtol=1e-5, atol=1e-7
    )


def test_scoring_is_repeatable_and_leaves_its_arguments_alone(case: RankerCase, ranker: Ranker):
    state, candidates = _state(case), _candidates([2, 8, 4])
    before = (state.history.copy(), candidates.items.copy(), candidates.scores.copy())
    first = ranker.score(state, candidates)
    np.testing.assert_array_equal(ranker.score(state, candidates), first)
    for kept, now in zip(before, (state.history, candidates.items, candidates.scores), strict=True):
        np.testing.assert_array_equal(now, kept)


def test_unknown_users_and_empty_histories_get_finite_scores(case: RankerCase, ranker: Ranker):
    state = _state(case)
    empty = replace(state, history=np.full_like(state.history, -1))
    unknown = replace(empty, user=np.array([-1], np.int32))
    for stranger in (empty, unknown):
        assert np.isfinite(ranker.score(stranger, _candidates([0, 1, 2]))).all()


def test_the_same_item_twice_is_scored_twice(case: RankerCase, ranker: Ranker):
    twice = Candidates(np.array([[4, 4, 9]], np.int32), np.array([[0.8, 0.8, 0.1]]), "test")
    scores = ranker.score(_state(case), twice)
    assert scores.shape == (3,) and np.isfinite(scores).all()
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-6)


def test_no_candidates(case: RankerCase, ranker: Ranker):
    assert ranker.score(_state(case), _candidates([])).shape == (0,)
