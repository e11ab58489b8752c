"""Which index for how many items: build time, memory, recall, speed and tail of flat, IVF and HNSW, with filters.

Run: python benchmarks/scale/index.py [--items 1000000] [--queries 1000] [--threads 1]
Expect: twenty minutes at a million items on two quiet cores; a flat index that is exact and takes time in proportion to
the items, approximate ones that are many times as quick at a recall near 1, and all alike and exact where a filter
leaves 1% of the items, as those are compared then. Kept in benchmarks/results/index_scale_ITEMS.json.

Everything goes through `rec.retrieval.index`, one query at a time, as serving asks; `batch_per_s` is of 64 at a time.
Each index is built in a process of its own, so that its memory can be told: `memory_mib` is what is resident after
building beyond what was before the vectors, `peak_mib` the most it took meanwhile. Search settings are swept without
filter, on one half of the queries; the cheapest that reaches a recall of .95 (else the best) is measured again on the
other half, and with filters:

    seen        100 of the user's own 500 nearest items are excluded, differing by user
    leaves 99%, 50%, 1%   a random share of the catalogue is eligible, the same for all

Vectors are clusters of unequal sizes whose spread falls off from dimension to dimension, as that of trained embeddings
does; a query is a mean of a few items of two clusters, with noise, so that queries lie between items and not on them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
import psutil
from numpy.typing import NDArray

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import command, machine, write_result  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from rec.config import IndexConfig  # noqa: E402
from rec.process_memory import peak_mib  # noqa: E402
from rec.retrieval.index import ItemIndex  # noqa: E402

Vectors = NDArray[np.float32]

SIZE: Final = 64
K: Final = 100
GOOD_RECALL: Final = 0.95
BATCH: Final = 64
ELIGIBLE: Final = {"leaves 99%": 0.99, "leaves 50%": 0.5, "leaves 1%": 0.01}
# One index is built for each, and then searched in each of these ways.
BUILDS: Final[tuple[dict[str, Any], ...]] = (
    {"kind": "flat"},
    {"kind": "ivf", "ivf_lists": 1024},
    {"kind": "ivf", "ivf_lists": 4096},
    {"kind": "hnsw", "hnsw_neighbors": 16},
    {"kind": "hnsw", "hnsw_neighbors": 32},
)
SEARCHES: Final[dict[str, dict[str, tuple[int, ...]]]] = {
    "flat": {},
    "ivf": {"ivf_probes": (4, 8, 16, 32, 64, 128)},
    "hnsw": {"hnsw_search": (100, 200, 400, 800)},
}


@dataclass(frozen=True)
class Filter:
    """What a search must leave out; see `ItemIndex.search`."""

    excluded_indptr: NDArray[np.int64] | None = None
    excluded: NDArray[np.int64] | None = None
    eligible: NDArray[np.bool_] | None = None

    def of(self, rows: slice) -> dict[str, Any]:
        """The arguments of a search for some of the queries."""
        if self.excluded_indptr is None or self.excluded is None:
            return {"eligible": self.eligible}
        bounds = self.excluded_indptr[rows.start : rows.stop + 1]
        runs = {"excluded_indptr": bounds - bounds[0], "excluded": self.excluded[bounds[0] : bounds[-1]]}
        return {"eligible": self.eligible, **runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("items", 1_000_000), ("queries", 1000), ("threads", 1), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--build", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build is not None:
        print(json.dumps(measured(given.build, given, given.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        built = [_in_a_process(build, Path(name)) for build in BUILDS]
    result = {
        "name": f"index_scale_{given.items}",
        "command": command(),
        "git_sha": git_sha(),
        "versions": {"faiss": faiss.__version__, "numpy": np.__version__},
        "machine": {**machine(), "load_average": os.getloadavg()[0]},
        "protocol": {
            "items": given.items,
            "queries": given.queries,
            "threads": given.threads,
            "seed": given.seed,
            "size": SIZE,
            "k": K,
            "good_recall": GOOD_RECALL,
        },
        "unit": "ms",
        "rows": built,
    }
    write_result(result)
    print(json.dumps(result))


def measured(build: dict[str, Any], given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One index: what building took, the sweep of its search, and the chosen setting with and without filters."""
    faiss.omp_set_num_threads(given.threads)
    before = _resident_mib()
    items, queries = vectors(given.items, given.queries, given.seed)
    started = time.perf_counter()
    index = ItemIndex.build(items, IndexConfig.model_validate(build))
    build_s = time.perf_counter() - started
    memory = {"memory_mib": _resident_mib() - before, "peak_mib": peak_mib() - before}
    file = folder / "index.faiss"
    index.save(file)
    filters = _filters(items, queries, given.seed, folder)
    half = len(queries) // 2
    sweep = []
    settings = SEARCHES[build["kind"]]
    for values in product(*settings.values()):
        searched = ItemIndex.load(
            file, IndexConfig.model_validate({**build, **dict(zip(settings, values, strict=True))})
        )
        found = asked(searched, queries[:half], Filter(), _truth("none", items, queries, filters, folder)[:half])
        sweep.append({**dict(zip(settings, values, strict=True)), **found})
    chosen = cheapest(sweep)
    config = IndexConfig.model_validate({**build, **{name: chosen[name] for name in settings}})
    searched = ItemIndex.load(file, config)
    filtered = {}
    for name, leaves in filters.items():
        part = leaves.of(slice(half, len(queries)))
        truth = _truth(name, items, queries, filters, folder)[half:]
        filtered[name] = asked(searched, queries[half:], Filter(**part), truth)
        print(f"{config.kind} {name}: {filtered[name]}", file=sys.stderr, flush=True)
    used = {**build, **{name: chosen[name] for name in settings}}
    file_mib = file.stat().st_size / 2**20
    return {"index": used, "build_s": build_s, **memory, "file_mib": file_mib, "sweep": sweep, "filters": filtered}


