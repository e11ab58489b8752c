"""What rankers learn from: the candidates of an earlier period, and which of them were liked in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.config import TaskConfig
from rec.data.dataset import Interactions
from rec.features.ranking import RankingFeatures
from rec.features.snapshot import Snapshot
from rec.retrieval.protocol import CandidateSource
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
    """

    layout: FeatureLayout
    matrix: NDArray[np.float32]
    labels: NDArray[np.float32]
    groups: NDArray[np.int64]
    tasks: tuple[str, ...]

    def shard(self, rank: int, world: int) -> "RankingData":
        """Every world-th query beginning at rank, whole."""
        query = np.repeat(np.arange(len(self.groups)), self.groups)
        rows = query % world == rank
        return RankingData(self.layout, self.matrix[rows], self.labels[rows], self.groups[rank::world], self.tasks)


def concatenate(parts: Sequence[RankingData]) -> RankingData:
    """The queries of several periods as one set."""
    first = parts[0]
    return RankingData(
        first.layout,
        np.concatenate([part.matrix for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.groups for part in parts]),
        first.tasks,
    )


def task_labels(interactions: Interactions, tasks: Sequence[TaskConfig]) -> NDArray[np.float32]:
    """Labels (n, T) of interactions: whether each task's condition holds, or for regression the rating itself."""
    columns = []
    for task in tasks:
        if task.kind == "regression":
            rating = interactions.rating
            columns.append(np.full(len(interactions), np.nan, np.float32) if rating is None else rating)
        else:
            positives = np.zeros(len(interactions), np.float32)
            if interactions.rating is not None:
                positives[interactions.rating >= task.min_rating] = 1.0
            elif interactions.action is not None:
                wanted = [code for code, action in enumerate(interactions.actions) if action in task.actions]
                positives[np.isin(interactions.action, wanted)] = 1.0
            columns.append(positives)
    return np.stack(columns, axis=1).astype(np.float32)


def build_ranking_data(
    snapshot: Snapshot,
    features: RankingFeatures,
    source: CandidateSource,
    period: Interactions,
    tasks: Sequence[TaskConfig],
    *,
    n_candidates: int,
    n_random_negatives: int,
    rng: np.random.Generator,
) -> RankingData:
    """One query for each user active in the period: candidates as found at its start, labelled by what followed.

    Queries in which nothing was liked teach a ranker nothing and are left out.

    Args:
        snapshot: everything known at the start of the period.
        features: feature rows computed from that snapshot.
        source: fitted on what came before the period.
        period: the interactions of the period, all of them (not only those liked).
        tasks: what makes an interaction a success, one label column each; the first decides which queries stay.
        n_candidates: candidates of the source in each query.
        n_random_negatives: items drawn uniformly from the catalogue beside them.
        rng: draws the random negatives.
    """
    users = np.unique(period.user)
    states = snapshot.user_states(users)
    found = source.candidates(states, n_candidates)
    random = rng.integers(0, period.n_items, size=(len(users), n_random_negatives), dtype=np.int32)
    random[_excluded(states, random) | _contained(random, found.items) | _repeated(random)] = -1
    items = np.concatenate([found.items, random], axis=1)
    lowest = np.where(np.isfinite(found.scores), found.scores, np.inf).min(axis=1, keepdims=True)
    scores = np.concatenate([found.scores, np.broadcast_to(lowest, random.shape)], axis=1)

    labels = np.zeros((*items.shape, len(tasks)), np.float32)
    _write_labels(labels, items, users, period, task_labels(period, tasks))
    for column, task in enumerate(tasks):
        if task.kind == "regression":
            unrated = labels[..., column] == 0
            labels[..., column][unrated] = np.nan

    present = items >= 0
    kept = ((labels[..., 0] > 0) & present).any(axis=1)
    matrix = features.matrix(states, items, scores)
    rows = (present & kept[:, None]).ravel()
    return RankingData(
        FeatureLayout(tuple(features.names), tuple(features.categorical)),
        matrix[rows],
        labels.reshape(-1, len(tasks))[rows],
        present[kept].sum(axis=1).astype(np.int64),
        tuple(task.name for task in tasks),
    )


def _keys(users: NDArray, items: NDArray, n_items: int) -> NDArray[np.int64]:
    return users.astype(np.int64) * n_items + items


def _excluded(states: UserStates, items: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether user b must not be shown items[b, m], (B, M)."""
    n_items = int(max(items.max(initial=0), states.excluded.max(initial=0))) + 1
    owner = np.repeat(np.arange(len(states)), np.diff(states.excluded_indptr))
    rows = np.arange(len(states))[:, None]
    return np.isin(_keys(rows, items, n_items), _keys(owner, states.excluded, n_items))


def _contained(items: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether items[b, m] is among others[b], (B, M)."""
    n_items = int(max(items.max(initial=0), others.max(initial=0))) + 1
    rows = np.arange(len(items))[:, None]
    return np.isin(_keys(rows, items, n_items), _keys(rows, others, n_items))


def _repeated(items: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether items[b, m] occurred before in items[b], (B, M)."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    out = np.empty_like(again)
    np.put_along_axis(out, order, again, axis=1)
    return out


def _write_labels(
    labels: NDArray[np.float32],
    items: NDArray[np.int32],
    users: NDArray[np.int32],
    period: Interactions,
    values: NDArray[np.float32],
) -> None:
    """Puts each interaction's labels where its user's query holds its item; of several the largest."""
    keys = _keys(np.arange(len(users))[:, None], items, period.n_items).ravel()
    keys[items.ravel() < 0] = -1
    order = np.argsort(keys, kind="stable")
    wanted = _keys(np.searchsorted(users, period.user), period.item, period.n_items)
    place = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    hit = keys[order][place] == wanted
    flat = labels.reshape(-1, labels.shape[-1])
    np.maximum.at(flat, order[place[hit]], values[hit])
