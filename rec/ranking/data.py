"""What rankers learn from: the candidates of an earlier period, and which of them were liked in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.config import RankerConfig, TaskConfig
from rec.data.dataset import Interactions
from rec.errors import TrainingError
from rec.features.as_of import EventIndex
from rec.features.ranking import RankingFeatures
from rec.features.snapshot import Snapshot
from rec.retrieval.blend import Retriever
from rec.state import UserStates


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """Names of the ranking features in column order, and which of them are category codes."""

    names: tuple[str, ...]
    categorical: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RankingData:
    """Query groups, one after the other.

    Attributes:
        layout: what the columns of `matrix` are.
        matrix: features, float32, (R, F).
        labels: one column a task, float32, (R, T); NaN where a task has no label for the row.
        groups: rows of each query, int64, (Q,); sums to R.
        tasks: names of the label columns.
        positions: in the slate that was answered, 0 for the top, -1 without an answer, int16, (R,); None where the log
            does not say.
    """

    layout: FeatureLayout
    matrix: NDArray[np.float32]
    labels: NDArray[np.float32]
    groups: NDArray[np.int64]
    tasks: tuple[str, ...]
    positions: NDArray[np.int16] | None = None

    def require_something_to_learn(self) -> None:
        """Refuse data that no ranker can learn from.

        Raises: TrainingError: when there is no query, or all rows have the same label.
        """
        if len(self.groups) == 0:
            raise TrainingError(
                "the ranker has no query to learn from: no moment of the earlier periods has min_positives liked "
                "items among its candidates. Give more data, lower min_positives, or ask for more n_candidates"
            )
        if self.labels[:, 0].min() == self.labels[:, 0].max():
            raise TrainingError(
                "the ranker cannot learn from labels that are all the same; a log that holds no refusals needs "
                "ranker.learn_from candidates, and a catalogue needs items that a user did not take"
            )

    def shard(self, rank: int, world: int) -> "RankingData":
        """Every world-th query beginning at rank, whole."""
        query = np.repeat(np.arange(len(self.groups)), self.groups)
        rows = query % world == rank
        positions = None if self.positions is None else self.positions[rows]
        return RankingData(
            self.layout, self.matrix[rows], self.labels[rows], self.groups[rank::world], self.tasks, positions
        )


def concatenate(parts: Sequence[RankingData]) -> RankingData:
    """The queries of several periods as one set."""
    first = parts[0]
    positions = [part.positions for part in parts if part.positions is not None]
    return RankingData(
        first.layout,
        np.concatenate([part.matrix for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.groups for part in parts]),
        first.tasks,
        np.concatenate(positions) if len(positions) == len(parts) else None,
    )


def task_labels(interactions: Interactions, tasks: Sequence[TaskConfig]) -> NDArray[np.float32]:
    """Labels (n, T) of interactions: whether each task's condition holds, or for regression the rating itself.

    Args: tasks: resolved, so that each has `min_rating` and `actions`.
    """
    columns = []
    for task in tasks:
        if task.kind == "regression":
            missing = np.full(len(interactions), np.nan, np.float32)
            columns.append(missing if interactions.rating is None else interactions.rating)
        else:
            assert task.min_rating is not None and task.actions is not None
            columns.append(interactions.is_positive(min_rating=task.min_rating, positive_actions=task.actions))
    return np.stack(columns, axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Moments:
    """When to ask: a user and a time, UTC milliseconds; what the user did from then on is the answer. (Q,) each."""

    user: NDArray[np.int32]
    at_ms: NDArray[np.int64]


def draw_moments(
    index: EventIndex,
    liked: Interactions,
    *,
    start_ms: int,
    end_ms: int,
    n: int,
    session_share: float,
    rng: np.random.Generator,
) -> Moments:
    """Moments of one period: returning users at its beginning, and users in the middle of what they do in it.

    Args: index: all events of the training period. liked: the interactions that are to be found. n: how many at the
        most. session_share: share of n that is drawn inside sessions; those at the beginning fill the rest as far as
        there are users.
    """
    period = liked.between(start_ms, end_ms)
    active = np.unique(period.user)
    returning = active[index.user_count(active, start_ms) > 0]
    inside = np.flatnonzero(index.user_count(period.user, period.timestamp) > 0)
    n_inside = min(len(inside), round(n * session_share))
    returning = rng.permutation(returning)[: n - n_inside]
    # Users count about alike, however much they did; not quite, since no moment is drawn twice.
    weight = 1.0 / np.bincount(period.user)[period.user[inside]]
    chosen = rng.choice(inside, n_inside, replace=False, p=weight / weight.sum()) if n_inside else inside[:0]
    return Moments(
        np.concatenate([returning, period.user[chosen]]),
        np.concatenate([np.full(len(returning), start_ms), period.timestamp[chosen]]),
    )


def build_ranking_data(
    snapshot: Snapshot,
    index: EventIndex,
    features: RankingFeatures,
    source: Retriever,
    moments: Moments,
    later: Interactions,
    config: RankerConfig,
    tasks: Sequence[TaskConfig],
    rng: np.random.Generator,
) -> RankingData:
    """One query for each moment, answered by what the user did from then on.

    The first task decides: queries with fewer than `min_positives` of its positives are left out. `RankerConfig` says
    which items a query holds.

    Args:
        snapshot: everything known at the beginning of the period; item features are as of then.
        index: all events of the training period; user features and histories are as of the moments.
        features: feature rows computed from that snapshot.
        source: fitted on what came before the period.
        moments: when to ask.
        later: all interactions up to the end of what may be looked at, liked or not.
        config: numbers of candidates and negatives.
        tasks: what the labels are, resolved.
        rng: draws the negatives.
    """
    states = snapshot.states_at(index, moments.user, moments.at_ms)
    found = source.candidates(states, config.n_candidates)
    answers_only = config.learn_from == "answers"
    if answers_only:
        others = _answered(moments, later, config.n_answered, rng)
    else:
        others = rng.integers(0, later.n_items, size=(len(states), config.n_random_negatives), dtype=np.int32)
    others[_excluded(states, others) | _contained(others, found.items) | _repeated(others)] = -1
    items = np.concatenate([found.items, others], axis=1)
    scores = source.scores(states, items)
    answers = _latest_answers(items, moments, later)
    labels = np.where(answers[..., None] < 0, np.float32(np.nan), task_labels(later, tasks)[answers])

    positive = labels[..., 0] > 0
    if answers_only:
        kept = ~np.isnan(labels[..., 0])
    else:
        binary = [task.kind == "binary" for task in tasks]
        labels[..., binary] = np.nan_to_num(labels[..., binary])
        lot = np.where(positive, -1.0, rng.random(items.shape))
        lot[items < 0] = np.inf
        n_kept = np.minimum(positive.sum(axis=1) + config.negatives_per_query, (items >= 0).sum(axis=1))
        kept = lot.argsort(axis=1).argsort(axis=1) < n_kept[:, None]
    kept &= (positive.sum(axis=1) >= config.min_positives)[:, None]
    rows = kept.ravel()
    groups = kept.sum(axis=1)
    return RankingData(
        FeatureLayout(tuple(features.names), tuple(features.categorical)),
        features.matrix(states, items, scores)[rows],
        labels.reshape(-1, len(tasks))[rows],
        groups[groups > 0].astype(np.int64),
        tuple(task.name for task in tasks),
        None if later.position is None else np.where(answers < 0, np.int16(-1), later.position[answers]).ravel()[rows],
    )


def _latest_answers(items: NDArray[np.int32], moments: Moments, later: Interactions) -> NDArray[np.int64]:
    """The row of `later` that says what each user did with each item from the moment on, -1 without one, (Q, M)."""
    answers = np.full(items.shape, -1, np.int64)
    latest = np.empty(later.n_items + 1, np.int64)
    for row, own in enumerate(_later_rows(moments, later)):
        latest[:] = -1
        # Of several answers to one item the last one stands.
        latest[later.item[own]] = own
        answers[row] = latest[items[row]]
    return answers


def _answered(moments: Moments, later: Interactions, n: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Up to n items each user went on to answer, at random, -1 where there are fewer, (Q, n)."""
    items = np.full((len(moments.user), n), -1, np.int32)
    if n:
        for row, own in enumerate(_later_rows(moments, later)):
            chosen = rng.permutation(own)[:n]
            items[row, : len(chosen)] = later.item[chosen]
    return items


