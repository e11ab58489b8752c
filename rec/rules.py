"""Caps and boosts by a group of items, as a config names them, for a catalogue."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.config import RulesConfig
from rec.eligibility import GroupCap
from rec.errors import ConfigError
from rec.features.snapshot import Snapshot
from rec.item_groups import ItemGroups


def cap_of(rules: RulesConfig, items: pd.DataFrame) -> GroupCap | None:
    """The cap under which slates are drawn from a table of items; None where there is none.

    Raises: ConfigError: for a column that the items do not have, or not with one value each.
    """
    if rules.cap_column is None:
        return None
    return GroupCap(ItemGroups.of(items, rules.cap_column, field="rules.cap_column").codes, rules.cap_limit)


def boosts_of(rules: RulesConfig, snapshot: Snapshot) -> NDArray[np.float64] | None:
    """What is added to the ranker's score of each item, and 0 for no item (-1), (N + 1,); None where nothing is.

    boost of the item's group + fresh_boost * 2 ** (-age / fresh_half_life_days)

    Raises: ConfigError: for a column that the items do not have, or not with one value each, or a value that none has.
    """
    if rules.boost_column is None and not rules.fresh_boost:
        return None
    boosts = rules.fresh_boost * 0.5 ** (snapshot.item_age_days / rules.fresh_half_life_days)
    if rules.boost_column is not None:
        groups = ItemGroups.of(snapshot.item_table, rules.boost_column, field="rules.boost_column")
        unknown = sorted(set(rules.boosts) - set(groups.names))
        if unknown:
            raise ConfigError(
                f"boosts must be of values that items have; no item's {rules.boost_column} is {', '.join(unknown)}; "
                "take it out of rules.boosts, which change with training alone; when updating a model, leave it to one "
                "item at least",
                field="rules.boosts",
            )
        boosts = boosts + np.array([*(rules.boosts.get(name, 0.0) for name in groups.names), 0.0])[groups.codes]
    return np.append(boosts, 0.0)
