"""Idempotency keys: a request that is sent again, to whichever process, gets the answer of the first time.

Each key has a file in the spool, and whoever answers holds its lock meanwhile. The answer is in the file before it is
in the log and before it is sent, so a process that is killed in between leaves either nothing, or all that the next
needs. Files are grouped by the period in which the key was new; those of the last period are looked for, too.
"""

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Final, final

from serve.spool import framed, locked, opened_locked, read_frames

FOLDER: Final = "keys"
WAIT_S: Final = 5.0
_STEP_S: Final = 0.002


@final
class Claim:
    """One key while its lock is held: `content` is what was kept with it, None at the first time."""

    def __init__(self, path: Path, file: int) -> None:
        self.content: bytes | None = None
        self._path = path
        self._file = file
        self._until: Future[Any] | None = None

    def read(self) -> None:
        """Raises: OSError: when the disk fails."""
        payloads = read_frames(self._path).payloads
        self.content = payloads[0] if payloads else None

    def keep(self, content: bytes) -> None:
        """Stores what later requests of the key shall get; a process that ends while it does has stored nothing.

        Raises: OSError: when the disk is full or fails.
        """
        frame, place = framed(content), 0
        os.ftruncate(self._file, 0)
        while place < len(frame):
            place += os.pwrite(self._file, frame[place:], place)

    def hold_until(self, done: "Future[Any]") -> None:
        """Has the lock held until a thread is done, though whoever waits for that may be cancelled."""
        self._until = done

    def release(self) -> None:
        """Gives up the lock, now or when what it is held for is done."""
        if self._until is None:
            os.close(self._file)
        else:
            self._until.add_done_callback(lambda _: os.close(self._file))


class KeysFullError(OSError):
    """No further key is remembered, as those there are take all that they may."""


@final
class Claims:
    """The idempotency keys of a spool, each remembered for at least `seconds` and at most twice that."""

    def __init__(self, spool: Path, seconds: int, *, clock: Callable[[], float] = time.time) -> None:
        self._folder = spool / FOLDER
        self._seconds = seconds
        self._clock = clock

    @asynccontextmanager
    async def claim(self, key: str, *, full: bool = False) -> AsyncIterator[Claim]:
        """Holds a key.

        Args: full: whether no new key may be remembered.
        Raises: TimeoutError: when another request of the key is still being answered. KeysFullError: for a new one.
            OSError: when the disk fails.
        """
        before, now = self._paths(hashlib.sha256(key.encode()).hexdigest())
        if full and not (before.exists() or now.exists()):
            raise KeysFullError("idempotency keys take all the room on the disk that they may")
        deadline = monotonic() + WAIT_S
        async with AsyncExitStack() as held:
            if before.exists():
                claim = await held.enter_async_context(_held(before, deadline))
                if claim.content is not None:
                    yield claim
                    return
            # What failed in the last period has kept nothing, and what is kept there now would be forgotten too soon.
            now.parent.mkdir(parents=True, exist_ok=True)
            claim = await held.enter_async_context(_held(now, deadline))
            yield claim

    def sweep(self) -> None:
        """Forgets the keys whose time is over."""
        for period in self._folder.glob("*"):
            if period.name.isdigit() and int(period.name) < self._period() - 1:
                shutil.rmtree(period, ignore_errors=True)

    @staticmethod
    def forget(spool: Path, is_theirs: Callable[[bytes], bool]) -> int:
        """Makes keys new again, by what was kept with them; a key whose first answer is on its way has nothing yet.

        Their files stay, empty, until their time is over: a lock of one that is gone would hold nobody.

        Returns: how many. Raises: OSError: when the disk fails. TimeoutError: when a key is held all the time.
        """
        n_keys = 0
        for folder, _, names in os.walk(spool / FOLDER):
            for path in (Path(folder, name) for name in names):
                if any(map(is_theirs, read_frames(path).payloads)):
                    with locked(path, WAIT_S) as file:
                        os.ftruncate(file, 0)
                    n_keys += 1
        return n_keys

    def _period(self) -> int:
        return int(self._clock() // self._seconds)

    def _paths(self, digest: str) -> tuple[Path, Path]:
        """Where a key of the last period is, and one of this."""
        name, period = f"{digest[:2]}/{digest[2:]}", self._period()
        return self._folder / str(period - 1) / name, self._folder / str(period) / name


@asynccontextmanager
async def _held(path: Path, deadline: float) -> AsyncIterator[Claim]:
    while (file := opened_locked(path, os.O_CREAT | os.O_RDWR)) is None:
        if monotonic() > deadline:
            raise TimeoutError("the first request of this key is still being answered")
        await asyncio.sleep(_STEP_S)
    claim = Claim(path, file)
    try:
        claim.read()
        yield claim
    finally:
        claim.release()
