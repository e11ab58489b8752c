"""Random numbers by place: what a session draws depends on its seed and step alone, not on who else is playing."""

from typing import Any, Final, final

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from numpy.typing import NDArray

_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL: Final = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW: Final = np.uint64(0xFFFFFFFF)
_WORD: Final = np.uint64(32)
_ROUNDS: Final = 10


@final
class SessionStreams:
    """A stream of random numbers for each of S sessions side by side; what they draw is `uniforms`.

    Attributes: seeds: of the streams, (S,). episodes: which session of its stream each is, -1 before the first, (S,).
    """

    def __init__(self, n_sessions: int) -> None:
        self.seeds = np.zeros(n_sessions, np.uint64)
        self.episodes = np.full(n_sessions, -1, np.int64)

    @property
    def started(self) -> bool:
        """Whether every stream has a session."""
        return bool((self.episodes >= 0).all())

    def seed(self, rows: NDArray[np.integer[Any]], seeds: NDArray[np.uint64]) -> None:
        """New streams for some rows, (n,) both; they have to be started."""
        self.seeds[rows] = seeds
        self.episodes[rows] = -1

    def start(self, rows: NDArray[np.integer[Any]], n: int) -> NDArray[np.int64]:
        """The next session of each of these streams, (n_rows,): one of n by its step 0, with equal probability."""
        self.episodes[rows] += 1
        drawn = uniforms(self.seeds[rows], self.episodes[rows], np.zeros(len(rows), np.int64))
        return (drawn[:, 0] * n).astype(np.int64)

    def at(self, steps: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Two numbers of each session at its step, (S,) -> (S, 2)."""
        return uniforms(self.seeds, self.episodes, steps)


def uniforms(
    seeds: NDArray[np.uint64], episodes: NDArray[np.integer[Any]], steps: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Two numbers of each session in [0, 1), (S, 2): pure functions of its seed, its episode and its step.

    53 bits each of Philox4x32-10 with the seed as its key and (episode, step, 0, 0) as its counter.
    Source: Salmon et al. (2011), doi:10.1145/2063384.2063405.

    Args: seeds: (S,). episodes, steps: at least 0 and less than 2^32, (S,).
    """
    counters = np.zeros((len(seeds), 4), np.uint64)
    counters[:, 0], counters[:, 1] = episodes, steps
    words = philox(counters, np.stack([seeds & _LOW, seeds >> _WORD], axis=1))
    high, low = words[:, ::2] >> np.uint64(5), words[:, 1::2] >> np.uint64(6)
    return (high * np.float64(2**26) + low).astype(np.float64) / 2**53


@njit(cache=True, nogil=True)  # pyright: ignore[reportUntypedFunctionDecorator]
def philox(counters: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Philox4x32-10: four words of 32 bits for each counter, (S, 4).

    Args: counters: words of 32 bits, (S, 4). keys: words of 32 bits, (S, 2).
    """
    words = np.empty_like(counters)
    for row in range(len(counters)):
        a, b, c, d = counters[row, 0], counters[row, 1], counters[row, 2], counters[row, 3]
        k, m = keys[row, 0], keys[row, 1]
        for _ in range(_ROUNDS):
            first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
            a, b, c, d = (second >> _WORD) ^ b ^ k, second & _LOW, (first >> _WORD) ^ d ^ m, first & _LOW
            k, m = (k + _WEYL[0]) & _LOW, (m + _WEYL[1]) & _LOW
        words[row, 0], words[row, 1], words[row, 2], words[row, 3] = a, b, c, d
    return words
