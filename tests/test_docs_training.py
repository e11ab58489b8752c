"""The figures of docs/training.md are those of the stored results."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TEXT = " ".join((ROOT / "docs" / "training.md").read_text(encoding="utf-8").split())


def result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def short(value: float, digits: int) -> str:
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
