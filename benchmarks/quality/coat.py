"""Ratings learned from what users chose themselves, judged on random items: Coat, Schnabel et al. (2016).

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/coat.py [--seeds 3]
Data:   $TANDEM_DATA/coat: 290 users x 300 coats, 24 ratings a user of coats they chose, to learn from, and 16 a user of
        random ones, to judge on; the probability that a pair was chosen comes with the data.
Learns: matrix factorisation with biases, squared error over the chosen pairs: naive, each pair alike; ips, weighted by
        1 / propensity, capped and self-normalised; dr, squared error of an imputed rating over all pairs, corrected by
        the capped weight times the difference on the chosen ones (Wang et al. 2019, Doubly robust joint learning). The
        imputed rating is a ridge regression on features of user and coat, cross-fitted. Penalty and cap are chosen by
        each on a fifth of the chosen pairs: by its plain error for naive, by its weighted one for ips and dr.
Beside: the mean of the training ratings, and that of each coat, shrunk, both plain and weighted.
Errors: users and seeds (held-out pairs, initial factors) both count as drawn at random; with one seed, users alone.
        Differences are paired by both.
Expect: two minutes on one core.
Writes: benchmarks/results/coat.json and .png
"""

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import FOLDER, data_folder, quality_result, write_result
from two_stage.summary import crossed_mean

from rec.crossfit import cross_fitted
from rec.data.coat import Coat, read_coat

DIM: Final = 8
PENALTIES: Final = (0.003, 0.01, 0.03, 0.1, 0.3)
MAX_WEIGHTS: Final = (10.0, 30.0, np.inf)
STEPS: Final = 200
LEARNING_RATE: Final = 0.03
HELD_OUT: Final = 0.2
RIDGE: Final = 30.0
N_FOLDS: Final = 5
TOP: Final = 5
# Errors are better when small, ranking when great.
METRICS: Final = {"mse": -1, "mae": -1, "ndcg@5": 1}
LEARNED: Final = ("naive", "ips", "dr")
PAIRED: Final = (("ips", "naive"), ("dr", "naive"), ("dr", "ips"), ("ips", "item mean"), ("dr", "item mean"))
Floats = NDArray[np.float64]

matplotlib.use("Agg")


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    coat = read_coat(data_folder() / "coat")
    found = {name: [judge(coat, predicted)] for name, predicted in references(coat).items()}
    rows = [_row(name, None, found[name][0], {}) for name in found]
    for seed in range(options.seeds):
        for name in LEARNED:
            predicted, chosen = learned(coat, name, seed)
            found.setdefault(name, []).append(judge(coat, predicted))
            rows.append(_row(name, seed, found[name][-1], chosen))
        told = {row["model"]: round(row["metrics"]["mse"], 4) for row in rows if row["seed"] == seed}
        print(f"seed {seed}: mse {told}", flush=True)
    values = {(name, metric): np.stack([one[metric] for one in found[name]]) for name in found for metric in METRICS}
    summary = [_summary(name, metric, of_users) for (name, metric), of_users in values.items()]
    print(f"\n{'random test items':<26}" + "".join(f"{metric:>20}" for metric in METRICS))
    for model in found:
        cells = [row for row in summary if row["model"] == model]
        print(f"{model:<26}" + "".join(f"{row['mean']:.4f} ± {row['std_error']:.4f}".rjust(20) for row in cells))
    paired = [_paired(a, b, metric, values) for a, b in PAIRED for metric in METRICS]
    print(READING)
    protocol = {"seeds": options.seeds, "users": len(coat.train), "paired": paired}
    write_result(quality_result("coat", protocol=protocol, rows=rows, summary=summary))
    plot(summary, list(found), FOLDER / "coat.png")


def references(coat: Coat) -> dict[str, Floats]:
    """Predictions of all pairs by means, which no seed changes, (U, N)."""
    chosen, ratings, weight = coat.train > 0, coat.train.astype(np.float64), 1 / coat.propensities
    answer: dict[str, Floats] = {}
    for name, weights in (("mean", np.ones_like(weight)), ("weighted mean", weight)):
        mean = np.average(ratings[chosen], weights=weights[chosen])
        answer[name] = np.full(ratings.shape, mean)
        total, mass = (weights * (ratings - mean) * chosen).sum(axis=0), (weights * chosen).sum(axis=0)
        by_item = mean + total / (mass + 5 * weights[chosen].mean())
        answer[name.replace("mean", "item mean")] = np.broadcast_to(by_item, ratings.shape).copy()
    return answer


