"""The items nearest to a query: all are compared, or FAISS finds them and their scores are computed again.

A flat index is one matrix product: at every size measured that was faster than FAISS's own flat search, which pays for
its heaps (benchmarks/speed/flat_search.py). Its file is FAISS's all the same.
"""

import math
import struct
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from rec.config import IndexConfig
from rec.errors import BundleError, ScoreError

INDEX_FILE: Final = "index.faiss"
# As FAISS advises: fewer vectors a list than this give poor centroids.
VECTORS_PER_LIST: Final = 39
# Where a smaller share of the items is eligible, those are compared, all of them: it is quicker than the catalogue, and
# an approximate index would miss many of them.
FEW_ELIGIBLE: Final = 1 / 32
BLOCK: Final = 2**22
# FAISS's file of a flat inner-product index: code, dimension, vectors, two constants, trained, metric, numbers.
_FLAT_HEADER: Final = struct.Struct("<4siqqq?iQ")
_FLAT_CODE: Final = b"IxFI"
_FLAT_CONSTANT: Final = 2**20

Rows = NDArray[np.intp]


@final
class ItemIndex:
    """Inner-product search over item embeddings, L2-normalised so that scores are cosines.

    Scores are float64 products of the float32 embeddings, added up the same way wherever an item stands: equal
    embeddings have equal scores, and ties go by item position. A flat index finds exactly the best k; `hnsw` and `ivf`
    may miss some, but never return fewer than there are, and miss none where few items are eligible. Where FAISS is
    missing every index is flat.

    Attributes:
        embeddings: of the items by catalogue position, float32, (N, D).
        config: kind of index and how far it searches.
    """

    def __init__(self, embeddings: NDArray[np.floating], config: IndexConfig, approximate: Any = None) -> None:
        """Takes embeddings (N, D), and FAISS's index over the same where the kind is not flat.

        Raises: ScoreError: for an embedding that is not finite; the first such item is named.
        """
        self.embeddings = _finite(embeddings, "embedding of item")
        self.config = config
        self._approximate = approximate
        # Bound of the rounding error of a float32 product per unit of the query's length.
        self._rounding = (self.embeddings.shape[1] + 1) * np.finfo(np.float32).eps * _longest(self.embeddings)

    @classmethod
    def build(cls, embeddings: NDArray[np.floating], config: IndexConfig | None = None) -> Self:
        """An index over embeddings (N, D)."""
        index = cls(embeddings, config or IndexConfig())
        faiss = None if index.config.kind == "flat" else faiss_module()
        if faiss is not None and index.embeddings.size:
            n_items, size = index.embeddings.shape
            if index.config.kind == "hnsw":
                approximate = faiss.IndexHNSWFlat(size, index.config.hnsw_neighbors, faiss.METRIC_INNER_PRODUCT)
                approximate.hnsw.efConstruction = index.config.hnsw_build
            else:
                lists = max(1, min(index.config.ivf_lists, n_items // VECTORS_PER_LIST))
                quantizer = faiss.IndexFlatIP(size)
                approximate = faiss.IndexIVFFlat(quantizer, size, lists, faiss.METRIC_INNER_PRODUCT)
                approximate.train(index.embeddings)
            approximate.add(index.embeddings)
            index._approximate = approximate
        return index

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        excluded_indptr: NDArray[np.integer] | None = None,
        excluded: NDArray[np.integer] | None = None,
        eligible: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The k best items of each query, best first, ties by item position.

        Args:
            queries: float32, (B, D).
            k: how many, at least 1.
            excluded_indptr: where the run of each query begins and ends in `excluded`, (B + 1,).
            excluded: catalogue positions that a query must not find, (nnz,).
            eligible: which items any query may find, (N,); all where None.

        Returns: items (B, k), -1 where fewer are left, and their scores (B, k), -inf where items is -1.
        Raises: ScoreError: for a query that is not finite.
        """
        queries = _finite(queries, "query")
        items = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf)
        blocked = _Blocked.of(len(queries), len(self), excluded_indptr, excluded)
        scanned = np.ones(len(queries), bool)
        few = eligible is not None and eligible.sum() < FEW_ELIGIBLE * len(self)
        if self._approximate is not None and not few:
            wanted = k + blocked.counts
            # Queries that want about as many are searched together: one with a long history slows no other.
            sizes = np.ceil(np.log2(wanted)).astype(np.int64)
            for size in np.unique(sizes):
                for rows in _blocks(np.flatnonzero(sizes == size), BLOCK // (2**size * queries.shape[1])):
                    items[rows], scores[rows] = self._fetch(
                        queries, rows, k, int(wanted[rows].max()), blocked, eligible
                    )
            scanned = items[:, -1] < 0
        compared = np.flatnonzero(eligible) if few and eligible is not None else None
        vectors = self.embeddings if compared is None else self.embeddings[compared]
        for rows in _blocks(np.flatnonzero(scanned), BLOCK // max(len(vectors), 1)):
            approximate = queries[rows] @ vectors.T
            if compared is None and eligible is not None:
                approximate[:, ~eligible] = -np.inf
            items[rows], scores[rows] = self._scan(queries, rows, k, blocked, approximate, compared)
        return items, scores

    def scores(self, queries: NDArray[np.floating], items: NDArray[np.integer]) -> NDArray[np.float64]:
        """Scores of given items, (B, M); -inf where items is -1. They are those that `search` returns.

        Args: queries: float32, (B, D). items: catalogue positions, (B, M).
        """
        queries = _finite(queries, "query")
        scores = np.full(items.shape, -np.inf)
        for rows in _blocks(np.arange(len(queries)), BLOCK // max(items.shape[1] * queries.shape[1], 1)):
            scores[rows] = _products(queries[rows, None], self.embeddings[items[rows]])
        return np.where(items >= 0, scores, -np.inf)

    def save(self, path: Path) -> None:
        """Writes the index in FAISS's format."""
        if self._approximate is not None:
            faiss_module().write_index(self._approximate, str(path))
            return
        n_items, size = self.embeddings.shape
        constants = (_FLAT_CONSTANT, _FLAT_CONSTANT, True, 0)
        header = _FLAT_HEADER.pack(_FLAT_CODE, size, n_items, *constants, n_items * size)
        path.write_bytes(header + self.embeddings.astype("<f4").tobytes())

    @classmethod
    def load(cls, path: Path, config: IndexConfig | None = None) -> Self:
        """Reads an index of whatever kind the file has; verify the file first, as a bundle does.

        Args: config: how far an `hnsw` or `ivf` index searches.
        Raises: BundleError: naming the file that is missing, no index of items, or cannot be read without FAISS.
        """
        config = config or IndexConfig()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"not readable: {error}", file=str(path)) from error
        if content[:4] == _FLAT_CODE:
            return cls(_read_flat(content, path), config)
        faiss = _required(path)
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise BundleError(f"not readable as a FAISS index: {error}", file=str(path)) from error
        if not isinstance(index, faiss.IndexHNSWFlat | faiss.IndexIVFFlat):
            raise BundleError(f"must be a flat, HNSW or IVF index, found {type(index).__name__}", file=str(path))
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise BundleError("must be an index of inner products, found another metric", file=str(path))
        return cls(index.reconstruct_n(0, index.ntotal), config, index)

    def _fetch(
        self,
        queries: NDArray[np.float32],
        rows: Rows,
        k: int,
        fetched: int,
        blocked: "_Blocked",
        eligible: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The best k of what FAISS finds."""
        _, found = self._approximate.search(queries[rows], fetched, params=self._parameters(fetched, eligible))
        scores = self.scores(queries[rows], found)
        scores[blocked.among(rows, found)] = -np.inf
        order = np.lexsort((found, -scores), axis=1)[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        items = np.where(np.isneginf(scores), -1, np.take_along_axis(found, order, axis=1))
        return items.astype(np.int32), scores

    def _parameters(self, fetched: int, eligible: NDArray[np.bool_] | None) -> Any:
        faiss = faiss_module()
        selector = None if eligible is None else faiss.IDSelectorBitmap(np.packbits(eligible, bitorder="little"))
        if isinstance(self._approximate, faiss.IndexHNSWFlat):
            return faiss.SearchParametersHNSW(efSearch=max(self.config.hnsw_search, fetched), sel=selector)
        return faiss.SearchParametersIVF(nprobe=self.config.ivf_probes, sel=selector)

    def _scan(
        self,
        queries: NDArray[np.float32],
        rows: Rows,
        k: int,
        blocked: "_Blocked",
        approximate: NDArray[np.floating],
        compared: Rows | None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The best k of the items compared (ascending; all where None), given their float32 products (len(rows), M)."""
        items = np.full((len(rows), k), -1, np.int32)
        scores = np.full((len(rows), k), -np.inf)
        for place, row in enumerate(rows):
            found, out = approximate[place], blocked.of_row(row)
            found[out if compared is None else np.isin(compared, out)] = -np.inf
            threshold = np.partition(found, len(found) - k)[len(found) - k] if k < len(found) else -np.inf
            tolerance = 2 * self._rounding * np.linalg.norm(queries[row])
            near = np.flatnonzero((found >= threshold - tolerance) & (found > -np.inf))
            near = near if compared is None else compared[near]
            exact = _products(queries[row], self.embeddings[near])
            best = np.lexsort((near, -exact))[:k]
            items[place, : len(best)], scores[place, : len(best)] = near[best], exact[best]
        return items, scores


@final
class _Blocked:
    """Items that queries must not find, as keys row * N + item."""

    def __init__(self, n_items: int, indptr: NDArray[np.int64], items: NDArray[np.int64]) -> None:
        self._n_items = n_items
        self._indptr = indptr
        self._items = items
        self.counts = np.diff(indptr)

    @classmethod
    def of(
        cls, n_rows: int, n_items: int, indptr: NDArray[np.integer] | None, items: NDArray[np.integer] | None
    ) -> Self:
        if indptr is None or items is None:
            return cls(n_items, np.zeros(n_rows + 1, np.int64), np.zeros(0, np.int64))
        return cls(n_items, indptr.astype(np.int64), items.astype(np.int64))

    def of_row(self, row: int) -> NDArray[np.int64]:
        return self._items[self._indptr[row] : self._indptr[row + 1]]

    def among(self, rows: Rows, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which items (len(rows), M) are blocked for their row."""
        if not self.counts[rows].any():
            return np.zeros(items.shape, bool)
        offsets = np.arange(len(rows)) * self._n_items
        keys = np.concatenate([self.of_row(row) + offset for row, offset in zip(rows, offsets, strict=True)])
        return np.isin(items + offsets[:, None], keys) & (items >= 0)


def _products(queries: NDArray[np.float32], embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Inner products over the last axis, in float64 and in an order of additions that depends on its length alone."""
    return (queries.astype(np.float64) * embeddings).sum(axis=-1)


def _finite(vectors: NDArray[np.floating], what: str) -> NDArray[np.float32]:
    vectors = np.ascontiguousarray(vectors, np.float32)
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ScoreError(f"{what} {broken[0]} is not finite, nor are {len(broken) - 1} others; train with a lower rate")
    return vectors


def _longest(vectors: NDArray[np.float32]) -> float:
    return math.sqrt(float(np.einsum("nd,nd->n", vectors, vectors).max(initial=0.0)))


def _blocks(rows: Rows, size: int) -> list[Rows]:
    size = max(size, 1)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _read_flat(content: bytes, path: Path) -> NDArray[np.float32]:
    try:
        _, size, n_items, *_, metric, numbers = _FLAT_HEADER.unpack_from(content)
        vectors = np.frombuffer(content, "<f4", offset=_FLAT_HEADER.size)
        if metric != 0 or numbers != len(vectors):
            raise ValueError(f"{numbers} numbers announced, {len(vectors)} found; metric {metric}")
        # The header leaves the numbers at an odd address, where a matrix product takes ten times as long.
        return vectors.reshape(n_items, size).copy()
    except (struct.error, ValueError) as error:
        raise BundleError(f"not readable as a flat index: {error}", file=str(path)) from error


def faiss_module() -> Any:
    """FAISS, which flat indexes do without; None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def _required(path: Path) -> Any:
    faiss = faiss_module()
    if faiss is None:
        raise BundleError("only a flat index can be read without FAISS; install faiss-cpu", file=str(path))
    return faiss
