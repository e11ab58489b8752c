"""Feature rows of users and candidates, filled in by one compiled pass over the history and the candidates of each.

A request has a few hundred candidates: as whole-array operations their features are a hundred calls that each touch a
few kilobytes, and the calls cost ten times the arithmetic.
"""

from typing import Any, Final

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

# How many of the latest items `i2i_sum_10` looks at.
LATE: Final = 10


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def fill_rows(
    rows: Floats,
    items: Integers,
    scores: Floats,
    history: Integers,
    of_items: Floats,
    of_users: Floats,
    slots: Integers,
    slot_starts: Integers,
    n_slots: int,
    taste_columns: Integers,
    neighbor_starts: Integers,
    neighbors: Integers,
    similarities: Floats,
) -> None:
    """Fills the rows of B users with M candidates each.

    The columns are: the retriever's score, its rank (how many have more) and the distance to the best; those of the
    item; those of the user; for each slotted feature the share of the history with the candidate's value, averaged over
    its values; for each taste column the candidate minus the history's mean; with neighbours, the similarity to the
    history summed, summed over the last LATE items, and largest. Rows without an item are finite.

    Args:
        rows: to be filled, float32, (B, M, F).
        items: catalogue positions, -1 where there is none, (B, M).
        scores: of the retriever, (B, M).
        history: catalogue positions, oldest first, padded on the left with -1, (B, H).
        of_items: (N + 1, C), the last row that of no item.
        of_users: (B, U).
        slots: of all slotted features side by side, numbered over all of them, 0 for none, (N + 1, L).
        slot_starts: where the columns of each slotted feature begin in `slots`, and the end, (V + 1,).
        n_slots: how many slots there are over all features, slot 0 included.
        taste_columns: columns of `of_items`, (T,).
        neighbor_starts: neighbours of item i are neighbors[neighbor_starts[i]:neighbor_starts[i + 1]], (N + 1,); (0,)
            where there are no columns for them.
        neighbors: catalogue positions, (nnz,).
        similarities: of those neighbours, (nnz,).
    """
    n_users, n_candidates = items.shape
    n_of_items, n_of_users, n_taste = of_items.shape[1], of_users.shape[1], len(taste_columns)
    counts = np.zeros(n_slots, np.float32)
    mean = np.zeros(n_taste)
    size = len(of_items) if len(neighbor_starts) else 0
    summed, summed_late, largest = np.zeros(size), np.zeros(size), np.zeros(size)
    for user in range(n_users):
        first = 0
        while first < history.shape[1] and history[user, first] < 0:
            first += 1
        length = history.shape[1] - first
        for slot in range(n_slots):
            counts[slot] = 0
        for taste in range(n_taste):
            mean[taste] = 0
        for place in range(first, history.shape[1]):
            item = history[user, place]
            for column in range(slots.shape[1]):
                counts[slots[item, column]] += 1
            for taste in range(n_taste):
                mean[taste] += of_items[item, taste_columns[taste]] / length
            if size:
                for entry in range(neighbor_starts[item], neighbor_starts[item + 1]):
                    near, similarity = neighbors[entry], similarities[entry]
                    summed[near] += similarity
                    largest[near] = max(largest[near], similarity)
                    if place >= history.shape[1] - LATE:
                        summed_late[near] += similarity
        counts[0] = 0
        best = -np.inf
        for place in range(n_candidates):
            if items[user, place] >= 0:
                best = max(best, scores[user, place])
        for place in range(n_candidates):
            item, score, rank = items[user, place], scores[user, place], 0
            known = item >= 0
            for other in range(n_candidates):
                rank += items[user, other] >= 0 and scores[user, other] > score
            row = rows[user, place]
            row[0] = score if known else 0.0
            row[1] = rank if known else 0
            row[2] = best - score if known else 0.0
            begin = 3
            for column in range(n_of_items):
                row[begin + column] = of_items[item, column]
            begin += n_of_items
            for column in range(n_of_users):
                row[begin + column] = of_users[user, column]
            begin += n_of_users
            for feature in range(len(slot_starts) - 1):
                shared, values = np.float32(0), 0
                for column in range(slot_starts[feature], slot_starts[feature + 1]):
                    shared += counts[slots[item, column]]
                    values += slots[item, column] > 0
                row[begin + feature] = shared / (max(values, 1) * max(length, 1))
            begin += len(slot_starts) - 1
            for taste in range(n_taste):
                row[begin + taste] = of_items[item, taste_columns[taste]] - mean[taste] if length else 0.0
            begin += n_taste
            if size:
                row[begin] = summed[item] if known else 0.0
                row[begin + 1] = summed_late[item] if known else 0.0
                row[begin + 2] = largest[item] if known else 0.0
        if size:
            for place in range(first, history.shape[1]):
                item = history[user, place]
                for entry in range(neighbor_starts[item], neighbor_starts[item + 1]):
                    summed[neighbors[entry]] = summed_late[neighbors[entry]] = largest[neighbors[entry]] = 0
