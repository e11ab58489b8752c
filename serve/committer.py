"""Takes the records of a spool into the tables, each exactly once.

With its rows a commit keeps how far each writer's records are in the table (`EventTables.append_once`). So a committer
that was killed, at whatever moment, starts over from what is on the disk, and nothing is lost or doubled.
"""

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final

from rec.data.event_rows import TableName, validated
from rec.data.events import Batch, EventTables
from rec.errors import DataError
from serve.known import KEPT_S
from serve.logged import TABLES, rows_of
from serve.spool import Segment, is_left, read_frames, segments

COMMITTER_LOCK: Final = "committer.lock"
REFUSED: Final = "refused.jsonl"
# How long ago the tables may last have taken all there was.
LATE_S: Final = 60.0
# Of the records that are taken in at once, about.
BATCH_BYTES: Final = 16 * 2**20
# How long is waited after a failure, in times of the usual.
_PATIENCE: Final = 5
_LOG: Final = logging.getLogger(__name__)


@final
class Committer:
    """The one that moves a spool; of several on one folder all but one do nothing.

    Attributes:
        n_records: that this one has taken in.
        n_refused: records that the tables do not take, which are kept in the file `refused.jsonl`.
    """

    def __init__(self, folder: Path, events: EventTables, *, clock: Callable[[], float] = time.time) -> None:
        """Makes the folder, and takes nothing yet."""
        folder.mkdir(parents=True, exist_ok=True)
        self.n_records = 0
        self.n_refused = 0
        self._folder = folder
        self._events = events
        self._clock = clock
        self._lock = os.open(folder / COMMITTER_LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        self._done: dict[str, int] = {}

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
        while n_records := self._commit_some():
            total += n_records
        os.utime(self._lock)
        return total

    def sweep(self) -> None:
        """Deletes segments that nobody needs any more: left by their writer, in the tables, and `KEPT_S` old."""
        if not self.leads():
            return
        old = [segment for segment in segments(self._folder) if self._is_old(segment.path) and is_left(segment.path)]
        over = [segment for segment in old if self._is_over(segment)]
        if over:
            os.sync()  # the tables' files may not have reached the disk yet, and this is the other copy
        for segment in over:
            segment.path.unlink()
            self._done.pop(segment.path.name, None)
        for unfinished in self._folder.glob("*.new"):
            if self._is_old(unfinished) and is_left(unfinished):
                unfinished.unlink()

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
                for table, rows in self._parsed(payload).items():
                    batches[table].append(Batch(f"tandem/{segment.writer}", segment.position(end), rows))
            if frames.ends:
                reached[name] = frames.ends[-1]
                size += frames.ends[-1] - self._done.get(name, 0)
                n_records += len(frames.ends)
            if size > BATCH_BYTES:
                break
        for table in TABLES:
            self._append(table, batches[table])
        self._done |= reached
        self.n_records += n_records
        return n_records

    def _append(self, table: TableName, batches: list[Batch]) -> None:
        """Appends batches, but those that the table would refuse, which must not keep all others out."""
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
            self._refuse(json.dumps({table: batch.rows}).encode(), error)
            return False
        return True

    def _parsed(self, payload: bytes) -> dict[TableName, list[dict[str, Any]]]:
        try:
            return rows_of(payload)
        except ValueError as error:
            self._refuse(payload, error)
            return {}

    def _refuse(self, content: bytes, error: Exception) -> None:
        _LOG.error("the tables refuse a record, which is kept in %s: %s", self._folder / REFUSED, error)
        with (self._folder / REFUSED).open("ab") as file:
            file.write(content + b"\n")
        self.n_refused += 1

    def _is_old(self, path: Path) -> bool:
        try:
            return self._clock() - path.stat().st_mtime > KEPT_S
        except FileNotFoundError:
            return False

    def _is_over(self, segment: Segment) -> bool:
        """Whether all whole records are in the tables; what is after them was never finished, or is damaged."""
        frames = read_frames(segment.path, self._done.get(segment.path.name, 0))
        if frames.payloads:
            return False
        if frames.damaged:
            segment.path.rename(segment.path.with_suffix(".damaged"))
            _LOG.error("%s is damaged from byte %d on", segment.path, self._done.get(segment.path.name, 0))
            return False
        if frames.rest:
            _LOG.warning("%s ends in %d bytes of a record that was never finished", segment.path, frames.rest)
        return True


def is_followed(folder: Path, *, clock: Callable[[], float] = time.time) -> bool:
    """Whether some process takes a spool into the tables, and has succeeded not long ago."""
    lock = folder / COMMITTER_LOCK
    try:
        return not is_left(lock) and clock() - lock.stat().st_mtime <= LATE_S
    except OSError:
        return False


def commit_for_ever(
    committer: Committer, every_s: float, stopping: threading.Event, *, sweep: Callable[[], None]
) -> None:
    """Commits and sweeps at intervals until told to stop; then commits what there is, for the last time.

    Failures are logged, and it is tried again. Args: sweep: what else is to be tidied up at times.
    """
    while not stopping.is_set():
        failed = False
        try:
            committer.commit()
            committer.sweep()
            sweep()
        except Exception:
            failed = True
            _LOG.exception("the log was not taken into the tables; it stays in the spool")
        stopping.wait(every_s * (_PATIENCE if failed else 1))
    try:
        committer.commit()
    except DataError:
        _LOG.exception("the last of the log stays in the spool until the next start")
    finally:
        committer.close()
