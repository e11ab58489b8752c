"""Learning a candidate generator off-policy, in front of a given ranker: multi-label data as a bandit, Delicious.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/two_stage_delicious.py [--seeds 0 1 2 3 4] [--logs 0 1 2]
        Finished runs are kept in the cache and never done again.
Data:   $TANDEM_DATA/delicious, 12,920 points to learn from and 3,185 to judge on, 500 features, 983 labels; in the
        place of Wiki10-31K, with which Ma et al. (2020) do this and which has the same format.
Log:    a logging policy fitted to the labels of 1,000 points (--policy-points; 0: uniform) draws 5 labels a point
        without replacement; only whether these are right is known. All rounds teach the ranker, the right ones the
        generator, in the order of the log. The last 1,920 training points are not logged: their labels choose the
        epoch.
Judged: precision of the first label, one-stage and two-stage (the generator's top 30 in the ranker's order). The oracle
        fills its 30 with the wrong labels that the ranker puts last: no generator can help it more.
Reads:  which part of the order 2-IPS > 1-IPS > CE holds; and, from runs of the same seeds and logs with other logging
        policies where the cache has them, whether a log that is good already is why weights gain nothing.
Expect: a run of ce or 1-ips under half a minute, of 2-ips about one and a half on two cores.
Writes: benchmarks/results/two_stage_delicious[_policy_POINTS].json and .png
"""

import argparse
import os
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import data_folder
from two_stage.evaluation import Judge
from two_stage.fitting import BATCH_SIZE, Adagrad, fit_pairs
from two_stage.published import WIKI
from two_stage.reading import ORDER, gap_lines, order_lines, policies, policy_lines
from two_stage.report import STAGES, Table, differences, print_differences, print_table, write_table
from two_stage.runs import Runs
from two_stage.training import OBJECTIVES, Clicks, clicks_of, fit_generator

from rec.data.bandit import bandit_log, propensities
from rec.data.extreme import MultiLabel, read_extreme
from rec.storage import Home

DIM: Final = 32
N_POLICY, N_VALID = 1000, 1920
LABELS_PER_POINT: Final = 5
POLICY_EPOCHS, RANKER_EPOCHS = 40, 10
METRICS: Final = ("precision@1", "precision@5", "ndcg@5")
CHECKED: Final = "precision@1"


class TwoTower(nn.Module):
    """linear(relu(linear(features))) . label: generator, logging policy and, without the rectifier, ranker."""

    def __init__(self, features: Tensor, n_labels: int, *, rectified: bool, seed: int) -> None:
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.rectified = rectified
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.second = nn.Linear(features.shape[1], DIM), nn.Linear(DIM, DIM)
            self.labels, self.bias = nn.Embedding(n_labels, DIM), nn.Embedding(n_labels, 1)
            nn.init.normal_(self.labels.weight, std=DIM**-0.5)
            nn.init.zeros_(self.bias.weight)

    def queries(self, point: Tensor) -> Tensor:
        """(B,) to (B, DIM)."""
        hidden = self.first(self.features[point])
        return self.second(functional.relu(hidden) if self.rectified else hidden)

    def forward(self, point: Tensor) -> Tensor:
        """Logits of all labels, (B, N)."""
        return self.queries(point) @ self.labels.weight.T + self.bias.weight.T

    def pairs(self, point: Tensor, label: Tensor) -> Tensor:
        """Logits of pairs, (B,)."""
        return (self.queries(point) * self.labels(label)).sum(dim=1) + self.bias(label).squeeze(1)


@dataclass(frozen=True, slots=True)
class World:
    """Points of both files, training first; features (P, F), labels (P, N), and logits of the logging policy (P, N)."""

    features: Tensor
    labels: np.ndarray
    policy_logits: np.ndarray
    n_train: int


