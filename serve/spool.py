"""The spool: records on the local disk that wait to be taken into the tables.

Each process appends to segments of its own. A record is a frame: its length and the CRC-32 of its bytes (two 32-bit
integers, the lowest byte first), then the bytes. `append` returns when the operating system has the record, which then
survives the end of any process; `sync` returns when the disk has it. A writer holds a lock on its segment, so that
others see by the lock when nothing more will come. The format is private: segments of another version are never read.
"""

import fcntl
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, final

from rec.storage import sync as sync_folder
from serve.ids import new_id

SUFFIX: Final = ".spool"
SEGMENT_BYTES: Final = 8 * 2**20
_HEADER: Final = struct.Struct("<II")
_OFFSET_BITS: Final = 32
_LOCK_WAIT_S: Final = 0.001


@final
@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file of a spool: the number-th of a writer."""

    writer: str
    number: int
    path: Path

    def position(self, offset: int) -> int:
        """A place in all that the writer wrote, larger for what came later."""
        return self.number << _OFFSET_BITS | offset


@final
@dataclass(frozen=True, slots=True)
class Frames:
    """The whole records of a segment from some place on.

    Attributes:
        payloads: their bytes.
        ends: where each ends in the file.
        rest: bytes after the last of them: of a record that is being written, or will never be finished.
        damaged: some of these are not zero; a file that grew without its content having reached the disk holds zeros.
    """

    payloads: list[bytes]
    ends: list[int]
    rest: int
    damaged: bool


class SyncError(OSError):
    """The disk did not take records that it had been handed."""


@final
class SpoolWriter:
    """Appends records to segments of its own; threads may share it.

    Attributes: writer: its name, never used before.
    """

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Makes the folder; the first segment appears with the first record."""
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = new_id()
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._appending, self._syncing = threading.Lock(), threading.Lock()
        self._number = -1
        self._file = -1
        self._end, self._begun_at = 0, monotonic()
        self._full: list[int] = []
        self._appended = self._synced = 0
        self._lost: list[tuple[int, int]] = []

    def append(self, payload: bytes) -> int:
        """Hands a record to the operating system, whole or not at all.

        Returns: a ticket for `sync`.
        Raises: OSError: when the disk is full or fails.
        """
        frame = framed(payload)
        with self._appending:
            if self._file < 0 or self._end + len(frame) > self._segment_bytes:
                self._open_next()
            written = 0
            try:
                while written < len(frame):
                    written += os.pwrite(self._file, frame[written:], self._end + written)
            except OSError:
                self._forget_rest()
                raise
            self._end += len(frame)
            self._appended += 1
            return self._appended

    def sync(self, ticket: int | None = None) -> None:
        """Returns when the disk has the record of a ticket, or all so far; callers that wait together share one sync.

        Raises: SyncError: when the disk refused. What was handed to it since the last success may be lost, and is
            never reported as safe by a later attempt.
        """
        ticket = self._appended if ticket is None else ticket
        with self._syncing:
            if any(first < ticket <= last for first, last in self._lost):
                raise SyncError("the disk refused this record")
            with self._appending:
                if ticket <= self._synced and not self._full:
                    return
                upto, current = self._appended, self._file
                full, self._full = self._full, []
            try:
                for file in full if current < 0 else [*full, current]:
                    os.fsync(file)
                sync_folder(self._folder)
            except OSError as error:
                broken, upto = self._give_up(current)
                full.extend(broken)
                raise SyncError(f"the disk refused records: {error}") from error
            finally:
                self._synced = upto
                for file in full:
                    os.close(file)

    def close(self) -> None:
        """Syncs what is there and lets the segment go; the next record begins another."""
        with self._appending:
            if self._file >= 0:
                self._full.append(self._file)
            self._file = -1
        self.sync(self._appended)

    def close_if_older(self, seconds: float) -> None:
        """Lets the segment go if it was begun that long ago, so that it can be deleted in time."""
        if self._file >= 0 and monotonic() - self._begun_at > seconds:
            self.close()

    def _open_next(self) -> None:
        self._number += 1
        path = self._folder / f"{self.writer}-{self._number:08d}{SUFFIX}"
        # Nobody may see the segment before it is locked, or it would pass for one that its writer has left.
        hidden = path.with_suffix(".new")
        file = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.rename(hidden, path)
        if self._file >= 0:
            self._full.append(self._file)
        self._file, self._end, self._begun_at = file, 0, monotonic()

    def _give_up(self, current: int) -> tuple[list[int], int]:
        """Goes on in another segment; all that was appended so far counts as lost, what came during the sync too.

        Returns: the file that is to be closed, as its next sync might succeed for nothing, and the last ticket lost.
        """
        with self._appending:
            upto = self._appended
            self._lost.append((self._synced, upto))
            if current == self._file:
                self._file = -1
            elif current in self._full:
                self._full.remove(current)
            return [current] if current >= 0 else [], upto

    def _forget_rest(self) -> None:
        """Takes back part of a record; where that fails too, the segment ends here."""
        try:
            os.ftruncate(self._file, self._end)
        except OSError:
            self._full.append(self._file)
            self._file = -1


def framed(payload: bytes) -> bytes:
    """A record as it stands in a file."""
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def segments(folder: Path) -> list[Segment]:
    """The segments in a folder, by writer and number; files of other names are not ours."""
    found = []
    for path in folder.glob(f"*-*{SUFFIX}"):
        writer, _, number = path.stem.rpartition("-")
        if number.isascii() and number.isdigit():
            found.append(Segment(writer, int(number), path))
    return sorted(found)


def read_frames(path: Path, start: int = 0) -> Frames:
    """The whole records of a segment from a place on; none where the file is gone."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        data = b""
    payloads, ends, place = [], [], 0
    while place + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, place)
        end = place + _HEADER.size + length
        if length == 0 or end > len(data):
            break
        payload = data[place + _HEADER.size : end]
        if zlib.crc32(payload) != checksum:
            break
        payloads.append(payload)
        ends.append(start + end)
        place = end
    return Frames(payloads, ends, len(data) - place, any(data[place:]))


def is_left(path: Path) -> bool:
    """Whether the writer of a segment has ended, or gone on to its next."""
    try:
        file = opened_locked(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    if file is not None:
        os.close(file)
    return file is not None


def spool_bytes(folder: Path) -> int:
    """What the segments take on the disk."""
    sizes = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                try:
                    sizes += entry.stat().st_size
                except FileNotFoundError:
                    continue
    return sizes


def bytes_below(folder: Path) -> int:
    """What all files take on the disk that are in a folder and those in it; 0 where there is none."""
    total, folders = 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    else:
                        with suppress(FileNotFoundError):
                            total += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue
    return total


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[int]:
    """Holds the lock of a file, against threads and processes, and opens it; the end of a process frees it.

    Raises: TimeoutError: when another holds it all the time.
    """
    deadline = monotonic() + timeout_s
    while (file := opened_locked(path, os.O_CREAT | os.O_RDWR)) is None:
        if monotonic() > deadline:
            raise TimeoutError(f"{path} was locked for {timeout_s:g} s")
        time.sleep(_LOCK_WAIT_S)
    try:
        yield file
    finally:
        os.close(file)


def opened_locked(path: Path, flags: int) -> int | None:
    """A file, opened, whose lock is ours until it is closed; None where another has it."""
    file = os.open(path, flags, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(file)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return file
