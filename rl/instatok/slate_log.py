"""Slates shown to InstaTok's users, as log tables: with candidates, propensities and answers."""

from dataclasses import dataclass
from typing import Final, Protocol, final

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from rec.data.event_rows import SCHEMAS, TableName
from rec.data.events import EventTables
from rec.eligibility import Eligible, GroupCap
from rec.policy import Slate, sample_slate
from rl.instatok.log import session_starts, viewing_ms
from rl.instatok.sessions import Answers, Sessions
from rl.instatok.world import ACTIONS, REWARDS, InstaTok

REWARD_OF: Final = dict(zip(ACTIONS, REWARDS.tolist(), strict=True))
LIKED: Final = tuple(ACTIONS.index(action) for action in ("watched", "liked"))
HISTORY_LENGTH: Final = 50
CANDIDATE_SOURCE: Final = "candidates"


@final
@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates of S sessions.

    Attributes: ids: catalogue positions, distinct in a row, -1 for none, (S, M). scores: (S, M).
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float64]


class CandidatePolicy(Protocol):
    """Chooses and scores the candidates of every session, also of those that are over."""

    def __call__(self, sessions: Sessions, rng: np.random.Generator) -> Candidates:
        """(S,) sessions to (S, M) candidates."""
        ...


def by_category(value: ArrayLike, n_candidates: int) -> CandidatePolicy:
    """Different random videos, drawn anew for each request, scored by the value of their category.

    Args: value: of each user's categories, (U, C), or (C,) for all users alike.
    """
    table = np.asarray(value, dtype=np.float64)

    def policy(sessions: Sessions, rng: np.random.Generator) -> Candidates:
        world = sessions.world
        ids = _distinct(len(sessions), n_candidates, world.n_items, rng)
        scores = np.broadcast_to(table, world.watch_p.shape)[sessions.users[:, None], world.category[ids]]
        return Candidates(ids, scores)

    return policy


@final
@dataclass(frozen=True, slots=True)
class LogTables:
    """The three tables of one log."""

    requests: pa.Table
    impressions: pa.Table
    feedback: pa.Table

    def append_to(self, events: EventTables) -> dict[TableName, int | None]:
        """Appends feedback last, so that what was answered is there before its answers; returns the versions."""
        tables: dict[TableName, pa.Table] = {
            "requests": self.requests,
            "impressions": self.impressions,
            "feedback": self.feedback,
        }
        return {name: events.append(name, table) for name, table in tables.items()}


def log_slates(
    world: InstaTok,
    policy: CandidatePolicy,
    *,
    n_sessions: int,
    k: int,
    epsilon: float,
    temperature: float,
    rng: np.random.Generator,
    policy_version: str = "simulated",
    arm: str = "champion",
    max_requests: int | None = None,
    log_candidates: bool = True,
    cap: GroupCap | None = None,
) -> LogTables:
    """Sessions in which slates are drawn from a policy's candidates until the user leaves.

    A user sees a slate from the top; what is below the video at which they leave was shown and is not answered. The
    whole catalogue is eligible for every slate.

    Args:
        world: whose users and videos.
        policy: chooses and scores candidates.
        n_sessions: of all users together, each user's at least one where there are enough.
        k: positions of a slate.
        epsilon: share of uniform draws, see `rec.policy`.
        temperature: of the softmax over candidates.
        rng: source of all draws, ids included.
        policy_version: as logged.
        arm: as logged.
        max_requests: slates of one session at most; None: until it is over.
        log_candidates: False leaves the candidate columns empty, as a service may that logs a sample of them.
        cap: the rule under which slates are drawn.
    """
    users, start_ms = session_starts(world, n_sessions, rng)
    sessions = Sessions(world, users)
    clock = start_ms.copy()
    pages: list[_Page] = []
    while not sessions.done.all() and (max_requests is None or len(pages) < max_requests):
        open_rows = np.flatnonzero(~sessions.done)
        candidates = policy(sessions, rng)
        candidates = Candidates(candidates.ids[open_rows], candidates.scores[open_rows])
        eligible = Eligible.everything(len(open_rows), world.n_items, cap)
        slate = sample_slate(
            candidates.scores, candidates.ids, eligible, k, epsilon=epsilon, temperature=temperature, rng=rng
        )
        items = np.full((len(sessions), k), -1, dtype=np.int64)
        items[open_rows] = slate.item_ids
        answers = sessions.view_slates(items, rng)
        answers = Answers(*(getattr(answers, name)[open_rows] for name in ("action", "reward", "done")))
        answered_at = clock[open_rows, None] + viewing_ms(answers.action, rng).cumsum(axis=1)
        pages.append(_Page(users[open_rows], clock[open_rows].copy(), candidates, slate, answers, answered_at))
        clock[open_rows] = answered_at[:, -1] + 1
    return _tables(world, pages, k, epsilon, temperature, policy_version, arm, log_candidates, rng)


@dataclass(frozen=True, slots=True)
class _Page:
    """One request of each session that is open: users, times, candidates, slates (B, K), answers and their times."""

    users: NDArray[np.integer]
    asked_at: NDArray[np.int64]
    candidates: Candidates
    slate: Slate
    answers: Answers
    answered_at: NDArray[np.int64]


