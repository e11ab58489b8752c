"""What every candidate source promises. A new source joins by a line in SOURCES."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rec import training
from rec.candidate_parts import SCHEMA, CandidateJob
from rec.candidate_tables import CandidateFolder
from rec.config import (
    BranchConfig,
    CosineConfig,
    QueriesConfig,
    RankerConfig,
    RetrieverConfig,
    SourcesConfig,
    TowerConfig,
    TrainConfig,
    TrainingConfig,
    UserTowerConfig,
)
from rec.config.sources import FirstSource, OtherSource
from rec.data.dataset import Dataset, Interactions
from rec.errors import BundleError
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot
from rec.item_groups import ItemGroups
from rec.models.two_tower import TwoTower
from rec.models.weights import put_weights
from rec.retrieval.batch import BatchSource
from rec.retrieval.blend import Blend
from rec.retrieval.business import Business
from rec.retrieval.ease import EASE
from rec.retrieval.fresh import Fresh
from rec.retrieval.ials import IALS
from rec.retrieval.item_neighbors import CosineSource, ItemKNN, SwingSource
from rec.retrieval.popularity import Popularity, RecentPopularity
from rec.retrieval.protocol import CandidateSource, ExtensibleSource
from rec.retrieval.two_tower import TwoTowerSource
from rec.retrieval.weighted import WeightedScoreSource
from rec.retriever.data import build_retrieval_data
from rec.retriever.task import RetrieverTask
from rec.schema import Feature, FeatureSchema
from rec.source_fits import SOURCE_FITS, SOURCE_LOADS, as_retriever, fit_sources, load_sources
from rec.state import UserStates

N_USERS, N_ITEMS, DAY_MS = 40, 25, 86_400_000

# What may interest somebody; the last item, which nobody has taken, is of no kind.
KINDS = [*[f"kind {item % 3}" for item in range(N_ITEMS - 1)], None]

Fit = Callable[[Interactions], CandidateSource]


def _two_tower_config() -> TrainConfig:
    branch = (BranchConfig(features=("history",)),)
    user = UserTowerConfig(branches=branch, hidden=(8,), history_windows=(4,))
    item = TowerConfig(branches=(BranchConfig(features=("item_id",)),), embedding_dim=8, hidden=(8,))
    return TrainConfig(retriever=RetrieverConfig(user_tower=user, item_tower=item, output_dim=8, mixed_negatives=8))


def _two_tower_snapshot(interactions: Interactions) -> tuple[Dataset, Snapshot]:
    users = pd.DataFrame({"user_id": interactions.user_ids})
    items = pd.DataFrame({"item_id": interactions.item_ids, "kind": KINDS})
    schema = FeatureSchema(features=(Feature(name="kind", kind="categorical", side="item"),))
    dataset = Dataset("test", interactions, users, items, schema, "")
    encoders = Encoders.fit(dataset, interactions)
    return dataset, Snapshot.build(dataset, encoders, interactions, 30 * DAY_MS, 4)


def _fit_two_tower(interactions: Interactions) -> TwoTowerSource:
    config = _two_tower_config()
    dataset, snapshot = _two_tower_snapshot(interactions)
    data = build_retrieval_data(
        dataset, snapshot.encoders, interactions, interactions, QueriesConfig(snapshots=3), end_ms=30 * DAY_MS
    )
    task = RetrieverTask(data, config.retriever, batch_size=64, seed=0)
    fitted = training.fit(task, TrainingConfig(workers=0, epochs=2), seed=0)
    model = TwoTower(config.retriever, snapshot.encoders.specs)
    put_weights(model, fitted.weights)
    return TwoTowerSource.build(model, snapshot)


SCORES = {"liked": 1.0, "skipped": -1.0}

BLENDS = {
    "blend": SourcesConfig(
        quotas={"ease": 2, "swing": 2, "recent_popularity": 1, "fresh": 2, "business": 1}, business=("i7", "i3")
    ),
    "blend_led_by_ease": SourcesConfig(first="ease", quotas={"two_tower": 4, "cosine": 2, "item_knn": 1}),
    "ease_alone": SourcesConfig(first="ease"),
    "blend_with_weighted_score": SourcesConfig(
        first="weighted_score",
        quotas={"two_tower": 2, "swing": 2},
        interest_column="kind",
        cosine=CosineConfig(scores=SCORES),
    ),
    "blend_with_batch": SourcesConfig(quotas={"batch": 4, "recent_popularity": 1}, batch="as _candidates_table writes"),
}


@cache
def _candidates_table() -> TemporaryDirectory[str]:
    """Lists of ten for everybody who did something, as `tandem candidates` writes them."""
    folder = TemporaryDirectory()
    listed = _fit_batch(_interactions())
    rows = [
        {"user_id": f"u{user}", "rank": rank, "item_id": f"i{item}", "score": score, "source": "item_knn"}
        for user in range(N_USERS)
        for rank, (item, score) in enumerate(zip(listed.items[user], listed.list_scores[user], strict=True))
        if item >= 0
    ]
    job = CandidateJob(version="v", k=10, ranked=False, n_users=N_USERS, users_sha256=None, users_per_part=N_USERS)
    table = CandidateFolder(folder.name, "parquet")
    with table.reserved():
        table.finish(job, {0: table.write_part(job, 0, pa.Table.from_pylist(rows, schema=SCHEMA))})
    return folder


def _blend_config(kind: str) -> TrainConfig:
    sources = BLENDS[kind]
    if sources.batch is not None:
        sources = sources.model_copy(update={"batch": _candidates_table().name})
    return _two_tower_config().model_copy(update={"sources": sources, "ranker": RankerConfig(n_candidates=10)})


@cache
def _trained_two_tower() -> TwoTowerSource:
    return _fit_two_tower(_interactions())


def _fit_blend(interactions: Interactions, *, kind: str) -> CandidateSource:
    config, two_tower = _blend_config(kind), _trained_two_tower()
    return as_retriever(two_tower, fit_sources(interactions, two_tower.snapshot, config), config)


def _fit_batch(interactions: Interactions) -> BatchSource:
    """Lists of ten for everybody who did something, as a table of candidates would hold them."""
    items = ItemKNN.fit(interactions, n_neighbors=10)
    active = np.unique(interactions.user)
    found = items.candidates(_states(active.tolist()), 10)
    lists = np.full((N_USERS, 10), -1, np.int32)
    scores = np.full((N_USERS, 10), -np.inf)
    lists[active], scores[active] = found.items, found.scores
    return BatchSource(lists, scores, N_ITEMS, Popularity.fit(interactions))


def _fit_swing(interactions: Interactions) -> SwingSource:
    return SwingSource.fit(interactions, rng=np.random.default_rng(0))


def _fit_weighted(interactions: Interactions) -> WeightedScoreSource:
    groups = ItemGroups.of(pd.DataFrame({"kind": KINDS}), "kind", field="kind")
    return WeightedScoreSource.fit(interactions, groups, cosine=CosineConfig(scores=SCORES))


def _load(source: CandidateSource, folder: Path) -> CandidateSource:
    """Reads what a source of the same kind saved; some need what is elsewhere in a bundle, too."""
    if isinstance(source, Blend):
        names = [one.name for one in source.sources]
        config = next(_blend_config(kind) for kind, sources in BLENDS.items() if list(sources.names) == names)
        return as_retriever(_load(source.scorer, folder), load_sources(folder, config), config)  # pyright: ignore
    if isinstance(source, BatchSource):
        return BatchSource.load(folder, source.fallback)
    if isinstance(source, TwoTowerSource):
        return TwoTowerSource.load(folder, _two_tower_config(), _two_tower_snapshot(_interactions())[1])
    return type(source).load(folder)  # pyright: ignore[reportAttributeAccessIssue]


SOURCES: dict[str, Fit] = {
    "two_tower": _fit_two_tower,
    "popularity": Popularity.fit,
    "recent_popularity": partial(RecentPopularity.fit, window_ms=5 * DAY_MS, until_ms=30 * DAY_MS),
    "item_knn": partial(ItemKNN.fit, n_neighbors=10),
    "swing": _fit_swing,
    "cosine": CosineSource.fit,
    "weighted_score": _fit_weighted,
    "ease": partial(EASE.fit, regularization=10.0),
    "fresh": Fresh.fit,
    "business": lambda interactions: Business.of([f"i{i}" for i in range(N_ITEMS)][::-1], interactions.item_ids),
    **{kind: partial(_fit_blend, kind=kind) for kind in BLENDS},
    "batch": _fit_batch,
    "ials": partial(IALS.fit, n_factors=4, alpha=5.0, regularization=1.0, seed=3),
}


def _interactions() -> Interactions:
    # Users like items of their own half of the catalogue; the last three users did nothing, the last item is unknown.
    rng = np.random.default_rng(0)
    user = rng.integers(0, N_USERS - 3, 400)
    item = np.minimum(2 * rng.integers(0, N_ITEMS // 2, 400) + user % 2, N_ITEMS - 2)
    return Interactions(
        user_ids=np.array([f"u{i}" for i in range(N_USERS)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(N_ITEMS)], dtype=object),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp=rng.integers(0, 30 * DAY_MS, 400),
        action=(rng.random(400) < 0.3).astype(np.int16),
        actions=tuple(SCORES),
    )


def _states(users: list[int], *, history: list[list[int]] | None = None, excluded: Any = None) -> UserStates:
    rows = history or [[] for _ in users]
    runs = [[]] * len(users) if excluded is None else excluded
    return UserStates(
        user=np.array(users, np.int32),
        at_ms=np.full(len(users), 30 * DAY_MS, np.int64),
        history=np.array([[-1] * (4 - len(row)) + row for row in rows], np.int32).reshape(len(users), 4),
        features={},
        excluded_indptr=np.concatenate([[0], np.cumsum([len(run) for run in runs])]).astype(np.int64),
        excluded=np.concatenate([np.array([], np.int32), *[np.array(run, np.int32) for run in runs]]).astype(np.int32),
    )


def _evident(source: CandidateSource, state: UserStates) -> set[int]:
    """The items that something speaks for, for one user: for what is near what was liked, those of the user's half."""
    interactions = _interactions()
    # What came into the catalogue is new, as long as nobody took it.
    if isinstance(source, Business) or (
        isinstance(source, Blend) and any(isinstance(one, Fresh) for one in source.sources)
    ):
        return set(range(N_ITEMS))
    taken = set(interactions.item.tolist())
    liked = {*interactions.item[interactions.user == state.user[0]].tolist(), *state.history[0].tolist()} - {-1}
    if isinstance(source, ItemKNN | SwingSource | CosineSource | EASE) and liked:
        return {item for item in taken if item % 2 in {one % 2 for one in liked}}
    return taken


