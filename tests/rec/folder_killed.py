"""Run by test_storage: kills whoever replaces a folder at each change of the disk, and checks what is left behind.

Prints the number of kills. A process of its own, because it forks.
"""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

from rec.storage import recover_folder, replace_folder
from tests.rec.registry_killed import WRITES, dies_at

CHANGES = (*WRITES, "unlink", "rmdir")


def filled_with(content: bytes) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        folder.mkdir()
        (folder / "a.pkl").write_bytes(content)
        (folder / "deeper").mkdir()
        (folder / "deeper" / "b.pkl").write_bytes(content)

    return fill


def whole(folder: Path) -> bytes | None:
    """What the folder was filled with; None where it is not there."""
    if not folder.exists():
        return None
    contents = [(folder / name).read_bytes() for name in ("a.pkl", "deeper/b.pkl")]
    assert contents[0] == contents[1]
    return contents[0]


def kills(root: Path, before: bytes | None) -> int:
    """At every change, while the folder is replaced and again while that is recovered from."""
    found, left = 0, set[bytes | None]()
    for number in itertools.count():
        folder = root / str(number) / "checkpoint"
        folder.parent.mkdir(parents=True)
        if before is not None:
            replace_folder(folder, filled_with(before))
        died = dies_at(number, lambda folder=folder: replace_folder(folder, filled_with(b"new")), CHANGES)
        for call in itertools.count():
            if not dies_at(call, lambda folder=folder: recover_folder(folder), CHANGES):
                break
            found += 1
        assert whole(folder) in ({before, b"new"} if died else {b"new"})
        assert {path.name for path in folder.parent.iterdir()} <= {"checkpoint"}
        left.add(whole(folder))
        replace_folder(folder, filled_with(b"next"))
        assert whole(folder) == b"next"
        found += died
        if not died:
            break
    assert left == {before, b"new"}
    return found


if __name__ == "__main__":
    print(sum(kills(Path(sys.argv[1]) / str(before), before) for before in (None, b"old")))
