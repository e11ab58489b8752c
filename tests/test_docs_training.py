"""The figures of docs/training.md are those of the stored results."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[1]
TEXT = " ".join((ROOT / "docs" / "training.md").read_text(encoding="utf-8").split())


def result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def short(value: float | np.floating, digits: int) -> str:
    """As the page writes a fraction: .301."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def mean(stored: dict[str, Any], model: str, metric: str) -> float:
    return next(row["mean"] for row in stored["summary"] if (row["model"], row["metric"]) == (model, metric))


@pytest.mark.parametrize(
    ("model", "label"),
    [("anew", "anew"), ("on", "on"), ("on, replay", "on, replay .3"), ("frozen", "left as it was")],
)
def test_ten_days_of_training_on(model: str, label: str):
    stored = result("daily_training")
    cells = [label]
    for metric in ("two_stage ndcg@10", "two_stage recall@10", "retriever ndcg@10"):
        ratio = stored["protocol"]["ratios"].get(f"{model} / anew")
        cells.append(short(mean(stored, model, metric), 4))
        cells.append(
            "{} [{}, {}]".format(*(short(ratio[metric][part], 3) for part in ("ratio", "low", "high"))) if ratio else ""
        )
    seconds = stored["protocol"]["processor_seconds"].get(model)
    row = " | ".join([*cells, f"{seconds:.1f}" if seconds else ""])
    assert " ".join(f"| {row} |".split()) in TEXT


@pytest.mark.parametrize("model", ["mmoe", "ple"])
def test_what_a_second_task_gives(model: str):
    one, two = (
        {row["seed"]: row["metrics"]["watch@10"] for row in result(name)["rows"] if row["model"] == model}
        for name in ("rankers_instatok", "rankers_instatok_two_tasks")
    )
    gained = np.array([two[seed] - one[seed] for seed in sorted(two)])
    half = stats.t.ppf(0.975, len(gained) - 1) * gained.std(ddof=1) / np.sqrt(len(gained))
    low, high = (f"{value:+.4f}".replace("0.", ".", 1) for value in (gained.mean() - half, gained.mean() + half))
    assert f"{gained.mean():+.4f} [{low}, {high}] of `{model}`".replace("+0.", "+.") in TEXT


def test_training_beside_the_peer():
    stored = result("train_two_tower")
    loader, ready = stored["rows"]
    assert f"{loader['ours']['rows_per_s']:,.0f} rows a second" in TEXT
    assert f"the peer over {loader['peer']['rows_per_s']:,.0f}" in TEXT
    assert f"over {ready['peer']['rows_per_s']:,.0f}, a ratio of {interval(ready)}" in TEXT
    assert f"a ratio of {interval(loader)}" in TEXT
    assert f"takes {stored['ray_train']['epoch_ratio']:.2f} times as long" in TEXT
    assert f"{stored['ray_train']['beside_epochs_s']:.0f} seconds besides" in TEXT


def interval(row: dict[str, float]) -> str:
    return f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"


LABELS = {"retriever": "retriever alone", **{kind: f"`{kind}`" for kind in ("lambdamart", "logistic", "mmoe", "ple")}}


def signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("0.", ".", 1)


def cell(stored: dict[str, Any], model: str, metric: str) -> str:
    row = next(row for row in stored["summary"] if (row["model"], row["metric"]) == (model, metric))
    return f"{short(row['mean'], 4)} ± {short(row['std_error_users'], 4)}"


def by_users(stored: dict[str, Any], model: str, metric: str) -> str:
    """How much more it has than lambdamart, paired by user."""
    for row in stored["protocol"]["paired"]:
        sides = {row["a"]: 1, row["b"]: -1}
        if row["metric"] == metric and sides.keys() == {model, "lambdamart"}:
            sign = sides[model]
            low, high = sorted(sign * row[bound] for bound in ("low", "high"))
            return f"{signed(sign * row['difference'], 4)} [{signed(low, 4)}, {signed(high, 4)}]"
    return ""


@pytest.mark.parametrize("model", LABELS)
def test_rankers(model: str):
    movielens, instatok = result("rankers_movielens"), result("rankers_instatok")
    order = [
        f"{cell(stored, model, metric)} | {by_users(stored, model, metric)}"
        for stored, metric in ((movielens, "ndcg@10"), (instatok, "watch@10"))
    ]
    found = [
        f"{cell(movielens, model, metric)} | {by_users(movielens, model, metric)}"
        for metric in ("recall@10", "hit_rate@10")
    ]
    for cells in (order, found):
        assert " ".join(f"| {LABELS[model]} | {' | '.join(cells)} |".split()) in TEXT


def test_calibration_of_rankers():
    errors: dict[str, dict[str, list[float]]] = {}
    for world in ("instatok", "movielens"):
        for row in result(f"rankers_{world}")["rows"]:
            if "calibration" in row:
                of_world = errors.setdefault(world, {})
                of_world.setdefault(row["model"], []).append(row["calibration"]["expected_error"])

    def told(kind: str) -> str:
        of_seeds = errors["instatok"][kind]
        return f"{short(np.mean(of_seeds), 3)} ({short(min(of_seeds), 3)} to {short(max(of_seeds), 3)}) for `{kind}`"

    assert f"on InstaTok is {told('mmoe')}, {told('ple')} and {told('logistic')}" in TEXT
    means = [short(np.mean(errors["movielens"][kind]), 3) for kind in ("mmoe", "ple", "logistic")]
    of_all = [error for of_seeds in errors["movielens"].values() for error in of_seeds]
    spread = f"({short(min(of_all), 3)} to {short(max(of_all), 3)} over all)"
    assert f"on MovieLens {means[0]}, {means[1]} and {means[2]} {spread}" in TEXT
