"""Groups of items, how unequally they are shown, and lists under a cap."""

import numpy as np
import pandas as pd
import pytest

from rec.config import RulesConfig
from rec.eligibility import GroupCap
from rec.errors import ConfigError
from rec.exposure import exposure
from rec.item_groups import ItemCap, ItemGroups, gini

ITEMS = pd.DataFrame(
    {
        "item_id": list("abcdef"),
        "creator": ["x", "y", "x", None, "z", "x"],
        "year": [1999.0, 2000.0, 1999.0, np.nan, 2000.0, 2001.0],
        "genres": [["q"], [], ["q", "r"], [], [], []],
    }
)


def test_groups_are_the_values_of_a_column_and_missing_ones_are_none():
    by_creator = ItemGroups.of(ITEMS, "creator", field="exposure")
    assert by_creator.names.tolist() == ["x", "y", "z"]
    assert by_creator.codes.tolist() == [0, 1, 0, -1, 2, 0]
    assert ItemGroups.of(ITEMS, "year", field="exposure").names.tolist() == ["1999", "2000", "2001"]


@pytest.mark.parametrize(("column", "message"), [("author", "creator, year, genres"), ("genres", "one value an item")])
def test_a_column_that_makes_no_groups_is_refused(column: str, message: str):
    with pytest.raises(ConfigError, match=message) as raised:
        ItemGroups.of(ITEMS, column, field="rules.cap_column")
    assert raised.value.field == "rules.cap_column"


def test_gini_is_the_mean_difference_over_twice_the_mean():
    shares = np.random.default_rng(0).random(9)
    expected = np.abs(shares[:, None] - shares).mean() / (2 * shares.mean())
    assert gini(shares) == pytest.approx(expected)
    assert gini(7 * shares) == pytest.approx(expected)
    assert gini(np.ones(5)) == pytest.approx(0.0)
    assert gini(np.array([0.0, 0.0, 0.0, 2.0])) == pytest.approx(1 - 1 / 4)
    assert gini(np.zeros(3)) == 0.0


def test_exposure_counts_what_is_shown():
    groups = ItemGroups.of(ITEMS, "creator", field="exposure")
    shown = exposure(groups, {"lists": np.array([[0, 1, 3], [2, 0, -1]])})["models"]["lists"]
    assert shown["largest"] == pytest.approx({"x": 3 / 5, "y": 1 / 5})
    assert (shown["top_share"], shown["none"], shown["shown"]) == pytest.approx((3 / 5, 1 / 5, 2 / 3))


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_list_under_a_cap_takes_from_the_top_all_that_it_may(limit: int):
    rng = np.random.default_rng(limit)
    groups = rng.integers(-1, 4, 20)
    lists = np.stack([rng.permutation(20)[:12] for _ in range(50)])
    lists[:, 10:] = np.where(rng.random((50, 2)) < 0.5, -1, lists[:, 10:])
    found = GroupCap(groups, limit).fits(lists)
    for row, items in enumerate(lists):
        taken: list[int] = []
        for column, item in enumerate(items):
            may = item < 0 or groups[item] < 0 or sum(groups[other] == groups[item] for other in taken) < limit
            assert found[row, column] == may
            taken += [int(item)] if may and item >= 0 else []


def test_of_nothing_shown_nobody_has_a_share():
    groups = ItemGroups.of(ITEMS, "creator", field="exposure")
    shown = exposure(groups, {"lists": np.full((2, 3), -1)})["models"]["lists"]
    assert shown == {"gini": 0.0, "top_share": 0.0, "shown": 0.0, "none": 0.0, "largest": {}}


def test_a_cap_by_id_holds_for_any_list_of_items_and_leaves_the_others_free():
    cap = ItemCap.of(RulesConfig(cap_column="creator", cap_limit=2), ITEMS)
    assert cap is not None and cap.group_of == {"a": "x", "b": "y", "c": "x", "e": "z", "f": "x"}
    found = cap.of_items(np.array(["f", "unknown", "e", "d", "a"], dtype=object))
    # d has no creator, and of what is unknown none is known.
    assert found.groups.tolist() == [0, -1, 2, -1, 0] and found.limit == 2
    more = ItemCap("creator", 2, {"f": "x", "g": "y"})
    assert cap.joined(more).group_of == {**cap.group_of, "g": "y"}
    for other, message in ((ItemCap("creator", 1, {}), "caps differ"), (ItemCap("creator", 2, {"a": "y"}), "item 'a'")):
        with pytest.raises(ConfigError, match=message):
            cap.joined(other)
    assert ItemCap.of(RulesConfig(), ITEMS) is None
