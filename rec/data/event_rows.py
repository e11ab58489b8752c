"""Rows of the log tables: their columns, what each value has to be, and the place of what is wrong."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from rec.data.columns import first_row, flags, is_list, is_string
from rec.errors import ConfigError, DataError
from rec.schema import MAX_ID_LENGTH

TableName = Literal["requests", "impressions", "feedback"]
Rows = pa.Table | Sequence[Mapping[str, Any]]

pc: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them

# In the context of a request, beside what the client gave: items that must not be shown, by the request or the session,
# and the features of a user who had no row.
RESERVED: Final = "tandem."
EXCLUDED: Final = f"{RESERVED}exclude"
USER_FEATURES: Final = f"{RESERVED}user_features"
# How far before its request the time of feedback may be, by the clock of a client that is slow.
SLOW_MS: Final = 5 * 60 * 1000
_TIMES: Final = ("timestamp", "received_at")
_LISTS_OF_IDS: Final = ("history", "candidates")


def _schema(required: Mapping[str, pa.DataType], optional: Mapping[str, pa.DataType]) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=False) for name, kind in required.items()]
    return pa.schema([*fields, *(pa.field(name, kind) for name, kind in optional.items())])


SCHEMAS: Final[dict[TableName, pa.Schema]] = {
    "requests": _schema(
        {
            "request_id": pa.string(),
            "timestamp": pa.int64(),
            "user_id": pa.string(),
            "policy_version": pa.string(),
            "arm": pa.string(),
            "epsilon": pa.float64(),
            "temperature": pa.float64(),
            "k": pa.int16(),
            "degraded": pa.bool_(),
            "context": pa.string(),
            "history": pa.list_(pa.string()),
        },
        {
            "session_id": pa.string(),
            "retriever_version": pa.string(),
            "candidates": pa.list_(pa.string()),
            "candidate_scores": pa.list_(pa.float64()),
            "candidate_sources": pa.list_(pa.string()),
        },
    ),
    "impressions": _schema(
        {
            "request_id": pa.string(),
            "position": pa.int16(),
            "item_id": pa.string(),
            "source": pa.string(),
            "propensity": pa.float64(),
            "n_eligible": pa.int64(),
        },
        {},
    ),
    "feedback": _schema(
        {
            "event_id": pa.string(),
            "request_id": pa.string(),
            "item_id": pa.string(),
            "action": pa.string(),
            "timestamp": pa.int64(),
            "received_at": pa.int64(),
        },
        {"value": pa.float64()},
    ),
}

TIME_MS: Final = "a time in UTC milliseconds, as 1700000000000 is in 2023 (seconds times 1,000),"


def is_time_ms(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which values can be UTC milliseconds, and are no time of this century in another unit.

    From 2001 on seconds are at least 1e9, microseconds 1e15. Milliseconds are at least 1e11 from 1973 on; only the
    clock of a simulation that starts at 0 counts less than 1e9.
    """
    return ((values >= 0) & (values < 1e9)) | ((values >= 1e11) & (values < 1e14))


def refuse_other_units(name: str, time: int | None) -> None:
    """Refuses a setting that is no time in UTC milliseconds, unless it is not given.

    Raises: ConfigError: naming it.
    """
    if time is not None and not is_time_ms(np.array(time)):
        raise ConfigError(f"{TIME_MS} is required; found {time}", field=name)


# What a value has to be, and which rows of a column are that. NaN and infinities pass none of these.
_Rule = tuple[str, Callable[[NDArray[Any]], NDArray[np.bool_]]]
_RULES: Final[dict[TableName, dict[str, _Rule]]] = {
    "requests": {
        "timestamp": (TIME_MS, is_time_ms),
        "epsilon": ("a number from 0 to 1", lambda x: (x >= 0) & (x <= 1)),
        "temperature": ("a finite number, 0 or more", lambda x: (x >= 0) & np.isfinite(x)),
        "k": ("1 or more", lambda x: x >= 1),
    },
    "impressions": {
        "position": ("0 or more; the top of the slate is 0", lambda x: x >= 0),
        "propensity": ("a probability above 0, at most 1: it could be shown", lambda x: (x > 0) & (x <= 1)),
        "n_eligible": ("1 or more: what was shown was eligible", lambda x: x >= 1),
    },
    "feedback": {
        "timestamp": (TIME_MS, is_time_ms),
        "received_at": (TIME_MS, is_time_ms),
        "value": ("a finite number, or none,", np.isfinite),
    },
}


def refuse_unknown_table(table: str) -> None:
    """Refuses a name that is no table's.

    Raises: ConfigError.
    """
    if table not in SCHEMAS:
        raise ConfigError(f"the log has no table {table!r}; there are {', '.join(SCHEMAS)}", field="table")