def _later_rows(moments: Moments, later: Interactions) -> Iterator[NDArray[np.int64]]:
    """For each moment the rows of what its user did from then on, oldest first."""
    order = np.lexsort((later.timestamp, later.user))
    bounds = np.searchsorted(later.user[order], np.arange(later.n_users + 1))
    for user, at_ms in zip(moments.user, moments.at_ms, strict=True):
        own = order[bounds[user] : bounds[user + 1]]
        yield own[np.searchsorted(later.timestamp[own], at_ms) :]


def _keys(users: NDArray, items: NDArray, n_items: int) -> NDArray[np.int64]:
    return users.astype(np.int64) * n_items + items


def _excluded(states: UserStates, items: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether user b must not be shown items[b, m], (B, M); never where there is no item."""
    owner = np.repeat(np.arange(len(states)), np.diff(states.excluded_indptr))
    return _among(items, owner, states.excluded)


def _contained(items: NDArray[np.int32], candidates: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether items[b, m] is among candidates[b], (B, M); never where there is no item."""
    row, column = np.nonzero(candidates >= 0)
    return _among(items, row, candidates[row, column])


def _among(items: NDArray[np.int32], rows: NDArray[np.int64], others: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether the pair (b, items[b, m]) is one of the pairs (rows, others), (B, M); never where there is no item."""
    n_items = int(max(items.max(initial=0), others.max(initial=0))) + 1
    own = _keys(np.arange(len(items))[:, None], items, n_items)
    return np.isin(own, _keys(rows, others, n_items)) & (items >= 0)


def _repeated(items: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether items[b, m] occurred before in items[b], (B, M)."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    out = np.empty_like(again)
    np.put_along_axis(out, order, again, axis=1)
    return out
