"""The log tables joined to bandit rounds: what was shown, how likely that was, and what it earned."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from rec.data.event_rows import EXCLUDED, SLOW_MS, USER_FEATURES, fits
from rec.data.events import EventTables, rows_of
from rec.data.repeated_rows import distinct_rows, refuse_repeated_items
from rec.errors import ConfigError, DataError

Strings = NDArray[np.object_]
Floats = NDArray[np.float64]
Rows = NDArray[np.bool_] | NDArray[np.integer[Any]]

pc: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them

ATTRIBUTION_S: Final = 86_400
_LONGEST_S: Final = 10**9  # 31 years: more is another unit
# Two requests may have events of one id: whoever sends feedback knows only what was answered to them.
EVENT_KEY: Final = ["request_id", "event_id"]


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
        arm: of the experiment that answered, (Q,).
        degraded: whether the ranker had to be left out, (Q,).
        excluded: item ids that were not to be shown, beside what the model knew as seen.
        user_features: of users the model had no row for, by name, as far as they were given.
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
    arm: Strings
    degraded: NDArray[np.bool_]
    excluded: Lists
    user_features: tuple[dict[str, Any], ...]

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
        source, policy_version: (R,).
        requests: what they belong to.
        dropped: rows of the log that are in no round, by reason.
        attribution_s: seconds after a request at which its rewards are final.
        action: of the feedback that decided the reward, None without any, (R,); None where it is not known.
        answered_at: its time, UTC milliseconds, 0 without any, (R,); None where it is not known.
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
    policy_version: Strings
    requests: Requests
    dropped: dict[str, int] = field(default_factory=dict)
    attribution_s: float = ATTRIBUTION_S
    action: Strings | None = None
    answered_at: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.request)

    def take(self, rows: Rows) -> "Rounds":
        """The rounds of a mask or of positions, with the same requests."""
        columns = {name: getattr(self, name) for name in self.__slots__ if name not in _OF_ALL_ROUNDS}
        return replace(self, **{name: values[rows] for name, values in columns.items() if values is not None})


_OF_ALL_ROUNDS: Final = ("requests", "dropped", "attribution_s")


def read_rounds(
    events: EventTables,
    *,
    rewards: Mapping[str, float],
    now_ms: int,
    attribution_s: int = ATTRIBUTION_S,
    since_ms: int | None = None,
    until_ms: int | None = None,
    versions: Mapping[str, int | None] | None = None,
) -> Rounds:
    """The rounds of requests with since_ms <= timestamp < until_ms; see `join_rounds`.

    Rows of other requests are left out without being counted; those of requests that were never logged have no time,
    and are counted whatever is asked for.

    Args: versions: of the tables, as `EventTables.versions` records them; by default what is there now.
    Raises: as `join_rounds`. ConfigError: when since_ms lies after until_ms. DataError: for a log without a table of
        requests, or without one of impressions; one without feedback has no reward but 0.
    """
    at = versions or {}
    requests = events.read("requests", version=at.get("requests"), since_ms=since_ms, until_ms=until_ms)
    rest = [events.read(table, version=at.get(table)) for table in ("impressions", "feedback")]
    for table, rows in zip(("requests", "impressions"), (requests, rest[0]), strict=True):
        if not len(rows) and events.version(table) is None:
            raise DataError(
                f"the log has no table of {table}: name the home whose service logs, or whose log was generated",
                file=events.uri(table),
            )
    if since_ms is not None or until_ms is not None:
        logged = events.read("requests", version=at.get("requests"), columns=["request_id"])
        others = logged.filter(pc.invert(pc.is_in(logged["request_id"], value_set=requests["request_id"])))
        rest = [rows_of(rows, others, inverted=True) for rows in rest]
    return join_rounds(
        requests,
        *rest,
        rewards=rewards,
        now_ms=now_ms,
        attribution_s=attribution_s,
    )


def join_rounds(
    requests: pa.Table,
    impressions: pa.Table,
    feedback: pa.Table,
    *,
    rewards: Mapping[str, float],
    now_ms: int,
    attribution_s: int = ATTRIBUTION_S,
) -> Rounds:
    """One round per impression, with the reward of its latest feedback as of a time.

    Feedback counts that was given at its request or within `attribution_s` of it, or by a slow clock up to `SLOW_MS`
    before it, and that was known at `now_ms`; of several events on an impression the latest, ties by event_id. An
    impression without any has reward 0 once `attribution_s` have passed. One not yet so old is left out, answered or
    not: a later answer may decide it, and the answered ones alone are no fair sample. What was asked after `now_ms` is
    left out.

    Rows that were delivered twice count once; of an event (its request and its id) all but the time of receipt has to
    be the same then, numbers up to what rounding to float32 changes.
    `dropped` counts rows by reason, each once: requests_without_impressions (of those old enough: nothing was eligible,
    or their impressions are lost), repeated_requests, repeated_impressions, repeated_feedback,
    impressions_without_request, future_impressions, young, feedback_without_request, feedback_without_impression,
    future_feedback, early_feedback (more than `SLOW_MS` before the request), late_feedback and superseded_feedback.

    Args: requests, impressions, feedback: tables as `EventTables.read` returns them. rewards: of each action.
    Raises: DataError: naming table, rows and column, for an action that `rewards` does not hold, for rows of one key
        that contradict each other, and for an item that stands twice in a slate. ConfigError: for rewards that are not
        finite, an attribution that is not above 0 or beyond 31 years, and a time not in whole milliseconds.
    """
    _refuse_settings(rewards, now_ms, attribution_s)
    first, repeated_requests = distinct_rows("requests", requests, ["request_id"])
    requests = requests.take(first)
    first, repeated_impressions = distinct_rows("impressions", impressions, ["request_id", "position"])
    impressions = impressions.take(first)
    refuse_repeated_items(impressions)
    first, repeated_feedback = distinct_rows("feedback", feedback, EVENT_KEY, may_differ=("received_at",))
    requests = requests.take(np.lexsort((_ranks(requests["request_id"]), _ints(requests["timestamp"]))))

    request_of = pd.Index(_strings(requests["request_id"])).get_indexer(pd.Index(_strings(impressions["request_id"])))
    orphans = int((request_of < 0).sum())
    order = np.lexsort((_ints(impressions["position"]), request_of))[orphans:]
    impressions, request = impressions.take(order), request_of[order]
    asked_at = _ints(requests["timestamp"])[request]

    used, impression, unused = _attribute(impressions, asked_at, feedback, first, attribution_s * 1000, now_ms)
    unused["feedback_without_request"] = _n_without_request(feedback, first, requests)
    unused["feedback_without_impression"] -= unused["feedback_without_request"]
    earned, latest = _rewards_of(feedback, used, rewards), np.flatnonzero(np.diff(impression, append=-1))
    reward, action = np.zeros(len(order)), np.full(len(order), None, dtype=object)
    answered_at = np.zeros(len(order), np.int64)
    decided = impression[latest]
    reward[decided] = earned[latest]
    action[decided] = _strings(feedback["action"])[used[latest]]
    answered_at[decided] = np.maximum(_ints(feedback["timestamp"])[used[latest]], asked_at[decided])
    future = asked_at > now_ms
    old = now_ms - asked_at >= attribution_s * 1000
    kept = np.flatnonzero(old)
    silent = np.bincount(request, minlength=len(requests)) == 0
    judged = now_ms - _ints(requests["timestamp"]) >= attribution_s * 1000
    dropped = {
        "requests_without_impressions": int((silent & judged).sum()),
        "repeated_requests": repeated_requests,
        "repeated_impressions": repeated_impressions,
        "repeated_feedback": repeated_feedback,
        "impressions_without_request": orphans,
        "future_impressions": int(future.sum()),
        "young": len(order) - len(kept) - int(future.sum()),
        **unused,
        "superseded_feedback": len(used) - len(latest),
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
        policy_version=_strings(requests["policy_version"])[request],
        requests=_requests(requests),
        dropped={reason: count for reason, count in dropped.items() if count},
        attribution_s=attribution_s,
        action=action[kept],
        answered_at=answered_at[kept],
    )


def _refuse_settings(rewards: Mapping[str, float], now_ms: int, attribution_s: float) -> None:
    if not isinstance(rewards, Mapping):
        raise ConfigError(f"a reward by action is required; found {rewards!r}", field="rewards")
    for action, reward in rewards.items():
        if not fits(reward, pa.float64()) or reward is None or not np.isfinite(reward):
            raise ConfigError(f"a finite number is required for {action!r}; found {str(reward)[:80]}", field="rewards")
    if not fits(attribution_s, pa.float64()) or not 0 < (attribution_s or 0) <= _LONGEST_S:
        raise ConfigError(
            f"seconds above 0, at most {_LONGEST_S:,}, are required; found {attribution_s!r}", field="attribution_s"
        )
    if not fits(now_ms, pa.int64()) or now_ms is None or now_ms < 0:
        raise ConfigError(f"whole milliseconds, 0 or more, are required; found {now_ms!r}", field="now_ms")


def _attribute(
    impressions: pa.Table,
    asked_at: NDArray[np.int64],
    feedback: pa.Table,
    rows: NDArray[np.int64],
    window_ms: float,
    now_ms: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, int]]:
    """The feedback that counts, and which impression it is on: by impression, the latest last; both (F,).

    Args: asked_at: of each impression, (R,). rows: of the feedback, each event once.
    Returns: beside these, how many of the other rows are left out for which reason.
    """
    places = pd.MultiIndex.from_arrays([_strings(impressions["request_id"]), _strings(impressions["item_id"])])
    keys = pd.MultiIndex.from_arrays([_strings(feedback[name])[rows] for name in ("request_id", "item_id")])
    impression = places.get_indexer(keys)
    shown = impression >= 0
    given_at = _ints(feedback["timestamp"])[rows]
    known_at = np.maximum(given_at, _first_received(feedback)[rows])
    future = shown & (known_at > now_ms)
    after = given_at - np.append(asked_at, 0)[impression]
    early, late = shown & ~future & (after < -SLOW_MS), shown & ~future & (after > window_ms)
    used = np.flatnonzero(shown & ~future & ~early & ~late)
    event_id = _ranks(feedback["event_id"])[rows]
    used = used[np.lexsort((event_id[used], given_at[used], impression[used]))]
    unused = {
        "feedback_without_impression": ~shown,
        "future_feedback": future,
        "early_feedback": early,
        "late_feedback": late,
    }
    return rows[used], impression[used], {reason: int(left.sum()) for reason, left in unused.items()}


def _first_received(feedback: pa.Table) -> NDArray[np.int64]:
    """When each event was received for the first time, (F,)."""
    received_at = _ints(feedback["received_at"])
    event = pd.MultiIndex.from_arrays([_strings(feedback[name]) for name in EVENT_KEY]).factorize()[0]
    first = np.full(len(event), np.iinfo(np.int64).max)
    np.minimum.at(first, event, received_at)
    return first[event]


def _n_without_request(feedback: pa.Table, rows: NDArray[np.int64], requests: pa.Table) -> int:
    logged = pd.Index(_strings(requests["request_id"]))
    return int((logged.get_indexer(pd.Index(_strings(feedback["request_id"])[rows])) < 0).sum())


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
        arm=_strings(requests["arm"]),
        degraded=np.asarray(requests["degraded"].to_numpy(), dtype=bool),
        excluded=_excluded(requests["context"].to_pylist()),
        user_features=_user_features(requests["context"].to_pylist()),
    )


def _excluded(contexts: Sequence[str]) -> Lists:
    """What the contexts of requests say was not to be shown."""
    lists = [json.loads(context).get(EXCLUDED) if EXCLUDED in context else None for context in contexts]
    # A client may have put anything there.
    found = [[item for item in items if isinstance(item, str)] if isinstance(items, list) else [] for items in lists]
    return Lists(np.cumsum([0, *map(len, found)]), np.array([item for items in found for item in items], object))


def _user_features(contexts: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """What the contexts of requests say of users who had no row."""
    found = [json.loads(context).get(USER_FEATURES) if USER_FEATURES in context else None for context in contexts]
    return tuple(features if isinstance(features, dict) else {} for features in found)


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
    return pd.factorize(_strings(column), sort=True)[0]
