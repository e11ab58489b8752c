"""How often items come in the batches of an endless log, from hashed arrays of a fixed size."""

from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from pandas.util import hash_array

# The hash functions are part of the state, and the same in every run.
_HASH_SEED = 20190916


def item_keys(item_ids: NDArray) -> NDArray[np.uint64]:
    """64-bit keys of item ids, the same on every machine and on every day, whatever the item's position is, (N,)."""
    return hash_array(item_ids.astype(object), categorize=False)


def draw_probability(in_batch: NDArray[np.floating], n_draws: int) -> NDArray[np.float64]:
    """Probability per draw of what is in a batch with a given probability: 1 - (1 - in_batch)^(1 / n_draws).

    It takes the draws of a batch for independent and alike. Where they are not, as several positives of one user are
    not, an item is in fewer batches than so many independent draws would put it in, and the result is too low.

    Args: in_batch: in [0, 1). n_draws: of a batch, at least 1.
    """
    return -np.expm1(np.log1p(-np.asarray(in_batch, np.float64)) / n_draws)


@final
@dataclass
class StreamingFrequency:
    """Estimates in which share of the batches an id is, from the number of batches between those that hold it.

    For each id of batch t, and each hash function: B[h] <- (1 - a) B[h] + a (t - A[h]), A[h] <- t; the probability of
    being in a batch is 1 / max_h B[h]. The time between batches that hold an id has the mean 1 / probability.
    Source: Yi et al. (2019), section 4, algorithms 2 and 3, doi:10.1145/3298689.3346996.
    Differs from it in how B begins: as the mean of a bucket's first gaps, a = 1 / (gaps so far) until that falls to
    alpha, so that an estimate is near from the first gaps on and not 1 / alpha gaps later. The first ones are too
    short, as only gaps that are over count: of the ids with a gap, in one of 50 batches, 1 / B is on average 3.5, 1.8
    and 1.1 times the probability after 100, 200 and 500 batches. What passes before an id is first seen is no gap, for
    the id may be new; but as long as it was seen once, nothing else is known. Ids of one batch that share a bucket
    count once, so that B >= 1.

    Attributes:
        alpha: learning rate of gaps, in (0, 1].
        multipliers, offsets: of the hash functions, (H, 1).
        step: number of the last batch; the first has 1.
        last: A, batch in which the bucket last held something, int64, (H, size).
        gap: B, mean number of batches from one that holds something of the bucket to the next, float64, (H, size).
        seen: how many batches held something of it, int64, (H, size).
    """

    alpha: float
    multipliers: NDArray[np.uint64]
    offsets: NDArray[np.uint64]
    step: int
    last: NDArray[np.int64]
    gap: NDArray[np.float64]
    seen: NDArray[np.int64]

    @classmethod
    def empty(cls, *, alpha: float, n_hashes: int, size: int) -> Self:
        """Before the first batch. size: buckets of each hash function, below 2^32."""
        numbers = np.random.default_rng(_HASH_SEED).integers(0, 2**64, (2, n_hashes, 1), dtype=np.uint64)
        shape = (n_hashes, size)
        return cls(
            alpha, numbers[0] | 1, numbers[1], 0, np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape, np.int64)
        )

    def update(self, keys: NDArray[np.uint64]) -> None:
        """Takes the next batch: the keys of its items, in any order; an item's repetitions count once."""
        self.step += 1
        # Buckets that come several times have the same value written several times.
        touched = self._buckets(keys).ravel()
        last, gap, seen = self.last.reshape(-1), self.gap.reshape(-1), self.seen.reshape(-1)
        rate = np.maximum(self.alpha, 1 / np.maximum(seen[touched], 1))
        gap[touched] += rate * (self.step - last[touched] - gap[touched])
        last[touched] = self.step
        seen[touched] += 1

    def in_batch(self, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Probability that a batch holds each id, in (0, 1], and 0 for one that was in none, (n,)."""
        # Of a bucket that was never hit B is 0, which no mean gap is.
        gaps = self.gap.reshape(-1)[self._buckets(keys)]
        return np.where((gaps > 0).all(axis=0), 1 / np.maximum(gaps.max(axis=0), 1), 0.0)

    def log_q(self, keys: NDArray[np.uint64], n_draws: int) -> NDArray[np.float64]:
        """Log probability per draw, -inf for an id that was in no batch, (n,).

        How often an item is drawn cannot be told from its being in every batch: a batch without it raises B by alpha at
        least, so that a probability above 1 / (1 + alpha) is taken for that.
        """
        with np.errstate(divide="ignore"):
            return np.log(draw_probability(np.minimum(self.in_batch(keys), 1 / (1 + self.alpha)), n_draws))

    def copy(self) -> Self:
        """Goes on apart from this one."""
        return type(self).from_state(self.alpha, {name: array.copy() for name, array in self.state().items()})

    def state(self) -> dict[str, NDArray]:
        """Everything but alpha as arrays."""
        return {
            "multipliers": self.multipliers.view(np.int64),
            "offsets": self.offsets.view(np.int64),
            "step": np.array(self.step),
            "last": self.last,
            "gap": self.gap,
            "seen": self.seen,
        }

    @classmethod
    def from_state(cls, alpha: float, state: dict[str, NDArray]) -> Self:
        """What `state` gave."""
        return cls(
            alpha,
            state["multipliers"].view(np.uint64),
            state["offsets"].view(np.uint64),
            state["step"].item(),
            state["last"],
            state["gap"],
            state["seen"],
        )

    def _buckets(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Bucket of each key by each hash function, counted over all of them, (H, n).

        Multiply, shift and scale: Dietzfelbinger et al. (1997), doi:10.1006/jagm.1997.0873.
        """
        n_hashes, size = self.gap.shape
        high = (self.multipliers * keys.astype(np.uint64, copy=False) + self.offsets) >> np.uint64(32)
        within = (high * np.uint64(size)) >> np.uint64(32)
        return within.astype(np.int64) + np.arange(n_hashes)[:, None] * size