def _everybody() -> UserStates:
    """Known users with what they saw excluded, one who did nothing, two who are unknown, one of them with a history."""
    interactions = _interactions()
    users = [*range(8), N_USERS - 1, -1, -1]
    seen = [np.unique(interactions.item[interactions.user == user]).tolist() for user in users[:8]]
    history = [*[[] for _ in range(10)], [4, 6]]
    return _states(users, history=history, excluded=[*seen, [], [0, 3], [4, 6]])


@pytest.fixture(scope="module", params=SOURCES)
def fit(request: pytest.FixtureRequest) -> Fit:
    return SOURCES[request.param]


@cache
def _fitted(fit: Fit) -> CandidateSource:
    return fit(_interactions())


@pytest.fixture(scope="module")
def source(fit: Fit) -> CandidateSource:
    return _fitted(fit)


def test_every_class_that_finds_candidates_is_under_test(classes_with: Callable[..., set[type]]):
    assert classes_with("rec.retrieval", "candidates", "save", "name") == {
        type(_fitted(fit)) for fit in SOURCES.values()
    }


def test_every_source_a_config_can_name_can_be_fitted_and_loaded_and_is_under_test():
    named = set(get_args(OtherSource))
    assert set(get_args(FirstSource)) <= named
    assert SOURCE_FITS.keys() == SOURCE_LOADS.keys() == named - {"two_tower"}
    assert named <= SOURCES.keys()


