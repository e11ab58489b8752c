"""Flat search of `rec.retrieval.index` beside FAISS's IndexFlatIP, in one run; both leave out what each user has seen.

Run: python benchmarks/speed/flat_search.py [--items 3706] [--queries 500] [--k 200]
Expect: a ratio below 1, our median over that of FAISS; kept in benchmarks/results/flat_search_ITEMSxQUERIES.json.
FAISS fetches k and as many more as the user has seen, in one batch; ours also adds the scores up again in float64.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.results import command, machine, write_result  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from rec.retrieval.index import ItemIndex  # noqa: E402

REPEATS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("items", 3706), ("queries", 500), ("k", 200), ("seen", 150), ("size", 64), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    items, queries = _unit(rng, given.items, given.size), _unit(rng, given.queries, given.size)
    seen = np.concatenate([rng.choice(given.items, given.seen, replace=False) for _ in range(given.queries)])
    indptr = np.arange(given.queries + 1) * given.seen
    ours, peer = ItemIndex.build(items), faiss.IndexFlatIP(given.size)
    peer.add(items)

    def search_peer() -> np.ndarray:
        _, found = peer.search(queries, given.k + given.seen)
        offsets = np.arange(given.queries)[:, None] * given.items
        kept = ~np.isin(found + offsets, seen.reshape(given.queries, -1) + offsets)
        return np.take_along_axis(found, np.argsort(~kept, axis=1, kind="stable")[:, : given.k], axis=1)

    def search_ours() -> np.ndarray:
        return ours.search(queries, given.k, excluded_indptr=indptr, excluded=seen)[0]

    agreement = float((search_ours() == search_peer()).mean())
    pairs = [(_time(search_ours, given.queries), _time(search_peer, given.queries)) for _ in range(REPEATS)]
    times = np.array(pairs)
    ratios = np.median(times[rng.integers(0, REPEATS, (2000, REPEATS))], axis=1)
    low, high = np.quantile(ratios[:, 0] / ratios[:, 1], [0.025, 0.975])
    medians = np.median(times, axis=0)
    result = {
        "name": f"flat_search_{given.items}x{given.queries}",
        "command": command(),
        "git_sha": git_sha(),
        "machine": machine(),
        "protocol": {**vars(given), "threads": faiss.omp_get_max_threads(), "agreement": agreement},
        "unit": "ms",
        "repeats": REPEATS,
        "ours": _summary(times[:, 0]),
        "peer": {"name": "faiss.IndexFlatIP", "version": faiss.__version__, **_summary(times[:, 1])},
        "ratio": float(medians[0] / medians[1]),
        "ratio_low": float(low),
        "ratio_high": float(high),
    }
    write_result(result)
    print(json.dumps(result))


def _unit(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    vectors = rng.standard_normal((n, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _time(search: Callable[[], np.ndarray], queries: int) -> float:
    started = time.perf_counter()
    search()
    return (time.perf_counter() - started) * 1000 / queries


def _summary(times: np.ndarray) -> dict[str, float]:
    low, median, high = np.quantile(times, [0.1, 0.5, 0.9])
    return {"median": float(median), "p10": float(low), "p90": float(high)}


if __name__ == "__main__":
    main()
