"""What was asked, shown and answered: the log tables, in Delta Lake.

Rows are checked before they are written, so that a log that can be read can be learned from. An append is one commit of
one table: it is seen whole or not at all.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from numpy.typing import NDArray

from rec.errors import ConfigError, DataError
from rec.storage import Home

TableName = Literal["requests", "impressions", "feedback"]
Rows = pa.Table | Sequence[Mapping[str, Any]]

pc: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them

FOLDER: Final = "events"
# How often a commit is tried that other writers made fail.
COMMITS: Final = 10
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

# What a value has to be, and which rows of a column are that. NaN and infinities pass none of these.
_Rule = tuple[str, Callable[[NDArray[Any]], NDArray[np.bool_]]]
_RULES: Final[dict[TableName, dict[str, _Rule]]] = {
    "requests": {
        "timestamp": ("UTC milliseconds, 0 or more", lambda x: x >= 0),
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
        "timestamp": ("UTC milliseconds, 0 or more", lambda x: x >= 0),
        "received_at": ("UTC milliseconds, 0 or more", lambda x: x >= 0),
    },
}


@final
class EventTables:
    """The tables `requests`, `impressions` and `feedback` of a home; a table that was never written is empty."""

    def __init__(self, home: Home, storage_options: Mapping[str, str] | None = None) -> None:
        """Opens the log of a home; nothing is read or created yet.

        Args: storage_options: of an object store, as Delta Lake names them; without any, those of the environment.
        """
        self._home = home
        self._options = dict(storage_options or {}) or None

    def uri(self, table: TableName) -> str:
        """Where a table is.

        Raises: ConfigError: for a name that is none, as all that take one.
        """
        _known_table(table)
        folder = self._home.folder
        return self._home.show(f"{FOLDER}/{table}") if folder is None else str(folder / FOLDER / table)

    def version(self, table: TableName) -> int | None:
        """The version that a reader sees now, None for a table that was never written."""
        opened = self._open(table, None)
        return None if opened is None else opened.version()

    def versions(self) -> dict[str, int | None]:
        """The version of each table, as a training run records what it read."""
        return {table: self.version(table) for table in SCHEMAS}

    def append(self, table: TableName, rows: Rows) -> int | None:
        """Adds rows in one commit, after all of them have been checked.

        Args: rows: a table or records; optional columns may be left out.
        Returns: the version that holds them; None when there were none and the table does not exist.
        Raises: DataError: naming table, row (from 0) and column, for a column that is missing, unknown or of another
            type, and for a value that is out of range.
        """
        checked = validated(table, rows)
        if not len(checked):
            return self.version(table)
        uri = self.uri(table)
        if self._home.folder is not None:
            (self._home.folder / FOLDER).mkdir(parents=True, exist_ok=True)
        try:
            self._create(table)
            self._commit(uri, checked)
        except (DeltaError, OSError) as error:
            raise DataError(
                f"the table could not be written: {error}; check path, permissions and disk", file=uri
            ) from error
        return self.version(table)

    def _commit(self, uri: str, rows: pa.Table) -> None:
        """One commit of rows; done again where another writer created the table anew meanwhile, so that it failed."""
        for attempt in range(COMMITS):
            try:
                return write_deltalake(uri, rows, mode="append", storage_options=self._options)
            except CommitFailedError:
                if attempt + 1 == COMMITS:
                    raise

    def _create(self, table: TableName) -> None:
        """An empty table, unless there is one; of several writers that create it at once one succeeds."""
        try:
            DeltaTable.create(self.uri(table), schema=SCHEMAS[table], mode="ignore", storage_options=self._options)
        except DeltaError:
            if self._open(table, None) is None:
                raise

    def read(
        self,
        table: TableName,
        *,
        version: int | None = None,
        since_ms: int | None = None,
        until_ms: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows with since_ms <= timestamp < until_ms, as of a version.

        Impressions have the time of their request, which is read as of now; those of requests not logged are left out
        where a time is given.

        Args: version: None: what is there now. columns: None: all.
        Raises: DataError: naming the table, for a version that does not exist and for files that cannot be read; and
            naming row (from 0, of those read) and column, for values that `append` would have refused. ConfigError: for
            a table or column there is none of, a version below 0, and since_ms after until_ms.
        """
        _known_table(table)
        names = list(columns or SCHEMAS[table].names)
        unknown = [name for name in names if name not in SCHEMAS[table].names]
        if unknown:
            raise ConfigError(
                f"no such column; there are {', '.join(SCHEMAS[table].names)}: found {unknown[0]!r}", field="columns"
            )
        if version is not None and version < 0:
            raise ConfigError(f"versions count from 0; found {version}: None is what is there now", field="version")
        if since_ms is not None and until_ms is not None and since_ms > until_ms:
            raise ConfigError(
                f"since_ms must not lie after until_ms; found {since_ms} and {until_ms}: exchange them",
                field="since_ms",
            )
        if table == "impressions" and (since_ms is not None or until_ms is not None):
            shown = self.read(table, version=version, columns=list(dict.fromkeys([*names, "request_id"])))
            asked = self.read("requests", since_ms=since_ms, until_ms=until_ms, columns=["request_id"])
            return rows_of(shown, asked).select(names)
        opened = self._open(table, version)
        schema = pa.schema([SCHEMAS[table].field(name) for name in names])
        if opened is None:
            return schema.empty_table()
        filters = [("timestamp", ">=", since_ms)] if since_ms is not None else []
        filters += [("timestamp", "<", until_ms)] if until_ms is not None else []
        present = [name for name in names if name in opened.schema().to_arrow().names]
        try:
            rows = opened.to_pyarrow_table(columns=present, filters=filters or None)
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise DataError(
                f"the table cannot be read: {_first_line(error)}; restore its files, or read an earlier version",
                file=self.uri(table),
            ) from error
        return _checked(table, pa.table(dict(zip(rows.column_names, rows.columns, strict=True))), schema)

    def _open(self, table: TableName, version: int | None) -> DeltaTable | None:
        uri = self.uri(table)
        try:
            return DeltaTable(uri, version=version, storage_options=self._options)
        except TableNotFoundError:
            if version is None:
                return None
            raise DataError(f"there is no version {version}: the table was never written", file=uri) from None
        except (DeltaError, OSError) as error:
            which = "" if version is None else f" at version {version}; it may have been vacuumed, or be still to come"
            raise DataError(f"the table cannot be read{which}: {_first_line(error)}", file=uri) from error


