"""The loop closes itself: ten days in which people use a service over HTTP, and a cycle follows each.

Run:    python benchmarks/quality/loop_http.py [--days 10] [--visits 8000]
World:  4,000 people who have stated their interests, and 100 videos, so that over the days few run out of what they
        like: nothing seen is shown again. From day 6 on whoever wanted one category wants another, whatever they
        have stated.
Loop:   a first model learns from a twentieth of 10,000 random slates. It serves on Ray Serve, over HTTP; a visit is one
        slate of two, and what its user did with it. After each day a cycle trains a challenger on what was known before
        the day, judges it and the champion by the day, and promotes it or not; the service takes what is promoted. On
        day 4 a challenger comes first that learned from answers turned into their opposite, judged by the same day.
Gate:   the default of `tandem cycle`.
Truth:  what a slate of a model earns, averaged over everybody: exact given user and slate, over 40 slates of each.
Expect: what serves is worth more and more until the drift, less with it, and more again after it (a rise of 0, as of a
        loop that promotes nothing, is none); nine of ten 95% intervals of a challenger's gain, made before its
        promotion, hold the true gain; the poisoned challenger is refused, because it earns less.
Writes: benchmarks/results/loop_http.json and .png
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from matplotlib import pyplot as plt
from results import FOLDER, quality_result, write_result

from rec.cli.loop import CYCLE, POLICY, SLATE, TRAIN, Loop, begin, serve_config, told
from rec.config import GateConfig
from rec.gate import RELATIONS
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.values import slate_value
from serve.app import start

matplotlib.use("Agg")

USERS: Final = 4000
VIDEOS: Final = 100
FIRST_VISITS: Final = 10_000
GATE: Final = GateConfig()
POISONED: Final = 4
DRIFTED: Final = 6


def main() -> None:
    """Lets the days pass, and prints and writes what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--visits", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        days = list(loop(home, options.days, options.visits, options.seed))
    rows = [row for day in days for row in rows_of(day, options.seed)]
    protocol = {
        "days": options.days,
        "visits_a_day": options.visits,
        "first_visits": FIRST_VISITS,
        "users": USERS,
        "videos": VIDEOS,
        "slate": SLATE,
        "poisoned_on_day": POISONED,
        "drifted_from_day": DRIFTED,
        "drawn": POLICY.model_dump(),
        "train": TRAIN,
        "cycle": CYCLE.model_copy(update={"gate": GATE}).model_dump(),
        "bounds": bounds(options.seed),
    }
    summary = summarised(days)
    write_result(quality_result("loop_http", protocol=protocol, rows=rows, summary=summary))
    plot(days, protocol["bounds"], FOLDER / "loop_http.png")
    for row in summary:
        goal = "" if row["goal"] is None else f", goal {row['goal']:.3f}: {'reached' if row['reached'] else 'missed'}"
        mean = "none" if row["mean"] is None else f"{row['mean']:+.3f}"
        print(f"{row['model']:<12} {row['metric']:<16} {mean} (n {row['n']}){goal}")


def world_of(seed: int) -> InstaTok:
    """A world in which a visit is one slate."""
    return InstaTok(InstaTokConfig(n_users=USERS, n_videos=VIDEOS, max_steps=SLATE, seed=seed))


def loop(home: str, n_days: int, n_visits: int, seed: int) -> Iterator[dict[str, Any]]:
    """The days, each as `Loop.day` has it; prints them."""
    world = world_of(seed)
    drifted = world.drifted(3)
    begin(world, home, n_visits=FIRST_VISITS, rng=np.random.default_rng([seed, 2]))
    with start(serve_config(home)) as server:
        days = Loop(server, home, n_visits=n_visits, seed=seed)
        for number in range(1, n_days + 1):
            day = days.day(drifted if number >= DRIFTED else world, gate=GATE, poison=number == POISONED)
            print(told(day), flush=True)
            yield day


def bounds(seed: int) -> dict[str, float]:
    """What slates of random videos, and of each user's best category alone, are worth to everybody."""
    world, users = world_of(seed), np.arange(USERS)
    rng = np.random.default_rng([seed, 3])
    best = world.watch_p.argmax(axis=1)
    return {
        "random": float(
            np.mean([slate_value(world, users, rng.integers(0, VIDEOS, (USERS, SLATE))) for _ in range(100)])
        ),
        "best": float(slate_value(world, users, world.random_video_of(np.tile(best[:, None], SLATE), rng)).mean()),
    }


