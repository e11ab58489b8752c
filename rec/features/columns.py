"""The plain form of every feature column: what encoders read, tables store, and people see."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.errors import DataError
from rec.features.as_of import EntitySide
from rec.schema import Feature, FeatureSchema

ID_COLUMN: Final[dict[EntitySide, str]] = {"user": "user_id", "item": "item_id"}
SNAPSHOT_COLUMNS: Final = ("as_of_ms", "history_length", "n_events", "added_ms", "withdrawn")


def normalise(schema: FeatureSchema, side: EntitySide, frame: pd.DataFrame) -> pd.DataFrame:
    """The id, the title where there is one, and the schema's features of one side, each in its one plain form.

    categorical: str or None; a whole number is written without a point, so that 1 and 1.0 are one value. numeric:
    float64, missing is NaN. multi_hot: list of str. text: str, missing is empty. vector: float32 array, missing is
    empty. Normalising twice changes nothing.

    Raises: DataError: naming the column, and the row's number, of what is missing or of another kind.
    """
    id_column = ID_COLUMN[side]
    for name in (id_column, *(feature.name for feature in schema.of_side(side))):
        if name not in frame.columns:
            raise DataError(f"the {side}s table has to have this column; found {list(frame.columns)}", column=name)
    columns: dict[str, Any] = {id_column: frame[id_column].astype(str).to_numpy(dtype=object)}
    if "title" in frame.columns:
        columns["title"] = _column(map(_label, frame["title"]))
    for feature in schema.of_side(side):
        columns[feature.name] = _plain(feature, frame[feature.name])
    return pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in columns.items()})


def _plain(feature: Feature, column: "pd.Series[Any]") -> NDArray:
    """One column in the plain form of its kind."""
    if feature.kind == "numeric":
        try:
            numbers = pd.to_numeric(column, errors="raise").to_numpy(dtype=np.float64, na_value=np.nan)
        except (ValueError, TypeError, OverflowError) as error:
            raise DataError(f"a numeric feature has to hold numbers: {error}", column=feature.name) from error
        if np.isinf(numbers).any():
            row = int(np.flatnonzero(np.isinf(numbers))[0])
            raise DataError("a numeric feature has to be finite, or missing", row=row, column=feature.name)
        return numbers
    if feature.kind == "categorical":
        return _column(map(_label, column))
    if feature.kind == "text":
        return _column(_label(value) or "" for value in column)
    lists = [_list(feature, row, value) for row, value in enumerate(column)]
    if feature.kind == "multi_hot":
        return _column([label for value in values if (label := _label(value)) is not None] for values in lists)
    return _column(_vector(feature, row, values) for row, values in enumerate(lists))


def _vector(feature: Feature, row: int, values: Sequence[Any]) -> NDArray[np.float32]:
    try:
        vector = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"a vector feature has to hold numbers: {error}", row=row, column=feature.name) from error
    if vector.ndim != 1:
        raise DataError("a vector feature has to hold numbers, not lists of them", row=row, column=feature.name)
    return vector


def _label(value: Any) -> str | None:
    """A value as the string it is compared by, None where it is missing or empty."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return None
        return str(int(value)) if float(value).is_integer() else str(float(value))
    return str(value) or None


def _list(feature: Feature, row: int, value: Any) -> Sequence[Any]:
    if isinstance(value, (list, tuple, np.ndarray)):
        return list(value)
    if _label(value) is None:
        return []
    expected = f"a {feature.kind} feature has to hold lists; found {value!r}"
    raise DataError(f"{expected}: split the column first", row=row, column=feature.name)


def _column(values: Iterable[Any]) -> NDArray[np.object_]:
    """A one-dimensional object array, also when the values are lists of one length."""
    cells = list(values)
    column = np.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):
        column[row] = cell
    return column
