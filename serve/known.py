"""Which requests were answered, with which items, and which of their events were accepted.

The spool says so of the last minute, for every process that writes to it; the tables say it of what is older. Whoever
reads the spool at least every `STALE_S` misses nothing, as the committer keeps each segment for `KEPT_S` after the
tables took in its last record; whoever did not, or is told that requests were removed, forgets what it knew and asks
the tables again. What these took in after they were asked is in the spool as long, so that whoever asks them and then
reads the spool within `KEPT_S` misses nothing either.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple, Self, final

from rec.data.events import EventTables
from rec.errors import DataError
from serve.logged import AGAIN, Row, rows_of
from serve.sessions import Act
from serve.spool import read_frames, segments

STALE_S: Final = 30.0
KEPT_S: Final = 60.0
# How long a request that is in neither spool nor tables is taken to be in neither.
MISSED_S: Final = 10.0
# The file of a spool that changes when requests were removed from the tables.
FORGOTTEN: Final = "forgotten"
_REQUEST: Final = ("request_id", "user_id", "timestamp")
_EVENT: Final = ("request_id", "event_id", "item_id", "action", "value", "timestamp", "received_at")


@final
class Given(NamedTuple):
    """An event as it was first accepted, whatever it said when it came again."""

    item_id: str
    action: str
    value: float | None
    timestamp: int
    received_at: int

    @classmethod
    def of(cls, event: Row) -> Self:
        """What an event says."""
        return cls(event["item_id"], event["action"], event.get("value"), event["timestamp"], event["received_at"])

    @property
    def act(self) -> Act:
        """What was done."""
        return Act(self.item_id, self.action, self.timestamp)


@final
@dataclass(slots=True)
class Known:
    """One request: whose it is, when it was answered and with which items, and its events by id.

    The first three are None while only events are known.

    `complete` once there can be no events but these: the spool was followed since the answer, or the tables were asked.
    Of the events those are `safe` of which this process knows that the disk or the tables have them.
    """

    user_id: str | None = None
    answered_at: int | None = None
    items: frozenset[str] | None = None
    events: dict[str, Given] = field(default_factory=dict)
    safe: set[str] = field(default_factory=set)
    complete: bool = False


@final
class KnownRequests:
    """The requests of a log; threads may share it."""

    def __init__(
        self,
        folder: Path,
        events: EventTables,
        *,
        capacity: int = 100_000,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Knows nothing yet.

        Args: folder: of the spool. capacity: requests to remember beside those that are in the spool alone.
        """
        self._folder = folder
        self._events = events
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[str, Known]] = OrderedDict()
        self._missed: dict[str, float] = {}
        self._read: dict[str, int] = {}
        self._read_at: float | None = None
        self._told = 0

    def find(self, request_ids: Collection[str]) -> dict[str, Known]:
        """Those of the requests that were answered, from the tables where the spool does not have them.

        Raises: DataError: when the tables cannot be read.
        """
        with self._lock:
            self._read_spool()
            found, missing = self._complete(request_ids), self._unknown(request_ids)
        return found | self.look_up(missing) if missing else found

    def follow(self) -> None:
        """Reads what is new in the spool; whatever is answered afterwards is known without the tables for `STALE_S`.

        Raises: OSError: when the disk fails.
        """
        with self._lock:
            self._read_spool()

    def in_memory(self, request_ids: Collection[str]) -> dict[str, Known]:
        """Those of the requests that are known to be answered, without asking the tables."""
        with self._lock:
            self._read_spool()
            return self._complete(request_ids)

    def say_safe(self, events: Collection[Row]) -> None:
        """Remembers that the disk has events, so that nobody need hand them to it again."""
        with self._lock:
            for event in events:
                if (entry := self._known.get(event["request_id"])) is not None:
                    entry[1].safe.add(event["event_id"])

    def unknown(self, request_ids: Collection[str]) -> list[str]:
        """Those of the requests that only the tables can tell about, and have not been asked for in the last moments.

        Whatever is answered from now on will be found in the spool, so what was in neither place may be taken to be in
        neither for `MISSED_S`.
        """
        with self._lock:
            self._read_spool()
            return self._unknown(request_ids)

    def look_up(self, request_ids: Sequence[str]) -> dict[str, Known]:
        """Those of the requests that were answered, as the tables have them with what the spool adds.

        Raises: DataError: when the tables cannot be read, or take so long that what they took in since they were asked
            may be neither in what was read nor in the spool any more; when requests were removed meanwhile.
        """
        began, told = self._clock(), _changed_ns(self._folder / FORGOTTEN)
        shown = self._events.read("impressions", columns=["request_id", "item_id"], request_ids=request_ids)
        asked = self._events.read("requests", columns=_REQUEST, request_ids=request_ids)
        events_began = self._clock()
        given = self._events.read("feedback", columns=_EVENT, request_ids=request_ids)
        users = {row["request_id"]: (row["user_id"], row["timestamp"]) for row in asked.to_pylist()}
        items: dict[str, set[str]] = {request_id: set() for request_id in users}
        for row in shown.to_pylist():
            if row["request_id"] in items:  # else the request is being removed
                items[row["request_id"]].add(row["item_id"])
        with self._lock:
            self._read_spool()
            if told != self._told:
                raise DataError("requests were removed from the tables while these were read; ask again")
            now = self._clock()
            if now - events_began > STALE_S:
                raise DataError(f"the tables took more than {STALE_S:g} s to say which events they have")
            if now - began > KEPT_S:
                raise DataError(f"the tables took more than {KEPT_S:g} s to say which requests they have")
            for request_id, theirs in items.items():
                known = self._entry(request_id, "")
                known.items = frozenset(theirs) if known.items is None else known.items
                known.user_id, known.answered_at = users[request_id]
            for row in given.to_pylist():
                known = self._entry(row["request_id"], "")
                known.events.setdefault(row["event_id"], Given.of(row))
                known.safe.add(row["event_id"])
            for request_id in request_ids:
                if request_id in self._known:
                    known = self._known[request_id][1]
                    known.complete = known.items is not None
            found = self._complete(request_ids)
            self._missed |= {each: self._clock() for each in request_ids if each not in found}
            return found

    def _unknown(self, request_ids: Collection[str]) -> list[str]:
        known = self._complete(request_ids)
        return sorted({each for each in request_ids if each not in known and each not in self._missed})

    def _complete(self, request_ids: Collection[str]) -> dict[str, Known]:
        found = [(request_id, self._known.get(request_id)) for request_id in request_ids]
        return {request_id: entry[1] for request_id, entry in found if entry is not None and entry[1].complete}

    def _read_spool(self) -> None:
        now = self._clock()
        while self._missed and (
            len(self._missed) > self._capacity or now - next(iter(self._missed.values())) > MISSED_S
        ):
            del self._missed[next(iter(self._missed))]
        told, self._told = self._told, _changed_ns(self._folder / FORGOTTEN)
        followed = self._read_at is not None and now - self._read_at <= STALE_S and told == self._told
        if not followed:
            self._known.clear()
            self._missed.clear()
            self._read.clear()
        self._read_at = None  # what fails before its end has not followed
        present = {segment.path.name: segment.path for segment in segments(self._folder)}
        self._read = {name: place for name, place in self._read.items() if name in present}
        for name, path in present.items():
            frames = read_frames(path, self._read.get(name, 0))
            for payload in frames.payloads:
                self._take_in(payload, name, followed)
            if frames.ends:
                self._read[name] = frames.ends[-1]
        while len(self._known) > self._capacity:
            oldest, (segment, _) = next(iter(self._known.items()))
            if segment in present:
                break
            del self._known[oldest]
        self._read_at = now

    def _take_in(self, payload: bytes, segment: str, followed: bool) -> None:
        try:
            self._take_rows(rows_of(payload), segment, followed)
        except (AttributeError, KeyError, TypeError, ValueError):  # the committer refuses and keeps it, and says so
            return

    def _take_rows(self, rows: Mapping[str, Sequence[Row]], segment: str, followed: bool) -> None:
        for request in rows.get("requests", ()):
            known = self._entry(request["request_id"], segment)
            known.user_id, known.answered_at = request["user_id"], request["timestamp"]
            known.items = frozenset(row["item_id"] for row in rows["impressions"])
            known.complete |= followed
        for event in (*rows.get("feedback", ()), *rows.get(AGAIN, ())):
            self._entry(event["request_id"], segment).events.setdefault(event["event_id"], Given.of(event))

    def _entry(self, request_id: str, segment: str) -> Known:
        """What is known of a request, which is kept while the segment that last told of it is there."""
        before, known = self._known.get(request_id, ("", Known()))
        self._known[request_id] = segment or before, known
        self._known.move_to_end(request_id)
        return known


def tell_forgotten(folder: Path) -> None:
    """Makes all who know requests of a spool ask the tables which there still are.

    Raises: OSError: when the disk does not take it.
    """
    (folder / FORGOTTEN).touch()


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
