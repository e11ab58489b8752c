"""What one policy's log says of another, on real logs: Open Bandit Dataset, the sample of Saito et al. (2021).

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/open_bandit.py
Data:   $TANDEM_DATA/open-bandit: 10,000 impressions of a uniform and of a Thompson sampling policy, for 3 campaigns.
Asks:   what uniform would earn, from the Thompson log; what Thompson would earn, from the uniform log. Beside them
        stands what the other log itself earned, an estimate too, of 38 to 69 clicks: nothing here shows accuracy,
        only whether the intervals of two estimates of one value overlap, and which estimates deserve a warning.
Target: Thompson sampling's probabilities are logged only for what was shown, and they changed during the week. As a
        target it is the policy without context that shows each item as often at each position as its log does.
Users:  the data have ids neither of users nor of visits, so every impression counts as its own, although a visit shows
        three positions, and intervals know nothing of what they share. Printed is how many impressions of a sample
        have time and user features of another one; who came again on another day nobody can tell.
Ranges: 95%, by bootstrap for estimates, and by Student's t for what a log itself earned.
Expect: half a minute.
Writes: benchmarks/results/open_bandit.json and .png
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib
from matplotlib import pyplot as plt
from results import FOLDER, data_folder, quality_result, write_result

from rec.crossfit import user_folds
from rec.data.open_bandit import N_POSITIONS, Campaign, OpenBandit, read_open_bandit
from rec.ope import Estimate, IntervalSettings, LoggedActions, OverlapWarning, evaluate
from rec.ope.reward_model import cross_fit_actions, logistic_per_action

ESTIMATORS: Final = ("ips", "snips", "dm", "dr", "sndr", "dr_os")
INTERVAL: Final = IntervalSettings(method="bootstrap")
# A plain mean of some 10,000 rewards needs no bootstrap.
OWN_INTERVAL: Final = IntervalSettings(method="student_t")
N_FOLDS: Final = 5
READING: Final = """
Reading: a log of 10,000 rows and some 40 clicks knows a rate of 0.4% to about a third of itself. Overlap does not show
that an estimator is right, nor does an interval know of bias: dm is as wrong as its model of rewards, and very sure of
it. Where an estimate warns, intervals are none: with an effective sample size of a few rows, what matters most was
never drawn, so no resampling of the log can show it. That of dr_os allows for it, and is as wide as that takes; in the
plot it is cut off."""
Floats = NDArray[np.float64]

matplotlib.use("Agg")


def main() -> None:
    """Prints and writes the table of all campaigns, both ways."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folder = data_folder() / "open-bandit"
    rng = np.random.default_rng(0)
    rows, summary, told, shared = [], [], {}, {}
    for campaign in get_args(Campaign):
        uniform = read_open_bandit(folder, "random", campaign)
        thompson = read_open_bandit(folder, "bts", campaign)
        for policy, log in (("uniform", uniform), ("thompson", thompson)):
            shared[f"{campaign}, {policy}"] = sharing_a_visit(log)
            print(f"{campaign}, {policy}: {sharing_a_visit(log)} of {len(log)} impressions may share a visit")
        flat = np.full((N_POSITIONS, uniform.n_actions), 1 / uniform.n_actions)
        for title, log, other, target in (
            ("uniform from the Thompson log", thompson, uniform, flat),
            ("Thompson from the uniform log", uniform, thompson, shares(thompson)),
        ):
            own = LoggedActions(other.reward, other.propensity, other.propensity)
            truth = evaluate(own, ["ips"], rng=rng, interval=OWN_INTERVAL)["ips"]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", OverlapWarning)
                found = evaluate(logged_actions(log, target), ESTIMATORS, rng=rng, interval=INTERVAL)
            alarms = list(dict.fromkeys(str(warning.message) for warning in caught))
            name = f"{campaign}: {title}"
            told[name] = (truth, found)
            print(f"\n{name}\n  {'own log of the target':<24}{_told(truth)}  {int(other.reward.sum())} clicks")
            for estimator, estimate in found.items():
                verdict = "overlaps" if overlap(truth, estimate) else "does not overlap"
                print(f"  {estimator:<24}{_told(estimate)}  {verdict}")
                metrics = {"value": estimate.value, "own_log": truth.value, "overlaps": overlap(truth, estimate)}
                rows.append({"model": f"{name}, {estimator}", "seed": 0, "log": campaign, "metrics": metrics})
                summary.append(_entry(f"{name}, {estimator}", estimate))
            print(
                f"  effective sample size {estimate.ess:.0f} of {estimate.n}, largest weight {estimate.max_weight:.0f}"
            )
            summary.append(_entry(f"{name}, own log", truth))
            for alarm in alarms:
                print(f"  WARNING: {alarm}")
            rows.append(
                {"model": name, "seed": 0, "log": campaign, "metrics": {"ess": estimate.ess}, "warnings": alarms}
            )
    print(READING)
    intervals = {"estimates": f"{INTERVAL.method}, 95%", "own log": f"{OWN_INTERVAL.method}, 95%"}
    protocol = {"interval": intervals, "impressions_that_may_share_a_visit": shared}
    write_result(quality_result("open_bandit", protocol=protocol, rows=rows, summary=summary))
    plot(told, FOLDER / "open_bandit.png")