def learned(coat: Coat, name: str, seed: int) -> tuple[Floats, dict[str, Any]]:
    """Predictions of all pairs by a model of LEARNED, (U, N), and the settings it chose."""
    rng = np.random.default_rng([seed, LEARNED.index(name)])
    chosen, ratings, weight = coat.train > 0, coat.train.astype(np.float64), 1 / coat.propensities
    held_out = np.zeros_like(chosen)
    places = np.random.default_rng(seed).permutation(np.flatnonzero(chosen))
    held_out.flat[places[: round(HELD_OUT * len(places))]] = True
    judged_by = (np.ones_like(weight) if name == "naive" else weight) * held_out
    best = (np.inf, (PENALTIES[0], np.inf))
    for penalty, cap in product(PENALTIES, (np.inf,) if name == "naive" else MAX_WEIGHTS):
        predicted = factorise(ratings, *targets(coat, name, chosen & ~held_out, cap, rng), penalty=penalty, seed=seed)
        error = float((judged_by * (predicted - ratings) ** 2).sum() / judged_by.sum())
        best = min(best, (error, (penalty, cap)), key=lambda pair: pair[0])
    penalty, cap = best[1]
    predicted = factorise(ratings, *targets(coat, name, chosen, cap, rng), penalty=penalty, seed=seed)
    return predicted, {"penalty": penalty, "max_weight": None if np.isinf(cap) else cap}


