"""The tables of Ma et al. (2020), and the same from one run of their released code on a CPU; as fractions."""

from collections.abc import Mapping
from typing import Final

# Metrics of an objective and a stage.
Figures = Mapping[tuple[str, str], Mapping[str, float]]
ORDER: Final = ("precision@5", "precision@10", "recall@5", "recall@10", "ndcg@5", "ndcg@10")


def _fractions(percent: dict[tuple[str, str], tuple[float, ...]]) -> Figures:
    return {row: dict(zip(ORDER, (value / 100 for value in values), strict=True)) for row, values in percent.items()}


PUBLISHED: Final = _fractions(
    {
        ("ce", "one-stage"): (86.3, 86.4, 1.2, 2.4, 86.3, 86.4),
        ("1-ips", "one-stage"): (90.1, 88.9, 1.5, 2.8, 90.3, 89.4),
        ("2-ips", "one-stage"): (95.7, 95.3, 2.3, 4.5, 95.4, 95.3),
        ("ce", "two-stage"): (95.8, 93.9, 2.2, 3.5, 96.4, 95.0),
        ("1-ips", "two-stage"): (95.1, 93.3, 2.0, 3.4, 95.7, 94.3),
        ("2-ips", "two-stage"): (98.1, 96.8, 2.9, 4.9, 98.3, 97.5),
    }
)
RERUN: Final = _fractions(
    {
        ("ce", "one-stage"): (85.8, 86.0, 1.12, 2.32, 85.8, 85.9),
        ("1-ips", "one-stage"): (89.4, 89.4, 1.35, 2.76, 88.9, 89.1),
        ("2-ips", "one-stage"): (95.3, 93.7, 2.30, 3.79, 94.6, 93.8),
        ("ce", "two-stage"): (95.4, 93.6, 2.04, 3.38, 95.9, 94.5),
        ("1-ips", "two-stage"): (96.4, 94.2, 2.39, 3.78, 97.0, 95.4),
        ("2-ips", "two-stage"): (98.1, 96.4, 2.85, 4.69, 98.3, 97.2),
    }
)
# Top-1 precision on Wiki10-31K.
WIKI: Final[Figures] = {
    ("ce", "one-stage"): {"precision@1": 0.193},
    ("1-ips", "one-stage"): {"precision@1": 0.208},
    ("2-ips", "one-stage"): {"precision@1": 0.217},
    ("ce", "two-stage"): {"precision@1": 0.388},
    ("1-ips", "two-stage"): {"precision@1": 0.396},
    ("2-ips", "two-stage"): {"precision@1": 0.405},
}
