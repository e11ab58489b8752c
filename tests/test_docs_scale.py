"""The figures of docs/scale.md are those of its formulas."""

import json
from pathlib import Path

import pytest

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "index_scale_1000000.json"
TEXT = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8").replace("\n", " ")
ROWS, SIZE, WORKERS, IDS = 300e6, 64, 8, 1024 * 52 + 1024
ELSEWHERE = (WORKERS - 1) / WORKERS
IDS_MB, VECTORS_MB = 8 * IDS * ELSEWHERE / 1e6, 4 * SIZE * IDS * ELSEWHERE / 1e6
SENT_MB = IDS_MB + 2 * VECTORS_MB
FIGURES = {
    "flat": f"| 4 N D | {4 * 1e6 * SIZE / 1e6:.0f} MB |",
    "ivf": f"| {(2 * 4 * SIZE + 8) * 1e6 / 1e6:.0f} MB |",
    "hnsw 16": f"| {(2 * 4 * SIZE + 4 * 32) * 1e6 / 1e6:.0f} MB and",
    "hnsw 32": f"| {(2 * 4 * SIZE + 4 * 64) * 1e6 / 1e6:.0f} MB and",
    "weights": f"| {4 * ROWS * SIZE / 1e9:.1f} GB | {4 * ROWS * SIZE / WORKERS / 1e9:.1f} GB |",
    "adam": f"| {12 * ROWS * SIZE / 1e9:.1f} GB | {12 * ROWS * SIZE / WORKERS / 1e9:.1f} GB |",
    "adagrad": f"| {ROWS * (4 * SIZE + 4) / 1e9:.1f} GB | {ROWS * (4 * SIZE + 4) / WORKERS / 1e9:.2f} GB |",
    "ids": f"| {IDS_MB:.2f} MB |",
    "distinct": f"{IDS:,} ids at most",
    "vectors": f"| 4 D U (W - 1) / W | {VECTORS_MB:.2f} MB | | gradients",
    "together": f"| {SENT_MB:.2f} MB |",
    "times": f"{SENT_MB / 25e3 * 8e3:.1f} ms at 25 Gbit/s and {SENT_MB / 10e3 * 8e3:.1f} ms at 10 Gbit/s",
    "halved": f"{IDS_MB + VECTORS_MB:.2f} MB.",
    "dense": f"{2 * ELSEWHERE * 4 * ROWS * SIZE / 1e9:.1f} GB a worker and step",
    "gathered": f"{(WORKERS - 1) * IDS * (4 * SIZE + 8) / 1e6:.1f} MB and",
    "outputs": f"{(WORKERS - 1) * 1024 * SIZE * 4 / 1e6:.2f} MB come from others",
    "items": f"{100e6 * SIZE * 4 / 1e9:.1f} GB,",
    "fits with adam": f"about {0.6 * 24e9 / (12 * SIZE) / 1e6:.0f} million rows",
    "fits with adagrad": f"{0.6 * 24e9 / (4 * SIZE + 4) / 1e6:.0f} million with row-wise Adagrad",
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_follows_from_its_formula(name: str):
    assert FIGURES[name] in TEXT


def test_the_table_of_filters_is_what_was_measured():
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 5
    for row in rows:
        filters = [row["filters"][name] for name in ("seen", "leaves 99%", "leaves 50%", "leaves 1%")]
        recalls = [f"{found['recall']:.3f}".lstrip("0").replace("1.000", "1") for found in filters]
        told = [
            f"{recall}, {found['per_s']:.0f}, {found['p99']:.1f} ms"
            for recall, found in zip(recalls, filters, strict=True)
        ]
        assert f"| {' | '.join(told)} |" in TEXT
