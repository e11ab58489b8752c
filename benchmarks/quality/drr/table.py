"""Rows of DRR's table, their means over seeds, and what agents are above the policies beside them."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from quality.drr.variants import AS_TRAINED, BESIDE, ITEM_MEAN, LEARNING, MODEL, ONLINE, POLICIES, POPULARITY

from rec.metrics import paired_difference

Metrics = dict[str, NDArray[np.float64]]
Row = dict[str, Any]

PUBLISHED: Final = {
    (POPULARITY, "precision@5"): 0.675,
    (POPULARITY, "ndcg@10"): 0.751,
    (ITEM_MEAN, "precision@5"): 0.733,
    (ITEM_MEAN, "ndcg@10"): 0.809,
    (MODEL, "precision@5"): 0.747,
    (MODEL, "ndcg@10"): 0.822,
    ("oracle", "precision@5"): 0.916,
    ("oracle", "ndcg@10"): 1.0,
}
GOALS: Final = {"precision@5": 0.747, "ndcg@10": 0.822}
"""Of agents, two standard errors over seeds above: published matrix factorisation. Ours is the stronger one."""
N_ERRORS: Final = 2
QUANTILE: Final = 1.96
"""Half an interval of 95% in standard errors; Student's is a little wider, so errors come out a little large."""


def row_of(model: str, seed: int, found: Metrics, reference: Metrics) -> Row:
    """Means, and differences from matrix factorisation's with Student's interval over users, or over sessions online.

    Args: found, reference: by user or session; what is of the first sessions only is compared with those.
    """
    theirs = {name: reference[ONLINE if name == LEARNING else name][: len(values)] for name, values in found.items()}
    row: Row = {
        "model": model,
        "seed": seed,
        "log": None,
        "metrics": {name: float(values.mean()) for name, values in found.items()},
        "above_matrix_factorisation": {
            name: paired_difference(values, theirs[name]).to_json() for name, values in found.items()
        },
    }
    if LEARNING in found:
        first = found[ONLINE][: len(found[LEARNING])]
        row["learning_above_as_trained"] = paired_difference(found[LEARNING], first).to_json()
    return row


def summaries(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean and standard error over seeds of each metric of each model; goals are those of agents."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        ours = [row for row in rows if row["model"] == model]
        for metric in ours[0]["metrics"]:
            values = np.array([row["metrics"][metric] for row in ours])
            goal = None if model in POLICIES else GOALS.get(metric)
            error = standard_error(values)
            reached = None if goal is None or error is None else bool(values.mean() - N_ERRORS * error >= goal)
            lines.append(
                {
                    "model": model,
                    "metric": metric,
                    "mean": float(values.mean()),
                    "std_error": error,
                    "n": len(values),
                    "published": PUBLISHED.get((model, metric)),
                    "goal": goal,
                    "reached": reached,
                }
            )
    return lines


def paired(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What each agent is above each policy beside it, seed by seed, in the same users and sessions.

    Users and sessions are the same, so the difference of a seed's means is the mean of paired differences. Of policies,
    what they are above matrix factorisation. Networks that learn within sessions are compared with matrix factorisation
    and with themselves as trained, in those sessions.
    """
    by_seed = {(row["model"], row["seed"]): row for row in rows}
    lines = []
    for name in dict.fromkeys(row["model"] for row in rows):
        ours = [row for row in rows if row["model"] == name]
        for other in (MODEL,) if name in POLICIES else BESIDE:
            if name == other or not all((other, row["seed"]) in by_seed for row in ours):
                continue
            both = [(row, by_seed[other, row["seed"]]) for row in ours]
            lines += [
                line_of(name, other, metric, [difference(mine, theirs, metric) for mine, theirs in both])
                for metric in ours[0]["metrics"]
                if all(metric in theirs["metrics"] for _, theirs in both)
            ]
        if LEARNING in ours[0]["metrics"]:
            above = [row["above_matrix_factorisation"][LEARNING] for row in ours]
            lines.append(line_of(name, MODEL, LEARNING, [(each["difference"], error_of(each)) for each in above]))
        if all("learning_above_as_trained" in row for row in ours):
            above = [row["learning_above_as_trained"] for row in ours]
            lines.append(line_of(name, AS_TRAINED, LEARNING, [(each["difference"], error_of(each)) for each in above]))
    return lines


def difference(mine: Row, theirs: Row, metric: str) -> tuple[float, float]:
    """Of two rows of a seed, with its standard error over users, or sessions, at most.

    a - b = (a - m) - (b - m) with matrix factorisation's m, and the error of a sum is at most the sum of errors.
    """
    errors = (error_of(row["above_matrix_factorisation"][metric]) for row in (mine, theirs))
    return mine["metrics"][metric] - theirs["metrics"][metric], sum(errors)


def error_of(interval: dict[str, float]) -> float:
    """The standard error of a paired difference."""
    return (interval["high"] - interval["low"]) / 2 / QUANTILE


def line_of(name: str, other: str, metric: str, differences: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The mean over seeds, its standard error, and whether it is above 0 by two of these.

    The error is that over the seeds, or that over users, or sessions, where that is larger. Seeds share their users, so
    more seeds do not make the latter smaller: it is the mean of the seeds' own, which it is at most.

    Args: differences: of each seed, with its standard error over users.
    """
    values, errors = np.array(differences).T
    mean, over_seeds, over_users = float(values.mean()), standard_error(values), float(errors.mean())
    error = max(over_users, over_seeds or 0.0)
    return {
        "a": name,
        "b": other,
        "metric": metric,
        "difference": mean,
        "std_error": error,
        "std_error_seeds": over_seeds,
        "std_error_users": over_users,
        "n": len(values),
        "above": mean > N_ERRORS * error,
        "by_seed": list(map(float, values)),
    }


def standard_error(values: NDArray[np.float64]) -> float | None:
    """Of the mean over seeds."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def show(summary: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> None:
    """Means with standard errors over seeds, and what is above the others with the larger error of seeds and users."""
    for line in summary:
        print(f"{line['model']:<24}{line['metric']:<44}{told(line['mean'], line['std_error'])}")
    for line in pairs:
        of = f"{line['a']} - {line['b']}"
        print(f"{of:<48}{line['metric']:<44}{told(line['difference'], line['std_error'], sign='+')}")


def told(mean: float, error: float | None, sign: str = "") -> str:
    """A mean and its error, with a sign where one is asked for."""
    return f"{mean:{sign}.5f}" + ("" if error is None else f" ± {error:.5f}")