def shares(log: OpenBandit) -> Floats:
    """How often each item was shown at each position, (3, A)."""
    counts = np.zeros((N_POSITIONS, log.n_actions))
    np.add.at(counts, (log.position, log.action), 1.0)
    return counts / counts.sum(axis=1, keepdims=True)


def sharing_a_visit(log: OpenBandit) -> int:
    """How many impressions have the time and the user features of another one."""
    _, counts = np.unique(np.column_stack([log.timestamp, log.context]), axis=0, return_counts=True)
    return int(counts[counts > 1].sum())


def logged_actions(log: OpenBandit, target: Floats) -> LoggedActions:
    """The rounds of a log with a target policy (3, A) and rewards predicted by other folds' logistic regressions."""
    everything = np.concatenate([log.context, np.eye(N_POSITIONS)[log.position]], axis=1).astype(np.float64)
    folds = user_folds([str(row) for row in range(len(log))], N_FOLDS)
    q = cross_fit_actions(logistic_per_action, everything, log.action, log.reward, folds, log.n_actions)
    return LoggedActions(
        rewards=log.reward,
        propensities=log.propensity,
        target_p=target[log.position, log.action],
        q_logged=q[np.arange(len(log)), log.action],
        q_target=(q * target[log.position]).sum(axis=1),
    )


def overlap(a: Estimate, b: Estimate) -> bool:
    """Whether two intervals share a point."""
    return (
        a.interval is not None
        and b.interval is not None
        and bool(a.interval.low <= b.interval.high and b.interval.low <= a.interval.high)
    )


def plot(told: dict[str, tuple[Estimate, dict[str, Estimate]]], path: Path) -> None:
    """Intervals of each question below each other."""
    figure, axes = plt.subplots(len(told) // 2, 2, figsize=(11, 2.2 * len(told) // 2 + 2), layout="constrained")
    for panel, (name, (truth, found)) in zip(axes.flat, told.items(), strict=True):
        for place, (label, estimate) in enumerate({"own log": truth, **found}.items()):
            assert estimate.interval is not None
            ends = [[estimate.value - estimate.interval.low], [estimate.interval.high - estimate.value]]
            panel.errorbar([estimate.value], [place], xerr=np.abs(ends), fmt="o", capsize=3, label=label)
        ends = [estimate.interval for label, estimate in found.items() if label != "dr_os"]
        panel.set_xlim(right=1.2 * max(end.high for end in (truth.interval, *ends) if end is not None))
        panel.set_yticks(range(len(found) + 1), ["own log", *found])
        panel.invert_yaxis()
        panel.set_title(name, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _entry(model: str, estimate: Estimate) -> dict[str, Any]:
    named = {"model": model, "metric": "clicks per impression", "mean": estimate.value, "std_error": estimate.std_error}
    return {**named, "n": estimate.n, "published": None, "goal": None, "reached": None, "estimate": estimate.to_json()}


def _told(estimate: Estimate) -> str:
    assert estimate.interval is not None
    low, high = estimate.interval.low, estimate.interval.high
    return f"{100 * estimate.value:7.3f} %  [{100 * low:7.3f}, {100 * high:7.3f}]"


if __name__ == "__main__":
    main()