def rows_of(day: Mapping[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """What served on a day, and each challenger that it judged."""
    served = {
        "true_value": day["true_value"],
        "reward": day["reward"]["value"],
        "std_error": day["reward"]["std_error"],
    }
    yield {"model": "served", "seed": seed, "log": day["day"], "metrics": served, "version": day["version"]}
    for cycle in day["cycles"]:
        metrics: dict[str, Any] = {"promoted": float(cycle["status"] == "promoted"), "true_value": cycle["true_value"]}
        if cycle["comparison"] is not None:
            for name, estimate in cycle["comparison"].items():
                around = estimate["interval"]
                metrics |= {name: estimate["value"], f"{name}_low": around["low"], f"{name}_high": around["high"]}
            metrics["ess"] = cycle["comparison"]["difference"]["ess"]
        yield {
            "model": "poisoned" if cycle["poisoned"] else "challenger",
            "seed": seed,
            "log": day["day"],
            "metrics": metrics,
            "version": cycle["challenger"],
            "reasons": cycle["reasons"],
        }


def summarised(days: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How the true value of what served went, whether intervals held the truth, and what became of the poison."""
    value = {day["day"]: day["true_value"] for day in days}
    last = max(value)
    judged = [(day, cycle) for day in days for cycle in day["cycles"] if cycle["comparison"] is not None]
    held = [held_truth(day, cycle) for day, cycle in judged if cycle["gain"]["low"] is not None]
    poison = [cycle for _, cycle in judged if cycle["poisoned"]]
    gains = [cycle["true_value"] - day["true_value"] for day, cycle in judged if cycle["status"] == "promoted"]
    rows = [_row("estimates", "held", held, (">=", 0.9)), _row("promotions", "true_gain", gains, (">", 0.0))]
    if last >= POISONED:
        high = [cycle["gain"]["high"] for cycle in poison]
        rows.append(_row("poisoned", "promoted", [cycle["status"] == "promoted" for cycle in poison], ("<=", 0.0)))
        rows.append(_row("poisoned", "gain_high", high, ("<=", 0.0)))
    before = min(last, DRIFTED - 1)
    rows.append(_row("before drift", "rise", [value[before] - value[1]], (">", 0.0)))
    if last > DRIFTED:
        rows.append(_row("drift", "change", [value[DRIFTED] - value[before]]))
        rows.append(_row("after drift", "rise", [value[last] - value[DRIFTED]], (">", 0.0)))
    return rows


def held_truth(day: Mapping[str, Any], cycle: Mapping[str, Any]) -> bool:
    """Whether the interval of a challenger's gain holds what it gained in truth."""
    return cycle["gain"]["low"] <= cycle["true_value"] - day["true_value"] <= cycle["gain"]["high"]


def _row(model: str, metric: str, values: Sequence[float], goal: tuple[str, float] | None = None) -> dict[str, Any]:
    """The mean of some values, and whether it stands to a goal as it should; without a value it does not."""
    mean = float(np.mean(values)) if len(values) else None
    row = {"model": model, "metric": metric, "mean": mean, "std_error": None, "n": len(values), "published": None}
    if goal is None:
        return {**row, "goal": None, "reached": None}
    relation, number = goal
    return {**row, "goal": number, "reached": mean is not None and RELATIONS[relation](mean, number)}


def plot(days: Sequence[Mapping[str, Any]], limits: Mapping[str, float], path: Path) -> None:
    """What served is worth each day, what its visits earned, and what each challenger was estimated at before."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    number = [day["day"] for day in days]
    axes.plot(number, [day["true_value"] for day in days], marker="o", color="C0", label="what serves: true value")
    rewards = [day["reward"] for day in days]
    errors = [2 * reward["std_error"] for reward in rewards]
    axes.errorbar(number, [reward["value"] for reward in rewards], errors, fmt="s", mfc="none", color="C0", capsize=3,
                  label="what visits earned")  # fmt: skip
    for poisoned, color, label in ((False, "C2", "challenger"), (True, "C3", "poisoned challenger")):
        found = [
            (day["day"], cycle)
            for day in days
            for cycle in day["cycles"]
            if cycle["comparison"] is not None and cycle["poisoned"] == poisoned
        ]
        if not found:
            continue
        places = [day + 0.2 for day, _ in found]
        estimates = [cycle["comparison"]["challenger"] for _, cycle in found]
        ends = np.array([[each["value"] - each["interval"]["low"], each["interval"]["high"] - each["value"]]
                         for each in estimates]).T  # fmt: skip
        axes.errorbar(places, [each["value"] for each in estimates], ends, fmt="d", color=color, capsize=3,
                      label=f"{label}: estimate that day")  # fmt: skip
        axes.plot(places, [cycle["true_value"] for _, cycle in found], "x", color=color, label=f"{label}: true value")
    for name, value in limits.items():
        axes.axhline(value, color="grey", linewidth=0.8, linestyle=":")
        axes.text(number[0] - 0.3, value, f"{name} videos", va="bottom", fontsize=8, color="grey")
    if number[-1] >= DRIFTED:
        axes.axvline(DRIFTED - 0.5, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xlabel("day")
    axes.set_ylabel("reward of a visit")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
