"""What is known about users and about items: one row an id, columns by kind of feature."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.data.columns import RawTable, categories, ids, numbers, value_lists, vectors
from rec.errors import DataError
from rec.schema import RESERVED, Feature, Kind, Side

TEXT_SUFFIX: Final = "_text"  # a column of words is told from one of categories by its name


@dataclass(frozen=True, slots=True)
class SideTable:
    """Users or items before they are aligned with the log.

    Attributes:
        ids: one a row, each once, strings.
        columns: values by name, one a row: `title` and the features.
        features: of these columns.
    """

    ids: NDArray[np.object_] = field(default_factory=lambda: np.empty(0, dtype=object))
    columns: Mapping[str, Sequence | NDArray] = field(default_factory=dict)
    features: tuple[Feature, ...] = ()


def side_ids(raw: RawTable, column: str, *, pattern: str | None = None) -> NDArray[np.object_]:
    """The ids of a users or items table.

    Raises: DataError: for an id that is missing, occurs twice, or does not match the pattern.
    """
    values, codes = ids(raw, column, pattern=pattern)
    raw.refuse(pd.Series(codes).duplicated().to_numpy(), column, "each id may occur once; remove the repeated row")
    return values[codes]


def side_table(raw: RawTable, side: Side, id_column: str, kinds: Mapping[str, Kind], *, separator: str) -> SideTable:
    """A users or items table, each column read as its kind; an items table may have titles.

    Args: kinds: of all columns but the ids and titles. separator: between the values of a column of several, in text.
    Raises: DataError: naming file, row and column.
    """
    known = side_ids(raw, id_column)
    columns: dict[str, Sequence | NDArray] = {}
    features: list[Feature] = []
    for name in raw.table.column_names:
        if name == id_column:
            continue
        if name == "title" and side == "item":
            columns[name] = categories(raw, name)
            continue
        if name in RESERVED:
            raise DataError(f"no {side} feature can be called so; rename the column", file=raw.file, column=name)
        columns[name] = PARSERS[kinds[name]](raw, name, separator)
        features.append(Feature(name=name, kind=kinds[name], side=side))
    return SideTable(known, columns, tuple(features))


PARSERS: Final[Mapping[Kind, Callable[[RawTable, str, str], Sequence | NDArray]]] = {
    "categorical": lambda raw, name, _: categories(raw, name),
    "text": lambda raw, name, _: categories(raw, name),
    "numeric": lambda raw, name, _: numbers(raw, name, required=False),
    "multi_hot": lambda raw, name, separator: value_lists(raw, name, separator=separator),
    "vector": lambda raw, name, separator: vectors(raw, name, separator=separator),
}
