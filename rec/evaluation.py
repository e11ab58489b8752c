"""Offline evaluation: every model's lists for the users of a period, judged by what they went on to like."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from rec.data.dataset import Interactions
from rec.errors import ConfigError, DataError, ScoreError
from rec.features.as_of import EventIndex
from rec.metrics import (
    METRICS,
    MetricEstimate,
    PairedDifference,
    coverage,
    mean_over_users,
    novelty,
    paired_difference,
    parse_metric,
    per_user,
)
from rec.retrieval.protocol import CandidateSource
from rec.retrieval.top_k import blocks
from rec.state import UserStates

TopK = Callable[[UserStates, int], NDArray[np.int32]]
"""The k best items of each user, best first, -1 where there are fewer: (B,) states to (B, k) positions."""

DEFAULT_METRICS: Final = tuple(
    f"{kind}@10" for kind in ("ndcg", "recall", "precision", "mrr", "hit_rate", "coverage", "novelty")
)
CHOSEN_BY: Final = "ndcg@10"
USERS_AT_ONCE: Final = 512

OptionT = TypeVar("OptionT")


@dataclass(frozen=True, slots=True)
class EvaluationPeriod:
    """The users of a period as they stood at its beginning, and what they liked in it.

    Attributes:
        states: the users, in the order of their positions; what they had seen is excluded, (B,).
        indptr: run of each user in `relevant`, int64, (B + 1,).
        relevant: items liked in the period and not seen before, each once and ascending, int32, (nnz,).
        item_users: users who knew each item before the period, (N,).
        n_users: users who knew any item before the period.
        n_rows: interactions of the period.
    """

    states: UserStates
    indptr: NDArray[np.int64]
    relevant: NDArray[np.int32]
    item_users: NDArray[np.int64]
    n_users: int
    n_rows: int

    @classmethod
    def build(
        cls,
        before: Interactions,
        period: Interactions,
        *,
        at_ms: int,
        states: Callable[[NDArray[np.int32]], UserStates] | None = None,
        history_length: int = 50,
    ) -> Self:
        """Who is judged, and by what.

        An item that a user already knew cannot be recommended and so is not relevant; nor is one that nobody knew.
        Users who knew nothing, or of whom nothing relevant is left, are not judged: those of a validation period are
        then the same sort of users as those of a test, whose split drops what is cold.

        Args:
            before: what is known, all of it before at_ms.
            period: what is predicted, under the same vocabularies.
            at_ms: time of the states.
            states: makes the states of user positions (B,), for models that need features; without it they hold
                history and seen items only.
            history_length: items in the history of states made here.

        Raises: DataError: when the period holds no user with a relevant item.
        """
        index = EventIndex(before)
        known_indptr, known = index.seen(np.arange(before.n_users), at_ms)
        n_items = before.n_items
        warm = (np.diff(known_indptr) > 0)[period.user] & (np.bincount(known, minlength=n_items) > 0)[period.item]
        pairs = np.unique(period.user[warm].astype(np.int64) * n_items + period.item[warm])
        owners = np.repeat(np.arange(before.n_users, dtype=np.int64), np.diff(known_indptr))
        pairs = np.setdiff1d(pairs, owners * n_items + known, assume_unique=True)
        if not len(pairs):
            raise DataError(
                "nobody known before the period liked anything in it that was known, but new to them; use a longer "
                "period or more data"
            )
        users, n_relevant = np.unique(pairs // n_items, return_counts=True)
        make = states or (lambda positions: _plain_states(index, positions, at_ms, history_length))
        return cls(
            states=make(users.astype(np.int32)),
            indptr=np.concatenate([[0], np.cumsum(n_relevant)]),
            relevant=(pairs % n_items).astype(np.int32),
            item_users=np.bincount(known, minlength=n_items),
            n_users=int((np.diff(known_indptr) > 0).sum()),
            n_rows=len(period),
        )

    def __len__(self) -> int:
        return len(self.states)


@dataclass(frozen=True, slots=True)
class PairedRow:
    """How much better model a does than model b on the same users."""

    a: str
    b: str
    metric: str
    result: PairedDifference

    def to_json(self) -> dict[str, Any]:
        """The row as the command line prints it under `paired`."""
        return {"a": self.a, "b": self.b, "metric": self.metric, **self.result.to_json()}


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Metrics of each model with intervals over users, and differences paired by user.

    Attributes:
        models: by model, then by metric.
        paired: the comparisons asked for.
        values: metrics of each user, by model, then by metric; (B,) in the order of the period's states.
    """

    models: dict[str, dict[str, MetricEstimate]]
    paired: tuple[PairedRow, ...]
    values: dict[str, dict[str, NDArray[np.float64]]]

    def to_json(self) -> dict[str, Any]:
        """`models` and `paired` as `tandem evaluate --json` prints them."""
        models = {
            name: {metric: estimate.to_json() for metric, estimate in metrics.items()}
            for name, metrics in self.models.items()
        }
        return {"models": models, "paired": [row.to_json() for row in self.paired]}


