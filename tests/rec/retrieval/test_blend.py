"""Laws of a blend: quotas, one place an item, and who found it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rec.config import SourcesConfig, TrainConfig, parse_config
from rec.data.dataset import Interactions
from rec.errors import ConfigError
from rec.retrieval.blend import Blend, interleave
from rec.retrieval.business import Business
from rec.retrieval.fresh import Fresh
from rec.state import Candidates, UserStates

N_ITEMS = 30
NOBODY: Any = None


@dataclass
class Listed:
    """A source of fixed lists."""

    name: str
    lists: np.ndarray

    def candidates(self, states: UserStates, k: int) -> Candidates:
        lists = np.pad(self.lists, ((0, 0), (0, k)), constant_values=-1)[:, :k].astype(np.int32)
        return Candidates(lists, np.where(lists >= 0, -np.arange(k, dtype=float), -np.inf), self.name)

    def save(self, folder: Path) -> list[str]:
        return [self.name]


def blend(quotas: list[int], *lists: list[list[int]]) -> Blend:
    sources = tuple(Listed(f"s{place}", np.array(one)) for place, one in enumerate(lists))
    return Blend(sources, tuple(quotas), sources[0])  # pyright: ignore[reportArgumentType]


def found_by_definition(
    quotas: list[int], lists: list[list[int]], k: int
) -> tuple[list[int], dict[int, tuple[str, ...]]]:
    """One user's blend, item by item: all places of all items, the earliest of each, in order."""
    places: dict[int, float] = {}
    names: dict[int, list[str]] = {}
    for source, (quota, items) in enumerate(zip(quotas, lists, strict=True)):
        for place, item in enumerate(items):
            if source == 0 or place < quota:
                places[item] = min(places.get(item, np.inf), (place + 0.5) / quota)
                names.setdefault(item, [])
                if place < quota:
                    names[item].append(f"s{source}")
    order = sorted(places, key=lambda item: (places[item], item))[:k]
    return order, {item: tuple(names[item]) or ("s0",) for item in order}


@pytest.mark.parametrize("seed", range(20))
def test_items_and_sources_are_those_of_the_definition(seed: int):
    rng = np.random.default_rng(seed)
    quotas = rng.integers(1, 7, 4).tolist()
    lists = [[rng.permutation(N_ITEMS)[: rng.integers(0, N_ITEMS)].tolist() for _ in range(3)] for _ in quotas]
    padded = [[row + [-1] * (N_ITEMS - len(row)) for row in one] for one in lists]
    k = int(rng.integers(1, 25))
    found = blend(quotas, *padded).candidates(NOBODY, k)
    assert found.items.shape == (3, k)
    for row in range(3):
        # The first source is asked for as many as are wanted, or its quota.
        own = [lists[0][row][: max(k, quotas[0])], *(one[row] for one in lists[1:])]
        items, names = found_by_definition(quotas, own, k)
        assert found.items[row].tolist() == items + [-1] * (k - len(items))
        assert [found.sources_of(row, column) for column in range(len(items))] == [names[item] for item in items]
        assert np.isneginf(found.scores[row, len(items) :]).all()


def test_quotas_are_kept_and_what_is_left_is_the_first_ones():
    # 12 candidates: 2 of s1, 3 of s2, one of which s1 has, too, and so 8 of s0 where it has 7 in its quota.
    s0, s1, s2 = list(range(20)), [25, 26, 27], [28, 25, 29, 24]
    found = blend([7, 2, 3], [s0], [s1], [s2]).candidates(NOBODY, 12)
    assert set(found.items[0].tolist()) == {0, 1, 2, 3, 4, 5, 6, 25, 26, 28, 29, 7}
    by = {int(item): found.sources_of(0, column) for column, item in enumerate(found.items[0])}
    assert by[25] == ("s1", "s2")
    assert (by[26], by[28], by[7]) == (("s1",), ("s2",), ("s0",))
    assert found.items[0, -1] == 7


def test_a_blend_of_one_source_is_that_source():
    lists = np.random.default_rng(0).permuted(np.tile(np.arange(N_ITEMS), (5, 1)), axis=1).tolist()
    for quota in (1, 10):
        alone = blend([quota], lists)
        for k in (1, 10, 40):
            found = alone.candidates(NOBODY, k)
            np.testing.assert_array_equal(found.items, alone.sources[0].candidates(NOBODY, k).items)
            assert {found.sources_of(0, column) for column in range(min(k, N_ITEMS))} == {("s0",)}


def test_who_found_an_item_does_not_depend_on_how_many_are_asked_for():
    rng = np.random.default_rng(1)
    blended = blend([6, 5, 4], *([rng.permutation(N_ITEMS).tolist()] for _ in range(3)))
    long = blended.candidates(NOBODY, 15)
    short = blended.candidates(NOBODY, 4)
    np.testing.assert_array_equal(short.items, long.items[:, :4])
    assert [short.sources_of(0, c) for c in range(4)] == [long.sources_of(0, c) for c in range(4)]