def test_lists_are_the_best_first_ties_by_item_without_repeats(source: CandidateSource):
    found = source.candidates(_everybody(), 6)
    assert (found.items.shape, found.items.dtype) == ((11, 6), np.int32)
    assert (found.scores.shape, found.scores.dtype) == ((11, 6), np.float64)
    assert found.source == source.name
    for items, scores in zip(found.items, found.scores, strict=True):
        n = int((items >= 0).sum())
        assert len(set(items[:n].tolist())) == n > 0 and (items[n:] == -1).all()
        assert (items < N_ITEMS).all() and np.isfinite(scores[:n]).all() and np.isneginf(scores[n:]).all()
        assert all((-scores[i], items[i]) < (-scores[i + 1], items[i + 1]) for i in range(n - 1))


def test_what_nothing_speaks_for_is_no_candidate_and_everything_else_is(source: CandidateSource):
    states = _states([*range(8), N_USERS - 1, -1, -1], history=[*[[] for _ in range(10)], [4, 6]])
    found = source.candidates(states, N_ITEMS + 2)
    for row in range(len(states)):
        items = found.items[row][found.items[row] >= 0].tolist()
        assert sorted(items) == sorted(_evident(source, states.rows(slice(row, row + 1))))


def test_an_item_near_nothing_that_a_user_likes_is_not_found_near_it():
    # User 3 alone took item 24, and no other: nobody else's items are near it, nor it near theirs.
    log = _interactions()
    log = log.take(log.user != 3)
    alone = replace(
        log,
        **{name: np.append(getattr(log, name), new) for name, new in (("user", 3), ("item", 24), ("timestamp", 0))},
        action=None,
        actions=(),
    )
    for kind in ("item_knn", "swing", "cosine", "ease"):
        source = SOURCES[kind](alone)
        assert (source.candidates(_states([3], excluded=[[24]]), 5).items == -1).all()
        assert 24 not in source.candidates(_states([0, 1]), N_ITEMS).items


