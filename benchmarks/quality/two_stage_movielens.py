"""Learning a candidate generator off-policy, in front of a given ranker: Ma et al. (2020) on MovieLens-1M.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/two_stage_movielens.py [--reference]
        One run, to share the work: --objectives 2-ips --seeds 3 --logs 1. Finished runs are kept in the cache and never
        done again, so an interrupted benchmark goes on where it was; the table is of what the options name, and says
        which commits did the runs: after a change to the code, name another --cache to do them again. Another choice
        of objectives, seeds or logs than the main table's goes into a file of its own with --label.
Data:   $TANDEM_DATA/ml-1m in its original files; for --reference also $TANDEM_DATA/two-stage-reference, the simulator,
        ranker and logging policy the authors released.
World:  a simulator of who likes what, when (a perceptron fitted to rating > 3), is asked about all 23 million pairs;
        without --reference it is our own, and liked is what is likely enough that 14.5% of all pairs are.
Log:    the logging policy, a two-tower model fitted to 10,000 random pairs, draws 5 items per user without replacement.
        --propensity draw takes the softmax probability of a single draw, as the paper does; inclusion the exact
        probability of the item among the five, over five. Only clicked rounds train the generator.
Judged: users 2000-6039; relevant is what the simulator likes at the user's mean time; items clicked in the log are left
        out; two-stage is the generator's top 30 in the ranker's order. Users 0-1999 choose the epoch.
Expect: labels once, about a minute; a run of 2-ips about a minute and a half on two cores that do nothing else
        (benchmarks/speed/two_stage_run.py times one). The quickest stored runs of ce and 1-ips took 42 and 48 s.
Writes: benchmarks/results/two_stage_movielens[_reference][_LABEL].json and .png
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

# Before torch is loaded: its threads would keep a core busy waiting for the next operation, which the loop over slates,
# that has threads of its own, computes with meanwhile.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import data_folder
from two_stage.bounds import bounds_of
from two_stage.evaluation import METRIC_NAMES, Judge, judge_of
from two_stage.logged import Logged, World, draw_log, own_policy, policy_logits, released_policy, released_ranker
from two_stage.movielens import read_movielens
from two_stage.published import PUBLISHED, RERUN
from two_stage.recipes import N_VALID_USERS, RECIPES
from two_stage.report import Table, differences, print_differences, print_table, write_table
from two_stage.runs import Runs
from two_stage.simulation import RELEASED_CUT, own_simulator, released_simulator, simulate

from rec.storage import Home

WORLD_SEED = 0
PAIRED_METRICS = ("precision@10", "recall@10", "ndcg@10")


def main() -> None:
    """Runs what is missing, and prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", help="the authors' simulator, ranker and logging policy")
    parser.add_argument("--objectives", nargs="+", choices=RECIPES, default=["ce", "1-ips", "2-ips"])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--logs", type=int, nargs="+", default=list(range(3)))
    parser.add_argument("--propensity", choices=("draw", "conditional", "inclusion"), default="draw")
    parser.add_argument("--cache", type=Path, help="of labels and finished runs; by default in the home")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--label", help="of the file of results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Weight decay shrinks what no batch touches to denormal numbers, which a CPU computes with ten times slower.
    torch.set_flush_denormal(True)
    cache = (options.cache or (Home().folder or Path(".tandem")) / "benchmarks") / "two_stage_movielens"
    name = "two_stage_movielens" + ("_reference" if options.reference else "")
    runs = Runs(cache / f"{name}.jsonl")
    wanted = [
        {"objective": objective, "seed": seed, "log": log, "propensity": options.propensity}
        for log in options.logs
        for objective in options.objectives
        for seed in options.seeds
    ]
    run_missing(runs, wanted, options, cache)
    report(name + (f"_{options.label}" if options.label else ""), runs, wanted, options)


def run_missing(runs: Runs, wanted: list[dict[str, Any]], options: argparse.Namespace, cache: Path) -> None:
    """Finishes the runs that the file does not hold."""
    missing = [settings for settings in wanted if runs.find(settings) is None]
    logs = sorted({settings["log"] for settings in missing})
    logs = sorted({*logs, *(log for log in options.logs if runs.find(_bounds_settings(log)) is None)})
    world = world_of(options.reference, cache) if logs else None
    for log in logs:
        assert world is not None
        start = time.perf_counter()
        logged = draw_log(world, log, options.propensity)
        valid, test = judges_of(world, logged)
        print(f"log {log}: {logged.log.reward.mean():.3f} liked, {time.perf_counter() - start:.1f} s", flush=True)
        if runs.find(_bounds_settings(log)) is None:
            runs.append({"settings": _bounds_settings(log), "rows": bounds_of(world, logged, test)})
        for settings in (settings for settings in missing if settings["log"] == log):
            fitted = RECIPES[settings["objective"]](world, logged, settings["seed"], valid, test)
            rows = {"one-stage": fitted.one_stage, "two-stage": fitted.two_stage, "two-stage, valid": fitted.valid}
            runs.append({"settings": settings, "rows": rows, "epoch": fitted.epoch, "seconds": fitted.seconds})
            shown = "  ".join(f"{k} {100 * v:.2f}" for k, v in fitted.two_stage.items())
            print(f"{settings}: epoch {fitted.epoch}, {fitted.seconds:.0f} s, two-stage {shown}", flush=True)


def world_of(reference: bool, cache: Path) -> World:
    """Simulator, labels and logging policy: the released ones, or our own."""
    folder = data_folder()
    released = folder / "two-stage-reference"
    data = read_movielens(folder / "ml-1m")
    simulator = released_simulator(data, released) if reference else own_simulator(data, WORLD_SEED, cache)
    simulation = simulate(data, simulator, RELEASED_CUT if reference else None, cache)
    policy = released_policy(data, released) if reference else own_policy(data, simulation, WORLD_SEED)
    print(f"liked {simulation.label.mean():.4f}, relevant {simulation.relevant.mean():.4f} of all pairs", flush=True)
    return World(data, simulation, policy_logits(policy, data), released_ranker(data, released) if reference else None)


def judges_of(world: World, logged: Logged) -> tuple[Judge, Judge]:
    """Of validation and of test users."""
    users = np.arange(world.data.n_users)
    return tuple(
        judge_of(part, world.simulation.relevant, logged.clicked, logged.ranker_logits(torch.arange(len(users))))
        for part in (users[:N_VALID_USERS], users[N_VALID_USERS:])
    )  # pyright: ignore[reportReturnType]


def report(name: str, runs: Runs, wanted: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Prints, writes and draws the table of the runs the options name."""
    bounds = {log: run for log in options.logs if (run := runs.find(_bounds_settings(log))) is not None}
    table = Table.of(
        (run for run in runs if run["settings"] in wanted),
        bounds,
        objectives=options.objectives,
        seeds=options.seeds,
        logs=options.logs,
        metrics=METRIC_NAMES,
    )
    print_table(table, "test users, %", {"published": PUBLISHED, "rerun": RERUN})
    paired = differences(table, PAIRED_METRICS)
    print_differences(paired)
    protocol = {"propensity": options.propensity, "seeds": options.seeds, "logs": options.logs}
    goals = RERUN if options.reference else None
    write_table(name, table, protocol=protocol, paired=paired, published=PUBLISHED, goals=goals)


def _bounds_settings(log: int) -> dict[str, Any]:
    return {"objective": None, "log": log}


if __name__ == "__main__":
    main()