def validated(table: TableName, rows: Rows) -> pa.Table:
    """Rows as the table stores them.

    Raises: DataError: naming table, row (from 0) and column. ConfigError: for a table there is none of.
    """
    refuse_unknown_table(table)
    schema = SCHEMAS[table]
    given: pa.Table = rows if isinstance(rows, pa.Table) else _from_records(table, rows)  # pyright: ignore[reportArgumentType]
    _refuse_unknown(table, given.column_names)
    checked = checked_rows(table, given, schema)
    if table == "requests":
        _check_context(checked["context"])
    return checked


def checked_rows(table: TableName, given: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows in the columns of a schema, which is the table's or part of it.

    Raises: DataError: naming table, row (from 0) and column.
    """
    columns = []
    for field in schema:
        if field.name not in given.column_names:
            if not field.nullable:
                raise DataError("this column is required", file=table, column=field.name)
            columns.append(pa.nulls(len(given), field.type))
            continue
        columns.append(_typed(table, field, given[field.name]))
    checked = pa.table(columns, schema=schema)
    for name, (expected, holds) in _RULES[table].items():
        if name in schema.names:
            values = checked[name].fill_null(0).to_numpy()
            _refuse(table, name, ~holds(values), f"{expected} is required", values)
    if {"candidates", "candidate_scores", "candidate_sources"} <= set(schema.names):
        _check_candidates(checked)
    return checked


def _refuse_unknown(table: TableName, names: Sequence[Any]) -> None:
    """Refuses columns that the table does not have, and one that is there twice."""
    for place, name in enumerate(names):
        if name not in SCHEMAS[table].names:
            raise DataError(
                f"unknown column; there are {', '.join(SCHEMAS[table].names)}", file=table, column=str(name)
            )
        if name in names[:place]:
            raise DataError("this column is there twice; remove one", file=table, column=name)


def first_line(error: Exception) -> str:
    """What a library says, without traces and colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0]