def open_events(home: Home | str | None = None) -> EventTables:
    """The log of a home: a path, a URL, or by default TANDEM_HOME."""
    return EventTables(home if isinstance(home, Home) else Home(home))


def rows_of(rows: pa.Table, requests: pa.Table, *, inverted: bool = False) -> pa.Table:
    """The impressions or feedback of some requests; inverted: of all others."""
    asked = rows["request_id"].to_pandas().isin(requests["request_id"].to_pandas())
    return rows.filter(pa.array(asked.to_numpy() != inverted, type=pa.bool_()))


def _known_table(table: str) -> None:
    if table not in SCHEMAS:
        raise ConfigError(f"the log has no table {table!r}; there are {', '.join(SCHEMAS)}", field="table")


def validated(table: TableName, rows: Rows) -> pa.Table:
    """Rows as the table stores them.

    Raises: DataError: naming table, row (from 0) and column. ConfigError: for a table there is none of.
    """
    _known_table(table)
    schema = SCHEMAS[table]
    given: pa.Table = rows if isinstance(rows, pa.Table) else _from_records(table, rows)  # pyright: ignore[reportArgumentType]
    unknown = [name for name in given.column_names if name not in schema.names]
    if unknown:
        raise DataError(f"unknown column; there are {', '.join(schema.names)}", file=table, column=unknown[0])
    checked = _checked(table, given, schema)
    if table == "requests":
        _check_context(checked["context"])
    return checked


def _checked(table: TableName, given: pa.Table, schema: pa.Schema) -> pa.Table:
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
            values = checked[name].to_numpy()
            _refuse(table, name, ~holds(values), f"{expected} is required", values)
    if {"candidates", "candidate_scores", "candidate_sources"} <= set(schema.names):
        _check_candidates(checked)
    return checked


def _first_line(error: Exception) -> str:
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
    if not rows:
        return SCHEMAS[table].empty_table()
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        kind = SCHEMAS[table].field(name).type if name in SCHEMAS[table].names else None
        row = next((place for place, value in enumerate(values) if not _fits(value, kind)), None)
        if row is not None:
            raise DataError(f"{kind} is required; found {values[row]!r}", file=table, row=row, column=name)
        columns.append(pa.array(values, type=kind))
    return pa.table(columns, names=names)


def _fits(value: Any, kind: pa.DataType | None) -> bool:
    """Whether a value has a column's type; Arrow by itself would cut 1.9 to 1, and take True for it."""
    if value is not None and kind is not None and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        number = int | np.integer if pa.types.is_integer(kind) else int | float | np.number
        if isinstance(value, bool) or not isinstance(value, number):
            return False
    try:
        pa.array([value], type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return False
    return True


def _typed(table: TableName, field: pa.Field, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column in the type of its field, without nulls where these are refused, and without empty ids."""
    try:
        cast = values if values.type == field.type else values.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{field.type} is required; found {values.type}: {error}", file=table, column=field.name
        ) from error
    if not field.nullable:
        _refuse(table, field.name, cast.is_null().to_numpy(), "a value is required", None)
    if field.name.endswith("_id"):
        _refuse(table, field.name, cast.to_numpy() == "", "an id must not be empty", None)
    if field.name.endswith("_id") or field.name in _LISTS_OF_IDS:
        _refuse(table, field.name, _holds_nul(cast), "an id must not hold the character NUL", None)
    if field.name in _LISTS_OF_IDS:
        flat, owner = _laid_out(cast)
        absent = pc.or_kleene(flat.is_null(), pc.equal(flat, "")).to_numpy(zero_copy_only=False).astype(bool)
        _refuse(table, field.name, _rows_with(owner[absent], len(cast)), "ids must not be missing or empty", None)
    return cast


def _holds_nul(ids: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Whether an id, or one of a list of ids, has a NUL: as fixed-width text it would be cut off there."""
    column = ids.combine_chunks()
    if not pa.types.is_list(column.type):
        return pc.match_substring(column, "\0").fill_null(False).to_numpy(zero_copy_only=False)
    flat, owner = _laid_out(ids)
    bad = pc.match_substring(flat, "\0").fill_null(False).to_numpy(zero_copy_only=False)
    return _rows_with(owner[bad], len(ids))


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
        except ValueError:
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