def main() -> None:
    """Runs what is missing, and prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=["ce", "1-ips", "2-ips"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--logs", type=int, nargs="+", default=list(range(3)))
    parser.add_argument("--propensity", choices=("draw", "conditional", "inclusion"), default="draw")
    parser.add_argument("--policy-points", type=int, default=N_POLICY, help="whose labels the logging policy knows")
    parser.add_argument("--cache", type=Path, help="of finished runs; by default in the home")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    cache = options.cache or (Home().folder or Path(".tandem")) / "benchmarks"
    # The first runs were finished when there was no other logging policy.
    runs = Runs(cache / "two_stage_delicious" / "runs.jsonl", {"policy_points": N_POLICY})
    run_missing(runs, options)
    report(runs, options)


def run_missing(runs: Runs, options: argparse.Namespace) -> None:
    """Finishes the runs that the file does not hold."""
    points = options.policy_points
    missing = [key for key in _keys(options) if runs.find(settings_of(options, points, *key)) is None]
    unbounded = [log for log in options.logs if runs.find(bounds_settings(points, log)) is None]
    logs = sorted({*unbounded, *(log for _, _, log in missing)})
    world = read_world(data_folder() / "delicious", points) if logs else None
    for log in logs:
        assert world is not None
        clicks, ranker, facts = draw_log(world, log, options.propensity)
        valid, test = judges(world, ranker)
        if log in unbounded:
            settings = bounds_settings(points, log)
            runs.append({"settings": settings, "rows": bounds_of(world, clicks, test), "log": facts})
        for objective, seed in ((objective, seed) for objective, seed, of_log in missing if of_log == log):
            settings = settings_of(options, points, objective, seed, log)
            generator = TwoTower(world.features, world.labels.shape[1], rectified=True, seed=seed)
            fitted = fit_generator(generator, clicks, OBJECTIVES[objective], seed, valid, test, CHECKED)
            rows = {"one-stage": fitted.one_stage, "two-stage": fitted.two_stage}
            runs.append({"settings": settings, "rows": rows, "epoch": fitted.epoch, "seconds": fitted.seconds})
            first = [f"{stage} {100 * rows[stage][CHECKED]:.2f}" for stage in STAGES]
            print(f"{settings}: epoch {fitted.epoch}, {fitted.seconds:.0f} s, {', '.join(first)}", flush=True)


def read_world(folder: Path, policy_points: int) -> World:
    """The data and the logging policy, fitted to the labels of some training points; of none it is uniform."""
    train: MultiLabel = read_extreme(folder / "delicious_train.xmlrepo.txt")
    test: MultiLabel = read_extreme(folder / "delicious_test.xmlrepo.txt")
    features = torch.from_numpy(np.concatenate([part.features.toarray() for part in (train, test)]))
    labels = np.concatenate([part.labels.toarray() for part in (train, test)]) > 0
    if not 0 <= policy_points <= len(train) - N_VALID:
        raise ValueError(f"--policy-points must be 0 to {len(train) - N_VALID}, those logged; found {policy_points}")
    if not policy_points:
        return World(features, labels, np.zeros(labels.shape, np.float32), len(train))
    points = np.random.default_rng(0).permutation(len(train) - N_VALID)[:policy_points]
    policy = TwoTower(features, labels.shape[1], rectified=True, seed=0)
    right = torch.from_numpy(labels[points]).float()
    optimize = Adagrad(policy)
    for _ in range(POLICY_EPOCHS):
        for batch in torch.arange(policy_points).split(BATCH_SIZE):
            known = torch.from_numpy(points)[batch]
            loss = functional.binary_cross_entropy_with_logits(policy(known), right[batch])
            optimize.step(loss)
    with torch.no_grad():
        logits = policy(torch.arange(len(features))).numpy()
    return World(features, labels, logits, len(train))


def draw_log(world: World, seed: int, kind: Any) -> tuple[Clicks, Tensor, dict[str, float]]:
    """The clicked rounds of a log, logits of the ranker fitted to all of it, and what the log is like."""
    logged = world.n_train - N_VALID
    logits = world.policy_logits[:logged]
    log = bandit_log(logits, world.labels[:logged], k=LABELS_PER_POINT, rng=np.random.default_rng([seed, 2]))
    ranker = TwoTower(world.features, world.labels.shape[1], rectified=False, seed=seed)
    inputs = (torch.from_numpy(log.context), torch.from_numpy(log.action))
    right = torch.from_numpy(log.reward).float()
    for _ in fit_pairs(ranker.pairs, ranker, inputs, right, epochs=RANKER_EPOCHS, rng=None):
        pass
    with torch.no_grad():
        ranker_logits = ranker(torch.arange(len(world.features)))
    clicks = clicks_of(log, propensities(log, logits, kind), lambda points: ranker_logits[points])
    facts = {"right": float(log.reward.mean()), "least_propensity": float(log.draw_p.min())}
    print(f"log {seed}: {facts['right']:.3f} of the labels drawn are right", flush=True)
    return clicks, ranker_logits, facts


def judges(world: World, ranker_logits: Tensor) -> tuple[Judge, Judge]:
    """Of the validation points and of the test points; no point with labels was logged, so nothing is left out."""
    points = np.arange(len(world.labels))

    def judge(part: np.ndarray) -> Judge:
        rows = torch.from_numpy(part[world.labels[part].any(axis=1)])
        relevant = torch.from_numpy(world.labels)[rows]
        return Judge(rows, relevant, torch.zeros_like(relevant), ranker_logits[rows], METRICS)

    return judge(points[world.n_train - N_VALID : world.n_train]), judge(points[world.n_train :])


def bounds_of(world: World, clicks: Clicks, test: Judge) -> dict[str, dict[str, float]]:
    """What generators are to be compared with."""
    policy = torch.from_numpy(world.policy_logits)[test.users]
    if not policy.any():
        # The uniform policy's first label is any.
        policy = torch.rand(policy.shape, generator=torch.Generator().manual_seed(0))
    often = torch.bincount(clicks.action, minlength=world.labels.shape[1]).float().expand(len(test.users), -1)
    return {
        "oracle's top 30 + ranker": test.two_stage(oracle_scores(test.relevant, test.ranker_logits)),
        "ranker, all labels": test.one_stage(test.ranker_logits),
        "logging policy": test.one_stage(policy),
        "logging policy + ranker": test.two_stage(policy),
        "most clicked": test.one_stage(often),
        "most clicked + ranker": test.two_stage(often),
    }


def oracle_scores(relevant: Tensor, ranker_logits: Tensor) -> Tensor:
    """Scores that put all right labels first, those the ranker likes before others, then the wrong ones it likes least.

    Args: relevant, ranker_logits: (B, N).
    Returns: (B, N).
    """
    best_first = ranker_logits.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    n_labels = relevant.shape[1]
    return torch.where(relevant, 2 * n_labels - best_first, best_first).float()


def report(runs: Runs, options: argparse.Namespace) -> None:
    """Prints, writes and draws the table of the runs the options name, and what it says."""
    tables = {points: found for points in _policies_of(runs) if (found := table_of(runs, options, points)) is not None}
    table = tables[options.policy_points]
    print_table(table, "test points, %", {"Wiki10-31K, published": WIKI})
    paired = differences(table, [CHECKED])
    print_differences(paired)
    print(f"\nReading, percentage points of {CHECKED}:")
    complete = set(ORDER) <= set(options.objectives)
    compared = policy_lines(tables, CHECKED) if complete else []
    for line in [*gap_lines(table, CHECKED), *order_lines(table, CHECKED), *compared]:
        print(f"- {line}")
    names = ("seeds", "logs", "propensity", "policy_points")
    protocol = {name: getattr(options, name) for name in names}
    protocol["policies"] = policies(tables, CHECKED) if complete else []
    name = "two_stage_delicious" + ("" if options.policy_points == N_POLICY else f"_policy_{options.policy_points}")
    panels = {metric: f"{metric}, %" for metric in METRICS}
    write_table(name, table, protocol=protocol, paired=paired, panels=panels)


def table_of(runs: Runs, options: argparse.Namespace, policy_points: int) -> Table | None:
    """The runs the options name with a logging policy of so many points; None where some are missing."""
    wanted = [settings_of(options, policy_points, *key) for key in _keys(options)]
    found = [run for run in runs if run["settings"] in wanted]
    bounds = {log: run for log in options.logs if (run := runs.find(bounds_settings(policy_points, log))) is not None}
    if len(bounds) < len(options.logs) or any(runs.find(settings) is None for settings in wanted):
        return None
    return Table.of(
        found,
        bounds,
        objectives=options.objectives,
        seeds=options.seeds,
        logs=options.logs,
        metrics=METRICS,
    )


def settings_of(options: argparse.Namespace, policy_points: int, objective: str, seed: int, log: int) -> dict[str, Any]:
    """What a run is known by."""
    named = {"objective": objective, "seed": seed, "log": log, "propensity": options.propensity}
    return {**named, "policy_points": policy_points}


def bounds_settings(policy_points: int, log: int) -> dict[str, Any]:
    """What the bounds of a log are known by."""
    return {"bounds": log, "oracle_fills_with": "the ranker's last", "policy_points": policy_points}


def _keys(options: argparse.Namespace) -> list[tuple[str, int, int]]:
    return list(product(options.objectives, options.seeds, options.logs))


def _policies_of(runs: Runs) -> list[int]:
    return sorted({run["settings"]["policy_points"] for run in runs})


if __name__ == "__main__":
    main()
