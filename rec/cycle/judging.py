"""Champion and challenger on the held-out requests of a log: what each is worth, and what each is like."""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.bundle_policy import bundle_policy, logged_cap
from rec.calibration import calibration
from rec.config import CycleConfig
from rec.data.events import EventTables
from rec.data.rounds import Rounds, read_rounds
from rec.errors import DataError
from rec.gate import Comparison, Health, compare
from rec.ope import OverlapWarning
from rec.ope.slate_log import SlateLog, logged_slates, slate_log
from rec.ope.slate_policy import SlatePolicy
from rec.ranking.rankers import ProbabilityModel
from rec.recommender import Recommender
from rec.storage import Home

TIMED_USERS: Final = 100
TURNS: Final = 3
CALIBRATED: Final = 20_000
# Between a logged propensity and that of the bundle ranked anew, as a share.
_TOLERANCE: Final = 1e-6


@final
@dataclass(frozen=True, slots=True)
class Judged:
    """What the held-out requests say.

    Attributes:
        comparison: of what both are worth.
        challenger, champion: what they are like.
        n_requests, n_impressions: that this is from.
        logged_value: what a request earned as it was served.
        reproduced: of the requests the champion served, the share whose slates it has the logged propensities for when
            it ranks them anew; None where it served none.
        dropped: rows of the log that are not in it, by reason.
        warnings: of thin overlap.
    """

    comparison: Comparison
    challenger: Health
    champion: Health
    n_requests: int
    n_impressions: int
    logged_value: float
    reproduced: float | None
    dropped: dict[str, int]
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judged(
    home: Home,
    challenger: Recommender,
    champion: Recommender,
    config: CycleConfig,
    *,
    since_ms: int,
    versions: Mapping[str, int | None],
) -> Judged:
    """Both bundles on the requests from `since_ms` on that are old enough, each as it would serve.

    Args: since_ms: after what either was trained on. versions: of the tables of the log.
    Raises: DataError, SupportError: when the log cannot tell.
    """
    rounds = read_rounds(
        EventTables(home),
        rewards=config.rewards,
        now_ms=config.now_ms or 0,
        attribution_s=config.attribution_s,
        since_ms=since_ms,
        versions=versions,
    )
    if rounds.action is None or pd.isna(rounds.action).all():
        raise DataError(
            f"none of the {len(rounds)} held-out impressions was answered, so every reward is 0: see that feedback "
            "arrives",
            file="feedback",
        )
    log = slate_log(rounds, cap=logged_cap(home, rounds.policy_version.tolist()))
    ours, theirs = (_as_served(recommender, log) for recommender in (challenger, champion))
    rng = np.random.default_rng(config.seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one, other = (logged_slates(log, policy, rng=rng) for policy in (ours, theirs))
        comparison = compare(one, other, rng=rng)
    told = [str(warning.message) for warning in caught if issubclass(warning.category, OverlapWarning)]
    timed = latency_ms((challenger, champion), log)
    k = log.slate.shape[1]
    errors = calibration_errors((challenger, champion), rounds)
    one_health, other_health = (
        Health(coverage(policy, k, recommender.n_items), milliseconds, error)
        for policy, recommender, milliseconds, error in zip(
            (ours, theirs), (challenger, champion), timed, errors, strict=True
        )
    )
    own = np.asarray(log.policy_version == champion.version)
    again = np.all(np.abs(other.weights - 1) <= _TOLERANCE, axis=1)
    left_out = {"requests_without_candidates": log.n_without, "incomplete_slates": log.n_incomplete}
    return Judged(
        comparison,
        one_health,
        other_health,
        n_requests=len(log),
        n_impressions=int((log.slate >= 0).sum()),
        logged_value=float(other.gains.sum(axis=1).mean()),
        reproduced=float(again[own].mean()) if own.any() else None,
        dropped=rounds.dropped | {reason: count for reason, count in left_out.items() if count},
        warnings=list(dict.fromkeys(told)),
    )


def _as_served(recommender: Recommender, log: SlateLog) -> SlatePolicy:
    """What a bundle ranks for logged requests, drawn as these were."""
    return bundle_policy(recommender, log, epsilon=log.logging.epsilon, temperature=log.logging.temperature)


def coverage(policy: SlatePolicy, k: int, n_items: int) -> float:
    """The share of a catalogue among the k candidates that are ranked highest, of all requests together."""
    scores = np.where(policy.candidates >= 0, policy.scores, -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    shown = np.take_along_axis(policy.candidates, best, axis=1)
    return len(np.unique(shown[shown >= 0])) / n_items


def latency_ms(recommenders: Sequence[Recommender], log: SlateLog) -> list[float]:
    """Median over users of the log of the least of a few times in which each answers, first and second by turns.

    What a busy machine adds to one answer it does not add to all of them.
    """
    users = list(dict.fromkeys(log.user_id.tolist()))[:TIMED_USERS]
    seconds = np.full((len(users), len(recommenders)), np.inf)
    for turn in range(TURNS):
        for row, user_id in enumerate(users):
            for place in range(len(recommenders)):
                column = (place + turn + row) % len(recommenders)
                started = time.perf_counter()
                recommenders[column].recommend(str(user_id), log.slate.shape[1])
                seconds[row, column] = min(seconds[row, column], time.perf_counter() - started)
    return (1000 * np.median(seconds, axis=0)).tolist()


def calibration_errors(recommenders: Sequence[Recommender], rounds: Rounds) -> list[float | None]:
    """Expected calibration error of each ranker's probabilities of its first task, on the same impressions.

    These are of users and items that all of them know. Those that were not answered count as what did not happen, as
    they do where the rankers learn.

    Returns: None where a ranker predicts none, and everywhere where there is no such impression.
    """
    known = np.flatnonzero(np.all([_knows(recommender, rounds) for recommender in recommenders], axis=0))
    if rounds.action is None or not len(known):
        return [None] * len(recommenders)
    rows = known[np.linspace(0, len(known) - 1, min(len(known), CALIBRATED)).astype(np.int64)]
    users, shown, actions = rounds.user_id[rows].astype(str), rounds.item_id[rows], rounds.action[rows].astype(str)
    return [_calibration_error(recommender, users.tolist(), shown.tolist(), actions) for recommender in recommenders]


def _knows(recommender: Recommender, rounds: Rounds) -> NDArray[np.bool_]:
    """Of which impressions a bundle knows user and item, (R,)."""
    snapshot = recommender.snapshot
    users, items = rounds.user_id.tolist(), rounds.item_id.tolist()
    return (snapshot.item_positions(items) >= 0) & (snapshot.user_positions(users) >= 0)


def _calibration_error(
    recommender: Recommender, users: list[str], shown: list[str], actions: NDArray[np.str_]
) -> float | None:
    model = recommender.ranker.model
    if not isinstance(model, ProbabilityModel):
        return None
    items = recommender.snapshot.item_positions(shown)[:, None]
    states = recommender.hydrate(users)
    matrix = recommender.ranker.features.matrix(states, items, recommender.source.scores(states, items))
    task = recommender.config.ranker.tasks[0].resolved(recommender.config.data)
    happened = np.isin(actions, list(task.actions or ()))
    return calibration(model.probabilities(matrix), happened).expected_error