def cheapest(sweep: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The quickest setting of a good recall; the one of the best where none has."""
    good = [row for row in sweep if row["recall"] >= GOOD_RECALL]
    return min(good, key=lambda row: row["mean"]) if good else max(sweep, key=lambda row: row["recall"])


def asked(index: ItemIndex, queries: Vectors, leaves: Filter, truth: NDArray[np.int32]) -> dict[str, float]:
    """Recall against the exact answer, times of single queries in ms, and queries a second in batches."""
    index.search(queries[:1], K, **leaves.of(slice(0, 1)))
    found, times = np.empty((len(queries), K), np.int32), np.empty(len(queries))
    for row in range(len(queries)):
        arguments = leaves.of(slice(row, row + 1))
        started = time.perf_counter()
        found[row] = index.search(queries[row : row + 1], K, **arguments)[0]
        times[row] = 1000 * (time.perf_counter() - started)
    started = time.perf_counter()
    for start in range(0, len(queries), BATCH):
        rows = slice(start, min(start + BATCH, len(queries)))
        index.search(queries[rows], K, **leaves.of(rows))
    batch_s = time.perf_counter() - started
    median, p99 = np.quantile(times, [0.5, 0.99])
    return {
        "recall": recall(found, truth),
        "mean": float(times.mean()),
        "median": float(median),
        "p99": float(p99),
        "per_s": float(1000 / times.mean()),
        "batch_per_s": len(queries) / batch_s,
    }


def recall(found: NDArray[np.int32], truth: NDArray[np.int32]) -> float:
    """Share of the true items that were found; -1 is none. (B, K) each."""
    hits = [np.isin(theirs[theirs >= 0], ours).sum() for ours, theirs in zip(found, truth, strict=True)]
    return float(sum(hits) / (truth >= 0).sum())


def vectors(n_items: int, n_queries: int, seed: int) -> tuple[Vectors, Vectors]:
    """Items (N, D) in clusters, and queries between them, (B, D); L2-normalised.

    About sqrt(N) clusters, whose sizes follow a power law. Within a cluster the spread is two thirds of that between
    them; both fall with the dimension d as d^-1/2.
    """
    rng = np.random.default_rng(seed)
    n_clusters = max(2, round(n_items**0.5))
    spread = (np.arange(1, SIZE + 1) ** -0.5).astype(np.float32)
    sizes = 1 / np.arange(1, n_clusters + 1) ** 0.8
    centers = rng.standard_normal((n_clusters, SIZE), np.float32) * spread
    cluster = rng.choice(n_clusters, n_items, p=sizes / sizes.sum())
    items = rng.standard_normal((n_items, SIZE), np.float32)
    items *= spread * np.float32(2 / 3)
    items += centers[cluster]
    members = np.argsort(cluster, kind="stable")
    starts = np.searchsorted(cluster[members], np.arange(n_clusters + 1))
    queries = rng.standard_normal((n_queries, SIZE), np.float32) * spread * np.float32(0.3)
    for row, liked in enumerate(rng.choice(cluster, (n_queries, 2))):
        taken = [members[rng.integers(starts[one], starts[one + 1], n)] for one, n in zip(liked, (5, 2), strict=True)]
        queries[row] += items[np.concatenate(taken)].mean(axis=0)
    return _unit(items), _unit(queries)


def _unit(rows: Vectors) -> Vectors:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _filters(items: Vectors, queries: Vectors, seed: int, folder: Path) -> dict[str, Filter]:
    rng = np.random.default_rng(seed + 1)
    near = _exact(items, queries, Filter(), 500, folder / "near.npy")
    n_seen = min(100, near.shape[1])
    seen = np.stack([rng.choice(row, n_seen, replace=False) for row in near]).astype(np.int64)
    shares = {name: Filter(eligible=rng.random(len(items)) < share) for name, share in ELIGIBLE.items()}
    return {"none": Filter(), "seen": Filter(np.arange(len(queries) + 1) * n_seen, seen.reshape(-1)), **shares}


def _truth(name: str, items: Vectors, queries: Vectors, filters: dict[str, Filter], folder: Path) -> NDArray[np.int32]:
    return _exact(items, queries, filters[name], K, folder / f"truth-{name}.npy")


def _exact(items: Vectors, queries: Vectors, leaves: Filter, k: int, file: Path) -> NDArray[np.int32]:
    """What a flat index finds; kept in a file for the processes that follow."""
    if not file.exists():
        k = min(k, len(items))
        np.save(file, ItemIndex.build(items).search(queries, k, **leaves.of(slice(0, len(queries))))[0])
    return np.load(file)


def _in_a_process(build: dict[str, Any], folder: Path) -> dict[str, Any]:
    arguments = [sys.executable, *sys.argv, "--build", json.dumps(build), "--folder", str(folder)]
    threads = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else "1"
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    done = subprocess.run(arguments, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _resident_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


if __name__ == "__main__":
    main()
