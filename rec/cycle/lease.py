"""One at a time: a lease on a home, which a crash cannot keep.

A lease is a Delta table of one row, who holds it and until when. It is replaced by a commit on top of the version that
was read, never on top of a later one: so of two that take it at once one succeeds, on a local disk by a rename that
does not replace, in an object store by a conditional put.
"""

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Self, final

import psutil
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from rec.errors import TandemError
from rec.storage import Home

SCHEMA: Final = pa.schema([("holder", pa.string()), ("expires_ms", pa.int64())])
_ON_TOP_OF_WHAT_WAS_READ: Final = CommitProperties(max_commit_retries=0)
# Between two times at which the system says the same process was started.
_SAME_START_S: Final = 5.0


class LeaseError(TandemError):
    """Another process holds what only one may."""


@final
class Lease:
    """Held by whoever is in its `with` block, and renewed meanwhile; others are refused.

    A holder that died is one on this machine whose process is gone, at once; on another machine, one whose lease ran
    out. Clocks of machines that share a home must agree within a small part of `seconds`.
    """

    def __init__(self, home: Home, name: str, *, seconds: float) -> None:
        """Nothing is read or written yet. Args: name: of its folder in the home. seconds: how long it is."""
        self._folder = None if home.folder is None else home.folder / name
        self._uri = home.show(name) if self._folder is None else str(self._folder)
        self._seconds = seconds
        self._holder = {"token": token_hex(16), **_this_process()}
        self._turn, self._over = threading.Lock(), threading.Event()
        self._renewals = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Self:
        """Takes the lease.

        Raises: LeaseError: saying who holds it and until when.
        """
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        with suppress(DeltaError):  # of several that create it at once one succeeds
            DeltaTable.create(self._uri, schema=SCHEMA, mode="ignore")
        table, holder, expires_ms = self._read()
        if holder is not None and expires_ms > _now_ms() and not _is_gone(holder):
            raise LeaseError(
                f"another one is at work, process {holder['pid']}, and may be for "
                f"{(expires_ms - _now_ms()) / 1000:.0f} s without a further sign of life: wait for its end",
                file=self._uri,
            )
        self._commit(table, _now_ms() + round(self._seconds * 1000))
        self._renewals.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Gives it back; where that fails it runs out by itself."""
        self._over.set()
        self._renewals.join()
        with suppress(LeaseError, DeltaError, OSError):
            self.hold()
            DeltaTable(self._uri).vacuum(dry_run=False)  # what is older than a week
        with suppress(LeaseError, DeltaError, OSError):
            self._extend(0.0)

    def hold(self) -> None:
        """Makes sure that it is still held, and renews it: before anything that others must not do at the same time.

        Raises: LeaseError: when another has taken it, as after this process had stood still for long.
        """
        self._extend(self._seconds)

    def _extend(self, seconds: float) -> None:
        with self._turn:
            table, holder, _ = self._read()
            if holder != self._holder:
                raise LeaseError("it ran out, and another has taken it: leave the rest to that one", file=self._uri)
            self._commit(table, _now_ms() + round(seconds * 1000))

    def _renew(self) -> None:
        while not self._over.wait(self._seconds / 3):
            with suppress(LeaseError, DeltaError, OSError):  # `hold` tells whether it is lost
                self._extend(self._seconds)

    def _read(self) -> tuple[DeltaTable, dict[str, Any] | None, int]:
        """The table as it is, who holds it, and until when."""
        try:
            table = DeltaTable(self._uri)
            rows = table.to_pyarrow_table().to_pylist()
            if not rows:
                return table, None, 0
            holder, expires_ms = json.loads(rows[0]["holder"]), int(rows[0]["expires_ms"])
            if not isinstance(holder, dict) or not holder.keys() >= self._holder.keys():
                raise ValueError("its row names no holder")
            return table, holder, expires_ms
        except (DeltaError, OSError, ValueError, KeyError, TypeError) as error:
            cause = str(error).partition("\n")[0]
            why = f"cannot be read ({cause}): try again; if it stays so, see that no cycle runs, and move it away"
            raise LeaseError(why, file=self._uri) from error

    def _commit(self, table: DeltaTable, expires_ms: int) -> None:
        row = pa.table({"holder": [json.dumps(self._holder)], "expires_ms": [expires_ms]}, schema=SCHEMA)
        try:
            write_deltalake(table, row, mode="overwrite", commit_properties=_ON_TOP_OF_WHAT_WAS_READ)
        except CommitFailedError as error:
            raise LeaseError("another one took it at the same moment: wait for its end", file=self._uri) from error
        except (DeltaError, OSError) as error:
            cause = str(error).partition("\n")[0]
            raise LeaseError(f"cannot be written ({cause}): see that its storage can be", file=self._uri) from error


def _now_ms() -> int:
    return int(time.time() * 1000)


def _this_process() -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _machine() -> str | None:
    """What processes see alike that see each other's numbers: one start of one system, one namespace of processes."""
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return None


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether a process of this machine is no more; of another machine nobody here can say."""
    if holder["machine"] is None or holder["machine"] != _machine():
        return False
    try:
        process = psutil.Process(holder["pid"])
        return (
            process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - holder["started"]) > _SAME_START_S
        )
    except psutil.NoSuchProcess:
        return True
