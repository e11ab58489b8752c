"""How often the gate promotes what is better, and lets through what is worse: 100 times two days of the InstaTok world.

Run:    python benchmarks/quality/gate_replays.py [--replays 100]
World:  400 people with hidden interests, others in every replay, and 1,300 videos, vectorised. A day is 25,500
        requests, for each of which 25 random videos are candidates and 2 are shown: 51,000 impressions. People look
        from the top and may leave, so what is below may never be seen.
Loop:   the champion ranks categories by how often all people together watch them, learned from 2,000 uniform slates. It
        serves a day, with epsilon .1 and temperature .11, written as the service writes its log. From that day
        challengers are learned; a second day of the champion's, which none has seen, goes through `rec.gate` as in
        `tandem cycle`, without its guards: tables of categories have no latency and no probabilities of their own, and
        the share of the catalogue that they show is not looked at. The guards can only refuse more.
Models: all drawn with the champion's epsilon and temperature from the same candidates. A category is scored by the mean
        reward of one who watches it as often as was seen:
        personal  as often as each user did, shrunk towards those of the region
        region    as often as the people of the region did: better, but by less
        again     as often as all people did: what the champion is, learned anew, no better and no worse
        flipped   personal, learned from answers turned into their opposite: poisoned
Truth:  exact given user and slate, over 30,000 slates of each policy drawn for the users of the replay. Good is who
        gains .1 or more an impression, poisoned who loses .1 or more.
Expect: of the good 80% are promoted at least, of the poisoned 5% at most, and 90% of the 95% intervals of the gain hold
        the truth at least, with exact binomial intervals; an hour on one core. The challengers of a replay share its
        logs: intervals of all of them together hold the truth with an interval of the replays' shares.
Writes: benchmarks/results/gate_replays.json
"""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import quality_result, write_result

from rec.config import GateConfig
from rec.data.rounds import join_rounds
from rec.eligibility import Eligible
from rec.errors import SupportError
from rec.gate import Verdict, compare, decide, judge
from rec.ope import OverlapWarning
from rec.ope.slate_log import SlateLog, logged_slates, slate_log
from rec.policy import sample_slate
from rl.config import InstaTokConfig
from rl.instatok import REWARDS, InstaTok, Sessions
from rl.instatok.slate_log import REWARD_OF, by_category, log_slates
from rl.instatok.values import slate_value
from rl.instatok.world import CATEGORIES

USERS: Final = 400
VIDEOS: Final = 1300
REQUESTS: Final = 25_500
FIRST_REQUESTS: Final = 2000
SLATE: Final = 2
CANDIDATES: Final = 25
DRAWN: Final[dict[str, Any]] = {"epsilon": 0.1, "temperature": 0.11}
PRIOR_ANSWERS: Final = 4.0
TRUTH_SLATES: Final = 30_000
LATER_MS: Final = 2**50
# Of an impression: from which gain on a challenger is good, and to which it is poisoned.
GOOD, POISONED = 0.1, -0.1

Values = NDArray[np.float64]