def evaluate(
    models: Mapping[str, TopK],
    period: EvaluationPeriod,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    pairs: Sequence[tuple[str, str]] = (),
) -> EvaluationReport:
    """Judges models on one period.

    Args:
        models: by name, what gives each user's list.
        period: users and what they went on to like.
        metrics: names such as `ndcg@10`, `coverage@10`.
        pairs: (a, b) for a test of a - b: in ndcg@10, or where it is not among `metrics` in the first that users have.

    Raises: ConfigError: for a name of a metric or model that is none. ScoreError: naming the model, when a list is
        of the wrong shape, or names an item that was excluded or is not in the catalogue.
    """
    depth = max(parse_metric(metric)[1] for metric in metrics)
    unknown = sorted({name for pair in pairs for name in pair} - set(models))
    if unknown:
        raise ConfigError(f"cannot compare {', '.join(unknown)}: not among the models {', '.join(models)}")
    tested = _tested(metrics) if pairs else ()
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    estimates: dict[str, dict[str, MetricEstimate]] = {}
    for name, model in models.items():
        lists = recommend(model, period, depth, name=name)
        values[name] = _values(lists, period, metrics)
        estimates[name] = {metric: _estimate(metric, lists, values[name], period) for metric in metrics}
    paired = tuple(
        PairedRow(a, b, metric, paired_difference(values[a][metric], values[b][metric]))
        for a, b in pairs
        for metric in tested
    )
    return EvaluationReport(estimates, paired, values)


def _tested(metrics: Sequence[str]) -> Sequence[str]:
    of_users = [metric for metric in metrics if parse_metric(metric)[0] != "coverage"]
    return (CHOSEN_BY,) if CHOSEN_BY in of_users else of_users[:1]


def recommend(model: TopK, period: EvaluationPeriod, k: int, *, name: str = "model") -> NDArray[np.int32]:
    """Each user's list, (B, k), in blocks of users, checked against what was excluded.

    Raises: ScoreError: naming the model.
    """
    n_items = len(period.item_users)
    lists = np.full((len(period), k), -1, np.int32)
    for rows in blocks(len(period), USERS_AT_ONCE):
        states = period.states.rows(rows)
        found = model(states, k)
        if found.shape != (len(states), k):
            raise ScoreError(f"{name} has to give lists {(len(states), k)}, found {found.shape}")
        if found.max(initial=-1) >= n_items or found.min(initial=0) < -1:
            raise ScoreError(f"{name} names an item outside the catalogue of {n_items}")
        owners = np.arange(len(states))[:, None] * n_items
        excluded = np.repeat(owners[:, 0], np.diff(states.excluded_indptr)) + states.excluded
        if np.isin((owners + found)[found >= 0], excluded).any():
            raise ScoreError(f"{name} recommends items that the states exclude; seen items have to be left out")
        lists[rows] = found
    return lists


def lists_of(source: CandidateSource) -> TopK:
    """A candidate source as a model of its own, its candidates in its own order."""
    return lambda states, k: source.candidates(states, k).items


@dataclass(frozen=True, slots=True)
class Choice(Generic[OptionT]):
    """The option that did best on the period it was chosen on, and how each did, in the order tried."""

    option: OptionT
    scores: tuple[tuple[OptionT, float], ...]


def choose(
    options: Sequence[OptionT],
    fit: Callable[[OptionT], CandidateSource],
    period: EvaluationPeriod,
) -> Choice[OptionT]:
    """Fits a source for each option and keeps the option that does best in NDCG@10 on a validation period.

    Args:
        options: at least one; the first of equals wins.
        fit: a source fitted on what is before the period.
        period: a period before the one that models are judged on.
    """
    k = parse_metric(CHOSEN_BY)[1]
    scores = tuple(
        (option, float(_values(recommend(lists_of(fit(option)), period, k), period, [CHOSEN_BY])[CHOSEN_BY].mean()))
        for option in options
    )
    return Choice(max(scores, key=lambda scored: scored[1])[0], scores)


def _plain_states(index: EventIndex, users: NDArray[np.int32], at_ms: int, history_length: int) -> UserStates:
    indptr, seen = index.seen(users, at_ms)
    history = index.history(users, at_ms, history_length)
    return UserStates(users, np.full(len(users), at_ms, np.int64), history, {}, indptr, seen)


def _values(
    lists: NDArray[np.int32], period: EvaluationPeriod, metrics: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    judged = [metric for metric in metrics if parse_metric(metric)[0] in METRICS]
    values = per_user(lists, period.indptr, period.relevant, judged)
    for metric in metrics:
        kind, k = parse_metric(metric)
        if kind == "novelty":
            values[metric] = novelty(lists, period.item_users, period.n_users, k)
    return values


def _estimate(
    metric: str, lists: NDArray[np.int32], values: Mapping[str, NDArray[np.float64]], period: EvaluationPeriod
) -> MetricEstimate:
    if metric in values:
        return mean_over_users(values[metric])
    return coverage(lists, len(period.item_users), parse_metric(metric)[1])
