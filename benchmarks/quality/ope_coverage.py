"""How often the 95% interval of an estimate from another policy's log holds the truth, in the InstaTok world.

Run:    python benchmarks/quality/ope_coverage.py [--logs 200]
World:  5,000 users with hidden interests, 300 videos. Both policies rank 25 random videos by how likely each is to be
        watched, and draw from that; the logging policy with epsilon and temperature .3, the other with .2 and .15.
Log:    500 users drawn anew for each log, 1,000 requests, so that rows of a user depend on each other. Written as the
        service writes its log, joined by rec.data.rounds, estimated by rec.ope. For the cascade forms a request shows
        three videos, and what stands below the one at which a user leaves is not seen; for all others it shows one.
        clipped_ips, switch_dr and dr_os choose from each log how much to shrink.
Truth:  exact given user and slate, averaged over 300,000 slates drawn from the policy for random users.
Expect: every form holds the truth in about 95 of 100 logs, and those that shrink weights, whose intervals allow for the
        bias, in no fewer; some minutes on one core.
Writes: benchmarks/results/ope_coverage.json and .png
"""

import argparse
import copy
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from matplotlib import pyplot as plt
from results import FOLDER, quality_result, write_result

from rec.data.rounds import join_rounds
from rec.eligibility import Eligible
from rec.ope import (
    SHRINKING_ESTIMATORS,
    Estimate,
    LoggedActions,
    LoggedSlates,
    OverlapWarning,
    evaluate,
    evaluate_slates,
)
from rec.ope.slate_log import logged_slates, slate_log
from rec.policy import sample_slate
from rl.config import InstaTokConfig
from rl.instatok import REWARDS, InstaTok, Sessions
from rl.instatok.slate_log import REWARD_OF, by_category, log_slates

matplotlib.use("Agg")

CANDIDATES: Final = 25
USERS: Final = 500
REQUESTS: Final = 1000
SLATE: Final = 3
LOGGING: Final = {"epsilon": 0.3, "temperature": 0.3}
TARGET: Final = {"epsilon": 0.2, "temperature": 0.15}
ROUND_FORMS: Final = ("ips", "snips", "dr", *SHRINKING_ESTIMATORS)
SLATE_FORMS: Final = ("cascade", "sn_cascade", "cascade_dr")
TRUTH_SLATES: Final = 300_000
LATER_MS: Final = 2**50
GOAL: Final = 0.95