def _tables(
    world: InstaTok,
    pages: list[_Page],
    k: int,
    epsilon: float,
    temperature: float,
    policy_version: str,
    arm: str,
    log_candidates: bool,
    rng: np.random.Generator,
) -> LogTables:
    users = np.concatenate([page.users for page in pages])
    asked_at = np.concatenate([page.asked_at for page in pages])
    slate, column, propensity, n_eligible = (
        np.concatenate([getattr(page.slate, name) for page in pages])
        for name in ("item_ids", "column", "propensity", "n_eligible")
    )
    action = np.concatenate([page.answers.action for page in pages])
    answered_at = np.concatenate([page.answered_at for page in pages])
    n = len(users)
    item_ids, request_id = pa.array(world.item_ids), _new_ids(n, rng)
    ids = np.concatenate([page.candidates.ids for page in pages])
    scores = np.concatenate([page.candidates.scores for page in pages])
    listed = ids >= 0
    indptr = np.concatenate([[0], listed.sum(axis=1).cumsum()])
    columns = {
        "request_id": request_id,
        "timestamp": asked_at,
        "user_id": pa.array(world.user_ids).take(users),
        "policy_version": np.full(n, policy_version, dtype=object),
        "arm": np.full(n, arm, dtype=object),
        "epsilon": np.full(n, epsilon),
        "temperature": np.full(n, temperature),
        "k": np.full(n, k, dtype=np.int16),
        "degraded": np.zeros(n, dtype=bool),
        "context": np.full(n, "{}", dtype=object),
        "history": _histories(item_ids, users, asked_at, slate, action, answered_at),
    }
    if log_candidates:
        columns |= {
            "candidates": _lists(indptr, item_ids.take(ids[listed])),
            "candidate_scores": _lists(indptr, pa.array(scores[listed])),
            "candidate_sources": _lists(indptr, pa.array(np.full(int(indptr[-1]), CANDIDATE_SOURCE, dtype=object))),
        }
    shown_row, shown_at = np.nonzero(slate >= 0)
    source = np.where(column[shown_row, shown_at] >= 0, CANDIDATE_SOURCE, "explore")
    impressions = {
        "request_id": request_id.take(shown_row),
        "position": shown_at.astype(np.int16),
        "item_id": item_ids.take(slate[shown_row, shown_at]),
        "source": source.astype(object),
        "propensity": propensity[shown_row, shown_at],
        "n_eligible": n_eligible[shown_row, shown_at],
    }
    row, at = np.nonzero(action >= 0)
    feedback = {
        "event_id": _new_ids(len(row), rng),
        "request_id": request_id.take(row),
        "item_id": item_ids.take(slate[row, at]),
        "action": np.array(ACTIONS, dtype=object)[action[row, at]],
        "timestamp": answered_at[row, at],
        "received_at": answered_at[row, at],
    }
    return LogTables(_table("requests", columns), _table("impressions", impressions), _table("feedback", feedback))


def _histories(
    item_ids: pa.StringArray,
    users: NDArray[np.integer],
    asked_at: NDArray[np.int64],
    slate: NDArray[np.integer],
    action: NDArray[np.int8],
    answered_at: NDArray[np.int64],
) -> pa.ListArray:
    """What each user had watched or liked before each request, in all sessions, oldest first."""
    row, at = np.nonzero(np.isin(action, LIKED))
    order = np.lexsort((answered_at[row, at], users[row]))
    user, time, item = users[row][order], answered_at[row, at][order], slate[row, at][order]
    # One key for user and time, so that a single search finds where each request stands among its user's answers.
    span = int(max(answered_at.max(), asked_at.max())) + 1
    end = np.searchsorted(user.astype(np.int64) * span + time, users.astype(np.int64) * span + asked_at)
    start = np.maximum(np.searchsorted(user, users), end - HISTORY_LENGTH)
    lengths = end - start
    indptr = np.concatenate([[0], lengths.cumsum()])
    places = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - start, lengths)
    return _lists(indptr, item_ids.take(item[places]))


def _distinct(n_rows: int, n: int, n_items: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Different positions of a catalogue in each row, in random order; rows with a repeat are drawn again."""
    if n > n_items:
        raise ValueError(f"n_candidates must be at most the {n_items} videos there are; found {n}")
    if 2 * n * n > n_items:
        return rng.random((n_rows, n_items)).argpartition(n - 1, axis=1)[:, :n]
    drawn = rng.integers(0, n_items, (n_rows, n))
    again = np.arange(n_rows)
    while len(again):
        in_order = np.sort(drawn[again], axis=1)
        again = again[(in_order[:, 1:] == in_order[:, :-1]).any(axis=1)]
        drawn[again] = rng.integers(0, n_items, (len(again), n))
    return drawn


def _new_ids(n: int, rng: np.random.Generator) -> pa.StringArray:
    """Random ids of 128 bits."""
    text = rng.bytes(16 * n).hex()
    return pa.array([text[place : place + 32] for place in range(0, 32 * n, 32)], type=pa.string())


def _lists(indptr: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(indptr, type=pa.int32()), values)


def _table(name: TableName, columns: dict[str, NDArray | pa.Array]) -> pa.Table:
    schema = SCHEMAS[name]
    arrays = {field.name: columns.get(field.name, pa.nulls(len(columns["request_id"]), field.type)) for field in schema}
    return pa.table({column: pa.array(values) for column, values in arrays.items()}).cast(schema)
