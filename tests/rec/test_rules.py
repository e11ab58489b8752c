from dataclasses import replace

import numpy as np
import pytest

from rec.config import RulesConfig
from rec.data.dataset import Interactions
from rec.errors import ConfigError
from rec.features.snapshot import Snapshot
from rec.rules import boosts_of, cap_of

DAY_MS = 86_400_000


def _snapshot(checkerboard) -> Snapshot:
    """Item i had its first event i days before the cut, and the last ten none at all."""
    ids = checkerboard.dataset.interactions
    n = ids.n_items - 10
    times = checkerboard.cut_ms - DAY_MS * np.arange(n).clip(1)
    log = Interactions(ids.user_ids, ids.item_ids, np.zeros(n, np.int32), np.arange(n, dtype=np.int32), times)
    return Snapshot.build(checkerboard.dataset, checkerboard.encoders, log, checkerboard.cut_ms, 5)


def test_the_fresh_boost_halves_with_every_half_life(checkerboard):
    boosts = boosts_of(RulesConfig(fresh_boost=0.8, fresh_half_life_days=10), _snapshot(checkerboard))
    assert boosts is not None
    np.testing.assert_allclose(boosts[[10, 20, 30]], [0.4, 0.2, 0.1], rtol=1e-4)
    np.testing.assert_array_equal(boosts[-11:], [*[0.8] * 10, 0.0])


def test_without_a_boost_nothing_is_added(checkerboard):
    assert boosts_of(RulesConfig(), _snapshot(checkerboard)) is None
    with pytest.raises(ValueError, match="fresh_half_life_days has no effect"):
        RulesConfig(fresh_half_life_days=3)


def _by_creator(checkerboard) -> Snapshot:
    """Items of x, y and z in turn, and every fourth of nobody."""
    snapshot = _snapshot(checkerboard)
    creators = [None if item % 4 == 3 else "xyz"[item % 4] for item in range(len(snapshot.item_ids))]
    return replace(snapshot, item_table=snapshot.item_table.assign(creator=creators))


def test_each_item_has_the_boost_of_its_value_and_without_a_value_none(checkerboard):
    snapshot, rules = _by_creator(checkerboard), RulesConfig(boost_column="creator", boosts={"z": -0.5, "x": 0.25})
    boosts = boosts_of(rules, snapshot)
    expected = [(0.25, 0.0, -0.5, 0.0)[item % 4] for item in range(len(snapshot.item_ids))]
    assert boosts is not None
    np.testing.assert_array_equal(boosts, [*expected, 0.0])
    both = boosts_of(RulesConfig(**rules.model_dump() | {"fresh_boost": 0.8}), snapshot)
    fresh = boosts_of(RulesConfig(fresh_boost=0.8), snapshot)
    assert both is not None and fresh is not None
    np.testing.assert_allclose(both, boosts + fresh)


def test_a_cap_is_on_the_values_and_its_limit_that_of_the_config(checkerboard):
    items = _by_creator(checkerboard).item_table
    cap = cap_of(RulesConfig(cap_column="creator", cap_limit=3), items)
    assert cap is not None and cap.limit == 3
    np.testing.assert_array_equal(cap.groups[:8], [0, 1, 2, -1] * 2)
    assert cap_of(RulesConfig(), items) is None
    for rules, rule in (
        (RulesConfig(cap_column="author"), cap_of),
        (RulesConfig(boost_column="author", boosts={"x": 1.0}), lambda r, _: boosts_of(r, _by_creator(checkerboard))),
    ):
        with pytest.raises(ConfigError, match="feature of the items"):
            rule(rules, items)


def test_a_value_that_no_item_has_is_named(checkerboard):
    rules = RulesConfig(boost_column="creator", boosts={"x": 1.0, "w": 2.0})
    with pytest.raises(ConfigError, match=r"no item's creator is w; take it out of rules\.boosts") as refused:
        boosts_of(rules, _by_creator(checkerboard))
    assert refused.value.field == "rules.boosts"


@pytest.mark.parametrize("changed", [{"boosts": {"x": 1e308}}, {"fresh_boost": -1e7}, {"fresh_half_life_days": 1e-320}])
def test_numbers_beyond_those_of_scores_and_times_are_refused(changed):
    with pytest.raises(ValueError, match=rf"{next(iter(changed))}[^\n]*\n.*equal to"):
        RulesConfig.model_validate({"boost_column": "creator", "boosts": {"x": 1.0}, "fresh_boost": 1.0, **changed})


@pytest.mark.parametrize("days", [1 / 1440, 1e300])
def test_the_shortest_and_the_longest_half_life_give_boosts(checkerboard, days):
    with np.errstate(all="raise", under="ignore"):
        boosts = boosts_of(RulesConfig(fresh_boost=1e6, fresh_half_life_days=days), _snapshot(checkerboard))
    assert boosts is not None and np.isfinite(boosts).all() and boosts.max() == 1e6
