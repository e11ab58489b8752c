"""What was asked, shown and answered: the log tables, in Delta Lake.

Rows are checked before they are written, so that a log that can be read can be learned from. An append is one commit of
one table: it is seen whole or not at all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, final

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from rec.data.event_rows import (
    SCHEMAS,
    Rows,
    TableName,
    checked_rows,
    first_line,
    fits,
    refuse_unknown_table,
    validated,
)
from rec.errors import ConfigError, DataError
from rec.storage import Home

FOLDER: Final = "events"
# How often a commit is tried that other writers made fail.
COMMITS: Final = 10
# How many commits a loss of power may have emptied: those of its last minute, after which no other goes on top.
_SINCE_POWER_LOSS: Final = 100

Result = TypeVar("Result")


class Batch(NamedTuple):
    """Rows that a source hands over, and how much of it that source has handed over with them, from 1 upwards."""

    source: str
    position: int
    rows: Sequence[Mapping[str, Any]]


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
        refuse_unknown_table(table)
        folder = self._home.folder
        return self._home.show(f"{FOLDER}/{table}") if folder is None else str(folder / FOLDER / table)

    def version(self, table: TableName) -> int | None:
        """The version that a reader sees now, None for a table that was never written."""
        opened = self._open(table, None)
        return None if opened is None else opened.version()

    def delta(self, table: TableName) -> DeltaTable | None:
        """A table as Delta Lake has it now, None for one that was never written.

        Raises: DataError: naming the table, when it cannot be read.
        """
        refuse_unknown_table(table)
        return self._open(table, None)

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
        self._write(table, lambda: write_deltalake(uri, checked, mode="append", storage_options=self._options))
        return self.version(table)

    def append_once(self, table: TableName, batches: Sequence[Batch]) -> int:
        """Adds, in one commit, the rows of those batches that the table does not hold yet; it keeps the positions.

        Whoever does not know whether an append succeeded may hand over the same batches again, also while the first
        append goes on: the positions are Delta transaction identifiers, and what they show to be there is left out.

        Returns: how many rows were added. Raises: as `append`, and for a position that is no whole number above 0.
        """
        given = [batch for batch in batches if batch.rows]
        for batch in given:
            if not fits(batch.position, pa.int64()) or (batch.position or 0) < 1:
                raise DataError(
                    f"how much {batch.source!r} has handed over is a whole number, 1 or more; found {batch.position!r}",
                    file=table,
                    field="position",
                )
        if not given:
            return 0
        return self._write(table, lambda: self._commit_once(table, given))

    def _commit_once(self, table: TableName, batches: Sequence[Batch]) -> int:
        opened = DeltaTable(self.uri(table), storage_options=self._options)
        held = {source: opened.transaction_version(source) for source in {batch.source for batch in batches}}
        new = [batch for batch in batches if batch.position > (held[batch.source] or 0)]
        if not new:
            return 0
        rows = validated(table, [row for batch in new for row in batch.rows])
        reached = {batch.source: max(b.position for b in new if b.source == batch.source) for batch in new}
        transactions = [Transaction(source, position) for source, position in reached.items()]
        write_deltalake(opened, rows, mode="append", commit_properties=CommitProperties(app_transactions=transactions))
        return len(rows)

    def _write(self, table: TableName, commit: Callable[[], Result]) -> Result:
        """What a commit to a table returns, done again where another writer was faster; the table is there by then."""
        exists = self._open(table, None) is not None
        try:
            if self._home.folder is not None:
                (self._home.folder / FOLDER).mkdir(parents=True, exist_ok=True)
            if not exists:
                self._create(table)
            for _ in range(COMMITS - 1):
                with suppress(CommitFailedError):
                    return commit()
            return commit()
        except (DeltaError, OSError) as error:
            raise DataError(
                f"the table could not be written: {error}; check path, permissions and disk", file=self.uri(table)
            ) from error

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
        request_ids: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows with since_ms <= timestamp < until_ms, as of a version.

        Impressions have the time of their request, which is read as of now; those of requests not logged are left out
        where a time is given.

        Args: version: None: what is there now. columns: None: all. request_ids: only the rows of these requests, found
            without reading files that cannot hold them.
        Raises: DataError: naming the table, for a version that does not exist and for files that cannot be read; and
            naming row (from 0, of those read) and column, for values that `append` would have refused. ConfigError: for
            a table or column there is none of, a version below 0, since_ms after until_ms, and what is no whole number
            or no list of texts.
        """
        refuse_unknown_table(table)
        names = SCHEMAS[table].names if columns is None else _texts(columns, "columns")
        if not names:
            raise ConfigError("name a column at least, or give None for all", field="columns")
        unknown = [name for name in names if name not in SCHEMAS[table].names]
        if unknown:
            raise ConfigError(
                f"no such column; there are {', '.join(SCHEMAS[table].names)}: found {unknown[0]!r}", field="columns"
            )
        for field, number in (("version", version), ("since_ms", since_ms), ("until_ms", until_ms)):
            if not fits(number, pa.int64()):
                raise ConfigError(f"a whole number of 64 bits is required, or None; found {number!r}", field=field)
        request_ids = None if request_ids is None else _texts(request_ids, "request_ids")
        if version is not None and version < 0:
            raise ConfigError(f"versions count from 0; found {version}: None is what is there now", field="version")
        if since_ms is not None and until_ms is not None and since_ms > until_ms:
            raise ConfigError(
                f"since_ms must not lie after until_ms; found {since_ms} and {until_ms}: exchange them",
                field="since_ms",
            )
        if request_ids is not None and not request_ids:
            return pa.schema([SCHEMAS[table].field(name) for name in names]).empty_table()
        if table == "impressions" and (since_ms is not None or until_ms is not None):
            columns = list(dict.fromkeys([*names, "request_id"]))
            shown = self.read(table, version=version, columns=columns, request_ids=request_ids)
            asked = self.read("requests", since_ms=since_ms, until_ms=until_ms, columns=["request_id"])
            return rows_of(shown, asked).select(names)
        opened = self._open(table, version)
        schema = pa.schema([SCHEMAS[table].field(name) for name in names])
        if opened is None:
            return schema.empty_table()
        filters = [("timestamp", ">=", since_ms)] if since_ms is not None else []
        filters += [("timestamp", "<", until_ms)] if until_ms is not None else []
        if request_ids is not None:
            filters += [("request_id", ">=", min(request_ids)), ("request_id", "<=", max(request_ids))]
            filters += [("request_id", "in", request_ids)]
        present = [name for name in names if name in opened.schema().to_arrow().names]
        try:
            rows = opened.to_pyarrow_table(columns=present, filters=filters or None)
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise DataError(
                f"the table cannot be read: {first_line(error)}; restore its files, or read an earlier version",
                file=self.uri(table),
            ) from error
        return checked_rows(table, pa.table(dict(zip(rows.column_names, rows.columns, strict=True))), schema)

    def _open(self, table: TableName, version: int | None) -> DeltaTable | None:
        uri = self.uri(table)
        try:
            opened = self._at(uri, version)
            if self._home.folder is not None:  # an object store keeps an object whole or not at all
                _refuse_losses(Path(uri), None if opened is None else opened.version())
        except (DeltaError, OSError) as error:
            which = "" if version is None else f" at version {version}, which may have been vacuumed"
            raise DataError(f"the table cannot be read{which}: {first_line(error)}", file=uri) from error
        if opened is None and version is not None:
            raise DataError(f"there is no version {version}: the table was never written", file=uri)
        return opened

    def _at(self, uri: str, version: int | None) -> DeltaTable | None:
        try:
            opened = DeltaTable(uri, storage_options=self._options)
        except TableNotFoundError:
            return None
        except DeltaError:
            if version is None:
                raise
            return DeltaTable(uri, version=version, storage_options=self._options)  # its end alone may be damaged
        if version is not None and version > opened.version():
            raise DataError(f"there is no version {version} yet: the last is {opened.version()}", file=uri)
        if version is not None:
            opened.load_as_version(version)
        return opened