def test_excluded_items_are_never_found(source: CandidateSource):
    states = _everybody()
    found = source.candidates(states, N_ITEMS)
    for row in range(len(states)):
        excluded = states.excluded[states.excluded_indptr[row] : states.excluded_indptr[row + 1]]
        assert not np.isin(found.items[row], excluded).any()


def test_a_list_ends_where_the_catalogue_does(source: CandidateSource):
    everything_but_two = [item for item in range(N_ITEMS) if item not in (5, 8)]
    found = source.candidates(_states([0, -1, 1], excluded=[everything_but_two, list(range(N_ITEMS)), []]), N_ITEMS + 7)
    left = {5, 8} & _evident(source, _states([0]))
    assert set(found.items[0, : len(left)].tolist()) == left and (found.items[0, len(left) :] == -1).all()
    assert (found.items[1] == -1).all() and (found.items[2] >= 0).any()
    assert (np.isneginf(found.scores) == (found.items == -1)).all()


def test_shorter_lists_are_the_beginning_of_longer_ones(source: CandidateSource):
    states = _everybody()
    np.testing.assert_array_equal(source.candidates(states, 3).items, source.candidates(states, 12).items[:, :3])


def test_a_loaded_source_finds_the_same(fit: Fit, source: CandidateSource, tmp_path: Path):
    files = source.save(tmp_path)
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir())
    states = _everybody()
    before, after = source.candidates(states, 10), _load(source, tmp_path).candidates(states, 10)
    np.testing.assert_array_equal(before.items, after.items)
    np.testing.assert_array_equal(before.scores, after.scores)


