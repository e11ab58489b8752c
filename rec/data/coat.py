"""Coat: ratings of coats that users chose themselves, and of coats chosen for them at random.

Source: Schnabel et al. (2016), Recommendations as Treatments, arXiv:1602.05352.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rec.data.delimited import read_bytes
from rec.errors import DataError

RATINGS: Final = (0, 5)


@final
@dataclass(frozen=True, slots=True)
class Coat:
    """Ratings 1 to 5 of U users and N items; 0 where there is none.

    Attributes:
        train: of items the users selected themselves, int8, (U, N).
        test: of random items, int8, (U, N).
        propensities: estimated probability that a pair is in `train`, as published with the data, (U, N).
        user_features: 0 or 1, float32, (U, F).
        item_features: 0 or 1, float32, (N, G).
    """

    train: NDArray[np.int8]
    test: NDArray[np.int8]
    propensities: NDArray[np.float64]
    user_features: NDArray[np.float32]
    item_features: NDArray[np.float32]


def read_coat(path: str | Path) -> Coat:
    """The data set from its folder.

    Raises: DataError: naming file, row and column, for a file that is no table of numbers, of another size than the
        others, or with a value out of range.
    """
    folder = Path(path)
    train = _read(folder / "train.ascii", *RATINGS, whole=True)
    shape = train.shape
    users = _read(folder / "user_item_features" / "user_features.ascii", 0, 1, whole=True, shape=(shape[0], None))
    items = _read(folder / "user_item_features" / "item_features.ascii", 0, 1, whole=True, shape=(shape[1], None))
    propensities = _read(folder / "propensities.ascii", 0, 1, shape=shape)
    if (propensities <= 0).any():
        row, column = np.argwhere(propensities <= 0)[0]
        file = str(folder / "propensities.ascii")
        raise DataError("a propensity must be above 0", file=file, row=int(row) + 1, column=str(column))
    return Coat(
        train=train.astype(np.int8),
        test=_read(folder / "test.ascii", *RATINGS, whole=True, shape=shape).astype(np.int8),
        propensities=propensities,
        user_features=users.astype(np.float32),
        item_features=items.astype(np.float32),
    )


def _read(
    path: Path, low: float, high: float, *, whole: bool = False, shape: tuple[int, int | None] | None = None
) -> NDArray[np.float64]:
    """A table of numbers separated by blanks, one row a line, all from low to high."""
    lines = [line.decode() for line in read_bytes(path, encodings=("utf-8",)).splitlines()]
    rows: list[NDArray[np.float64]] = []
    for number, line in enumerate(lines, start=1):
        try:
            values = np.array(line.split(), dtype=np.float64)
        except ValueError as error:
            raise DataError(f"numbers are required: {error}", file=str(path), row=number) from error
        if rows and len(values) != len(rows[0]):
            message = f"as many numbers as in the first row are required, {len(rows[0])}; found {len(values)}"
            raise DataError(message, file=str(path), row=number)
        wrong = ~((values >= low) & (values <= high)) | (whole & (values % 1 != 0))
        if wrong.any():
            column = int(wrong.argmax())
            message = f"a {'whole ' if whole else ''}number from {low} to {high} is required; found {values[column]:g}"
            raise DataError(message, file=str(path), row=number, column=str(column))
        rows.append(values)
    table = np.stack(rows)
    if shape is not None and (len(table) != shape[0] or shape[1] not in (None, table.shape[1])):
        raise DataError(f"a table of {shape[0]} x {shape[1] or 'any'} is required; found {table.shape}", file=str(path))
    return table
