"""Learning a candidate generator off-policy, in front of a given ranker: multi-label data as a bandit, Delicious.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/two_stage_delicious.py [--seeds 0 1 2 3 4] [--logs 0 1 2]
        Finished runs are kept in the cache and never done again.
Data:   $TANDEM_DATA/delicious, 12,920 points to learn from and 3,185 to judge on, 500 features, 983 labels; in the
        place of Wiki10-31K, with which Ma et al. (2020) do this and which has the same format.
Log:    a logging policy fitted to the labels of 1,000 points draws 5 labels a point without replacement; only whether
        these are right is known. All rounds teach the ranker, the right ones the generator, in the order of the log.
        The last 1,920 training points are not logged: their labels choose the epoch.
Judged: precision of the first label, one-stage and two-stage (the generator's top 30 in the ranker's order).
Expect: a run of ce or 1-ips under half a minute, of 2-ips about one and a half on two cores.
Writes: benchmarks/results/two_stage_delicious.json and .png
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import FOLDER, quality_result, write_result
from two_stage.evaluation import Judge
from two_stage.fitting import fit_pairs
from two_stage.plot import plot_runs
from two_stage.runs import Runs, commits
from two_stage.summary import crossed_mean
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
STAGES: Final = ("one-stage", "two-stage")
READING: Final = """
Reading: whether the order 2-IPS > 1-IPS > CE of the paper holds here, the paired lines say; why it does or does not, no
run tests. Two things that may matter can be read off the table: how far the logging policy lies above the most clicked
label, as where the log is good already, weights have little to correct and add variance; and how far the two-stage rows
lie above the one-stage ones, as only what the ranker does better or worse than the generator can be used or hidden."""
# Wiki10-31K, top-1 precision in percent, as published.
WIKI: Final = {
    "ce": {"one-stage": 19.3, "two-stage": 38.8},
    "1-ips": {"one-stage": 20.8, "two-stage": 39.6},
    "2-ips": {"one-stage": 21.7, "two-stage": 40.5},
}


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
    parser.add_argument("--cache", type=Path, help="of finished runs; by default in the home")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    cache = options.cache or (Home().folder or Path(".tandem")) / "benchmarks"
    runs = Runs(cache / "two_stage_delicious" / "runs.jsonl")
    world = read_world(Path(os.environ["TANDEM_DATA"]) / "delicious")
    for log in options.logs:
        clicks, ranker, told = draw_log(world, log, options.propensity)
        valid, test = judges(world, ranker)
        if runs.find({"bounds": log}) is None:
            runs.append({"settings": {"bounds": log}, "rows": bounds(world, clicks, test), "log": told})
        for objective in options.objectives:
            for seed in options.seeds:
                settings = {"objective": objective, "seed": seed, "log": log, "propensity": options.propensity}
                if runs.find(settings) is not None:
                    continue
                generator = TwoTower(world.features, world.labels.shape[1], rectified=True, seed=seed)
                fitted = fit_generator(generator, clicks, OBJECTIVES[objective], seed, valid, test, CHECKED)
                rows = {"one-stage": fitted.one_stage, "two-stage": fitted.two_stage}
                runs.append({"settings": settings, "rows": rows, "epoch": fitted.epoch, "seconds": fitted.seconds})
                first = [f"{stage} {100 * rows[stage][CHECKED]:.2f}" for stage in STAGES]
                print(f"{settings}: epoch {fitted.epoch}, {fitted.seconds:.0f} s, {', '.join(first)}", flush=True)
    report(runs, options)


def read_world(folder: Path) -> World:
    """The data and the logging policy, which knows the labels of N_POLICY training points."""
    train: MultiLabel = read_extreme(folder / "delicious_train.xmlrepo.txt")
    test: MultiLabel = read_extreme(folder / "delicious_test.xmlrepo.txt")
    features = torch.from_numpy(np.concatenate([part.features.toarray() for part in (train, test)]))
    labels = np.concatenate([part.labels.toarray() for part in (train, test)]) > 0
    points = np.random.default_rng(0).permutation(len(train) - N_VALID)[:N_POLICY]
    policy = TwoTower(features, labels.shape[1], rectified=True, seed=0)
    right = torch.from_numpy(labels[points]).float()
    optimize = torch.optim.Adagrad(policy.parameters(), lr=0.05, weight_decay=1e-4)
    for _ in range(POLICY_EPOCHS):
        for batch in torch.arange(N_POLICY).split(128):
            known = torch.from_numpy(points)[batch]
            loss = functional.binary_cross_entropy_with_logits(policy(known), right[batch])
            optimize.zero_grad()
            loss.backward()
            optimize.step()
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
    told = {"right": float(log.reward.mean()), "least_propensity": float(log.draw_p.min())}
    print(f"log {seed}: {told['right']:.3f} of the labels drawn are right", flush=True)
    return clicks, ranker_logits, told


def judges(world: World, ranker_logits: Tensor) -> tuple[Judge, Judge]:
    """Of the validation points and of the test points; no point with labels was logged, so nothing is left out."""
    points = np.arange(len(world.labels))

    def judge(part: np.ndarray) -> Judge:
        rows = torch.from_numpy(part[world.labels[part].any(axis=1)])
        relevant = torch.from_numpy(world.labels)[rows]
        return Judge(rows, relevant, torch.zeros_like(relevant), ranker_logits[rows], METRICS)

    return judge(points[world.n_train - N_VALID : world.n_train]), judge(points[world.n_train :])


def bounds(world: World, clicks: Clicks, test: Judge) -> dict[str, dict[str, float]]:
    """What generators are to be compared with."""
    policy = torch.from_numpy(world.policy_logits)[test.users]
    often = torch.bincount(clicks.action, minlength=world.labels.shape[1]).float().expand(len(test.users), -1)
    return {
        "oracle's top 30 + ranker": test.two_stage(test.relevant.float()),
        "ranker, all labels": test.one_stage(test.ranker_logits),
        "logging policy": test.one_stage(policy),
        "logging policy + ranker": test.two_stage(policy),
        "most clicked": test.one_stage(often),
        "most clicked + ranker": test.two_stage(often),
    }


def report(runs: Runs, options: argparse.Namespace) -> None:
    """Prints, writes and draws the table of the runs the options name."""
    found = {
        (run["settings"]["objective"], run["settings"]["seed"], run["settings"]["log"]): run
        for run in runs
        if run["settings"].get("propensity") == options.propensity
        and run["settings"]["objective"] in options.objectives
        and run["settings"]["seed"] in options.seeds
        and run["settings"]["log"] in options.logs
    }
    edges = [run for run in runs if run["settings"].get("bounds") in options.logs]
    values = {
        (objective, stage, metric): np.array(
            [[found[objective, s, log]["rows"][stage][metric] for log in options.logs] for s in options.seeds]
        )
        for objective in options.objectives
        for stage in STAGES
        for metric in METRICS
    }
    summary, rows = [], []
    print(f"\n{'test points, %':<34}" + "".join(f"{metric:>17}" for metric in METRICS))
    for name in edges[0]["rows"]:
        means = [float(np.mean([run["rows"][name][metric] for run in edges])) for metric in METRICS]
        print(f"{name:<34}" + "".join(f"{100 * mean:17.2f}" for mean in means))
        summary += [_entry(name, metric, (mean, None), len(edges)) for metric, mean in zip(METRICS, means, strict=True)]
    for stage in STAGES:
        for objective in options.objectives:
            cells = [crossed_mean(values[objective, stage, metric]) for metric in METRICS]
            published = WIKI.get(objective, {}).get(stage)
            print(f"{stage + ' ' + objective:<34}" + "".join(_cell(*cell) for cell in cells), end="")
            print("" if published is None else f"    Wiki10-31K, published: {published}")
            size = len(options.seeds) * len(options.logs)
            pairs = zip(METRICS, cells, strict=True)
            summary += [_entry(f"{stage} {objective}", metric, cell, size) for metric, cell in pairs]
    for (objective, seed, log), run in found.items():
        rows += [
            {"model": f"{stage} {objective}", "seed": seed, "log": log, "git_sha": run.get("git_sha")}
            | {"metrics": run["rows"][stage], "epoch": run["epoch"], "seconds": run["seconds"]}
            for stage in STAGES
        ]
    paired = []
    print("\npaired by seed and log, percentage points of precision@1")
    for stage in STAGES:
        for place, a in enumerate(options.objectives):
            for b in options.objectives[:place]:
                mean, error = crossed_mean(values[a, stage, CHECKED] - values[b, stage, CHECKED])
                paired.append({"a": f"{stage} {a}", "b": f"{stage} {b}", "difference": mean, "std_error": error})
                sure = error is not None and mean > 2 * error
                verdict = "one run" if error is None else "above" if sure else "not above by two standard errors"
                print(f"{stage} {a} - {b}: {_cell(mean, error).strip()}  {verdict}")
    print(READING)
    by_commit = commits([*found.values(), *edges])
    print("\nruns by commit: " + ", ".join(f"{count} {commit}" for commit, count in by_commit.items()))
    protocol = {"seeds": options.seeds, "logs": options.logs, "propensity": options.propensity, "paired": paired}
    protocol["commits"] = by_commit
    write_result(quality_result("two_stage_delicious", protocol=protocol, rows=rows, summary=summary))
    panels = {metric: f"{metric}, %" for metric in METRICS}
    plot_runs(values, edges, FOLDER / "two_stage_delicious.png", panels)


def _entry(model: str, metric: str, cell: tuple[float, float | None], n: int) -> dict[str, Any]:
    named = {"model": model, "metric": metric, "mean": cell[0], "std_error": cell[1], "n": n}
    return {**named, "published": None, "goal": None, "reached": None}


def _cell(mean: float, error: float | None) -> str:
    return (f"{100 * mean:.2f}" if error is None else f"{100 * mean:.2f} ± {100 * error:.2f}").rjust(17)


if __name__ == "__main__":
    main()