def test_files_that_are_missing_or_damaged_are_named(source: CandidateSource, tmp_path: Path):
    first = source.save(tmp_path)[0]
    (tmp_path / first).unlink()
    with pytest.raises(BundleError, match=first):
        _load(source, tmp_path)
    for name in source.save(tmp_path):
        (tmp_path / name).write_bytes(b"\x80\x04]q\x00.")
        with pytest.raises(BundleError) as damaged:
            _load(source, tmp_path)
        assert damaged.value.file == str(tmp_path / name)
        source.save(tmp_path)


def test_fitting_again_under_the_same_seed_finds_the_same(fit: Fit, source: CandidateSource):
    states = _everybody()
    before, again = source.candidates(states, 10), fit(_interactions()).candidates(states, 10)
    np.testing.assert_array_equal(before.items, again.items)
    np.testing.assert_allclose(before.scores, again.scores, rtol=1e-5)


def test_unknown_users_and_empty_histories_get_an_answer_and_the_same_one(source: CandidateSource):
    never_seen, did_nothing, beyond_the_table = N_USERS - 1, -1, N_USERS + 100
    found = source.candidates(_states([did_nothing, never_seen, beyond_the_table]), 8)
    assert (found.items >= 0).all() and np.isfinite(found.scores).all()
    assert (found.items == found.items[0]).all()


def test_the_same_user_asked_twice_gets_the_same_list(source: CandidateSource):
    found = source.candidates(_states([3, 5, 3, 3]), 8)
    assert (found.items[[2, 3]] == found.items[0]).all()


def test_users_do_not_see_who_else_asks(source: CandidateSource):
    states = _everybody()
    together = source.candidates(states, 8)
    for row in range(len(states)):
        alone = source.candidates(states.rows(slice(row, row + 1)), 8)
        np.testing.assert_array_equal(alone.items[0], together.items[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5)


def test_nobody_asks(source: CandidateSource):
    assert source.candidates(_states([]), 8).items.shape == (0, 8)


def test_an_item_twice_among_the_excluded_or_in_the_history_changes_nothing(source: CandidateSource):
    once = source.candidates(_states([-1], history=[[4, 6]], excluded=[[4, 6]]), 8)
    twice = source.candidates(_states([-1], history=[[4, 6, 4, 6]], excluded=[[6, 4, 4, 6]]), 8)
    np.testing.assert_array_equal(once.items, twice.items)


def test_repeated_interactions_are_accepted(fit: Fit):
    interactions = _interactions()
    doubled = interactions.take(np.repeat(np.arange(len(interactions)), 2))
    states = _everybody()
    found = fit(doubled).candidates(states, 8)
    if fit in (SOURCES["two_tower"], SOURCES["weighted_score"], SOURCES["blend_with_weighted_score"]):
        # What is learned from twice as many rows, or viewed twice as often, is not the same; it has to be as valid.
        assert (found.items >= 0).all() and np.isfinite(found.scores).all()
    else:
        np.testing.assert_array_equal(found.items, fit(interactions).candidates(states, 8).items)


def test_a_source_of_a_bundle_that_is_extended_finds_the_same_among_the_others(source: CandidateSource, tmp_path: Path):
    if source.name not in SOURCE_LOADS:
        return
    assert isinstance(source, ExtensibleSource)
    states, added = _everybody(), 3
    extended = source.extended(N_ITEMS + added)
    found, before = extended.candidates(states, N_ITEMS + added).items, source.candidates(states, N_ITEMS).items
    for row, expected in zip(found, before, strict=True):
        np.testing.assert_array_equal(row[(row >= 0) & (row < N_ITEMS)], expected[expected >= 0])
    newest = _states([0, -1], history=[[N_ITEMS + 1], []], excluded=[[N_ITEMS + 2], [N_ITEMS]])
    assert not (extended.candidates(newest, N_ITEMS + added).items == [[N_ITEMS + 2], [N_ITEMS]]).any()
    extended.save(tmp_path)
    again = _load(extended, tmp_path).candidates(newest, N_ITEMS + added)
    np.testing.assert_array_equal(again.items, extended.candidates(newest, N_ITEMS + added).items)