def test_places_that_the_sources_leave_free_are_the_scorers_and_bear_its_name():
    # s0 knows nothing of the second user and of the third one item that s1 found, too.
    s0, s1 = [[3, 5, 7], [-1, -1, -1], [4, -1, -1]], [[9, 3, -1], [9, -1, -1], [4, 6, -1]]
    scorer = Listed("scorer", np.tile(np.arange(12), (3, 1)))
    sources = (Listed("s0", np.array(s0)), Listed("s1", np.array(s1)))
    filled = Blend(sources, (3, 2), scorer)  # pyright: ignore[reportArgumentType]
    found = filled.candidates(NOBODY, 6)
    assert found.items.tolist() == [[3, 9, 5, 7, 0, 1], [9, 0, 1, 2, 3, 4], [4, 6, 0, 1, 2, 3]]
    named = [[found.sources_of(row, column) for column in range(6)] for row in range(3)]
    assert named[0] == [("s0", "s1"), ("s1",), ("s0",), ("s0",), ("scorer",), ("scorer",)]
    assert named[1] == [("s1",)] + [("scorer",)] * 5
    assert named[2] == [("s0", "s1"), ("s1",)] + [("scorer",)] * 4
    assert (np.diff(found.scores, axis=1) < 0).all()
    # Fewer asked for, the beginning of this; a scorer that is a source, too, keeps its place among the names.
    np.testing.assert_array_equal(filled.candidates(NOBODY, 4).items, found.items[:, :4])
    led = Blend((sources[0], scorer), (3, 2), scorer).candidates(NOBODY, 6)  # pyright: ignore[reportArgumentType]
    assert led.provenance is not None and led.provenance.names == ("s0", "scorer")
    assert led.items[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert {led.sources_of(1, column) for column in range(6)} == {("scorer",)}


def test_nobody_asks_and_nothing_is_found():
    empty = np.zeros((0, 3), np.int32)
    assert [part.shape for part in interleave([empty, empty], [2, 2])] == [(0, 6)] * 3
    items, places, found_by = interleave([np.full((2, 3), -1, np.int32)], [2])
    assert (items == -1).all() and np.isinf(places).all() and (found_by == 0).all()


def _nobody(n: int, excluded: list[int]) -> UserStates:
    return UserStates(
        user=np.full(n, -1, np.int32),
        at_ms=np.zeros(n, np.int64),
        history=np.full((n, 1), -1, np.int32),
        features={},
        excluded_indptr=np.arange(n + 1, dtype=np.int64) * len(excluded),
        excluded=np.array(excluded * n, np.int32),
    )


def test_a_business_list_is_shown_in_its_order_and_without_what_is_excluded():
    item_ids = np.array(["a", "b", "c", "d"], dtype=object)
    listed = Business.of(["c", "a", "d"], item_ids)
    assert listed.candidates(_nobody(1, []), 5).items.tolist() == [[2, 0, 3, -1, -1]]
    assert listed.candidates(_nobody(2, [0]), 2).items.tolist() == [[2, 3], [2, 3]]


def test_a_business_list_names_what_is_not_in_the_catalogue():
    with pytest.raises(ConfigError, match="2 of 3 are not, the first 'x'") as raised:
        Business.of(["a", "x", "y"], np.array(["a", "b"], dtype=object))
    assert raised.value.field == "sources.business"


def test_what_nobody_took_is_as_fresh_as_its_place_in_the_catalogue():
    ids = np.array(list("abcd"), dtype=object)
    log = Interactions(ids[:1], ids, np.zeros(3, np.int32), np.array([0, 1, 1], np.int32), np.array([5, 9, 3]))
    found = Fresh.fit(log, np.array([1, 1, 4, 7])).candidates(_nobody(1, []), 4)
    assert found.items.tolist() == [[3, 0, 2, 1]]
    assert Fresh.fit(log).candidates(_nobody(1, []), 4).items.tolist() == [[0, 1, -1, -1]]


def test_fresh_items_are_the_latest_and_those_of_unknown_time_are_none():
    times = np.array([3.0, np.nan, 9.0, 5.0, 5.0, 20.0])
    found = Fresh.of(times, until=10).candidates(_nobody(1, []), 6)
    # 20 is still to come: at time 10 nobody knows it. Of what nothing is known, it is not known to be fresh.
    assert found.items.tolist() == [[2, 3, 4, 0, -1, -1]]
    assert Fresh.of(times, until=10).candidates(_nobody(1, [3]), 2).items.tolist() == [[2, 4]]


def test_an_item_is_as_old_as_its_first_interaction_and_one_added_is_newer_than_all():
    ids = np.array(list("abcd"), dtype=object)
    item, times = np.array([0, 1, 0, 2], np.int32), np.array([5, 20, 30, 10])
    fresh = Fresh.fit(Interactions(ids, ids, np.zeros(4, np.int32), item, times))
    assert fresh.candidates(_nobody(1, []), 4).items.tolist() == [[1, 2, 0, -1]]
    assert fresh.extended(6).candidates(_nobody(1, []), 6).items.tolist() == [[4, 5, 1, 2, 0, -1]]


def test_an_item_added_later_is_not_on_the_list():
    listed = Business.of(["b", "a"], np.array(["a", "b"], dtype=object)).extended(4)
    assert listed.candidates(_nobody(1, []), 4).items.tolist() == [[1, 0, -1, -1]]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"quotas": {"two_tower": 10}}, "two_tower is first"),
        ({"quotas": {"ease": 200, "fresh": 100}}, "must leave some of ranker.n_candidates 300 to two_tower"),
        ({"quotas": {"business": 5}}, "need each other"),
        ({"business": ["a"]}, "need each other"),
        ({"quotas": {"business": 5}, "business": ["a", "b", "a"]}, "name each item once; found a again"),
        ({"fresh_column": "year"}, "no effect without quotas.fresh"),
        ({"quotas": {"easy": 5}}, "easy"),
        ({"quotas": {"ease": 0}}, "greater than 0"),
        ({"first": "fresh"}, "first"),
    ],
)
def test_sources_that_cannot_be_are_refused(sources: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        parse_config(TrainConfig, {"sources": sources})


def test_the_order_of_sources_survives_a_manifest_that_sorts():
    config = SourcesConfig(first="popularity", quotas={"item_knn": 5, "ease": 3})
    assert config.names == ("popularity", "ease", "item_knn")
