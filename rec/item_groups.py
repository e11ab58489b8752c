"""Items by the value of a feature: creators, categories, and what is shown of each."""

from dataclasses import dataclass
from typing import Self, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.config import RulesConfig
from rec.eligibility import GroupCap
from rec.errors import ConfigError

BoolArray = NDArray[np.bool_]


@final
@dataclass(frozen=True, slots=True)
class ItemGroups:
    """Groups of items by one column.

    Attributes:
        column: of the items table.
        names: values of the column as strings, ascending, (G,).
        codes: group of each item, -1 where the column has no value, int64, (N,).
    """

    column: str
    names: NDArray[np.object_]
    codes: NDArray[np.int64]

    @classmethod
    def of(cls, items: pd.DataFrame, column: str, *, field: str) -> Self:
        """The groups of an items table.

        Raises: ConfigError: naming the option, when there is no such column, or its rows hold several values.
        """
        features = [name for name in items.columns if name not in ("item_id", "title")]
        if column not in features:
            raise ConfigError(
                f"must be a feature of the items ({', '.join(features) or 'there is none'}); found {column!r}",
                field=field,
            )
        values = items[column]
        if values.map(lambda value: isinstance(value, list | np.ndarray)).any():
            raise ConfigError(f"must be a feature of one value an item; {column!r} holds lists", field=field)
        codes, names = pd.factorize(values.map(_label), sort=True)
        return cls(column, np.asarray(names, dtype=object), codes.astype(np.int64))

    def shares(self, lists: NDArray[np.integer]) -> NDArray[np.float64]:
        """The share of the shown items that is of each group, (G,); items without a group count in the whole.

        Args: lists: items shown, -1 for none, (B, K).
        """
        shown = lists[lists >= 0]
        codes = self.codes[shown]
        return np.bincount(codes[codes >= 0], minlength=len(self.names)) / max(len(shown), 1)


@final
@dataclass(frozen=True, slots=True)
class ItemCap:
    """A cap of a slate's items of one group, for items by id and not by their positions in one catalogue.

    Attributes:
        column: of the items table. limit: items of one group a slate may hold.
        group_of: group by item id; items that are not in it have none.
    """

    column: str
    limit: int
    group_of: dict[str, str]

    @classmethod
    def of(cls, rules: RulesConfig, items: pd.DataFrame) -> Self | None:
        """The cap of a config over an items table; None where it has none.

        Raises: ConfigError: for a column that the items do not have, or not with one value each.
        """
        if rules.cap_column is None:
            return None
        groups = ItemGroups.of(items, rules.cap_column, field="rules.cap_column")
        grouped = groups.codes >= 0
        names = groups.names[groups.codes[grouped]]
        return cls(rules.cap_column, rules.cap_limit, dict(zip(items["item_id"][grouped], names, strict=True)))

    def joined(self, other: "ItemCap") -> "ItemCap":
        """The same cap over the items of both.

        Raises: ConfigError: where they are not the same cap, or an item is of different groups.
        """
        if (self.column, self.limit) != (other.column, other.limit):
            raise ConfigError(
                f"caps differ: at most {self.limit} of one {self.column} a slate, and at most {other.limit} of one "
                f"{other.column}",
                field="rules.cap_column",
            )
        moved = [item for item, group in self.group_of.items() if other.group_of.get(item, group) != group]
        if moved:
            raise ConfigError(
                f"{self.column} of item {moved[0]!r} is {self.group_of[moved[0]]!r} and {other.group_of[moved[0]]!r} "
                f"({len(moved)} such items), so that the cap is not the same",
                field="rules.cap_column",
            )
        return ItemCap(self.column, self.limit, self.group_of | other.group_of)

    def of_items(self, item_ids: NDArray[np.object_]) -> GroupCap:
        """The cap by position in a list of items, (N,)."""
        number = {name: place for place, name in enumerate(sorted(set(self.group_of.values())))}
        groups = [number.get(self.group_of.get(str(item), ""), -1) for item in item_ids]
        return GroupCap(np.array(groups, dtype=np.int64), self.limit)


def gini(shares: NDArray[np.floating]) -> float:
    """How unequal shares are: 0 when all are equal, 1 - 1/G when one group has everything.

    G = sum_i (2 i - n - 1) x_i / (n sum x), x ascending, i from 1. Source: Gini (1912), as in Sen (1973), On Economic
    Inequality, section 2.

    Args: shares: at least 0, of any sum, (G,).
    Returns: 0 where there is nothing to share.
    """
    ordered, n = np.sort(shares), len(shares)
    total = ordered.sum()
    return float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * total)) if total > 0 else 0.0


def _label(value: object) -> str | None:
    if value is None or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
