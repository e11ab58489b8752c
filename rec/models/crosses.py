"""Feature rows as slots of a hash table: one for each value, and one for each combination of crossed values.

Source: Weinberger et al. (2009), Feature hashing for large scale multitask learning, doi:10.1145/1553374.1553516.
Differs from it in: slots are not signed, so that a weight is that of a value.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import combinations
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from rec.config import LogisticConfig
from rec.errors import ConfigError
from rec.ranking.data import FeatureLayout

Codes = NDArray[np.uint64]

_SHIFTS: Final = tuple(np.uint64(n) for n in (30, 27, 31))
_FACTORS: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class HashedCrosses:
    """Which slots a feature row has: one for each feature, then one for each crossed pair.

    A category's code is its value; a number's is how many of the edges it reaches, so that 0 is below all of them. A
    missing value is one of its own.

    Attributes:
        layout: the features of a row.
        edges: of each feature, ascending, empty for a category.
        pairs: columns that are crossed.
        bits: there are 2 ** bits slots.
    """

    layout: FeatureLayout
    edges: tuple[tuple[float, ...], ...]
    pairs: tuple[tuple[int, int], ...]
    bits: int

    @classmethod
    def fit(cls, layout: FeatureLayout, matrix: NDArray[np.float32], config: LogisticConfig) -> Self:
        """Edges are the quantiles of the training rows, each once: a value that many rows share is one bin.

        Raises: ConfigError: when a pair names a feature there is not.
        """
        shares = np.arange(1, config.bins) / config.bins
        edges = [
            () if name in layout.categorical else _edges(matrix[:, column], shares)
            for column, name in enumerate(layout.names)
        ]
        return cls(layout, tuple(edges), crossed_pairs(layout, config), config.bits)

    def slots(self, matrix: NDArray[np.float32]) -> NDArray[np.int32]:
        """Slots of feature rows, (R, F) to (R, F + pairs)."""
        n_features = len(self._edges)
        codes = np.empty((len(matrix), n_features), np.uint64)
        for column, edges in enumerate(self._edges):
            values = matrix[:, column]
            code = values if edges is None else np.searchsorted(edges, values, side="right")
            # Codes are small and not negative: what is missing, or cannot be, gets one that they do not reach.
            missing = np.isnan(values) | (values < 0) if edges is None else np.isnan(values)
            codes[:, column] = np.where(missing, _MISSING, np.where(missing, 0, code).astype(np.uint64))
        hashes = np.empty((len(matrix), len(self._salts)), np.uint64)
        singles = _mixed(codes + self._salts[:n_features])
        hashes[:, :n_features] = singles
        if self.pairs:
            first, second = np.array(self.pairs).T
            salted = _mixed(codes[:, first] + self._salts[n_features:])
            hashes[:, n_features:] = _mixed(salted ^ codes[:, second])
        return (hashes >> np.uint64(64 - self.bits)).astype(np.int32)

    @cached_property
    def _edges(self) -> list[NDArray[np.float32] | None]:
        categorical = self.layout.categorical
        return [
            None if name in categorical else np.array(edges, np.float32)
            for name, edges in zip(self.layout.names, self.edges, strict=True)
        ]

    @cached_property
    def _salts(self) -> Codes:
        """Where the codes of a feature, and of a pair, begin: by their names, so that their order changes nothing."""
        names = self.layout.names
        told = [*names, *(f"{names[first]}\0{names[second]}" for first, second in self.pairs)]
        salts = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in told]
        return np.frombuffer(b"".join(salts), "<u8").astype(np.uint64)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "names": self.layout.names,
            "categorical": self.layout.categorical,
            "edges": self.edges,
            "pairs": self.pairs,
            "bits": self.bits,
        }

    @classmethod
    def from_json(cls, parts: Mapping[str, Any]) -> Self:
        """What `to_json` wrote; KeyError, TypeError or ValueError of anything else."""
        return cls(
            FeatureLayout(tuple(parts["names"]), tuple(parts["categorical"])),
            tuple(tuple(float(edge) for edge in edges) for edges in parts["edges"]),
            tuple((int(first), int(second)) for first, second in parts["pairs"]),
            int(parts["bits"]),
        )


_MISSING: Final = np.uint64(2**63)


def crossed_pairs(layout: FeatureLayout, config: LogisticConfig) -> tuple[tuple[int, int], ...]:
    """The columns that a config crosses, each pair once and in one order.

    Raises: ConfigError: when a name without wildcards is no feature.
    """
    categories = [layout.names.index(name) for name in layout.categorical]
    pairs = set(combinations(sorted(categories), 2)) if config.cross_categorical else set()
    for names in config.crosses:
        columns = [_matching(name, layout.names) for name in names]
        pairs |= {(min(a, b), max(a, b)) for a in columns[0] for b in columns[1] if a != b}
    return tuple(sorted(pairs))


def _matching(pattern: str, names: Sequence[str]) -> list[int]:
    found = [column for column, name in enumerate(names) if fnmatchcase(name, pattern)]
    if not found and not any(wild in pattern for wild in "*?["):
        raise ConfigError(f"no feature {pattern}; there are {', '.join(names)}", field="ranker.logistic.crosses")
    return found


def _edges(values: NDArray[np.float32], shares: NDArray[np.float64]) -> tuple[float, ...]:
    known = values[~np.isnan(values)]
    if not len(known):
        return ()
    # Of the values themselves, so that rows do not fall to one side of an edge by rounding.
    edges = np.unique(np.quantile(known, shares, method="higher"))
    return tuple(float(edge) for edge in edges if edge > known.min())


def _mixed(values: Codes) -> Codes:
    """The finaliser of SplitMix64, by which every bit depends on all.

    Source: Steele et al. (2014), doi:10.1145/2660193.2660195.
    """
    values = (values ^ (values >> _SHIFTS[0])) * _FACTORS[0]
    values = (values ^ (values >> _SHIFTS[1])) * _FACTORS[1]
    return values ^ (values >> _SHIFTS[2])
