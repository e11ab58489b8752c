"""What every ranker promises. A new ranker joins by a line in RANKERS."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from rec import training
from rec.config import (
    LambdaMARTConfig,
    LogisticConfig,
    MMoEConfig,
    PLEConfig,
    RankerKind,
    TaskConfig,
    TrainingConfig,
)
from rec.features.encoders import Encoders
from rec.features.ranking import RankingFeatures
from rec.features.snapshot import Snapshot
from rec.i2i import cosine
from rec.models.crosses import HashedCrosses
from rec.models.expert_ranker import ExpertDesign, ExpertKind, ExpertRanker
from rec.models.lambdamart import fit_lambdamart
from rec.models.logistic import LogisticDesign, LogisticRanker
from rec.models.row_inputs import cardinalities_of
from rec.models.row_task import RowTask
from rec.ranking.data import FeatureLayout, RankingData
from rec.ranking.fits import RANKER_FITS
from rec.ranking.rankers import RANKING_MODELS, FeatureRanker, Ranker
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
        states: at least three known users with histories, of whom none was learned from.
        planted: which of one user's candidates are the better ones, in the world it learned from, (M,).
        n_items: size of the catalogue.
    """

    fit: Callable[[int], Ranker]
    save: Callable[[Any, Path], object]
    load: Callable[[Path], Ranker]
    states: Callable[[], UserStates]
    planted: Callable[[UserStates, Candidates], np.ndarray]
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
    """What rankers read in a small world, and the states of its users."""
    dataset = InstaTok(InstaTokConfig(n_users=30, n_videos=40)).dataset()
    encoders = Encoders.fit(dataset, dataset.interactions)
    at_ms = int(dataset.interactions.timestamp.max()) + 1
    snapshot = Snapshot.build(dataset, encoders, dataset.interactions, at_ms, 20)
    return RankingFeatures(snapshot, cosine(dataset.interactions, top_k=10)), snapshot.user_states(np.arange(30))


def _better(states: UserStates, candidates: Candidates) -> np.ndarray:
    """Planted: users like the kinds of video of which they have seen more than of most others."""
    features = _world()[0]
    every = np.tile(np.arange(40, dtype=np.int32), (len(states), 1))
    share = features.matrix(states, every, np.zeros(every.shape))[:, features.names.index("affinity_category")]
    share = share.reshape(every.shape)
    better = share > np.median(share, axis=1, keepdims=True)
    return np.take_along_axis(better, candidates.items, axis=1).ravel()


@cache
def _queries(seed: int) -> RankingData:
    """Every item for every user but the first three, with scores of a source that knows nothing."""
    features, states = _world()
    states = states.rows(slice(3, 30))
    items = np.tile(np.arange(40, dtype=np.int32), (27, 1))
    layout = FeatureLayout(tuple(features.names), tuple(features.categorical))
    scores = np.random.default_rng(seed).random(items.shape)
    labels = np.repeat(_better(states, Candidates(items, scores, "test"))[:, None], 2, axis=1).astype(np.float32)
    matrix = features.matrix(states, items, scores)
    return RankingData(layout, matrix, labels, np.full(27, 40), tuple(task.name for task in TASKS))


def _fit_lambdamart(seed: int) -> FeatureRanker:
    config = LambdaMARTConfig(trees=20, min_data_in_leaf=10, feature_fraction=1.0)
    return FeatureRanker(_world()[0], fit_lambdamart(_queries(seed), config, seed=seed).model, 0.1)


def _fit_logistic(seed: int) -> FeatureRanker:
    data, config = _queries(seed), LogisticConfig(bits=14, l2=1.0)
    design = LogisticDesign(HashedCrosses.fit(data.layout, data.matrix, config), TASKS, config)
    fitted = training.fit(RowTask(design, data, None, 128, seed), _training(0.05), seed=seed)
    return FeatureRanker(_world()[0], LogisticRanker.of(design, fitted.weights), 0.1)


def _fit_experts(kind: ExpertKind, config: MMoEConfig | PLEConfig, seed: int) -> FeatureRanker:
    data = _queries(seed)
    design = ExpertDesign(kind, data.layout, cardinalities_of(data), TASKS, config)
    fitted = training.fit(RowTask(design, data, None, 128, seed), _training(0.01), seed=seed)
    return FeatureRanker(_world()[0], ExpertRanker.of(design, fitted.weights), 0.1)


def _training(learning_rate: float) -> TrainingConfig:
    return TrainingConfig(workers=0, epochs=10, learning_rate=learning_rate)


