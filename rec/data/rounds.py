"""The log tables joined to bandit rounds: what was shown, how likely that was, and what it earned."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from rec.data.events import EventTables, TableName, rows_of
from rec.errors import DataError

Strings = NDArray[np.object_]
Floats = NDArray[np.float64]
Rows = NDArray[np.bool_] | NDArray[np.integer[Any]]

ATTRIBUTION_S: Final = 86_400


@final
@dataclass(frozen=True, slots=True)
class Lists:
    """One list a row, of any length: that of row b is values[indptr[b]:indptr[b + 1]].

    Attributes: indptr: (Q + 1,). values: (nnz,).
    """

    indptr: NDArray[np.int64]
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.indptr[row] : self.indptr[row + 1]]


@final
@dataclass(frozen=True, slots=True)
class Requests:
    """The requests that rounds belong to, by time and then id.

    Attributes:
        request_id, user_id: (Q,).
        timestamp: UTC milliseconds, (Q,).
        epsilon, temperature, k: how the slate was drawn, (Q,).
        history: item ids the user had taken, oldest first.
        has_candidates: whether the candidates were logged, (Q,).
        candidates: item ids of the ranked candidates; empty where they were not logged.
        candidate_scores: of each candidate.
    """

    request_id: Strings
    user_id: Strings
    timestamp: NDArray[np.int64]
    epsilon: Floats
    temperature: Floats
    k: NDArray[np.int16]
    history: Lists
    has_candidates: NDArray[np.bool_]
    candidates: Lists
    candidate_scores: Lists

    def __len__(self) -> int:
        return len(self.request_id)


@final
@dataclass(frozen=True, slots=True)
class Rounds:
    """Impressions as bandit rounds, R of them, request by request and from the top of each slate.

    Attributes:
        request: position in `requests`, int32, (R,).
        user_id, item_id: (R,).
        position: in the slate, 0 for the top, int16, (R,).
        propensity: probability of the item at its position given the items above it, (R,).
        reward: of the latest feedback, 0 without any, (R,).
        timestamp: of the request, UTC milliseconds, (R,).
        n_eligible: eligible items at the position, (R,).
        source, arm, policy_version: (R,).
        requests: what they belong to.
        dropped: rows of the log that are in no round, by reason.
        attribution_s: seconds after a request at which its rewards are final.
    """

    request: NDArray[np.int32]
    user_id: Strings
    item_id: Strings
    position: NDArray[np.int16]
    propensity: Floats
    reward: Floats
    timestamp: NDArray[np.int64]
    n_eligible: NDArray[np.int64]
    source: Strings
    arm: Strings
    policy_version: Strings
    requests: Requests
    dropped: dict[str, int] = field(default_factory=dict)
    attribution_s: float = ATTRIBUTION_S

    def __len__(self) -> int:
        return len(self.request)

    def take(self, rows: Rows) -> "Rounds":
        """The rounds of a mask or of positions, with the same requests."""
        per_round = [name for name in self.__slots__ if name not in ("requests", "dropped", "attribution_s")]
        return replace(self, **{name: getattr(self, name)[rows] for name in per_round})


def read_rounds(
    events: EventTables,
    *,
    rewards: Mapping[str, float],
    now_ms: int,
    attribution_s: int = ATTRIBUTION_S,
    since_ms: int | None = None,
    until_ms: int | None = None,
    versions: Mapping[str, int | None] | None = None,
    young: Literal["answered", "none"] = "answered",
) -> Rounds:
    """The rounds of requests with since_ms <= timestamp < until_ms; see `join_rounds`.

    Args: versions: of the tables, as `EventTables.versions` records them; by default what is there now.
    """
    at = versions or {}
    requests = events.read("requests", version=at.get("requests"), since_ms=since_ms, until_ms=until_ms)
    impressions, feedback = (events.read(table, version=at.get(table)) for table in ("impressions", "feedback"))
    if since_ms is not None or until_ms is not None:
        impressions, feedback = rows_of(impressions, requests), rows_of(feedback, requests)
    return join_rounds(
        requests,
        impressions,
        feedback,
        rewards=rewards,
        now_ms=now_ms,
        attribution_s=attribution_s,
        young=young,
    )


def join_rounds(
    requests: pa.Table,
    impressions: pa.Table,
    feedback: pa.Table,
    *,
    rewards: Mapping[str, float],
    now_ms: int,
    attribution_s: int = ATTRIBUTION_S,
    young: Literal["answered", "none"] = "answered",
) -> Rounds:
    """One round per impression, with the reward of its latest feedback as of a time.

    Feedback counts that was given within `attribution_s` of the request and not after `now_ms`; of several events on an
    impression the latest, ties by event_id. An impression without any has reward 0 once `attribution_s` have passed,
    and is left out before: it may still be answered. Of those not yet so old `young` keeps the answered ones, fresh
    examples to learn from; their rewards are not those of a random impression, so for an estimate keep none.

    Rows that were delivered twice count once. `dropped` counts rows by reason: repeated_requests, repeated_impressions,
    impressions_without_request, feedback_without_impression, late_feedback, superseded_feedback and young.

    Args: requests, impressions, feedback: tables as `EventTables.read` returns them. rewards: of each action.
    Raises: DataError: naming table, row and column, for an action that `rewards` does not hold, for rows of one key
        that contradict each other, and for an item that stands twice in a slate.
    """
    first, repeated_requests = _distinct("requests", requests, ["request_id"])
    requests = requests.take(first)
    first, repeated_impressions = _distinct("impressions", impressions, ["request_id", "position"])
    impressions = impressions.take(first)
    _refuse_repeated_items(impressions)
    requests = requests.take(np.lexsort((_ranks(requests["request_id"]), _ints(requests["timestamp"]))))

    request_of = pd.Index(_strings(requests["request_id"])).get_indexer(pd.Index(_strings(impressions["request_id"])))
    orphans = int((request_of < 0).sum())
    order = np.lexsort((_ints(impressions["position"]), request_of))[orphans:]
    impressions, request = impressions.take(order), request_of[order]
    asked_at = _ints(requests["timestamp"])[request]

    reward, answered, unused = _attribute(impressions, asked_at, feedback, rewards, attribution_s * 1000, now_ms)
    old = now_ms - asked_at >= attribution_s * 1000
    kept = np.flatnonzero(old | answered if young == "answered" else old)
    dropped = {
        "repeated_requests": repeated_requests,
        "repeated_impressions": repeated_impressions,
        "impressions_without_request": orphans,
        **unused,
        "young": len(order) - len(kept),
    }
    shown, request = impressions.take(kept), request[kept]
    return Rounds(
        request=request.astype(np.int32),
        user_id=_strings(requests["user_id"])[request],
        item_id=_strings(shown["item_id"]),
        position=_ints(shown["position"]).astype(np.int16),
        propensity=_floats(shown["propensity"]),
        reward=reward[kept],
        timestamp=asked_at[kept],
        n_eligible=_ints(shown["n_eligible"]),
        source=_strings(shown["source"]),
        arm=_strings(requests["arm"])[request],
        policy_version=_strings(requests["policy_version"])[request],
        requests=_requests(requests),
        dropped={reason: count for reason, count in dropped.items() if count},
        attribution_s=attribution_s,
    )


def _attribute(
    impressions: pa.Table,
    asked_at: NDArray[np.int64],
    feedback: pa.Table,
    rewards: Mapping[str, float],
    window_ms: int,
    now_ms: int,
) -> tuple[Floats, NDArray[np.bool_], dict[str, int]]:
    """Reward of each impression and whether it was answered, (R,) each; and the feedback not used, by reason."""
    places = pd.MultiIndex.from_arrays([_strings(impressions["request_id"]), _strings(impressions["item_id"])])
    keys = pd.MultiIndex.from_arrays([_strings(feedback["request_id"]), _strings(feedback["item_id"])])
    impression = places.get_indexer(keys)
    known = np.flatnonzero(impression >= 0)
    given_at = _ints(feedback["timestamp"])
    in_time = (given_at[known] - asked_at[impression[known]] <= window_ms) & (given_at[known] <= now_ms)
    used = known[in_time]
    earned = _rewards_of(feedback, used, rewards)
    order = np.lexsort((_ranks(feedback["event_id"])[used], given_at[used], impression[used]))
    ends = impression[used][order]
    latest = order[np.flatnonzero(np.diff(ends, append=-1))]
    reward = np.zeros(len(impressions))
    answered = np.zeros(len(impressions), np.bool_)
    reward[impression[used[latest]]] = earned[latest]
    answered[impression[used[latest]]] = True
    unused = {
        "feedback_without_impression": len(keys) - len(known),
        "late_feedback": len(known) - len(used),
        "superseded_feedback": len(used) - len(latest),
    }
    return reward, answered, unused


def _rewards_of(feedback: pa.Table, rows: NDArray[np.int64], rewards: Mapping[str, float]) -> Floats:
    codes, actions = pd.factorize(_strings(feedback["action"])[rows])
    unknown = [action not in rewards for action in actions]
    if any(unknown):
        row = int(rows[np.isin(codes, np.flatnonzero(unknown)).argmax()])
        raise DataError(
            f"an action that has a reward is required ({', '.join(rewards)}); found {actions[unknown.index(True)]!r}: "
            "add it to `rewards`",
            file="feedback",
            row=row,
            column="action",
        )
    return np.array([rewards[action] for action in actions], dtype=np.float64)[codes] if len(rows) else np.zeros(0)


def _distinct(table: TableName, rows: pa.Table, key: list[str]) -> tuple[NDArray[np.int64], int]:
    """The first row of each key in the order of the table, and how many rows repeat one; these must not differ."""
    keys = pd.MultiIndex.from_arrays([rows[name].to_pandas() for name in key])
    again = np.flatnonzero(keys.duplicated())
    if len(again):
        codes = keys.factorize()[0]
        first_of = np.zeros(codes.max() + 1, np.int64)
        first_of[codes[::-1]] = np.arange(len(codes))[::-1]
        originals = rows.take(first_of[codes[again]])
        for name in rows.column_names:
            pairs = zip(rows[name].take(again).to_pylist(), originals[name].to_pylist(), strict=True)
            differing = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
            if differing is not None:
                raise DataError(
                    f"two rows with the same {' and '.join(key)} must be the same; this differs from row "
                    f"{first_of[codes[again[differing]]]}: remove one",
                    file=table,
                    row=int(again[differing]),
                    column=name,
                )
    return np.flatnonzero(~keys.duplicated()), len(again)


def _refuse_repeated_items(impressions: pa.Table) -> None:
    keys = pd.MultiIndex.from_arrays([impressions["request_id"].to_pandas(), impressions["item_id"].to_pandas()])
    repeated = keys.duplicated()
    if repeated.any():
        row = int(repeated.argmax())
        raise DataError(
            "an item may stand once in a slate, as feedback names no position; "
            f"{impressions['item_id'][row]} does twice in request {impressions['request_id'][row]}",
            file="impressions",
            row=row,
            column="item_id",
        )


def _requests(requests: pa.Table) -> Requests:
    candidates = requests["candidates"]
    return Requests(
        request_id=_strings(requests["request_id"]),
        user_id=_strings(requests["user_id"]),
        timestamp=_ints(requests["timestamp"]),
        epsilon=_floats(requests["epsilon"]),
        temperature=_floats(requests["temperature"]),
        k=_ints(requests["k"]).astype(np.int16),
        history=_lists(requests["history"]),
        has_candidates=candidates.is_valid().to_numpy(),
        candidates=_lists(candidates),
        candidate_scores=_lists(requests["candidate_scores"]),
    )


def _lists(column: pa.ChunkedArray) -> Lists:
    lists = column.combine_chunks()
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    values = lists.flatten()
    flat = _strings(values) if pa.types.is_string(values.type) else _floats(values)
    return Lists(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), flat)


def _strings(column: pa.ChunkedArray) -> Strings:
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)


def _ints(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return column.to_numpy().astype(np.int64)


def _floats(column: pa.ChunkedArray) -> Floats:
    return column.to_numpy().astype(np.float64)


def _ranks(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Places of strings in their sorted order, equal for equal strings."""
    return np.unique(_strings(column).astype(str), return_inverse=True)[1] if len(column) else np.zeros(0, np.int64)
