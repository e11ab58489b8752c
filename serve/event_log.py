"""The log as a server writes it: what was answered, and what people did, into the spool of this machine.

An answer is handed to the operating system before it is sent, and to the disk within `sync_s`; feedback is on the disk
when it is acknowledged. Everything here waits for the disk or the tables at times: call `accept` in a thread.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final, final

from rec.data.event_rows import SLOW_MS
from rec.data.events import EventTables
from serve.claims import FOLDER as KEYS
from serve.committer import is_followed
from serve.ids import new_id
from serve.known import Given, Known, KnownRequests
from serve.logged import Row, answer_record, feedback_record
from serve.sessions import UserAct
from serve.spool import SpoolWriter, bytes_below, locked, spool_bytes

FEEDBACK_LOCK: Final = "feedback.lock"
LOCK_TIMEOUT_S: Final = 5.0
# How long a segment is written to, at most: what is in it goes when it is deleted.
SEGMENT_S: Final = 60.0
# What the disk has to take for the log to count as one that can be written.
PROBE_BYTES: Final = 4096
_IDLE_S: Final = 1.0
# How long the measured size of the spool is good for; what is written here meanwhile is added.
_MEASURED_S: Final = 0.5
_LOG: Final = logging.getLogger(__name__)


class SpoolFullError(OSError):
    """The spool has reached its limit, as the tables do not take what is in it."""


class UnknownRequestError(LookupError):
    """Feedback on a request that was never answered; `place` is that of the event."""

    def __init__(self, place: int, request_id: str) -> None:
        super().__init__(request_id)
        self.place = place


class NotShownError(LookupError):
    """Feedback on an item that its request was not answered with; `place` is that of the event."""

    def __init__(self, place: int, item_id: str) -> None:
        super().__init__(item_id)
        self.place = place


class TooEarlyError(LookupError):
    """Feedback dated longer before its request than a slow clock explains; `place` is that of the event."""

    def __init__(self, place: int, answered_at: int) -> None:
        super().__init__(f"it was answered at {answered_at}")
        self.place = place


@final
@dataclass(frozen=True, slots=True)
class Accepted:
    """How many events are new, how many had been accepted before, and of each of all who did what, as it is kept.

    Of a duplicate that is what the event said when it was accepted, whatever it says now.
    """

    accepted: int
    duplicates: int
    acts: tuple[UserAct, ...] = field(default=(), compare=False)


@final
class EventLog:
    """Writes the log of one process, beside others that share its spool; threads may share it."""

    def __init__(self, folder: Path, events: EventTables, *, sync_s: float, max_bytes: int) -> None:
        """Makes the folder of the spool.

        Args: sync_s: until an answer is on the disk, at most; 0: before it is sent. max_bytes: of the whole spool,
            above which nothing is taken.
        """
        self._folder = folder
        self._sync_s = sync_s
        self._max_bytes = max_bytes
        self._writer = SpoolWriter(folder)
        self._known = KnownRequests(folder, events)
        self._known.follow()
        self._bytes, self._key_bytes = spool_bytes(folder), bytes_below(folder / KEYS)
        self._closing = threading.Event()
        self._syncing = threading.Thread(target=self._sync_at_times, name="tandem-log-sync", daemon=True)
        self._measuring = threading.Thread(target=self._measure_at_times, name="tandem-log-measure", daemon=True)
        self._syncing.start()
        self._measuring.start()

    def answered(self, request: Row, impressions: Sequence[Row]) -> None:
        """Records a request and what it was answered with.

        Raises: OSError: when the disk does not take it. SpoolFullError: when the spool is full.
        """
        self._refuse_full()
        ticket = self._append(answer_record(request, impressions))
        if not self._sync_s:
            self._writer.sync(ticket)

    def answered_again(self, request: Row, impressions: Sequence[Row]) -> None:
        """Records a request, unless that was done before; nobody else may be doing it.

        Raises: as `answered`. DataError: when the tables cannot be read.
        """
        if not self._known.find([request["request_id"]]):
            self.answered(request, impressions)

    def accept(self, events: Sequence[Row]) -> Accepted:
        """Records feedback, all of it or nothing, and returns when it is on the disk.

        An event is the same as one before when its request and `event_id` are; one without an id is new.

        Raises: UnknownRequestError, NotShownError, TooEarlyError: naming the first event that is wrong. OSError: when
            the disk does not take it. SpoolFullError: when the spool is full. TimeoutError: when others keep the spool
            locked. DataError: when the tables cannot be read.
        """
        self._refuse_full()
        asked = {event["request_id"] for event in events}
        while not self._closing.is_set():
            found = self._known.find(asked)
            self._refuse_wrong(events, found)
            with locked(self._folder / FEEDBACK_LOCK, LOCK_TIMEOUT_S):
                current = self._known.in_memory(asked)
                if len(current) < len(asked):
                    continue  # it was forgotten meanwhile
                new, acts = _without_known(events, current)
                again = _not_safe(events, current)
                ticket = self._append(feedback_record(new, again)) if new or again else None
            if ticket is not None:
                self._writer.sync(ticket)
            self._known.say_safe([*new, *again])
            return Accepted(len(new), len(events) - len(new), acts)
        raise OSError("the log is closed")

    def close(self) -> None:
        """Brings all to the disk; nothing may be recorded after."""
        self._closing.set()
        self._writer.close()

    def check(self) -> None:
        """Raises: OSError: when the disk takes no record now. SpoolFullError: when the spool is full."""
        self._refuse_full()
        probe = self._folder / f"{self._writer.writer}.probe"
        try:
            with probe.open("wb") as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)

    def is_followed(self) -> bool:
        """Whether what is recorded gets into the tables now."""
        return is_followed(self._folder)

    def unknown(self, request_ids: Sequence[str]) -> list[str]:
        """Those of the requests that only the tables can tell about; see `KnownRequests.unknown`."""
        return self._known.unknown(request_ids)

    def look_up(self, request_ids: Sequence[str]) -> None:
        """Asks the tables about requests, so that `accept` need not.

        Raises: DataError: when the tables cannot be read.
        """
        self._known.look_up(request_ids)

    @property
    def spool_bytes(self) -> int:
        """What the segments took on the disk a moment ago."""
        return self._bytes

    @property
    def key_bytes(self) -> int:
        """What the idempotency keys took on the disk a while ago, the longer the more there are."""
        return self._key_bytes

    def _append(self, record: bytes) -> int:
        ticket = self._writer.append(record)
        self._bytes += len(record)  # until it is measured again
        return ticket

    def _measure_at_times(self) -> None:
        """Keys may be many, so measuring them takes a fiftieth of the time at most.

        The spool is read as well, or whoever takes no feedback for a while would have to ask the tables about what it
        has just answered.
        """
        keys_at = 0.0
        while not self._closing.wait(_MEASURED_S):
            with suppress(OSError):  # whoever looks for a request is told
                self._known.follow()
            with suppress(OSError):  # whoever writes is told
                self._bytes = spool_bytes(self._folder)
                if (began := monotonic()) >= keys_at:
                    self._key_bytes = bytes_below(self._folder / KEYS)
                    keys_at = began + 50 * (monotonic() - began)

    def _refuse_full(self) -> None:
        if self._bytes > self._max_bytes:
            raise SpoolFullError(
                f"the spool {self._folder} holds {self._bytes:,} bytes, {self._max_bytes:,} are allowed; the tables do "
                "not take them: see the log of the committer"
            )

    @staticmethod
    def _refuse_wrong(events: Sequence[Row], found: dict[str, Known]) -> None:
        for place, event in enumerate(events):
            known = found.get(event["request_id"])
            if known is None:
                raise UnknownRequestError(place, event["request_id"])
            if event["item_id"] not in (known.items or ()):
                raise NotShownError(place, event["item_id"])
            if known.answered_at is not None and event["timestamp"] < known.answered_at - SLOW_MS:
                raise TooEarlyError(place, known.answered_at)

    def _sync_at_times(self) -> None:
        failed = False
        while not self._closing.wait(self._sync_s or _IDLE_S):
            try:
                self._writer.sync()
                self._writer.close_if_older(SEGMENT_S)
                failed = False
            except OSError:
                if not failed:
                    _LOG.exception("answers of the last %g s may not survive a loss of power", self._sync_s)
                failed = True


def now_ms() -> int:
    """The time, UTC milliseconds."""
    return time.time_ns() // 1_000_000


def _not_safe(events: Sequence[Row], known: Mapping[str, Known]) -> list[dict[str, Any]]:
    """Those of the events that were accepted before, as they were then, and that the disk is not known to have."""
    again = {}
    for event in events:
        request, event_id = known[event["request_id"]], event.get("event_id")
        if event_id in request.events and event_id not in request.safe:
            again[event["request_id"], event_id] = {**event, **request.events[event_id]._asdict()}
    return list(again.values())


def _without_known(
    events: Sequence[Row], known: Mapping[str, Known]
) -> tuple[list[dict[str, Any]], tuple[UserAct, ...]]:
    """The events that were not accepted before, each once and with an id; and of each of all who did what."""
    taken: dict[tuple[str, str], Given] = {}
    new, acts = [], []
    for event in events:
        request, event_id = known[event["request_id"]], event.get("event_id") or new_id()
        key = event["request_id"], event_id
        given = request.events.get(event_id) or taken.get(key)
        if given is None:
            given = taken[key] = Given.of(event)
            new.append({**event, "event_id": event_id})
        acts.append((request.user_id or "", given.act))
    return new, tuple(acts)
