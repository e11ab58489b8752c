"""The spool keeps whole records in order, through torn writes, refusing disks and writers that are killed."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serve.spool import SpoolWriter, SyncError, is_left, locked, read_frames, segments, spool_bytes

# Appends numbered records for ever; prints the number of each when it is safe.
WRITER = """
import sys
from pathlib import Path
from serve.spool import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]), segment_bytes=20_000)
number = 0
while True:
    ticket = writer.append(str(number).encode() * 50)
    if sys.argv[2] == "sync":
        writer.sync(ticket)
    print(number, flush=True)
    number += 1
"""


def records(folder: Path) -> list[bytes]:
    return [payload for segment in segments(folder) for payload in read_frames(segment.path).payloads]


def test_records_come_back_in_order_over_segments(tmp_path: Path):
    written = [os.urandom(1 + n % 700) for n in range(300)]
    writer = SpoolWriter(tmp_path, segment_bytes=5_000)
    for payload in written:
        writer.append(payload)
    assert records(tmp_path) == written
    assert len(segments(tmp_path)) > 5
    assert all(segment.path.stat().st_size <= 5_000 for segment in segments(tmp_path))
    assert spool_bytes(tmp_path) == sum(len(payload) + 8 for payload in written)
    writer.close()
    assert records(tmp_path) == written


def test_reading_goes_on_where_it_ended(tmp_path: Path):
    writer = SpoolWriter(tmp_path)
    writer.append(b"one")
    (segment,) = segments(tmp_path)
    first = read_frames(segment.path)
    writer.append(b"two")
    second = read_frames(segment.path, first.ends[-1])
    assert (first.payloads, second.payloads) == ([b"one"], [b"two"])
    assert segment.position(first.ends[-1]) < segment.position(second.ends[-1])
    writer.close()


def test_a_record_cut_off_anywhere_is_none_and_hides_no_earlier_one(tmp_path: Path):
    writer = SpoolWriter(tmp_path)
    writer.append(b"first")
    end = segments(tmp_path)[0].path.stat().st_size
    writer.append(b"second")
    writer.close()
    (segment,) = segments(tmp_path)
    whole = segment.path.read_bytes()
    for size in range(end, len(whole)):
        for tail in (b"", bytes(len(whole) - size)):  # a disk that lost power may have the length without the content
            segment.path.write_bytes(whole[:size] + tail)
            found = read_frames(segment.path)
            assert found.payloads == [b"first"]
            assert found.rest == size + len(tail) - end


def test_any_changed_bit_is_noticed(tmp_path: Path):
    writer = SpoolWriter(tmp_path)
    writer.append(b"some record")
    writer.close()
    (segment,) = segments(tmp_path)
    whole = segment.path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            segment.path.write_bytes(changed)
            found = read_frames(segment.path)
            assert found.payloads == []
            assert found.damaged and found.rest == len(whole)


def test_a_segment_is_left_when_its_writer_goes_on_or_closes(tmp_path: Path):
    writer = SpoolWriter(tmp_path, segment_bytes=100)
    writer.append(b"a" * 90)
    writer.append(b"b" * 90)
    writer.sync()
    first, second = segments(tmp_path)
    assert is_left(first.path) and not is_left(second.path)
    writer.close()
    assert is_left(second.path)
    assert is_left(tmp_path / "gone")


def test_an_old_segment_is_let_go(tmp_path: Path):
    writer = SpoolWriter(tmp_path)
    writer.append(b"one")
    writer.close_if_older(60)
    assert not is_left(segments(tmp_path)[0].path)
    writer.close_if_older(-1)
    writer.append(b"two")
    writer.sync()
    first, second = segments(tmp_path)
    assert is_left(first.path) and not is_left(second.path)
    assert records(tmp_path) == [b"one", b"two"]
    writer.close()
    writer.close()


def test_a_full_disk_takes_a_record_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writer = SpoolWriter(tmp_path)
    writer.append(b"before")
    write = os.pwrite

    def full(file: int, data: bytes, place: int) -> int:
        if len(data) <= 10:
            raise OSError(errno.ENOSPC, "full")
        return write(file, data[:10], place)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        writer.append(b"too much " * 10)
    monkeypatch.setattr(os, "pwrite", write)
    writer.append(b"after")
    assert records(tmp_path) == [b"before", b"after"]
    writer.close()


def test_what_a_disk_refused_is_never_said_to_be_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writer = SpoolWriter(tmp_path)
    safe = writer.append(b"safe")
    writer.sync(safe)
    refused = writer.append(b"refused")

    def failing(_file: int) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(SyncError):
            writer.sync(refused)
    later = writer.append(b"later")
    writer.sync(later)
    writer.sync(safe)
    with pytest.raises(SyncError):
        writer.sync(refused)
    assert len(segments(tmp_path)) == 2  # whoever asks the same file again may be told that all is well
    writer.close()


@pytest.mark.parametrize("segment_bytes", [1_000_000, 10])
def test_what_came_while_a_disk_refused_is_never_said_to_be_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment_bytes: int
):
    writer = SpoolWriter(tmp_path, segment_bytes=segment_bytes)
    refused = writer.append(b"refused")
    meanwhile: list[int] = []

    def failing(_file: int) -> None:
        meanwhile.append(writer.append(b"meanwhile"))
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(SyncError):
            writer.sync(refused)
    with pytest.raises(SyncError):
        writer.sync(meanwhile[0])
    writer.sync(writer.append(b"later"))
    writer.close()


def test_threads_share_a_writer(tmp_path: Path):
    writer = SpoolWriter(tmp_path, segment_bytes=500)

    def write(thread: int) -> None:
        for n in range(20):
            writer.sync(writer.append(f"{thread} {n}".encode()))

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = records(tmp_path)
    assert sorted(found) == sorted(f"{thread} {n}".encode() for thread in range(4) for n in range(20))
    for thread in range(4):
        mine = [record for record in found if record.startswith(f"{thread} ".encode())]
        assert mine == [f"{thread} {n}".encode() for n in range(20)]
    writer.close()


@pytest.mark.parametrize("mode", ["sync", "append"])
def test_what_a_killed_writer_had_handed_over_is_there(tmp_path: Path, mode: str):
    """Not only what was synced: the end of a process, however sudden, takes nothing from the operating system."""
    rng = random.Random(0)
    for n in range(2):
        folder = tmp_path / str(n)
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), mode], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(rng.randrange(20, 80))]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
        found = records(folder)
        assert len(found) >= len(told)
        assert found == [str(number).encode() * 50 for number in range(len(found))]
        assert all(is_left(segment.path) for segment in segments(folder))


def test_a_lock_is_held_by_one(tmp_path: Path):
    path = tmp_path / "lock"
    with locked(path, 1), pytest.raises(TimeoutError), locked(path, 0.01):
        pass
    with locked(path, 1):
        pass