def open_events(home: Home | str | None = None) -> EventTables:
    """The log of a home: a path, a URL, or by default TANDEM_HOME."""
    return EventTables(home if isinstance(home, Home) else Home(home))


def _refuse_losses(table: Path, version: int | None) -> None:
    """Refuses the folder of a table whose rows went without a trace that Delta Lake looks for.

    Args: version: whose rows are to be read; None: no commit was found.
    """
    place = next(folder for folder in (table, *table.parents) if folder.exists())
    if not place.is_dir():
        raise DataError("a home is a folder, and this is a file: name a folder", file=str(place))
    if version is None and next(table.glob("*.parquet"), None) is not None:
        raise DataError(
            "there are rows, and no commit says which of them count: restore the table's _delta_log; or move its files "
            "away, and append their rows anew",
            file=str(table),
        )
    for number in () if version is None else range(max(version - _SINCE_POWER_LOSS, 0), version + 1):
        commit = table / "_delta_log" / f"{number:020}.json"
        if commit.exists() and not commit.stat().st_size:
            raise DataError(
                "this commit is empty, as a loss of power leaves it, so that its rows would be missing: restore the "
                "file; or delete it, if it is the last, and append its rows anew",
                file=str(commit),
            )


def _texts(given: Sequence[str], name: str) -> list[str]:
    texts = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    wrong = [text for text in texts if text is given or not isinstance(text, str) or not fits(text, pa.string())]
    if wrong:
        raise ConfigError(f"a list of texts is required; found {wrong[0]!r}", field=name)
    return texts


def rows_of(rows: pa.Table, requests: pa.Table, *, inverted: bool = False) -> pa.Table:
    """The impressions or feedback of some requests; inverted: of all others."""
    asked = rows["request_id"].to_pandas().isin(requests["request_id"].to_pandas())
    return rows.filter(pa.array(asked.to_numpy() != inverted, type=pa.bool_()))