def targets(
    coat: Coat, name: str, known: NDArray[np.bool_], max_weight: float, rng: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    """Weights of the squared errors to the ratings, weights of those to imputed ratings, and these; (U, N) each.

    dr: the mean over all pairs of (p - g)^2, plus w ((p - r)^2 - (p - g)^2) on the known ones; there the weight of the
    imputed rating g is negative, yet that of p^2 is 1 in all.
    """
    # The propensities are those of all 24 ratings a user; of these only a part may be known.
    rate = known.sum() / (coat.train > 0).sum()
    weight = np.where(known, 1.0 if name == "naive" else np.minimum(1 / (rate * coat.propensities), max_weight), 0.0)
    if name != "dr":
        return weight / weight.sum(), np.zeros_like(weight), np.zeros_like(weight)
    return weight / weight.size, (1 - weight) / weight.size, imputed(coat, known, rng)


def factorise(
    ratings: Floats, weight: Floats, imputed_weight: Floats, imputation: Floats, *, penalty: float, seed: int
) -> Floats:
    """Predictions of all pairs, (U, N): mean + biases + factors, fitted in full batches by Adam."""
    r, w, v, g = (torch.from_numpy(part).float() for part in (ratings, weight, imputed_weight, imputation))
    generator = torch.Generator().manual_seed(seed)
    shapes = ((len(ratings), DIM), (ratings.shape[1], DIM), (len(ratings), 1), (1, ratings.shape[1]))
    scales = (0.1, 0.1, 0.0, 0.0)
    parameters = [
        (torch.randn(shape, generator=generator) * scale).requires_grad_()
        for shape, scale in zip(shapes, scales, strict=True)
    ]
    mean = ((w * r + v * g).sum() / (w + v).sum()).clone().requires_grad_()
    optimizer = torch.optim.Adam([*parameters, mean], lr=LEARNING_RATE)

    def predict() -> Tensor:
        user, item, user_bias, item_bias = parameters
        return mean + user_bias + item_bias + user @ item.T

    for _ in range(STEPS):
        predicted = predict()
        loss = (w * (predicted - r) ** 2 + v * (predicted - g) ** 2).sum()
        loss = loss + penalty * sum((part**2).sum() / part.shape[0 if part.shape[0] > 1 else 1] for part in parameters)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return predict().clamp(1, 5).double().numpy()


def imputed(coat: Coat, known: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Ratings predicted from features of user and coat, by a weighted ridge regression that did not see the pair."""
    users, items = coat.user_features.astype(np.float64), coat.item_features.astype(np.float64)
    user, item = np.nonzero(known)
    rating, weight = coat.train[user, item].astype(np.float64), 1 / coat.propensities[user, item]
    folds = rng.integers(0, N_FOLDS, len(user))

    def crossed(rows: NDArray[Any], columns: NDArray[Any]) -> Floats:
        pairs = (users[rows][:, :, None] * items[columns][:, None, :]).reshape(len(rows), -1)
        return np.concatenate([users[rows], items[columns], pairs], axis=1)

    design = crossed(user, item)

    def coefficients(rows: NDArray[np.intp]) -> tuple[float, Floats]:
        mean = float(np.average(rating[rows], weights=weight[rows]))
        scaled = design[rows] * (weight[rows] / weight[rows].mean())[:, None]
        gram = scaled.T @ design[rows] + RIDGE * np.eye(design.shape[1])
        return mean, np.linalg.solve(gram, scaled.T @ (rating[rows] - mean))

    def fit_predict(rows: NDArray[np.intp], others: NDArray[np.intp]) -> Floats:
        mean, slopes = coefficients(rows)
        return mean + design[others] @ slopes

    mean, slopes = coefficients(np.arange(len(user)))
    n_users, n_items = users.shape[1], items.shape[1]
    by_user, by_item = users @ slopes[:n_users], items @ slopes[n_users : n_users + n_items]
    answer = mean + by_user[:, None] + by_item + users @ slopes[n_users + n_items :].reshape(n_users, n_items) @ items.T
    answer[user, item] = cross_fitted(folds, fit_predict)
    return np.clip(answer, 1, 5)


def judge(coat: Coat, predicted: Floats) -> dict[str, Floats]:
    """Errors on the random items, and NDCG@5 of the user's 16 by prediction, gain 2^rating - 1; by user, (U,)."""
    test = coat.test > 0
    error = np.where(test, predicted - coat.test, 0.0)
    n = test.sum(axis=1)
    gain = np.where(test, 2.0 ** coat.test.astype(np.float64) - 1, 0.0)
    order = np.argsort(-np.where(test, predicted, -np.inf), axis=1, kind="stable")[:, :TOP]
    discount = 1 / np.log2(np.arange(2, TOP + 2))
    ideal = (np.sort(gain, axis=1)[:, ::-1][:, :TOP] * discount).sum(axis=1)
    found = (np.take_along_axis(gain, order, axis=1) * discount).sum(axis=1)
    return {"mse": (error**2).sum(axis=1) / n, "mae": np.abs(error).sum(axis=1) / n, "ndcg@5": found / ideal}


def plot(summary: list[dict[str, Any]], names: list[str], path: Path) -> None:
    """One panel per metric."""
    figure, axes = plt.subplots(1, len(METRICS), figsize=(4 * len(METRICS), 3.5), layout="constrained")
    for panel, metric in zip(axes, METRICS, strict=True):
        cells = [row for row in summary if row["metric"] == metric]
        panel.errorbar([row["mean"] for row in cells], names, xerr=[2 * row["std_error"] for row in cells], fmt="o")
        panel.set_title(metric)
        panel.invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _row(model: str, seed: int | None, by_user: dict[str, Floats], chosen: dict[str, Any]) -> dict[str, Any]:
    metrics = {name: float(values.mean()) for name, values in by_user.items()}
    return {"model": model, "seed": seed, "log": None, "metrics": metrics, "settings": chosen}


def _summary(model: str, metric: str, of_users: Floats) -> dict[str, Any]:
    """Of values by seed and user, (S, U)."""
    mean = crossed_mean(of_users)
    named = {"model": model, "metric": metric, "mean": mean.mean, "std_error": mean.std_error, "n": of_users.shape[1]}
    return {**named, "published": None, "goal": None, "reached": None}


def _paired(a: str, b: str, metric: str, values: dict[tuple[str, str], Floats]) -> dict[str, Any]:
    mean, error, _ = crossed_mean(values[a, metric] - values[b, metric])
    assert error is not None
    better, worse = METRICS[metric] * mean > 2 * error, -METRICS[metric] * mean > 2 * error
    verdict = "better" if better else "worse" if worse else "no difference beyond two standard errors"
    print(f"{a} - {b}, {metric}: {mean:+.4f} ± {error:.4f}  {verdict}")
    return {"a": a, "b": b, "metric": metric, "difference": mean, "std_error": error, "verdict": verdict}


READING: Final = """
Reading: a verdict is about other users like these 290, each judged on 16 coats. Weights that make errors of ratings
smaller need not rank better. No published figure stands beside: those of Schnabel et al. (2016) were not checked."""


if __name__ == "__main__":
    main()
