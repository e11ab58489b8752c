"""Several sources as one: each contributes its best, and every candidate remembers who found it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, final

import numpy as np
from numpy.typing import NDArray

from rec.retrieval.protocol import CandidateSource
from rec.retrieval.two_tower import TwoTowerSource
from rec.state import Candidates, Provenance, UserStates


@final
@dataclass(frozen=True, slots=True)
class Blend:
    """Interleaves the lists of several sources in proportion to their quotas, each item once.

    The j-th item of a source's list (from 0) comes at (j + 1/2) / quota, the earliest place counts where several
    sources found it, and equal places are ordered by item. Up to place 1 that is the best `quota` items of each source
    and nothing else; from there on the first source goes down its list alone. So shorter lists are the beginning of
    longer ones, and a list of as many items as the quotas sum to has the best of each source, with what several found
    replaced by more of the first.

    A candidate's provenance names every source that has it within its quota, or else the one that it came from.

    A list in which the sources leave places free goes on with what the scorer finds, under the scorer's name: the first
    source may know little of a user.

    Attributes:
        sources: what finds candidates, the first one first; names must differ.
        quotas: how many of the best of each are candidates, at least 1.
        scorer: scores any item for any user; what the ranker reads of all candidates. It finds what the sources do not.
    """

    sources: tuple[CandidateSource, ...]
    quotas: tuple[int, ...]
    scorer: TwoTowerSource
    name: ClassVar[str] = "blend"

    def candidates(self, states: UserStates, k: int) -> Candidates:
        """The first k items of the interleaved lists; scores are places, negative."""
        first, *others = zip(self.sources, self.quotas, strict=True)
        lists = [first[0].candidates(states, max(k, first[1])).items]
        lists += [source.candidates(states, quota).items for source, quota in others]
        items, places, found_by = interleave(lists, self.quotas)
        names = tuple(source.name for source in self.sources)
        if self.scorer is not first[0] and (items.shape[1] < k or (items[:, :k] < 0).any()):
            more = self.scorer.candidates(states, k).items
            names = names if self.scorer.name in names else (*names, self.scorer.name)
            items, places, found_by = interleave(lists, self.quotas, more=more, more_by=names.index(self.scorer.name))
        return Candidates(items[:, :k], -places[:, :k], self.name, Provenance(names, found_by[:, :k]))

    def scores(self, states: UserStates, items: NDArray[np.integer]) -> NDArray[np.float64]:
        """The scorer's scores of given items, (B, M); -inf where -1."""
        return self.scorer.scores(states, items)

    def save(self, folder: Path) -> list[str]:
        """Writes the files of every source, and of the scorer."""
        saved = {source.name: source for source in (self.scorer, *self.sources)}
        return [name for source in saved.values() for name in source.save(folder)]


# Items are counted in 32 bits, so that no place in a source's list is as far down.
_AFTER_ALL: Final = 2.0**32

Retriever = TwoTowerSource | Blend
"""What the first stage can be: it finds candidates, and scores any item for the ranker."""


def interleave(
    lists: Sequence[NDArray[np.int32]],
    quotas: Sequence[int],
    *,
    more: NDArray[np.int32] | None = None,
    more_by: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.uint16]]:
    """Lists of items as one in which each item stands once, at the earliest of its places.

    Args: lists: of each source, best first, -1 for none, (B, M_s); the first may be longer than its quota. quotas: of
        each source. more: what comes after all of them, best first, (B, M). more_by: who found that.
    Returns: items, -1 where there are no more; their places, inf where -1; bits of the sources that found them, 0 where
        -1; (B, sum of M_s) each.
    """
    ranks = [np.arange(one.shape[1]) for one in lists]
    place = [(rank + 0.5) / quota for rank, quota in zip(ranks, quotas, strict=True)]
    within = [rank < quota for rank, quota in zip(ranks, quotas, strict=True)]
    by = [np.full(len(rank), source) for source, rank in enumerate(ranks)]
    if more is not None:
        lists, n_more = [*lists, more], more.shape[1]
        place.append(_AFTER_ALL + np.arange(n_more))
        within.append(np.zeros(n_more, np.bool_))
        by.append(np.full(n_more, more_by))
    place, own_bit = np.concatenate(place), np.left_shift(1, np.concatenate(by)).astype(np.uint16)
    bit = np.where(np.concatenate(within), own_bit, np.uint16(0))
    items = np.concatenate(lists, axis=1)
    places = np.where(items >= 0, place, np.inf)
    order = np.lexsort((places, items), axis=1)
    items, places = np.take_along_axis(items, order, axis=1), np.take_along_axis(places, order, axis=1)
    new = np.ones(items.shape, bool)
    new[:, 1:] = items[:, 1:] != items[:, :-1]
    new &= items >= 0
    found_by = np.zeros(items.shape, np.uint16)
    if new.any():
        # Runs of one item; what follows the last item of a row up to the first of the next has no item and no bit.
        bits = np.where(items >= 0, bit[order], np.uint16(0)).reshape(-1)
        found = np.bitwise_or.reduceat(bits, np.flatnonzero(new))
        found_by[new] = np.where(found > 0, found, own_bit[order][new])
    items, places = np.where(new, items, -1), np.where(new, places, np.inf)
    order = np.lexsort((items, places), axis=1)
    return (
        np.take_along_axis(items, order, axis=1).astype(np.int32),
        np.take_along_axis(places, order, axis=1),
        np.take_along_axis(found_by, order, axis=1),
    )
