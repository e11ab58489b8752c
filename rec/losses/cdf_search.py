"""Search in cumulated weights, compiled: most of what a two-stage loss on a CPU would wait for."""

from typing import Any

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def search(cdf: Floats, points: Floats, found: NDArray[np.int64]) -> None:
    """Writes into `found` the first column of each row whose cumulated weight reaches the point.

    A guide table says where to begin: a point of the g-th C-th of the row's weight is not found before its entry g, and
    on average little more than one step after it. Source: Chen and Asau (1974), doi:10.1080/05695557408974949.

    Args: cdf: ascending, (B, C). points: in (0, cdf[:, -1]], (B, M). found: (B, M).
    """
    n_columns = cdf.shape[1]
    guide = np.empty(n_columns, np.int64)
    for row in range(len(cdf)):
        weights = cdf[row]
        per_cell = n_columns / weights[-1]
        column = 0
        for cell in range(n_columns):
            while weights[column] * per_cell < cell:
                column += 1
            guide[cell] = column
        for place in range(points.shape[1]):
            point = points[row, place]
            column = guide[min(int(point * per_cell), n_columns - 1)]
            while weights[column] < point:
                column += 1
            # The product above may have been rounded into the next cell.
            while column > 0 and weights[column - 1] >= point:
                column -= 1
            found[row, place] = column