def main() -> None:
    """Replays, and prints and writes the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=100)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number in range(options.replays):
        rows += replay(number)
        print(f"{number + 1} replays: " + "  ".join(map(_told, rates(rows))), flush=True)
    protocol = {
        "replays": options.replays,
        "users": USERS,
        "videos": VIDEOS,
        "requests_a_day": REQUESTS,
        "impressions_a_day": REQUESTS * SLATE,
        "candidates": CANDIDATES,
        "drawn": DRAWN,
        "good_from": GOOD,
        "poisoned_to": POISONED,
        "gate": GateConfig().model_dump(),
    }
    summary = summarised(rows)
    write_result(quality_result("gate_replays", protocol=protocol, rows=rows, summary=summary))
    print("\n".join(map(_told, summary)))


def replay(number: int) -> list[dict[str, Any]]:
    """What the gate says of each challenger, and what is true of it."""
    rng = np.random.default_rng([7, number])
    world = InstaTok(InstaTokConfig(n_users=USERS, n_videos=VIDEOS, seed=number))
    first = log_of(world, np.zeros(len(CATEGORIES)), rng, FIRST_REQUESTS)
    everybody = np.zeros(world.n_users, np.int64)
    champion = means(world, first, watched(first), everybody)
    seen, held_out = (log_of(world, champion, rng, REQUESTS) for _ in range(2))
    answers = watched(seen)
    challengers = {
        "personal": personal(world, seen, answers),
        "region": means(world, seen, answers, world.region),
        "again": means(world, seen, answers, everybody),
        "flipped": personal(world, seen, 1 - answers),
    }
    worth = true_value(world, champion, number)
    served = logged_slates(held_out, held_out.logging, rng=rng)
    n_impressions = int((held_out.slate >= 0).sum())
    rows = []
    for name, table in challengers.items():
        target = replace(held_out.logging, scores=scores_of(world, held_out, table))
        gain = true_value(world, table, number) - worth
        metrics: dict[str, Any] = {"true_gain": gain / SLATE}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OverlapWarning)
            try:
                found = compare(logged_slates(held_out, target, rng=rng), served, rng=rng)
            except SupportError as error:
                verdict = Verdict.refused(str(error))
            else:
                verdict, interval = decide(judge(found, n_impressions, GateConfig())), found.difference.interval
                assert interval is not None
                metrics |= {
                    "estimated_gain": found.difference.value / SLATE,
                    "low": interval.low / SLATE,
                    "high": interval.high / SLATE,
                    "ess": found.difference.ess,
                    "held": float(interval.low <= gain <= interval.high),
                }
        metrics["promoted"] = float(verdict.promote)
        rows.append({"model": name, "seed": number, "log": None, "metrics": metrics, "reasons": verdict.reasons})
    return rows


def log_of(world: InstaTok, table: Values, rng: np.random.Generator, n_requests: int) -> SlateLog:
    """Slates by the value of categories, (U, C) or (C,), read as the cycle reads them."""
    found = log_slates(
        world, by_category(table, CANDIDATES), n_sessions=n_requests, k=SLATE, rng=rng, max_requests=1, **DRAWN
    )
    rewards: Any = REWARD_OF
    return slate_log(join_rounds(found.requests, found.impressions, found.feedback, rewards=rewards, now_ms=LATER_MS))


def watched(log: SlateLog) -> Values:
    """1 for what was watched, 0 for what was seen otherwise, NaN for what nobody came to see, (Q, K)."""
    return np.where(np.nan_to_num(log.rewards) == 0, np.nan, log.rewards == REWARD_OF["watched"])


def personal(world: InstaTok, log: SlateLog, answers: Values) -> Values:
    """The value of each user's categories, (U, C)."""
    prior = means(world, log, answers, world.region)
    return means(world, log, answers, np.arange(world.n_users), prior)


def means(
    world: InstaTok, log: SlateLog, answers: Values, group: NDArray[np.int64], prior: Values | None = None
) -> Values:
    """What an impression of each category earns that is watched as often as the user's group was seen to, (U, C).

    Args: answers: as `watched` gives them, (Q, K). group: of each user, (U,). prior: counts as so many answers more,
        (U, C), by group; None: the mean of all.
    """
    rows, at = np.nonzero(~np.isnan(answers))
    category = category_of(world, log)[log.slate[rows, at]]
    flat = group[users_of(log)[rows]] * len(CATEGORIES) + category
    # What was not watched was each other action, which are equally likely, alike.
    found = np.where(answers[rows, at] == 1, REWARDS[0], REWARDS[1:].mean())
    shape = (int(group.max()) + 1, len(CATEGORIES))
    towards = np.full(shape, found.mean()) if prior is None else prior
    total, count = (np.bincount(flat, weights, towards.size).reshape(shape) for weights in (found, None))
    return ((total + PRIOR_ANSWERS * towards) / (count + PRIOR_ANSWERS))[group]


def users_of(log: SlateLog) -> NDArray[np.int64]:
    """The world's number of the user of each request, (Q,)."""
    return np.array([int(user_id.removeprefix("user-")) for user_id in log.user_id])


