"""What the retriever learns from: moments of the past, what was known then, and what the users liked afterwards."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rec.config import QueriesConfig
from rec.data.dataset import Dataset, Interactions
from rec.errors import TrainingError
from rec.features.as_of import DAY_MS, EventIndex
from rec.features.encoders import Encoders
from rec.features.snapshot import Snapshot
from rec.retriever.tower_inputs import EncodedMoments, TowerTables
from rec.sampling import run_mass
from rec.streaming_frequency import item_keys


@dataclass(frozen=True, slots=True)
class Queries:
    """EncodedMoments to learn from, and what the user liked from then on.

    Attributes:
        moments: Q of them.
        target_start, target_end: what was liked afterwards, in `RetrievalData.liked`, int64, (Q,).
        weight: how often to draw it, in proportion, float32, (Q,).
    """

    moments: EncodedMoments
    target_start: NDArray[np.int64]
    target_end: NDArray[np.int64]
    weight: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.moments)


@dataclass(frozen=True, slots=True)
class ValidationUsers:
    """Users to find items for, and what they went on to like.

    Attributes:
        features: encoded features and as-of features, (V, ...) by name.
        history: slots of item_id, oldest first, padded on the left with 0, int32, (V, H).
        items: encoded features and as-of features of all items at that time, (N, ...) by name.
        excluded_indptr, excluded: items each must not be shown, (V + 1,) and (nnz,).
        relevant_indptr, relevant: items each went on to like, (V + 1,) and (nnz,).
        eligible: items that may be recommended, bool, (N,).
    """

    features: dict[str, NDArray]
    history: NDArray[np.int32]
    items: dict[str, NDArray]
    excluded_indptr: NDArray[np.int64]
    excluded: NDArray[np.int32]
    relevant_indptr: NDArray[np.int64]
    relevant: NDArray[np.int32]
    eligible: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class NewPeriod:
    """What a model that goes on from another learns from: all that followed a time, and a share of what was before it.

    Attributes:
        start_ms: where the new period begins.
        replay: share of what is drawn that is from before it, in [0, 1).
        oldest_ms: nothing before it is drawn, None without such a time.
    """

    start_ms: int
    replay: float = 0.0
    oldest_ms: int | None = None

    def snapshots(self, times: NDArray[np.int64], *, lead_ms: int = 0) -> NDArray[np.int64]:
        """Of snapshots at these times, ascending, those that what is drawn belongs to, with one where that begins.

        Args: lead_ms: how long before it was known what is drawn may have begun.
        """
        begins = times[0] if self.replay else max(times[0], self.start_ms - lead_ms)
        first = begins if self.oldest_ms is None else max(begins, self.oldest_ms)
        return np.append(first, times[times > first])

    def rows(self, known_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Rows to learn from: all that were known at the period's start or later, and others, evenly chosen, (R,)."""
        rows = known_ms >= self.start_ms
        old = np.flatnonzero(~rows & (known_ms >= (self.oldest_ms or 0)))
        n = min(len(old), round(self.replay / (1 - self.replay) * rows.sum()))
        rows[old[np.arange(n) * len(old) // max(n, 1)]] = True
        return rows

    def weights(self, at_ms: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights of moments at some times such that those before the new period have the share `replay`, (Q,)."""
        old = at_ms < self.start_ms
        total = np.where(old, weights[old].sum(), weights[~old].sum())
        return np.where(old, self.replay, 1 - self.replay) * weights / np.maximum(total, np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class RetrievalData:
    """Everything a two-tower model is trained on, as arrays.

    Attributes:
        tables: features of users and items, and what users did.
        liked_start, liked: positions of each user's liked items, oldest first, (U + 1,) and (P,).
        log_q: log probability that a draw for a query of snapshot s is item j, float32, (S, N).
        catalogue: items that were liked at least once; uniform negatives come from them, (C,).
        item_keys: what hash functions take for an item, of its id and not of its position, uint64, (N,).
        queries: the moments.
        valid: users to validate on, or None.
        n_likes: likes that the size of an epoch is measured by.
    """

    tables: TowerTables
    liked_start: NDArray[np.int64]
    liked: NDArray[np.int32]
    log_q: NDArray[np.float32]
    catalogue: NDArray[np.int32]
    item_keys: NDArray[np.uint64]
    queries: Queries
    valid: ValidationUsers | None
    n_likes: int


def build_retrieval_data(
    dataset: Dataset,
    encoders: Encoders,
    events: Interactions,
    liked: Interactions,
    config: QueriesConfig,
    *,
    end_ms: int,
    valid: ValidationUsers | None = None,
    new: NewPeriod | None = None,
) -> RetrievalData:
    """The moments before end_ms, with everything as it was known at each of them.

    Args: dataset: gives the tables of users and items. encoders: fitted. events: what counts for history and as-of
        features, as in `Snapshot.build`. liked: what is to be found, under the same vocabularies. config: which
        moments. end_ms: nothing at or after it is looked at. valid: users to validate on. new: of a model that goes on
        from another.
    Raises: TrainingError: when there is nothing to learn from.
    """
    events, liked = events.before(end_ms), liked.before(end_ms)
    if not len(liked):
        raise TrainingError("the retriever has nothing to learn from: no liked interaction before the end of training")
    index = EventIndex(events)
    found = EventIndex(liked)
    snapshot_ms = snapshot_times(liked, config, end_ms)
    if new is not None:
        snapshot_ms = new.snapshots(snapshot_ms)
    queries = _queries(encoders, index, found, snapshot_ms, config, end_ms, new)
    n_new = len(liked) if new is None else int((liked.timestamp >= new.start_ms).sum())
    items = np.unique(liked.item).astype(np.int32)
    return RetrievalData(
        tables=TowerTables.build(dataset, encoders, index, snapshot_ms),
        liked_start=found.users.indptr,
        liked=found.users.other,
        log_q=_log_draw_probability(queries, found.users.other, len(snapshot_ms), liked.n_items),
        catalogue=items[encoders.knows("item_id", liked.item_ids[items])],
        item_keys=item_keys(dataset.interactions.item_ids),
        queries=queries,
        valid=valid,
        n_likes=round(n_new / (1 - (new.replay if new else 0))),
    )


def snapshot_times(liked: Interactions, config: QueriesConfig, end_ms: int) -> NDArray[np.int64]:
    """Times at equal distances, from the first like or the beginning of the lookback until before end_ms, (S,)."""
    start_ms = int(liked.timestamp.min())
    if config.lookback_days is not None:
        start_ms = max(start_ms, end_ms - int(config.lookback_days * DAY_MS))
    return start_ms + (end_ms - start_ms) * np.arange(config.snapshots) // config.snapshots


def build_validation(snapshot: Snapshot, liked: Interactions, *, history_length: int) -> ValidationUsers | None:
    """What users known at a snapshot went on to like, or None where nobody did.

    Args: snapshot: the state at the beginning of the validation period. liked: the liked interactions of that period,
        under the same vocabularies. history_length: how many of the latest items the model reads.
    """
    active = np.unique(liked.user)
    active = active[np.diff(snapshot.seen_indptr)[active] > 0]
    states = snapshot.user_states(active)
    eligible = snapshot.item_counts > 0
    span = liked.n_items
    owner = np.repeat(np.arange(len(active)), np.diff(states.excluded_indptr))
    known = np.isin(liked.user, active) & eligible[liked.item]
    pairs = np.unique(np.searchsorted(active, liked.user[known]) * np.int64(span) + liked.item[known])
    pairs = pairs[~np.isin(pairs, owner * np.int64(span) + states.excluded)]
    judged = np.unique(pairs // span)
    if not len(judged):
        return None
    states = snapshot.user_states(active[judged])
    indptr = np.searchsorted(pairs, np.append(judged, len(active)) * np.int64(span))
    return ValidationUsers(
        features=states.features,
        history=snapshot.history_slots(states.history[:, states.history.shape[1] - history_length :]),
        items=snapshot.items,
        excluded_indptr=states.excluded_indptr,
        excluded=states.excluded,
        relevant_indptr=indptr,
        relevant=(pairs % span).astype(np.int32),
        eligible=eligible,
    )


def _queries(
    encoders: Encoders,
    index: EventIndex,
    found: EventIndex,
    snapshot_ms: NDArray[np.int64],
    config: QueriesConfig,
    end_ms: int,
    new: NewPeriod | None,
) -> Queries:
    """EncodedMoments of both kinds, the shares of their weights as configured."""
    timeline = found.users
    n_users = len(timeline.indptr) - 1
    horizon_ms = None if config.horizon_days is None else int(config.horizon_days * DAY_MS)
    own = np.flatnonzero(timeline.timestamp >= snapshot_ms[0])
    user = np.searchsorted(timeline.indptr, own, side="right") - 1
    at_ms = timeline.timestamp[own]
    if horizon_ms is None:
        start, end = own, own + 1
    else:
        start = timeline.rows_before(user, at_ms)
        end = timeline.rows_before(user, np.minimum(at_ms + horizon_ms, end_ms))
    weight = _recency(at_ms, end_ms, config.half_life_days)
    if horizon_ms is not None and config.snapshot_share > 0:
        snapshot_user = np.tile(np.arange(n_users), len(snapshot_ms))
        snapshot_at = np.repeat(snapshot_ms, n_users)
        first = timeline.rows_before(snapshot_user, snapshot_at)
        last = timeline.rows_before(snapshot_user, np.minimum(snapshot_at + horizon_ms, end_ms))
        returning = (last > first) & (index.user_count(snapshot_user, snapshot_at) > 0)
        if returning.any():
            later = _recency(snapshot_at[returning], end_ms, config.half_life_days)
            weight *= (1 - config.snapshot_share) / weight.sum()
            later *= config.snapshot_share / later.sum()
            user, at_ms = np.append(user, snapshot_user[returning]), np.append(at_ms, snapshot_at[returning])
            start, end = np.append(start, first[returning]), np.append(end, last[returning])
            weight = np.append(weight, later)
    if new is not None:
        weight = new.weights(at_ms, weight)
    kept = weight > 0
    user, at_ms, start, end, weight = user[kept], at_ms[kept], start[kept], end[kept], weight[kept]
    if not len(user):
        raise TrainingError("the retriever has nothing to learn from: widen retriever.queries.lookback_days")
    return Queries(
        moments=EncodedMoments.at(encoders, index, user, at_ms, snapshot_ms),
        target_start=start,
        target_end=end,
        weight=weight.astype(np.float32),
    )


def _recency(at_ms: NDArray[np.int64], end_ms: int, half_life_days: float | None) -> NDArray[np.float64]:
    """Halves with every half-life before end_ms; 1 without one."""
    if half_life_days is None:
        return np.ones(len(at_ms))
    return 0.5 ** ((end_ms - at_ms) / (half_life_days * DAY_MS))


def _log_draw_probability(
    queries: Queries, liked: NDArray[np.int32], n_snapshots: int, n_items: int
) -> NDArray[np.float32]:
    """Log probability that a target drawn for a snapshot's queries is each item, -inf where it cannot be, (S, N)."""
    order = np.argsort(queries.moments.snapshot, kind="stable")
    bounds = np.searchsorted(queries.moments.snapshot[order], np.arange(n_snapshots + 1))
    mass = np.zeros((n_snapshots, n_items))
    for snapshot in range(n_snapshots):
        rows = order[bounds[snapshot] : bounds[snapshot + 1]]
        if len(rows):
            per_event = run_mass(
                queries.target_start[rows], queries.target_end[rows], queries.weight[rows].astype(float), len(liked)
            )
            mass[snapshot] = np.bincount(liked, weights=per_event, minlength=n_items)
            # Rows so old that their weights vanished are never drawn.
            mass[snapshot] /= max(mass[snapshot].sum(), np.finfo(np.float64).tiny)
    with np.errstate(divide="ignore"):
        return np.log(mass).astype(np.float32)