def _from_records(table: TableName, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Records as columns of whatever type their values have."""
    listed = isinstance(rows, Sequence) and not isinstance(rows, str)
    row = (
        next((place for place, record in enumerate(rows) if not isinstance(record, Mapping)), None) if listed else None
    )
    if not listed or row is not None:
        found = rows if row is None else rows[row]
        raise DataError(
            f"rows are a pyarrow.Table or a list of records by column; found {type(found).__name__}",
            file=table,
            row=row,
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    _refuse_unknown(table, names)
    if not rows:
        return SCHEMAS[table].empty_table()
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        kind = SCHEMAS[table].field(name).type
        row = next((place for place, value in enumerate(values) if not fits(value, kind)), None)
        if row is not None:
            raise DataError(f"{kind} is required; found {values[row]!r}", file=table, row=row, column=name)
        columns.append(pa.array(values, type=kind))
    return pa.table(columns, names=names)


def fits(value: Any, kind: pa.DataType) -> bool:
    """Whether a value has a column's type; Arrow by itself would cut 1.9 to 1, and take True for it."""
    if value is not None and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        number = int | np.integer if pa.types.is_integer(kind) else int | float | np.number
        if isinstance(value, bool) or not isinstance(value, number):
            return False
    try:
        pa.array([value], type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError):
        return False
    return True


def _is_kind(given: pa.DataType, kind: pa.DataType) -> bool:
    """Whether values of a type may be cast to another; as of records, no number is made of a flag or a text."""
    if pa.types.is_null(given) or given == kind:
        return True
    if pa.types.is_dictionary(given):
        return _is_kind(given.value_type, kind)
    if is_list(kind):
        return is_list(given) and _is_kind(given.value_type, kind.value_type)
    if pa.types.is_integer(kind):
        return pa.types.is_integer(given)
    if pa.types.is_floating(kind):
        return pa.types.is_integer(given) or pa.types.is_floating(given)
    return is_string(kind) and is_string(given)


def _cast(values: pa.ChunkedArray | pa.Array, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    """A column as another type; Arrow timestamps of any unit as milliseconds, cut off below them."""
    if pa.types.is_timestamp(values.type) and field.name in _TIMES:
        values = values.cast(pa.timestamp("ms", values.type.tz), safe=values.type.unit == "s")
        return values.cast(field.type)
    if not _is_kind(values.type, field.type):
        raise pa.ArrowInvalid("this is another type of value; convert the column")
    return values.cast(field.type)


def _can_be(values: pa.ChunkedArray | pa.Array, field: pa.Field) -> bool:
    try:
        _cast(values, field)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _typed(table: TableName, field: pa.Field, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in the type of its field, without nulls where these are refused, and without empty ids."""
    try:
        cast = values if values.type == field.type else _cast(values, field)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{field.type} is required; found {values.type}: {first_line(error)}",
            file=table,
            row=first_row(values, lambda part: not _can_be(part, field)) if len(values) else None,
            column=field.name,
        ) from error
    if not field.nullable:
        _refuse(table, field.name, cast.is_null().to_numpy(), "a value is required", None)
    if field.name.endswith("_id") or field.name == "action":
        what = "an action" if field.name == "action" else "an id"
        _refuse(table, field.name, cast.to_numpy() == "", f"{what} must not be empty", None)
    if field.name.endswith("_id") or field.name in _LISTS_OF_IDS:
        nul = _holds_id(cast, lambda ids: pc.match_substring(ids, "\0"))
        # As fixed-width text it would be cut off there.
        _refuse(table, field.name, nul, "an id must not hold the character NUL", None)
        long = _holds_id(cast, lambda ids: pc.greater(pc.utf8_length(ids), MAX_ID_LENGTH))
        _refuse(table, field.name, long, f"an id has at most {MAX_ID_LENGTH} characters", None)
    if field.name in _LISTS_OF_IDS:
        flat, owner = _laid_out(cast)
        absent = pc.or_kleene(flat.is_null(), pc.equal(flat, "")).to_numpy(zero_copy_only=False).astype(bool)
        _refuse(table, field.name, _rows_with(owner[absent], len(cast)), "ids must not be missing or empty", None)
    return cast


def _holds_id(ids: pa.ChunkedArray, is_wrong: Callable[[pa.Array], pa.Array]) -> NDArray[np.bool_]:
    """Whether an id, or one of a list of ids, is wrong."""
    if not pa.types.is_list(ids.type):
        return flags(is_wrong(ids.combine_chunks()))
    flat, owner = _laid_out(ids)
    return _rows_with(owner[flags(is_wrong(flat))], len(ids))


def _laid_out(lists: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """The entries of lists end to end, and the row of each."""
    column = lists.combine_chunks()
    return column.flatten(), pc.list_parent_indices(column).to_numpy(zero_copy_only=False)


def _rows_with(owners: NDArray[np.int64], n_rows: int) -> NDArray[np.bool_]:
    marked = np.zeros(n_rows, np.bool_)
    marked[owners] = True
    return marked


def _check_context(context: pa.ChunkedArray) -> None:
    for row, text in enumerate(context.to_pylist()):
        try:
            is_mapping = isinstance(json.loads(text), dict)
        except (ValueError, RecursionError):  # the latter of what is nested too deep to be read
            is_mapping = False
        if not is_mapping:
            raise DataError(
                f"a JSON object is required; found {text[:80]!r}", file="requests", row=row, column="context"
            )


def _check_candidates(requests: pa.Table) -> None:
    """Candidates are distinct; scores are logged with them, one each, finite; sources, where logged, one each."""
    n = _lengths(requests["candidates"])
    n_scores, n_sources = _lengths(requests["candidate_scores"]), _lengths(requests["candidate_sources"])
    _refuse("requests", "candidate_scores", n != n_scores, "one score per candidate is required", n_scores)
    wrong = (n_sources >= 0) & (n != n_sources)
    _refuse("requests", "candidate_sources", wrong, "one source per candidate is required", n_sources)
    flat, owner = _laid_out(requests["candidate_scores"])
    scores = flat.to_numpy(zero_copy_only=False)
    bad = _rows_with(owner[~np.isfinite(scores)], len(requests))
    _refuse("requests", "candidate_scores", bad, "finite scores are required", None)
    items, owner = _laid_out(requests["candidates"])
    again = pd.DataFrame({"owner": owner, "item": items.to_pandas()}).duplicated().to_numpy()
    _refuse("requests", "candidates", _rows_with(owner[again], len(requests)), "candidates must be distinct", None)


def _lengths(lists: pa.ChunkedArray) -> NDArray[np.int64]:
    """Length of each list, -1 where there is none."""
    return lists.combine_chunks().value_lengths().fill_null(-1).to_numpy().astype(np.int64)


def _refuse(table: TableName, column: str, wrong: NDArray[np.bool_], message: str, values: NDArray[Any] | None) -> None:
    if not wrong.any():
        return
    row = int(wrong.argmax())
    found = "" if values is None else f"; found {values[row]}"
    raise DataError(f"{message}{found} ({int(wrong.sum())} of {len(wrong)} rows)", file=table, row=row, column=column)
