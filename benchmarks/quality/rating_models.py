"""Models of ratings behind the simulator of rl.pmf_env, judged on MovieLens-1M's latest ratings; several seeds.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/rating_models.py [--seeds 3] [--dim 32]
Data:   $TANDEM_DATA/ml-1m in its original files.
Protocol: the earliest 80% of each user's ratings to learn from, the latest 20% to judge on, ties in file order, test
        ratings of items without a training rating left out. The number of epochs is chosen on the latest tenth of each
        user's training ratings; every other setting is the default of rl.config.
Beside: neighbours, which have no seed, and the mean of the training ratings.
Expect: about a minute a seed on one core; the mark for matrix factorisation of 32 dimensions with biases is .888.
Writes: benchmarks/results/rating_models.json
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import data_folder, quality_result, write_result

from rec.data.movielens import read_movielens_1m
from rec.data.splits import per_user_temporal
from rl.config import PMFConfig, RatingNeighborsConfig
from rl.pmf import MatrixFactorisation, rmse
from rl.rating_neighbors import RatingNeighbors

MARK: Final = 0.888
TRAIN_FRACTION: Final = 0.8


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dim", type=int, default=PMFConfig().dim)
    options = parser.parse_args()
    split = per_user_temporal(read_movielens_1m(data_folder() / "ml-1m").interactions, TRAIN_FRACTION)
    assert split.train.rating is not None and split.test.rating is not None
    mean = float(np.sqrt(np.mean((split.test.rating - split.train.rating.mean()) ** 2)))
    rows: list[dict[str, Any]] = [row_of("mean", 0, {"rmse": mean})]
    rows.append(
        row_of("neighbors", 0, {"rmse": rmse(RatingNeighbors.fit(split.train, RatingNeighborsConfig()), split.test)})
    )
    for seed in range(options.seeds):
        config = PMFConfig(dim=options.dim, seed=seed)
        model = MatrixFactorisation.fit(split.train, config)
        found = {"rmse": rmse(model, split.test), "valid_rmse": min(model.report.valid_rmse)}
        rows.append(row_of("matrix factorisation", seed, found | {"epochs": float(model.report.epochs)}))
    models = dict.fromkeys(row["model"] for row in rows)
    summary = [summary_of(model, [row for row in rows if row["model"] == model]) for model in models]
    for line in summary:
        print(f"{line['model']:<22} {line['mean']:.4f}")
    protocol = {
        "train_fraction": TRAIN_FRACTION,
        "n_train": len(split.train),
        "n_test": len(split.test),
        "dim": options.dim,
    }
    write_result(quality_result("rating_models", protocol=protocol, rows=rows, summary=summary))


def row_of(model: str, seed: int, metrics: dict[str, float]) -> dict[str, Any]:
    """One fit, as every benchmark reports it."""
    print(
        f"{model:<22} seed {seed}  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()), flush=True
    )
    return {"model": model, "seed": seed, "log": None, "metrics": metrics}


def summary_of(model: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over the seeds; the standard error is over seeds, too, where there are several."""
    values = np.array([row["metrics"]["rmse"] for row in rows])
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    mark = MARK if model == "matrix factorisation" else None
    reached = None if mark is None else bool(round(values.mean(), 3) <= mark)
    return {
        "model": model,
        "metric": "rmse",
        "mean": float(values.mean()),
        "std_error": error,
        "n": len(values),
        "published": mark,
        "goal": mark,
        "reached": reached,
    }


if __name__ == "__main__":
    main()
