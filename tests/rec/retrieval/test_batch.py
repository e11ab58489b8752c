"""A table of candidates as a source: the lists as they were written, for users and items as they are now."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from rec.candidate_parts import SCHEMA, CandidateJob
from rec.candidate_tables import CandidateFolder, CandidateRows, read_candidates
from rec.config import RankerConfig, SourcesConfig, TrainConfig
from rec.data.dataset import Dataset, Interactions
from rec.errors import DataError
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot
from rec.retrieval.batch import BatchSource
from rec.retrieval.blend import Blend
from rec.retrieval.popularity import Popularity
from rec.schema import FeatureSchema
from rec.source_fits import as_retriever, fit_sources
from rec.state import Candidates, UserStates

LISTS = {"ann": [("c", 0.9), ("a", 0.5), ("gone", 0.4), ("b", -2.0)], "bob": [("d", 0.1)], "left": [("a", 1.0)]}


def _snapshot(users: list[str], items: str) -> Snapshot:
    n = len(items)
    interactions = Interactions(
        user_ids=np.array(users, dtype=object),
        item_ids=np.array(list(items), dtype=object),
        user=np.zeros(n, np.int32),
        item=np.arange(n, dtype=np.int32),
        timestamp=np.arange(n, dtype=np.int64),
    )
    frames = pd.DataFrame({"user_id": interactions.user_ids}), pd.DataFrame({"item_id": interactions.item_ids})
    dataset = Dataset("test", interactions, *frames, FeatureSchema(), "")
    # Nobody has seen anything at time 0, so that only what a test excludes is excluded.
    return Snapshot.build(dataset, Encoders.fit(dataset, interactions), interactions, 0, 4)


def _popularity(items: str, order: str) -> Popularity:
    return Popularity(np.array([len(order) - order.index(item) for item in items], np.float64))


def _write(folder: Path, lists: dict[str, list[tuple[str, float]]], kind: str = "parquet") -> CandidateRows:
    job = CandidateJob(version="v", k=4, ranked=False, n_users=len(lists), users_sha256=None, users_per_part=1)
    table = CandidateFolder(str(folder), "delta" if kind == "delta" else "parquet")
    with table.reserved():
        sizes = {}
        for number, (user_id, listed) in enumerate(lists.items()):
            rows = [
                {"user_id": user_id, "rank": rank, "item_id": item, "score": score, "source": "two_tower"}
                for rank, (item, score) in enumerate(listed)
            ]
            sizes[number] = table.write_part(job, number, pa.Table.from_pylist(rows, schema=SCHEMA))
        table.finish(job, sizes)
    return read_candidates(str(folder))


def _found(source: BatchSource, snapshot: Snapshot, user: str, k: int, exclude: str = "") -> list[tuple[str, float]]:
    excluded = [snapshot.item_positions(list(exclude))]
    found = source.candidates(snapshot.user_states(snapshot.user_positions([user]), excluded), k)
    items = found.items[0][found.items[0] >= 0]
    return list(zip(snapshot.item_ids[items].tolist(), found.scores[0].tolist(), strict=False))


@pytest.mark.parametrize("kind", ["parquet", "delta"])
def test_lists_are_found_by_the_ids_of_users_and_items(tmp_path: Path, kind: str):
    rows = _write(tmp_path, LISTS, kind)
    assert rows.job is not None and rows.job.version == "v"
    snapshot = _snapshot(["zoe", "bob", "ann"], "dcbae")
    source = BatchSource.build(rows, snapshot, _popularity("dcbae", "edcba"))
    assert source.items.shape == (3, 4)
    assert _found(source, snapshot, "ann", 3) == [("c", 0.9), ("a", 0.5), ("b", -2.0)]
    assert _found(source, snapshot, "ann", 2, exclude="c") == [("a", 0.5), ("b", -2.0)]
    assert _found(source, snapshot, "bob", 1) == [("d", 0.1)]


def test_the_order_is_that_of_the_ranks_also_where_scores_say_otherwise(tmp_path: Path):
    rows = _write(
        tmp_path, {"ann": [("c", 0.1), ("gone", 3.0), ("a", 0.9), ("b", 0.1)], "bob": [("b", 0.2), ("a", 0.2)]}
    )
    snapshot = _snapshot(["ann", "bob"], "abc")
    source = BatchSource.build(rows, snapshot, _popularity("abc", "abc"))
    assert _found(source, snapshot, "ann", 3) == [("c", 0.0), ("a", -1.0), ("b", -2.0)]
    assert [item for item, _ in _found(source, snapshot, "bob", 2)] == ["b", "a"]


def test_a_list_that_ended_goes_on_with_what_the_fallback_finds(tmp_path: Path):
    snapshot = _snapshot(["zoe", "bob", "ann"], "dcbae")
    source = BatchSource.build(_write(tmp_path, LISTS), snapshot, _popularity("dcbae", "edcba"))
    # Popularity has e, d, c, b, a; what the list has is not found again, and the rest stands below its lowest score.
    assert _found(source, snapshot, "ann", 9) == [("c", 0.9), ("a", 0.5), ("b", -2.0), ("e", -3.0), ("d", -4.0)]
    assert _found(source, snapshot, "ann", 3, exclude="cab") == [("e", -3.0), ("d", -4.0)]
    assert _found(source, snapshot, "zoe", 2) == [("e", 5.0), ("d", 4.0)]
    assert _found(source, snapshot, "nobody", 2, exclude="e") == [("d", 4.0), ("c", 3.0)]


def test_a_loaded_source_keeps_its_lists_on_the_disk(tmp_path: Path):
    snapshot = _snapshot(["bob", "ann"], "abcd")
    fallback = _popularity("abcd", "abcd")
    source = BatchSource.build(_write(tmp_path / "table", LISTS), snapshot, fallback)
    assert source.save(tmp_path) == ["batch.safetensors"]
    loaded = BatchSource.load(tmp_path, fallback)
    assert isinstance(loaded.items, np.memmap) and isinstance(loaded.list_scores, np.memmap)
    assert _found(loaded, snapshot, "ann", 4) == _found(source, snapshot, "ann", 4)


def test_of_the_lists_on_the_disk_no_more_is_held_than_is_asked_for(resident_mib: Any, tmp_path: Path):
    snapshot, n_users = _snapshot(["ann"], "abcd"), 200_000
    lists = np.tile(np.arange(4, dtype=np.int32), (n_users, 1))
    popularity = _popularity("abcd", "abcd")
    BatchSource(lists, -lists.astype(np.float64), 4, popularity).save(tmp_path)
    loaded, file = BatchSource.load(tmp_path, popularity), tmp_path / "batch.safetensors"
    for first in range(0, n_users, 20_000):
        states = snapshot.user_states(np.zeros(250, np.int64))
        states = replace(states, user=np.arange(first, first + 250, dtype=np.int32))
        assert (loaded.candidates(states, 2).items == [0, 1]).all()
        assert resident_mib(file) < 1
    assert loaded.list_scores.min() == -3 and resident_mib(file) > 5


def test_a_table_of_nobody_known_is_the_fallback(tmp_path: Path):
    snapshot = _snapshot(["zoe"], "abc")
    source = BatchSource.build(_write(tmp_path / "table", {"left": [("a", 1.0)]}), snapshot, _popularity("abc", "cba"))
    source.save(tmp_path)
    for either in (source, BatchSource.load(tmp_path, source.fallback)):
        assert _found(either, snapshot, "zoe", 2) == [("c", 3.0), ("b", 2.0)]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(tmp_path: Path, wrong: float):
    rows = _write(tmp_path, {"ann": [("a", 1.0), ("b", wrong)]})
    with pytest.raises(DataError, match="scores are finite") as refused:
        BatchSource.build(rows, _snapshot(["ann"], "ab"), _popularity("ab", "ab"))
    assert refused.value.row == 1


def test_a_config_blends_the_lists_of_a_table_where_they_answer_and_nowhere_they_would_tell_the_future(tmp_path: Path):
    snapshot = _snapshot(["ann", "bob", "new"], "abcde")
    table = str(tmp_path / "table")
    _write(Path(table), LISTS)
    sources = SourcesConfig(first="ease", quotas={"batch": 2}, batch=table)
    config = TrainConfig(sources=sources, ranker=RankerConfig(n_candidates=4))
    seen = Interactions(
        snapshot.user_ids, snapshot.item_ids, np.array([2], np.int32), np.array([4], np.int32), np.array([-1], np.int64)
    )
    two_tower: Any = NamedSource("two_tower")
    states = snapshot.user_states(snapshot.user_positions(["ann"]))

    answering = as_retriever(two_tower, fit_sources(seen, snapshot, config), config)
    assert isinstance(answering, Blend) and answering.quotas == (2, 2)
    found = answering.candidates(states, 4)
    by_batch = {snapshot.item_ids[item] for item, names in _named(found) if "batch" in names}
    assert by_batch == {"c", "a"}

    learning = as_retriever(two_tower, fit_sources(seen, snapshot, config, answering=False), config)
    assert isinstance(learning, Blend) and learning.quotas == (4,)
    assert {name for _, names in _named(learning.candidates(states, 4)) for name in names} == {"ease"}


def test_a_table_that_is_not_there_is_named_before_anything_is_fitted(tmp_path: Path):
    sources = SourcesConfig(quotas={"batch": 2}, batch=str(tmp_path / "nothing"))
    snapshot = _snapshot(["ann"], "ab")
    seen = Interactions(
        snapshot.user_ids, snapshot.item_ids, np.array([0], np.int32), np.array([0], np.int32), np.array([-1], np.int64)
    )
    with pytest.raises(DataError) as missing:
        fit_sources(seen, snapshot, TrainConfig(sources=sources))
    assert missing.value.file == str(tmp_path / "nothing")


@pytest.mark.parametrize("change", [{"quotas": {"batch": 2}}, {"batch": "candidates/2026-11-22"}])
def test_a_table_and_its_quota_need_each_other(change: dict[str, Any]):
    with pytest.raises(ValueError, match=r"quotas\.batch and batch"):
        SourcesConfig.model_validate(change)


@dataclass
class NamedSource:
    """A source that finds nothing."""

    name: str

    def candidates(self, states: UserStates, k: int) -> Candidates:
        return Candidates(np.full((len(states), k), -1, np.int32), np.full((len(states), k), -np.inf), self.name)


def _named(found: Candidates) -> list[tuple[int, tuple[str, ...]]]:
    return [(int(item), found.sources_of(0, column)) for column, item in enumerate(found.items[0]) if item >= 0]
