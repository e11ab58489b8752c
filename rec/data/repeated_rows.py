"""Rows of the log that were delivered twice: they count once, and must not contradict each other."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from rec.data.event_rows import TableName
from rec.errors import DataError

# Of a value that an error quotes.
_SHOWN_CHARACTERS: Final = 80
# What storing a number as float32 may change of it, as a share.
_ROUNDING: Final = 1e-6


def distinct_rows(
    table: TableName, rows: pa.Table, key: list[str], *, may_differ: Sequence[str] = ()
) -> tuple[NDArray[np.int64], int]:
    """The first row of each key in the order of the table, and how many rows repeat one; these must not contradict it.

    Numbers that differ by no more than storing them as float32 does are the same.

    Args: may_differ: columns in which they may.
    Raises: DataError: naming table, key, both rows and the column in which they differ.
    """
    keys = pd.MultiIndex.from_arrays([rows[name].to_pandas() for name in key])
    again = np.flatnonzero(keys.duplicated())
    if len(again):
        codes = keys.factorize()[0]
        first_of = np.zeros(codes.max() + 1, np.int64)
        first_of[codes[::-1]] = np.arange(len(codes))[::-1]
        originals = rows.take(first_of[codes[again]])
        for name in rows.column_names:
            if name in may_differ:
                continue
            pairs = zip(rows[name].take(again).to_pylist(), originals[name].to_pylist(), strict=True)
            differing = next(((place, a, b) for place, (a, b) in enumerate(pairs) if _differ(a, b)), None)
            if differing is not None:
                place, found, before = differing
                row = int(again[place])
                which = " and ".join(f"{part} {rows[part][row].as_py()!r}" for part in key)
                raise DataError(
                    f"rows of one {' and '.join(key)} must agree; {which} has {_short(before)} in row "
                    f"{first_of[codes[row]]} and {_short(found)} in row {row}: remove the wrong one",
                    file=table,
                    row=row,
                    column=name,
                )
    return np.flatnonzero(~keys.duplicated()), len(again)


def _differ(a: object, b: object) -> bool:
    """Whether two values are not the same; NaN is the same as NaN, and so is a number that was rounded to float32."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) != len(b) or any(_differ(one, other) for one, other in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return not (math.isclose(a, b, rel_tol=_ROUNDING) or (math.isnan(a) and math.isnan(b)))
    return a != b


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def refuse_repeated_items(impressions: pa.Table) -> None:
    """Refuses slates that hold an item twice.

    Raises: DataError: naming the first row.
    """
    keys = pd.MultiIndex.from_arrays([impressions["request_id"].to_pandas(), impressions["item_id"].to_pandas()])
    repeated = keys.duplicated()
    if repeated.any():
        row = int(repeated.argmax())
        raise DataError(
            "an item may stand once in a slate, as feedback names no position; "
            f"{impressions['item_id'][row]} does twice in request {impressions['request_id'][row]}",
            file="impressions",
            row=row,
            column="item_id",
        )
