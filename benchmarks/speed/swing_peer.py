"""LibRecommender's Swing, run by a Python of its own that has its compiled part, recfarm; see swing.py beside it.

LibRecommender itself imports TensorFlow; its Swing hands all work to recfarm, and so does this, in the same way.
Reads a log from the .npz file it is given (user, item) and does what the lines of its input say: `fit` counts the log
and answers with the seconds, `near` with the ten nearest of each item, asked for as recommendations to users who have
one item only: the last of the log, one for each item.
"""

import importlib.metadata
import json
import os
import sys
import time
from dataclasses import dataclass

import numpy as np
import recfarm
from scipy.sparse import csr_matrix

TOP_K, MAX_CACHE, THREADS = 100, 100_000_000, 1
# It does not count the item itself among those two users share, so that its 2 is our 1.
ALPHA = 2.0


@dataclass
class SparseMatrix:
    """What recfarm reads a matrix from: lists, by these names."""

    sparse_indices: list[int]
    sparse_indptr: list[int]
    sparse_data: list[float]


def main() -> None:
    # The library prints to the standard output, from Rust.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    log = np.load(sys.argv[1])
    matrix = csr_matrix((np.ones(len(log["user"]), np.float32), (log["user"], log["item"])))
    print(json.dumps({"version": importlib.metadata.version("recfarm")}), file=answers, flush=True)
    model = None
    for command in map(str.strip, sys.stdin):
        if command == "fit":
            started = time.perf_counter()
            model = fit(matrix)
            seconds = time.perf_counter() - started
            answer = {"seconds": seconds, "directed_pairs": model.num_swing_elements()}
        else:
            askers = log["user"][-len(np.unique(log["item"])) :]
            found, _ = model.recommend(askers.tolist(), 10, True, False)
            answer = {"near": found}
        print(json.dumps(answer), file=answers, flush=True)


def fit(matrix: csr_matrix) -> recfarm.Swing:
    n_users, n_items = matrix.shape
    consumed = {user: matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]].tolist() for user in range(n_users)}
    sizes = (TOP_K, ALPHA, MAX_CACHE, n_users, n_items)
    model = recfarm.Swing(*sizes, lists(matrix), lists(matrix.T.tocsr()), consumed, 0.0)
    model.compute_swing(THREADS)
    return model


def lists(matrix: csr_matrix) -> SparseMatrix:
    return SparseMatrix(matrix.indices.tolist(), matrix.indptr.tolist(), matrix.data.tolist())


if __name__ == "__main__":
    main()
