"""Upkeep of the log tables while they are written: fewer files, an end to what is old, users who are forgotten."""

from collections.abc import Callable
from typing import Final, TypeVar

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from rec.data.event_rows import SCHEMAS, TableName, first_line, pc
from rec.data.events import COMMITS, EventTables
from rec.errors import DataError

# Requests go last: until then a removal that was cut off finds by them what is left.
_REMOVED: Final[tuple[TableName, ...]] = ("feedback", "impressions", "requests")
WEEK_HOURS: Final = 7 * 24

Result = TypeVar("Result")


def compact(events: EventTables, *, keep_hours: int = WEEK_HOURS) -> dict[str, dict[str, int]]:
    """Makes few large files of many small ones, and deletes those of versions that ended more than `keep_hours` ago.

    Returns: how many files each table had before and has now.
    Raises: DataError: when a table cannot be written, or others change it all the time.
    """
    counts = {}
    for table in SCHEMAS:
        opened = events.delta(table)
        if opened is None:
            continue
        before = len(opened.file_uris())
        _committed(events, table, lambda delta: delta.optimize.compact())
        _vacuum(events, table, keep_hours)
        counts[table] = {"files_before": before, "files_after": _n_files(events, table)}
    return counts


def expire(events: EventTables, before_ms: int, *, keep_hours: int = WEEK_HOURS) -> dict[str, int]:
    """Removes requests from before a time, with their impressions and feedback.

    Earlier versions of the tables hold them until the next `compact` or `expire` after `keep_hours`.

    Returns: how many rows of each table. Raises: as `compact`.
    """
    old = events.read("requests", until_ms=before_ms, columns=["request_id"])
    return _removed(events, old["request_id"], keep_hours)


def forget(events: EventTables, user_id: str) -> dict[str, int]:
    """Removes a user's requests, with their impressions and feedback, from the tables and all their earlier versions.

    These versions can then no longer be read, so a training run on them cannot be repeated.

    Returns: how many rows of each table. Raises: as `compact`.
    """
    asked = events.read("requests", columns=["request_id", "user_id"])
    return _removed(events, asked.filter(pc.equal(asked["user_id"], user_id))["request_id"], keep_hours=0)


def _removed(events: EventTables, request_ids: pa.ChunkedArray, keep_hours: int) -> dict[str, int]:
    source = pa.table({"request_id": request_ids.unique()})
    counts = {}
    for table in _REMOVED:
        if events.delta(table) is None:
            continue
        removed = _committed(events, table, lambda delta: _remove(delta, source)) if len(source) else 0
        _vacuum(events, table, keep_hours)
        counts[table] = removed
    return counts


def _remove(delta: DeltaTable, source: pa.Table) -> int:
    merged = delta.merge(source, "target.request_id = source.request_id", source_alias="source", target_alias="target")
    return merged.when_matched_delete().execute()["num_target_rows_deleted"]


def _vacuum(events: EventTables, table: TableName, keep_hours: int) -> None:
    """Deletes files that were part of the table once; those that a writer is about to add are not touched."""
    _committed(
        events,
        table,
        lambda delta: delta.vacuum(keep_hours, dry_run=False, enforce_retention_duration=False, full=False),
    )


def _n_files(events: EventTables, table: TableName) -> int:
    opened = events.delta(table)
    return 0 if opened is None else len(opened.file_uris())


def _committed(events: EventTables, table: TableName, change: Callable[[DeltaTable], Result]) -> Result:
    """What a change returns; done again on the latest version where a writer was faster."""
    for attempt in range(COMMITS):
        opened = events.delta(table)
        assert opened is not None, "a table that was there does not go away"
        try:
            return change(opened)
        except CommitFailedError as error:
            if attempt + 1 == COMMITS:
                raise DataError(
                    f"others change the table all the time; try again later: {first_line(error)}",
                    file=events.uri(table),
                ) from error
        except (DeltaError, OSError) as error:
            raise DataError(
                f"the table could not be changed: {first_line(error)}; check path, permissions and disk",
                file=events.uri(table),
            ) from error
    raise AssertionError("unreachable")
