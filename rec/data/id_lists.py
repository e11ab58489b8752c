"""Text files of ids, one a line."""

from pathlib import Path

from rec.data.delimited import read_bytes
from rec.errors import DataError


def read_ids(path: str | Path) -> list[str]:
    """The ids of a UTF-8 file, one a line as it stands there; blank lines at the end are no ids.

    Raises: DataError: for a file that is missing, empty or of another encoding, and for a blank line between ids.
    """
    text = read_bytes(Path(path), encodings=("utf-8",)).decode()
    ids = [line.removesuffix("\r") for line in text.split("\n")]
    while len(ids) > 1 and not ids[-1].strip():
        ids.pop()
    for row, name in enumerate(ids, start=1):
        if not name.strip():
            raise DataError("a blank line between ids; delete it", file=str(path), row=row)
    return ids
