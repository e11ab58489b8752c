"""What each source contributes: recall of the union, overlap between sources, and whose the hits are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from rec.evaluation import USERS_AT_ONCE, EvaluationPeriod, lists_of, recommend
from rec.metrics import MetricEstimate, format_estimate, mean_over_users, per_user
from rec.retrieval.blend import Blend, Retriever
from rec.retrieval.protocol import CandidateSource
from rec.retrieval.top_k import blocks


@dataclass(frozen=True, slots=True)
class SourceShare:
    """One source's part in the candidates.

    Attributes:
        name, quota: of the source.
        recall: of its candidates within the quota.
        recall_alone: of as many candidates as the blend has, from it alone.
        hits: share of the blend's hits that are among its candidates.
        hits_first: share of the hits of which it is the first source; these sum to 1, unless the sources leave places
            free that the scorer fills.
        hits_only: share of the hits that no other source found.
        overlap: for each source, the share of this one's candidates that the other found, too; (S,).
    """

    name: str
    quota: int
    recall: MetricEstimate
    recall_alone: MetricEstimate
    hits: float
    hits_first: float
    hits_only: float
    overlap: NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class SourceReport:
    """The candidates of a first stage on a period, by source.

    Attributes: k: candidates a user. recall: of the union. sources: in the order of the blend.
    """

    k: int
    recall: MetricEstimate
    sources: tuple[SourceShare, ...]

    @classmethod
    def of(cls, retriever: Retriever, period: EvaluationPeriod, k: int) -> Self:
        """Judges the k candidates of each user of a period, and those of each source by itself."""
        blend = retriever if isinstance(retriever, Blend) else Blend((retriever,), (k,), retriever)
        n_sources = len(blend.sources)
        lists = np.full((len(period), k), -1, np.int32)
        found_by = np.zeros((len(period), k), np.uint16)
        for rows in blocks(len(period), USERS_AT_ONCE):
            found = blend.candidates(period.states.rows(rows), k)
            assert found.provenance is not None
            lists[rows], found_by[rows] = found.items, found.provenance.found_by
        bits = (found_by[..., None] >> np.arange(n_sources)) & 1 == 1
        hits = _relevant(lists, period)
        at_hits, n_hits = bits[hits], max(int(hits.sum()), 1)
        first = at_hits & (at_hits.cumsum(axis=1) == 1)
        only = at_hits & (at_hits.sum(axis=1, keepdims=True) == 1)
        every = bits[found_by > 0].astype(np.float64)
        together = every.T @ every
        return cls(
            k,
            _recall(lists, period),
            tuple(
                SourceShare(
                    source.name,
                    quota,
                    _recall_of(source, period, quota),
                    _recall_of(source, period, k),
                    at_hits[:, place].sum() / n_hits,
                    first[:, place].sum() / n_hits,
                    only[:, place].sum() / n_hits,
                    together[place] / max(together[place, place], 1.0),
                )
                for place, (source, quota) in enumerate(zip(blend.sources, blend.quotas, strict=True))
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """As `tandem evaluate --sources --json` prints it."""
        names = [source.name for source in self.sources]
        return {
            "k": self.k,
            "recall": self.recall.to_json(),
            "sources": [
                {
                    "name": source.name,
                    "quota": source.quota,
                    "recall": source.recall.to_json(),
                    "recall_alone": source.recall_alone.to_json(),
                    "hits": source.hits,
                    "hits_first": source.hits_first,
                    "hits_only": source.hits_only,
                    "overlap": dict(zip(names, source.overlap.tolist(), strict=True)),
                }
                for source in self.sources
            ],
        }


def source_table(report: Mapping[str, Any]) -> list[str]:
    """The JSON of a report as lines to read."""
    sources = report["sources"]
    header = ("source", "quota", "recall", f"alone at {report['k']}", "hits", "first", "only")
    rows = [
        (
            source["name"],
            str(source["quota"]),
            format_estimate(source["recall"]),
            format_estimate(source["recall_alone"]),
            *(f"{source[share]:.1%}" for share in ("hits", "hits_first", "hits_only")),
        )
        for source in sources
    ]
    lines = _aligned([header, *rows, ("all", str(report["k"]), format_estimate(report["recall"]), "", "", "", "")])
    if len(sources) > 1:
        names = [source["name"] for source in sources]
        shared = [(source["name"], *(f"{source['overlap'][name]:.0%}" for name in names)) for source in sources]
        lines += [
            "share of a row's candidates that the column's source found, too:",
            *_aligned([("", *names), *shared]),
        ]
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _relevant(lists: NDArray[np.int32], period: EvaluationPeriod) -> NDArray[np.bool_]:
    """Which items of the lists their users went on to like, (B, k)."""
    n_items = len(period.item_users)
    users = np.repeat(np.arange(len(period), dtype=np.int64), np.diff(period.indptr))
    keys = np.arange(len(period), dtype=np.int64)[:, None] * n_items + lists
    return np.isin(keys, users * n_items + period.relevant) & (lists >= 0)


def _recall(lists: NDArray[np.int32], period: EvaluationPeriod) -> MetricEstimate:
    metric = f"recall@{lists.shape[1]}"
    return mean_over_users(per_user(lists, period.indptr, period.relevant, [metric])[metric])


def _recall_of(source: CandidateSource, period: EvaluationPeriod, k: int) -> MetricEstimate:
    return _recall(recommend(lists_of(source), period, k, name=source.name), period)
