"""Sums that are kept from one training to the next: what is new is added, and nothing tells them from a rebuild."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file

from rec.catalogue import update_bundle
from rec.cli.training import TrainOptions, run_train
from rec.config import (
    CosineConfig,
    IncrementalConfig,
    LambdaMARTConfig,
    QueriesConfig,
    RankerConfig,
    RetrieverConfig,
    SourcesConfig,
    SplitConfig,
    TrainConfig,
    TrainingConfig,
)
from rec.data.dataset import Dataset, Interactions
from rec.i2i import INSTATOK_SCORES
from rec.neighbor_sums import NeighborSums, row_hashes
from rec.parent import came_back, not_there
from rec.pipeline import known_at_starts, train
from rec.preparation import prepare
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import InstaTok

SOURCES = SourcesConfig(quotas={"swing": 5, "cosine": 5}, cosine=CosineConfig(scores=dict(INSTATOK_SCORES)))
CONFIG = TrainConfig(
    sources=SOURCES,
    split=SplitConfig(kind="none"),
    retriever=RetrieverConfig(output_dim=8, queries=QueriesConfig(min_batches=2)),
    ranker=RankerConfig(
        n_candidates=30, min_positives=1, lambdamart=LambdaMARTConfig(trees=5, min_trees=5, min_data_in_leaf=5)
    ),
    training=TrainingConfig(workers=0, epochs=1),
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return InstaTok(InstaTokConfig(n_users=40, n_videos=60, sessions_per_user=6)).dataset()


@pytest.fixture(scope="module")
def log(dataset: Dataset) -> Interactions:
    return dataset.interactions


def _liked(log: Interactions) -> Interactions:
    return log.positives(min_rating=0, positive_actions=("liked", "watched"))


def _of(log: Interactions, kept: NeighborSums | None = None, config: TrainConfig = CONFIG) -> NeighborSums:
    return (kept or NeighborSums()).go_on(_liked(log), log, config)


def _assert_same(left: NeighborSums, right: NeighborSums) -> None:
    assert left.by_name.keys() == right.by_name.keys() == {"swing", "cosine"}
    for name, counted in left.by_name.items():
        other = right.by_name[name]
        assert_array_equal(counted.rows, other.rows)
        near, theirs = counted.sums.neighbors(), other.sums.neighbors()
        for field in ("item_ids", "indptr", "indices", "scores"):
            assert_array_equal(getattr(near, field), getattr(theirs, field))


def _added(sums: NeighborSums) -> dict[str, int]:
    return {name: counted.n_added for name, counted in sums.by_name.items()}


def test_what_is_new_is_added_whenever_it_happened(log: Interactions):
    """A third of the log comes late, from any time, and with it ids that sort before all others."""
    rng = np.random.default_rng(0)
    first = rng.random(len(log)) < 2 / 3
    moved = np.roll(np.arange(log.n_users), 1)
    later = replace(log, user_ids=log.user_ids[np.argsort(moved)], user=moved[log.user].astype(np.int32))
    kept = _of(log.take(first))
    sums = _of(later, kept)
    _assert_same(sums, _of(later))
    assert _added(sums) == {"swing": len(_liked(log)) - len(kept.by_name["swing"]), "cosine": int((~first).sum())}
    assert _added(_of(later, sums)) == {"swing": 0, "cosine": 0}


@pytest.mark.parametrize("what", ["rows", "ids", "config", "seed"])
def test_what_does_not_go_on_is_counted_anew(log: Interactions, what: str):
    kept, config = _of(log), CONFIG
    if what == "rows":
        log = log.take(np.arange(len(log)) != 7)
        expected = {"swing": len(_liked(log)), "cosine": len(log)}
        if len(_liked(log)) == len(kept.by_name["swing"]):
            expected["swing"] = 0
    elif what == "ids":
        log = replace(log, item_ids=np.array([f"other-{item}" for item in log.item_ids], dtype=object))
        expected = {"swing": len(_liked(log)), "cosine": len(log)}
    elif what == "config":
        scores = CosineConfig(scores={**INSTATOK_SCORES, "other": 0.0})
        config = CONFIG.model_copy(update={"sources": SOURCES.model_copy(update={"cosine": scores})})
        expected = {"swing": 0, "cosine": len(log)}
    else:
        config = CONFIG.model_copy(update={"seed": 1})
        expected = {"swing": len(_liked(log)), "cosine": 0}
    sums = _of(log, kept, config)
    assert _added(sums) == expected
    _assert_same(sums, _of(log, config=config))


def test_an_interaction_that_is_there_twice_counts_twice(log: Interactions):
    twice = log.take(np.sort(np.append(np.arange(len(log)), [3, 3, 9])))
    assert len(np.unique(row_hashes(twice))) == len(twice)
    assert set(row_hashes(log)) < set(row_hashes(twice))
    sums = _of(twice, _of(log))
    assert _added(sums)["cosine"] == 3
    _assert_same(sums, _of(twice))


def test_they_are_kept_beside_the_versions_that_are_needed(log: Interactions, tmp_path: Path):
    home, sums = Home(tmp_path), _of(log)
    for version in ("a", "b", "c"):
        sums.save(home, version, keep=("a",))
    assert home.children("sums") == ["a", "c"]
    found = NeighborSums.load(home, "c")
    _assert_same(found, sums)
    assert _added(_of(log, found)) == {"swing": 0, "cosine": 0}
    (damaged,) = (tmp_path / "sums" / "c").glob("swing-*")
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(bytes(content))
    assert NeighborSums.load(home, "c").by_name.keys() == {"cosine"}
    assert not NeighborSums.load(home, "b").by_name


def test_sums_of_another_unit_are_counted_anew(log: Interactions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = Home(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("rec.neighbor_sums.unit_bits", lambda config: 45)
        _of(log).save(home, "a")
    assert NeighborSums.load(home, "a").by_name.keys() == {"cosine"}


def test_training_goes_on_from_the_sums_and_the_catalogue_of_its_parent(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The parent is an update: it has the weights and sums of the version it was made from, and other items.

    Item 0 was withdrawn and item 1 withdrawn and given back; the last one was added, and nobody takes it.
    """
    ids = dataset.interactions.item_ids
    new = len(ids) - 1
    log = dataset.interactions.take(dataset.interactions.item != new)
    dataset = replace(dataset, interactions=log)
    cut_ms = int(np.quantile(log.timestamp, 0.9))
    yesterday = replace(
        dataset, interactions=replace(log.before(cut_ms), item_ids=ids[:new]), items=dataset.items.iloc[:new]
    )
    first = train(yesterday, CONFIG, str(tmp_path))
    added_ms = cut_ms + 1
    update_bundle(tmp_path, items=dataset.items.iloc[[new]], withdraw=[ids[0], ids[1]], now_ms=added_ms)
    update = update_bundle(tmp_path, items=dataset.items.iloc[[1]], now_ms=added_ms)
    later = CONFIG.model_copy(update={"incremental": IncrementalConfig(parent="CURRENT", epochs=1)})
    second = train(dataset, later, str(tmp_path))
    assert Home(tmp_path).children("sums") == [first["version"], second["version"]]
    assert (second["parent"]["version"], second["parent"]["withdrawn"]) == (update["version"], 1)
    snapshot = Recommender.load(tmp_path).snapshot
    assert_array_equal(np.flatnonzero(snapshot.withdrawn), [0])
    assert snapshot.added_ms[new] == added_ms < snapshot.at_ms
    assert snapshot.item_age_days[new] == pytest.approx((snapshot.at_ms - added_ms) / 86_400_000)
    assert not second["warnings"]

    anew = CONFIG.model_copy(update={"incremental": IncrementalConfig(catalogue="CURRENT")})
    third = train(dataset, anew, str(tmp_path), promote=False)
    assert third["catalogue"] == {"version": second["version"], "withdrawn": 1} and not third["warnings"]
    again = Recommender.load(tmp_path, third["version"])
    assert again.config.incremental.catalogue == second["version"]
    assert_array_equal(again.snapshot.withdrawn, snapshot.withdrawn)
    assert_array_equal(again.snapshot.added_ms, snapshot.added_ms)
    forgetful = train(dataset, CONFIG, str(tmp_path), promote=False)
    assert "1 items that are withdrawn in CURRENT" in forgetful["warnings"][0] and "catalogue" not in forgetful

    monkeypatch.setattr("rec.cli.training.read", lambda data: dataset)
    nothing = run_train(TrainOptions.model_validate({**later.model_dump(), "home": str(tmp_path)}))
    assert (nothing["trained"], nothing["version"]) == (False, second["version"]) and "nothing new" in nothing["reason"]
    registry = Registry(Home(tmp_path))
    assert registry.current() == second["version"] and registry.versions()[-1] == forgetful["version"]

    assert not came_back(Home(tmp_path), snapshot)
    (text,) = came_back(Home(tmp_path), replace(snapshot, withdrawn=np.zeros(len(ids), np.bool_)))
    assert f"1 items that are withdrawn in CURRENT, {second['version']}" in text and f"--withdraw {ids[0]})" in text
    (text,) = came_back(Home(tmp_path), replace(snapshot, withdrawn=np.zeros(len(ids), np.bool_)), version="other")
    assert f"(tandem models update --version other --no-promote --withdraw {ids[0]})" in text
    (text,) = not_there(Recommender.load(tmp_path), yesterday)
    assert f"1 items of {second['version']} are not in the data" in text and ids[new] in text
    for name, counted in second["counted"].items():
        assert 0 < counted["added"] == counted["n"] - first["counted"][name]["n"] < counted["n"] / 5
    anew = known_at_starts(prepare(dataset, CONFIG), CONFIG)[1][-1]
    folder = Registry(Home(tmp_path)).open(second["version"]).folder
    for name, source in anew.items():
        published, (expected,) = load_file(folder / f"{name}.safetensors"), source.save(tmp_path)
        for field, values in load_file(tmp_path / expected).items():
            assert_array_equal(published[field], values)


def test_any_number_of_tasks_counts_the_same_in_the_pipeline(dataset: Dataset, ray_session: None):
    ready = prepare(dataset, CONFIG)
    tasks = CONFIG.model_copy(update={"sources": SOURCES.model_copy(update={"tasks": 2})})
    _assert_same(known_at_starts(ready, tasks)[2], known_at_starts(ready, CONFIG)[2])