def _stored(kind: RankerKind, fit: Callable[[int], FeatureRanker]) -> RankerCase:
    features = _world()[0]
    layout = FeatureLayout(tuple(features.names), tuple(features.categorical))
    return RankerCase(
        fit=fit,
        save=lambda ranker, folder: ranker.model.save(folder),
        load=lambda folder: FeatureRanker(features, RANKING_MODELS[kind].load(folder, layout), 0.1),
        states=lambda: _world()[1].rows(slice(0, 3)),
        planted=_better,
        n_items=40,
    )


RANKERS: dict[str, Callable[[], RankerCase]] = {
    "score_of_the_source": lambda: RankerCase(
        fit=lambda seed: _ScoreOfTheSource(1.0 + seed),
        save=lambda ranker, folder: (folder / "factor.txt").write_text(repr(ranker.factor)),
        load=lambda folder: _ScoreOfTheSource(float((folder / "factor.txt").read_text())),
        states=_plain_states,
        planted=lambda states, candidates: candidates.scores[0] > np.median(candidates.scores[0]),
        n_items=12,
    ),
    "lambdamart": lambda: _stored("lambdamart", _fit_lambdamart),
    "logistic": lambda: _stored("logistic", _fit_logistic),
    "mmoe": lambda: _stored("mmoe", partial(_fit_experts, "mmoe", MMoEConfig(experts=2))),
    "ple": lambda: _stored("ple", partial(_fit_experts, "ple", PLEConfig(shared_experts=1, task_experts=1))),
}


def test_every_kind_of_ranker_can_be_fitted_and_is_under_test(classes_with: Callable[..., set[type]]):
    assert RANKING_MODELS.keys() == RANKER_FITS.keys() == set(get_args(RankerKind))
    assert RANKING_MODELS.keys() <= RANKERS.keys()
    # A model of rows that no kind of ranker names would be under no test here.
    assert classes_with("rec.models", "predict", "load", "filename") == set(RANKING_MODELS.values())


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


def _shuffled(case: RankerCase, seed: int) -> Candidates:
    """All items in random order, with scores of a source that knows nothing."""
    rng = np.random.default_rng([seed, 1])
    items = rng.permutation(case.n_items).astype(np.int32)[None]
    return Candidates(items, rng.random(items.shape), "test")


@pytest.mark.parametrize("row", range(3))
def test_it_orders_as_it_was_taught_for_users_it_was_not_taught_about(case: RankerCase, ranker: Ranker, row: int):
    state, candidates = _state(case, row), _shuffled(case, row)
    scores, better = ranker.score(state, candidates), case.planted(state, candidates)
    assert 0 < better.sum() < len(better)
    # The share of pairs in the right order; ties count half, so that a constant has .5.
    above = scores[better][:, None] - scores[~better][None]
    assert ((above > 0) + 0.5 * (above == 0)).mean() > 0.9


def test_users_of_other_tastes_get_another_order(case: RankerCase, ranker: Ranker):
    candidates = _shuffled(case, 0)
    better = [case.planted(_state(case, row), candidates) for row in range(3)]
    scores = [ranker.score(_state(case, row), candidates) for row in range(3)]
    others = [(a, b) for a, b in ((0, 1), (0, 2), (1, 2)) if (better[a] != better[b]).any()]
    assert bool(others) == (case.planted is _better), "the users of the world must differ in taste"
    for a, b in others:
        assert (np.argsort(scores[a]) != np.argsort(scores[b])).any()


def test_scores_follow_the_candidates_in_whichever_order_they_come(case: RankerCase, ranker: Ranker):
    candidates = _shuffled(case, 0)
    turned = Candidates(candidates.items[:, ::-1].copy(), candidates.scores[:, ::-1].copy(), "test")
    state = _state(case)
    np.testing.assert_allclose(ranker.score(state, turned)[::-1], ranker.score(state, candidates), rtol=1e-5, atol=1e-6)


def test_places_without_a_candidate_come_last_and_change_nothing(case: RankerCase, ranker: Ranker):
    full = _candidates([7, 3, 5])
    padded = Candidates(np.append(full.items, [[-1, -1]], 1), np.append(full.scores, [[-np.inf] * 2], 1), "test")
    scores = ranker.score(_state(case), padded)
    assert np.isneginf(scores[3:]).all()
    # Networks add up float32 products in an order that depends on how many rows there are.
    np.testing.assert_allclose(scores[:3], ranker.score(_state(case), full), rtol=1e-5, atol=1e-6)


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
