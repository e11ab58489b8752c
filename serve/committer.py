"""Takes the records of a spool into the tables, each exactly once.

With its rows a commit keeps how far each writer's records are in the table (`EventTables.append_once`). So a committer
that was killed, at whatever moment, starts over from what is on the disk, and nothing is lost or doubled.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final, final

from rec.data.event_rows import TableName, validated
from rec.data.events import Batch, EventTables
from rec.errors import DataError
from serve.known import KEPT_S
from serve.logged import AGAIN, TABLES, rows_of
from serve.spool import Segment, is_left, read_frames, segments

COMMITTER_LOCK: Final = "committer.lock"
REFUSED: Final = "refused.jsonl"
DAMAGED: Final = ".damaged"
# How long ago the tables may last have taken all there was.
LATE_S: Final = 60.0
# Of the records that are taken in at once, about.
BATCH_BYTES: Final = 16 * 2**20
_LOG: Final = logging.getLogger(__name__)


@final
class Committer:
    """The one that moves a spool; of several on one folder all but one do nothing.

    Attributes:
        n_records: that this one has taken in.
        n_refused: records that the tables do not take, which are kept in the file `refused.jsonl`.
        working_since: when it last got on with what it does now, in seconds of `clock`; None while it does nothing.
    """

    def __init__(self, folder: Path, events: EventTables, *, clock: Callable[[], float] = monotonic) -> None:
        """Makes the folder, and takes nothing yet.

        Args: clock: that no change of the time of day moves, or segments would go that others have yet to read.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.n_records = 0
        self.n_refused = 0
        self.working_since: float | None = None
        self._folder = folder
        self._events = events
        self._clock = clock
        self._lock = os.open(folder / COMMITTER_LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        self._done: dict[str, int] = {}
        self._again: dict[tuple[str, str], dict[str, Any]] = {}
        # What the tables refuse in a turn that is not over: it is done again when a later table fails.
        self._told: set[Hashable] = set()
        # When each file was first seen without its writer, after the tables last took in something of it.
        self._left_at: dict[Path, float] = {}

    def leads(self) -> bool:
        """Whether this is the one; it stays so until it closes or its process ends."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def commit(self) -> int:
        """Takes in what is there.

        Returns: how many records that were.
        Raises: DataError: when the tables cannot be written; what was not taken in stays where it is.
        """
        if not self.leads():
            return 0
        total = 0
        with self._working():
            while n_records := self._commit_some():
                total += n_records
            self._append_lost()
        os.utime(self._lock)
        return total

    def sweep(self) -> None:
        """Deletes segments that nobody needs any more.

        Those are in the tables, all of them, and have been for `KEPT_S`, and as long without their writer. Whoever
        began to ask the tables before they took in the last record has until then to find it in the spool: however long
        the tables failed before, what is taken in and swept in one turn would be in neither for a look-up under way.
        """
        if not self.leads() or self._again:
            return
        with self._working():
            present, unfinished = segments(self._folder), list(self._folder.glob("*.new"))
            old = self._old([*(segment.path for segment in present), *unfinished])
            over = [segment for segment in present if segment.path in old and self._is_over(segment)]
            if over:
                os.sync()  # the tables' files may not have reached the disk yet, and this is the other copy
            for segment in over:
                segment.path.unlink()
                self._done.pop(segment.path.name, None)
            for path in old.intersection(unfinished):
                path.unlink()

    def close(self) -> None:
        """Lets another lead."""
        os.close(self._lock)

    def _commit_some(self) -> int:
        batches: dict[TableName, list[Batch]] = {table: [] for table in TABLES}
        reached, size, n_records = {}, 0, 0
        for segment in segments(self._folder):
            name = segment.path.name
            frames = read_frames(segment.path, self._done.get(name, 0))
            for payload, end in zip(frames.payloads, frames.ends, strict=True):
                record = self._parsed(payload, (name, end))
                self._again |= {(row["request_id"], row["event_id"]): row for row in record.get(AGAIN, ())}
                for table in TABLES:
                    if table in record:
                        batches[table].append(Batch(f"tandem/{segment.writer}", segment.position(end), record[table]))
            if frames.ends:
                reached[name] = frames.ends[-1]
                size += frames.ends[-1] - self._done.get(name, 0)
                n_records += len(frames.ends)
            if size > BATCH_BYTES:
                break
        for table in TABLES:
            self._append(table, batches[table])
            self.working_since = self._clock()
        self._done |= reached
        self._told.clear()
        for name in reached:  # their time begins anew
            self._left_at.pop(self._folder / name, None)
        self.n_records += n_records
        return n_records

    def _append_lost(self) -> None:
        """Adds events that were acknowledged again, and whose first record did not reach the disk.

        A first record that is there was written before, so it has been taken in when all has.
        """
        if not self._again:
            return
        request_ids = sorted({request_id for request_id, _ in self._again})
        held = self._events.read("feedback", columns=["request_id", "event_id"], request_ids=request_ids).to_pylist()
        there = {(row["request_id"], row["event_id"]) for row in held}
        lost = [row for key, row in self._again.items() if key not in there]
        lost = [row for row in lost if self._is_sound("feedback", Batch(f"tandem/again/{row['event_id']}", 1, [row]))]
        if lost:
            _LOG.warning("%d events that the disk had lost are in the tables by their second delivery", len(lost))
            self._events.append("feedback", lost)
        self._again.clear()
        self._told.clear()

    def _append(self, table: TableName, batches: list[Batch]) -> None:
        """Appends batches, but those that the table would refuse, which must not keep all others out.

        These are kept aside first: once the table has a later batch of the same writer, they count as taken in.
        """
        try:
            self._events.append_once(table, batches)
        except DataError:
            sound = [batch for batch in batches if self._is_sound(table, batch)]
            if len(sound) == len(batches):
                raise
            self._events.append_once(table, sound)

    def _is_sound(self, table: TableName, batch: Batch) -> bool:
        try:
            validated(table, batch.rows)
        except DataError as error:
            self._refuse((table, batch.source, batch.position), json.dumps({table: batch.rows}).encode(), error)
            return False
        return True

    def _parsed(self, payload: bytes, place: tuple[str, int]) -> dict[str, list[dict[str, Any]]]:
        try:
            return rows_of(payload)
        except ValueError as error:
            self._refuse(place, payload, error)
            return {}

    def _refuse(self, what: Hashable, content: bytes, error: Exception) -> None:
        """Keeps aside what the tables do not take, once in however many turns of this process.

        Raises: OSError: when the disk does not take it; the next turn tries again.
        """
        if what in self._told:
            return
        with (self._folder / REFUSED).open("ab") as file:
            file.write(content + b"\n")
        _LOG.error("the tables refuse a record, which is kept in %s: %s", self._folder / REFUSED, error)
        self.n_refused += 1
        self._told.add(what)

    @contextmanager
    def _working(self) -> Iterator[None]:
        self.working_since = self._clock()
        try:
            yield
        finally:
            self.working_since = None

    def _old(self, paths: Sequence[Path]) -> set[Path]:
        """Those of the files that for `KEPT_S`, as far as this one saw, had no writer and gave nothing to take in."""
        now = self._clock()
        self._left_at = {path: self._left_at.get(path, now) for path in paths if is_left(path)}
        return {path for path, left_at in self._left_at.items() if now - left_at > KEPT_S}

    def _is_over(self, segment: Segment) -> bool:
        """Whether all that the segment holds is in the tables; what is after the last whole record is kept aside.

        That may be a record that was never finished, or many after one whose length a disk has changed.
        """
        place = self._done.get(segment.path.name, 0)
        frames = read_frames(segment.path, place)
        if frames.payloads:
            return False
        if frames.damaged:
            segment.path.rename(segment.path.with_suffix(DAMAGED))
            _LOG.error("%s is no whole record from byte %d on, and kept as *%s", segment.path, place, DAMAGED)
            return False
        return True


def is_followed(folder: Path, *, clock: Callable[[], float] = time.time) -> bool:
    """Whether some process takes a spool into the tables, and has succeeded not long ago."""
    lock = folder / COMMITTER_LOCK
    try:
        return not is_left(lock) and clock() - lock.stat().st_mtime <= LATE_S
    except OSError:
        return False
