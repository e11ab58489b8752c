"""Seeds of sessions side by side, by Gymnasium's convention."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def seeds_of(
    seed: int | Sequence[int | None] | None, n_sessions: int, *, fresh: bool
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Which rows get a new stream, and its seed: of a seed s row i has s + i.

    Args: seed: one for all, or for each its own or None. n_sessions: S. fresh: whether rows without a seed get one
        from the system's entropy, as there is no stream that they could go on with.
    Returns: rows and seeds, (n,) both.
    Raises: ValueError: for a list of another length.
    """
    if isinstance(seed, int | np.integer):
        seed = [int(seed) + row for row in range(n_sessions)]
    given: Sequence[int | None] = [None] * n_sessions if seed is None else list(seed)
    if len(given) != n_sessions:
        raise ValueError(f"a seed for each of {n_sessions} sessions is required; found {len(given)}")
    entropy = np.random.SeedSequence().generate_state(n_sessions, np.uint64).tolist() if fresh else given
    chosen = [own if own is not None else other for own, other in zip(given, entropy, strict=True)]
    rows = [row for row, value in enumerate(chosen) if value is not None]
    return np.array(rows, np.int64), np.array([chosen[row] for row in rows], np.uint64)