def main() -> None:
    """Estimates from many logs, and the share of intervals that hold the truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=200)
    options = parser.parse_args()
    world = InstaTok(InstaTokConfig(n_users=5000, n_videos=300, seed=0))
    truth = {k: true_value(world, k, np.random.default_rng(1)) for k in (1, SLATE)}
    found: dict[str, list[Estimate]] = {name: [] for name in (*ROUND_FORMS, *SLATE_FORMS)}
    for number in range(options.logs):
        rng = np.random.default_rng([2, number])
        for k in (1, SLATE):
            for name, estimate in estimates(world, k, rng).items():
                found[name].append(estimate)
        if number % 20 == 19:
            print(f"{number + 1} logs", flush=True)
    rows, summary = [], []
    for name, of_logs in found.items():
        value, error = truth[1 if name in ROUND_FORMS else SLATE]
        held = [e.interval is not None and e.interval.low <= value <= e.interval.high for e in of_logs]
        values, errors = (np.array([getattr(e, field) for e in of_logs]) for field in ("value", "std_error"))
        metrics = {
            "coverage": float(np.mean(held)),
            "mean": float(values.mean()),
            "truth": value,
            "truth_std_error": error,
            "bias_in_std_errors": float((values.mean() - value) / (values.std(ddof=1) / len(values) ** 0.5)),
            "spread_over_logs": float(values.std(ddof=1)),
            "mean_std_error": float(errors.mean()),
            "mean_width": float(np.mean([e.interval.high - e.interval.low for e in of_logs if e.interval is not None])),
            "mean_ess": float(np.mean([e.ess for e in of_logs])),
        }
        rows.append({"model": name, "seed": None, "log": None, "metrics": metrics})
        summary.append(_summary(name, metrics["coverage"], len(held)))
        print(f"{name:<12}" + "".join(f"  {metric} {figure:.4f}" for metric, figure in metrics.items()))
    protocol = {"logs": options.logs, "logging": LOGGING, "target": TARGET, "users": USERS, "requests": REQUESTS}
    write_result(quality_result("ope_coverage", protocol=protocol, rows=rows, summary=summary))
    _plot(found, truth)


def true_value(world: InstaTok, k: int, rng: np.random.Generator) -> tuple[float, float]:
    """What a slate of the policy under evaluation earns, and the standard error of that."""
    users = rng.integers(0, world.n_users, TRUTH_SLATES)
    candidates = by_category(world.watch_p, CANDIDATES)(Sessions(world, users), rng)
    eligible = Eligible.everything(len(users), world.n_items)
    slate = sample_slate(candidates.scores, candidates.ids, eligible, k, rng=rng, **TARGET)
    watched = world.watch_p[users[:, None], world.category[slate.item_ids]]
    other = (1 - watched) / 3
    goes_on = np.cumprod(1 - other, axis=1)
    seen = np.concatenate([np.ones((len(users), 1)), goes_on[:, :-1]], axis=1)
    earned = (seen * (watched * REWARDS[0] + other * REWARDS[1:].sum())).sum(axis=1)
    return float(earned.mean()), float(earned.std() / len(earned) ** 0.5)


def estimates(world: InstaTok, k: int, rng: np.random.Generator) -> dict[str, Estimate]:
    """What the log of other users says the policy under evaluation earns."""
    sampled = with_users(world, rng.integers(0, world.n_users, USERS))
    tables = log_slates(
        sampled, by_category(sampled.watch_p, CANDIDATES), n_sessions=REQUESTS, k=k, rng=rng, max_requests=1, **LOGGING
    )
    rounds = join_rounds(tables.requests, tables.impressions, tables.feedback, rewards=REWARD_OF, now_ms=LATER_MS)
    log = slate_log(rounds)
    drawn: dict[str, NDArray[np.float64]] = {name: np.full(len(log), value) for name, value in TARGET.items()}
    slates = logged_slates(log, replace(log.logging, **drawn), rng=rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        if k > 1:
            return evaluate_slates(slates, SLATE_FORMS, rng=rng)
        return evaluate(_rounds(slates), ROUND_FORMS, rng=rng)


def with_users(world: InstaTok, rows: NDArray[np.int64]) -> InstaTok:
    """The same videos and, as new users, those of some rows; a row may come twice."""
    other = copy.copy(world)
    other.config = world.config.model_copy(update={"n_users": len(rows)})
    for name in ("age", "gender", "region", "interests", "watch_p"):
        setattr(other, name, getattr(world, name)[rows])
    return other


def _rounds(slates: LoggedSlates) -> LoggedActions:
    """Slates of one item as rounds."""
    q_logged, q_target = slates.predictions
    return LoggedActions(
        slates.gains[:, 0],
        slates.propensities[:, 0],
        slates.target_p[:, 0],
        slates.clusters,
        q_logged[:, 0],
        q_target[:, 0],
        slates.support,
    )


def _summary(name: str, coverage: float, n: int) -> dict[str, Any]:
    error = (GOAL * (1 - GOAL) / n) ** 0.5
    above = coverage - GOAL
    return {
        "model": name,
        "metric": "coverage",
        "mean": coverage,
        "std_error": error,
        "n": n,
        "published": None,
        "goal": GOAL,
        "reached": bool((above if name in SHRINKING_ESTIMATORS else -abs(above)) >= -2 * error),
    }


def _plot(found: Mapping[str, list[Estimate]], truth: Mapping[int, tuple[float, float]]) -> None:
    """The intervals of the first logs, form by form, and the truth."""
    figure, panels = plt.subplots(3, 3, figsize=(11, 9), layout="constrained")
    for panel, (name, of_logs) in zip(panels.flat, found.items(), strict=True):
        value, _ = truth[1 if name in ROUND_FORMS else SLATE]
        for number, estimate in enumerate(of_logs[:100]):
            if estimate.interval is not None:
                low, high = estimate.interval.low, estimate.interval.high
                missed = not low <= value <= high
                panel.plot([number, number], [low, high], color="tab:red" if missed else "tab:gray", linewidth=1)
        panel.axhline(value, color="black", linewidth=1)
        panel.set_title(name)
    figure.suptitle("95% intervals of 100 logs, and the truth")
    figure.savefig(FOLDER / "ope_coverage.png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
