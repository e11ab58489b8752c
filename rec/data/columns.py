"""Columns of a table as it was read, turned into typed arrays with errors that name file, row and column."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from rec.errors import DataError
from rec.schema import MAX_ID_LENGTH

pc: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them

NUMBER: Final = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
END_OF_TIME_MS: Final = 253_402_300_800_000  # the year 10000; a later time is a wrong unit


@dataclass(frozen=True, slots=True)
class RawTable:
    """A table as it was read.

    Attributes:
        file: the file it came from.
        table: its columns; those of a text file are all strings.
        row_in_file: what the file calls a row of the table: the 1-based line of a text file, the 0-based row otherwise.
    """

    file: str
    table: pa.Table
    row_in_file: Callable[[int], int]

    def __len__(self) -> int:
        return self.table.num_rows

    def column(self, name: str) -> pa.Array:
        """One column in one piece; a dictionary is written out.

        Raises: DataError: when there is no such column, naming those there are.
        """
        if name not in self.table.column_names:
            raise DataError(
                f"no such column; the file has {', '.join(self.table.column_names)}. Rename it, or map it in `columns`",
                file=self.file,
                column=name,
            )
        column = self.table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return cast("pa.Array", pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type))

    def refuse(self, wrong: NDArray[np.bool_], column: str | None, expected: str) -> None:
        """Raise for the first row that is wrong, if any is.

        Args: wrong: one flag a row. column: where it is wrong. expected: what is required, and what to do.
        Raises: DataError: naming file, row and column.
        """
        rows = np.flatnonzero(wrong)
        if not len(rows):
            return
        first = int(rows[0])
        found = "" if column is None else f"; found {self.table.column(column)[first].as_py()!r}"
        more = f" ({len(rows)} rows are so, this is the first)" if len(rows) > 1 else ""
        raise DataError(f"{expected}{found}{more}", file=self.file, row=self.row_in_file(first), column=column)


def is_string(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds strings of any layout."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds integers, floats or decimals."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def flags(mask: pa.Array) -> NDArray[np.bool_]:
    """A boolean array as NumPy; unknown counts as false."""
    return mask.fill_null(False).to_numpy(zero_copy_only=False)


def ids(raw: RawTable, name: str, *, pattern: str | None = None) -> tuple[NDArray[np.object_], NDArray[np.int32]]:
    """A column of ids: its distinct values as strings, in order of first appearance, and the code of each row.

    Args: pattern: a regular expression every id has to match.
    Raises: DataError: for an id missing, too long or unlike the pattern, or a column of neither strings nor integers.
    """
    column = raw.column(name)
    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    if not is_string(column.type):
        raise DataError(
            f"ids are strings or integers; the column is of type {column.type}. Convert it",
            file=raw.file,
            column=name,
        )
    encoded = cast("pa.DictionaryArray", column.cast(pa.string()).dictionary_encode(null_encoding="encode"))
    codes = encoded.indices.to_numpy().astype(np.int32, copy=False)
    values = encoded.dictionary.to_numpy(zero_copy_only=False)
    missing = np.array([value is None or not value.strip() for value in values], dtype=bool)
    if missing.any():
        raw.refuse(missing[codes], name, "every row needs an id")
    long = np.array([len(value or "") > MAX_ID_LENGTH for value in values], dtype=bool)
    if long.any():
        raw.refuse(long[codes], name, f"an id has at most {MAX_ID_LENGTH} characters; shorten it")
    cut = np.array(["\0" in (value or "") for value in values], dtype=bool)
    if cut.any():
        raw.refuse(cut[codes], name, "an id must not hold the character NUL; remove it")
    if pattern is not None:
        bad = ~flags(pc.match_substring_regex(encoded.dictionary, pattern))
        if bad.any():
            raw.refuse(bad[codes], name, f"an id has to match {pattern}; fix or remove the row")
    return values, codes


def numbers(raw: RawTable, name: str, *, required: bool = True) -> NDArray[np.float64]:
    """A column of finite numbers, float64; an empty or missing one is NaN unless required.

    Raises: DataError: for text that is no number, an infinite number, and, where required, a missing one.
    """
    column = raw.column(name)
    if is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            raw.refuse(~flags(pc.match_substring_regex(column, NUMBER).fill_null(True)), name, "a number is required")
            raise DataError("a number is required in every row", file=raw.file, column=name) from None
    elif not is_number(column.type):
        raise DataError(f"numbers are required; the column is of type {column.type}", file=raw.file, column=name)
    values = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    raw.refuse(np.isinf(values), name, "a finite number is required")
    if required:
        raw.refuse(np.isnan(values), name, "a number is required; fix or remove the row")
    return values


def timestamps(raw: RawTable, name: str, *, unit: Literal["s", "ms"]) -> NDArray[np.int64]:
    """A column of times in UTC milliseconds, int64.

    Args: unit: of a column of numbers; a column of Arrow timestamps brings its own.
    Raises: DataError: for a time that is missing, no number, negative, or beyond the year 9999 (a wrong unit).
    """
    column = raw.column(name)
    if pa.types.is_timestamp(column.type):
        raw.refuse(flags(column.is_null()), name, "every row needs a time")
        millis = column.cast(pa.timestamp("ms", tz="UTC" if column.type.tz else None), safe=False)
        values = millis.cast(pa.int64()).to_numpy()
    else:
        # 2**53 ms is beyond the year 280000: float64 holds every millisecond.
        exact = numbers(raw, name) * (1000 if unit == "s" else 1)
        limit = exact >= END_OF_TIME_MS
        raw.refuse(limit, name, f"a time in {unit} before the year 10000 is required; check `timestamp_unit`")
        values = np.rint(exact).astype(np.int64)
    raw.refuse(values < 0, name, "a time since 1970 is required, so none is negative; fix or remove the row")
    return values


def categories(raw: RawTable, name: str) -> NDArray[np.object_]:
    """A column of values compared as strings; None where empty or missing."""
    column = raw.column(name)
    if not is_string(column.type):
        column = column.cast(pa.string())
    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    return column.to_numpy(zero_copy_only=False)


def value_lists(raw: RawTable, name: str, *, separator: str) -> list[list[str]]:
    """A column of several values a row, each once and in order; empty where there are none.

    Args: separator: between the values of a column of text; a column of lists needs none.
    """
    return [list(dict.fromkeys(str(part) for part in parts if part != "")) for parts in _parts(raw, name, separator)]


def vectors(raw: RawTable, name: str, *, separator: str) -> list[list[float] | None]:
    """A column of vectors of one length; None where there is none.

    Raises: DataError: for a row of another length than the first, or an entry that is no finite number.
    """
    parts = _parts(raw, name, separator)
    lengths = np.array([len(row) for row in parts])
    length = next((size for size in lengths if size), 0)
    raw.refuse((lengths != 0) & (lengths != length), name, f"{length} numbers are required, as in the rows before")
    filled = np.flatnonzero(lengths)
    flat = pa.table({name: pa.array([part for row in parts for part in row])})
    entries = RawTable(raw.file, flat, lambda entry: raw.row_in_file(int(filled[entry // length])))
    values = numbers(entries, name).reshape(-1, length or 1).tolist()
    vectors: list[list[float] | None] = [None] * len(parts)
    for row, vector in zip(filled, values, strict=True):
        vectors[row] = vector
    return vectors


def _parts(raw: RawTable, name: str, separator: str) -> list[list]:
    """The values in each row of a column of lists, or of text that holds several values."""
    rows = raw.column(name).to_pylist()
    return [row.split(separator) if isinstance(row, str) and row else row or [] for row in rows]