def category_of(world: InstaTok, log: SlateLog) -> NDArray[np.int64]:
    """Of each item of a log, by code."""
    return world.category[[int(item_id.removeprefix("video-")) for item_id in log.item_ids]]


def scores_of(world: InstaTok, log: SlateLog, table: Values) -> Values:
    """What a policy scores the logged candidates, (Q, M)."""
    candidates = log.logging.candidates
    return table[users_of(log)[:, None], category_of(world, log)[np.maximum(candidates, 0)]]


def true_value(world: InstaTok, table: Values, seed: int) -> float:
    """What a slate of a policy earns; of one seed, policies meet the same people, candidates and draws."""
    rng = np.random.default_rng([8, seed])
    users = np.arange(TRUTH_SLATES) % world.n_users
    candidates = by_category(table, CANDIDATES)(Sessions(world, users), rng)
    eligible = Eligible.everything(len(users), world.n_items)
    slate = sample_slate(candidates.scores, candidates.ids, eligible, SLATE, rng=rng, **DRAWN)
    return float(slate_value(world, users, slate.item_ids).mean())


def summarised(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rates of all challengers, of each model's, and how often intervals hold the truth, by replay."""
    by_model = [
        row | {"model": f"{row['model']}, {name}"}
        for name in dict.fromkeys(row["model"] for row in rows)
        for row in rates([each for each in rows if each["model"] == name])
    ]
    by_replay = [held_by_replay(rows)] if len({row["seed"] for row in rows}) > 1 else []
    return [*rates(rows), *by_replay, *by_model]


def held_by_replay(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often intervals hold the truth, with the t interval of the replays' shares; n counts replays."""
    held: dict[int, list[float]] = {}
    for row in rows:
        if "held" in row["metrics"]:
            held.setdefault(row["seed"], []).append(row["metrics"]["held"])
    shares = [float(np.mean(each)) for each in held.values()]
    error = float(stats.sem(shares))
    slack = error * float(stats.t.ppf(0.975, len(shares) - 1))
    mean = float(np.mean(shares))
    found = {"mean": mean, "std_error": error, "low": mean - slack, "high": mean + slack, "n": len(shares)}
    return {
        "model": "all, by replay",
        "metric": "held",
        **found,
        "published": None,
        "goal": 0.9,
        "reached": mean >= 0.9,
    }


def rates(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Promotions among the good, the poisoned and those between, and intervals that hold the truth."""
    metrics = [row["metrics"] for row in rows]
    good = [each for each in metrics if each["true_gain"] >= GOOD]
    poisoned = [each for each in metrics if each["true_gain"] <= POISONED]
    worse = [each for each in metrics if each["true_gain"] <= 0]
    return [
        rate("good", "promoted", good, at_least=0.8),
        rate("poisoned", "promoted", poisoned, at_most=0.05),
        rate("no better", "promoted", worse, at_most=0.05),
        rate("all", "held", [each for each in metrics if "held" in each], at_least=0.9),
    ]


def rate(
    model: str,
    metric: str,
    metrics: Sequence[Mapping[str, float]],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> dict[str, Any]:
    """How often, with the exact 95% interval (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404)."""
    n, k = len(metrics), int(sum(each[metric] for each in metrics))
    share = k / n if n else None
    ends = stats.binomtest(k, n).proportion_ci(0.95, "exact") if n else None
    goal = at_least if at_most is None else at_most
    reached = None if share is None or goal is None else (share >= goal if at_most is None else share <= goal)
    return {
        "model": model,
        "metric": metric,
        "mean": share,
        "std_error": None if share is None else float((share * (1 - share) / n) ** 0.5),
        "low": None if ends is None else float(ends.low),
        "high": None if ends is None else float(ends.high),
        "n": n,
        "published": None,
        "goal": goal,
        "reached": reached,
    }


def _told(row: Mapping[str, Any]) -> str:
    if not row["n"]:
        return f"{row['model']} {row['metric']}: none"
    return f"{row['model']} {row['metric']} {row['mean']:.3f} [{row['low']:.3f}, {row['high']:.3f}] of {row['n']}"


if __name__ == "__main__":
    main()
