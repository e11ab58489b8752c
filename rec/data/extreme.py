"""Multi-label data in the text format of the extreme classification repository.

Source: Bhatia et al. (2016), http://manikvarma.org/downloads/XC/XMLRepository.html. The first line holds the numbers of
points, features and labels; each other line `l1,l2 f1:v1 f2:v2`, counted from 0, either part possibly empty.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # pyright: ignore[reportMissingTypeStubs]

from rec.data.delimited import read_bytes
from rec.errors import DataError

_HEADER: Final = re.compile(r"\s*(\d{1,18})\s+(\d{1,18})\s+(\d{1,18})\s*", re.ASCII)
_POINT: Final = re.compile(
    r"(?P<labels>\d+(?:,\d+)*)?(?P<features>(?:(?:^|\s+)\d+:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)*)\s*", re.ASCII
)
_LONG_INDEX: Final = re.compile(r"(?:^|[\s,])(\d{16,})(?=[\s,:]|$)", re.ASCII)  # float64 holds every shorter one
_LARGEST: Final = float(np.finfo(np.float32).max)


@final
@dataclass(frozen=True, slots=True)
class MultiLabel:
    """Points with features and labels.

    Attributes: features: float32, (n, F). labels: 0 or 1, float32, (n, L).
    """

    features: sparse.csr_array
    labels: sparse.csr_array

    def __len__(self) -> int:
        return len(self.labels.indptr) - 1


def read_extreme(path: str | Path) -> MultiLabel:
    """One file of points.

    Raises: DataError: naming file and line, for a header or a line that cannot be read, an index out of the header's
        range or given twice, a value beyond the largest of float32, and another number of points than the header says.
        Values are rounded to float32, those too near to 0 for it to 0.
    """
    name = str(path)
    lines = [line.decode() for line in read_bytes(Path(path), encodings=("utf-8",)).splitlines()]
    header = _HEADER.fullmatch(lines[0])
    if header is None:
        raise DataError("three numbers are required: points, features, labels", file=name, row=1)
    n_points, n_features, n_labels = (int(number) for number in header.groups())
    points = lines[1:]
    if len(points) != n_points:
        raise DataError(f"the header says {n_points} points; found {len(points)}", file=name, row=1)
    labels, features = [], []
    for row, line in enumerate(points, start=2):
        point = _POINT.fullmatch(line)
        if point is None:
            raise DataError(f"`l1,l2 f1:v1 f2:v2` is required; found {line[:80]!r}", file=name, row=row)
        long = _LONG_INDEX.search(line)
        if long is not None:
            raise DataError(
                f"features and labels must be below the header's {n_features} and {n_labels}; found {long[1][:80]}",
                file=name,
                row=row,
            )
        labels.append(point["labels"] or "")
        features.append(point["features"])
    label_counts = np.array([text.count(",") + 1 if text else 0 for text in labels], dtype=np.int64)
    value_counts = np.array([text.count(":") for text in features], dtype=np.int64)
    label = _numbers(",".join(text for text in labels if text), ",").astype(np.int64)
    pairs = _numbers(" ".join(features).replace(":", " "), " ").reshape(-1, 2)
    _refuse_large(name, pairs[:, 1], value_counts)
    return MultiLabel(
        features=_rows(name, "feature", pairs[:, 0].astype(np.int64), pairs[:, 1], value_counts, n_features),
        labels=_rows(name, "label", label, np.ones(len(label)), label_counts, n_labels),
    )


def _numbers(text: str, separator: str) -> NDArray[np.float64]:
    return np.fromstring(text, dtype=np.float64, sep=separator) if text.strip() else np.zeros(0)


def _refuse_large(file: str, values: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
    wrong = ~(np.abs(values) <= _LARGEST)
    if wrong.any():
        place = int(wrong.argmax())
        raise DataError(
            f"a value within {_LARGEST:.4g} is required, as float32 holds it; found {values[place]:g}: scale the "
            "feature",
            file=file,
            row=int(np.repeat(np.arange(len(counts)), counts)[place]) + 2,
            column="feature",
        )


def _rows(
    file: str,
    what: str,
    column: NDArray[np.int64],
    value: NDArray[np.float64],
    counts: NDArray[np.int64],
    n_columns: int,
) -> sparse.csr_array:
    """A matrix of the values, row by row; every column below n_columns and once in a row."""
    point = np.repeat(np.arange(len(counts)), counts)
    for wrong, message in (
        (column >= n_columns, f"a {what} must be below the header's {n_columns}"),
        (_repeated(point, column), f"a {what} may stand once in a line"),
    ):
        if wrong.any():
            place = int(wrong.argmax())
            raise DataError(f"{message}; found {column[place]}", file=file, row=int(point[place]) + 2, column=what)
    indptr = np.concatenate([[0], counts.cumsum()])
    return sparse.csr_array((value.astype(np.float32), column, indptr), shape=(len(counts), n_columns))


def _repeated(point: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.bool_]:
    distinct, code = np.unique(column, return_inverse=True)
    repeated = np.ones(len(column), np.bool_)
    repeated[np.unique(point * len(distinct) + code, return_index=True)[1]] = False
    return repeated
