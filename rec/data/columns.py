"""Columns of a table as it was read, turned into typed arrays with errors that name file, row and column."""

import bisect
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
_SINCE_1970: Final = "a time since 1970 is required, so none is negative; fix or remove the row"
_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


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

        Raises: DataError: when there is no such column, naming those there are, or more than one.
        """
        if name not in self.table.column_names:
            raise DataError(
                f"no such column; the file has {', '.join(self.table.column_names)}. Rename it, or map it in `columns`",
                file=self.file,
                column=name,
            )
        if self.table.column_names.count(name) > 1:
            raise DataError("this column is there more than once; rename all but one", file=self.file, column=name)
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
        found = "" if column is None else f"; found {_shown(self.table.column(column)[first])}"
        more = f" ({len(rows)} rows are so, this is the first)" if len(rows) > 1 else ""
        raise DataError(f"{expected}{found}{more}", file=self.file, row=self.row_in_file(first), column=column)


def first_row(column: pa.Array | pa.ChunkedArray, is_wrong: Callable[[Any], bool]) -> int:
    """The first row of a wrong column, by bisection: the end of its shortest beginning that is wrong."""
    return bisect.bisect_left(range(len(column)), True, key=lambda row: is_wrong(column.slice(0, row + 1)))


def is_string(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds strings of any layout."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds integers, floats or decimals."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type holds lists, of one length or of several."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


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

    Raises: DataError: for text that is no number, an integer that float64 does not hold, an infinite number, and,
        where required, a missing one.
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
    exact = "a number is required that float64 holds, of integers those within 2**53; write codes as strings"
    values = np.asarray(_cast(raw, name, column, pa.float64(), exact).to_numpy(zero_copy_only=False), dtype=np.float64)
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
        ticks, per_second = column.cast(pa.int64()).to_numpy(), _PER_SECOND[column.type.unit]
        late = ticks // per_second >= END_OF_TIME_MS // 1000
        raw.refuse(late, name, "a time before the year 10000 is required; fix or remove the row")
        raw.refuse(ticks < 0, name, _SINCE_1970)
        return ticks * (1000 // per_second) if per_second < 1000 else ticks // (per_second // 1000)
    limit, expected = END_OF_TIME_MS, f"a time in {unit} before the year 10000 is required; check `timestamp_unit`"
    per_ms = 1000 if unit == "s" else 1
    if pa.types.is_integer(column.type):
        raw.refuse(column.fill_null(0).to_numpy() >= limit // per_ms, name, expected)
    # 2**53 ms is beyond the year 280000: float64 holds every millisecond.
    exact = numbers(raw, name) * per_ms
    raw.refuse(exact >= limit, name, expected)
    raw.refuse(exact < 0, name, _SINCE_1970)
    return np.rint(exact).astype(np.int64)


def categories(raw: RawTable, name: str) -> NDArray[np.object_]:
    """A column of values compared as strings; None where empty or missing.

    Raises: DataError: for a column of lists and the like, and for bytes that are no UTF-8.
    """
    column = raw.column(name)
    if not is_string(column.type):
        column = _cast(raw, name, column, pa.string(), "text in UTF-8 is required; convert the column to strings")
    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
    return column.to_numpy(zero_copy_only=False)


def value_lists(raw: RawTable, name: str, *, separator: str) -> list[list[str]]:
    """A column of several values a row, each once and in order; empty and missing values are left out.

    Args: separator: between the values of a column of text; a column of lists needs none.
    Raises: DataError: for a column of neither.
    """
    rows = _parts(raw, name, separator)
    return [list(dict.fromkeys(str(part) for part in parts if part not in ("", None))) for parts in rows]


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
    column = raw.column(name)
    kind = column.type
    if not (is_string(kind) or (is_list(kind) and (is_string(kind.value_type) or is_number(kind.value_type)))):
        raise DataError(
            f"lists of strings or numbers are required; the column is of type {kind}", file=raw.file, column=name
        )
    rows = column.to_pylist()
    return [row.split(separator) if isinstance(row, str) and row else row or [] for row in rows]


def _cast(raw: RawTable, name: str, column: pa.Array, kind: pa.DataType, expected: str) -> pa.Array:
    """A column as another type, refused by row, or as a whole where no column of its type can be."""
    try:
        return column.cast(kind)
    except pa.ArrowNotImplementedError as error:
        raise DataError(f"{expected}; it is of type {column.type}", file=raw.file, column=name) from error
    except pa.ArrowInvalid:
        wrong = np.arange(len(column)) == first_row(column, lambda part: not _can_be(part, kind))
        raw.refuse(wrong, name, expected)
        raise


def _can_be(column: pa.Array, kind: pa.DataType) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _shown(value: pa.Scalar) -> str:
    """A value as messages show it; Python has no times before the year 1 or after 9999."""
    try:
        return repr(value.as_py())
    except (ValueError, OverflowError):
        return f"{value.cast(pa.int64()).as_py()} {value.type}"
