"""DRR on MovieLens-1M: logged sessions reranked (algorithm 2) and online in the simulator; several seeds.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/drr_movielens.py [--seeds 5] [--states p u ave]
                [--variants paper vector item user logged] [--steps STEPS] [--policies NAMES] [--simulators]
                [--name drr_movielens] [--again [--beside NAME]]
Data:   $TANDEM_DATA/ml-1m in its original files.
Protocol: the earliest 80% of each user's ratings to learn from, the latest 20% are the user's session, ties in file
        order, test ratings of items without a training rating left out. Everything, vectors and histories included,
        comes from the training ratings. Offline, each user's own session is reranked without updates; relevant are
        ratings of 4 and more; means over users with a relevant item; P@k divides by min(k, items of the session).
        Online, sessions of ten items in the simulator of the training ratings, the same users and seeds for all:
        `online_reward` by the networks as training left them, `online_reward_learning` by networks that go on learning
        within a session and are set back before the next one (algorithm 3), the first of the same sessions.
        `--simulators`: the same sessions in other simulators as well, where the factorisation's predictions have noise
        of .5 and 1 stars, and where neighbours (`rl.rating_neighbors`) predict, with 0, .5 and 1.
Seeds:  of matrix factorisation, and of the agent that reads its vectors. Choices are made with `--validate`, which
        takes the latest 20% of each user's training ratings in place of the test, and never sees that.
Errors: of means those over seeds; of differences the larger of that over seeds and that over users, or sessions, which
        is said at most: the mean of the seeds' own, as the users are the same in all.
Variants: `paper`: one update after each step of one session, vectors of 100 factors (docs/agents.md lists what differs
        from the paper all the same); `vector`: the defaults of DRRTrainConfig, by which the critic reads ranking
        vectors, too; as in all that follow, an update after each 32 steps and vectors of 32 factors; `item`: the critic
        reads the vector of the item that was recommended, and looks at the next reward alone; `user`: that, and actor
        and critic start from matrix factorisation's vector of the user; `logged`, of the state `ave`: no layers but
        weights of user, bias and average liked item, learned from logged sessions, not in the simulator: each user's
        latest 20% of the training ratings, with vectors of those before and random items. 96,000 steps each, `logged`
        32,000.
Beside: `untrained`: the products of the vectors that `user` starts from; `best linear correction` of matrix
        factorisation by the history, fitted to the training ratings: how much there is to gain from what DRR sees;
        `neighbors`: the ranking of the other family of models.
Expect: one minute a seed for the factorisations and one or two for each agent, on one core; of `paper` a quarter of an
        hour or more. Each row is kept as it comes: the same command, or one for fewer or more rows, goes on at the same
        commit where it was cut off.
Writes: benchmarks/results/NAME.json (not with --validate); `--again` only summarises the rows that are in it once more,
        `--beside` with the policies of another result, whose factorisations have to be the same.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import ray
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quality.drr.table import Row, paired, row_of, show, summaries
from quality.drr.trial import N_LEARNING, N_ONLINE, TRAIN_FRACTION, Trial
from quality.drr.variants import LOGGED, MODEL, POLICIES, SIMULATORS, VARIANTS
from results import FOLDER, data_folder, quality_result, write_result
from unfinished import Unfinished

from rec.data.movielens import read_movielens_1m
from rec.data.splits import per_user_temporal
from rl.config import RatingNeighborsConfig
from rl.pmf import latest_of_each_user
from rl.rating_neighbors import RatingNeighbors


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--states", nargs="*", default=["p", "u", "ave"], choices=["p", "u", "ave"])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, help="played by every agent, in the place of its variant's")
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), choices=POLICIES)
    parser.add_argument("--simulators", action="store_true")
    parser.add_argument("--name", default="drr_movielens")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--beside", metavar="NAME")
    options = parser.parse_args()
    if options.again:
        stored = stored_result(options.name)
        if options.beside:
            beside = stored_result(options.beside)
            stored["rows"] = with_policies_of(beside["rows"], stored["rows"])
            stored["policies_of"] = {key: beside[key] for key in ("name", "command", "git_sha")}
        stored["protocol"] = measured(stored["protocol"], stored["rows"])
        tell(stored, stored["rows"])
        write_result(stored)
        return
    torch.set_num_threads(1)
    split = per_user_temporal(read_movielens_1m(data_folder() / "ml-1m").interactions, TRAIN_FRACTION)
    known, later = split.train, split.test
    if options.validate:
        latest = latest_of_each_user(split.train, 1 - TRAIN_FRACTION)
        known, later = split.train.take(~latest), split.train.take(latest)
    others = SIMULATORS if options.simulators else ()
    protocol = {
        "train_fraction": TRAIN_FRACTION,
        "n_train": len(known),
        "n_test": len(later),
        "online_sessions": N_ONLINE,
        "learning_sessions": N_LEARNING,
        "steps": options.steps,
        "other_simulators": others,
        "variants": {name: asdict(variant) for name, variant in VARIANTS.items()},
    }
    name = options.name + ("_validation" if options.validate else "")
    agents = {
        f"DRR-{state}, {variant}": (state, variant)
        for variant in options.variants
        for state in options.states
        if variant != LOGGED or state == "ave"
    }
    if agents:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    neighbors = cache(lambda: RatingNeighbors.fit(known, RatingNeighborsConfig()))
    unfinished = Unfinished(name, protocol)
    rows = finished(
        unfinished,
        range(options.seeds),
        options.policies,
        agents,
        lambda seed: Trial(known, later, seed, neighbors, others, options.steps),
    )
    result = quality_result(name, protocol=measured(protocol, rows), rows=rows, summary=[])
    tell(result, rows)
    if not options.validate:
        write_result(result)
    unfinished.end(rows)


def stored_result(name: str) -> dict[str, Any]:
    """What was measured before."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def with_policies_of(others: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """These rows after the other result's rows of the same seeds, of policies that have none here.

    Ends the benchmark where both do not have the same rows of matrix factorisation: then users, sessions or vectors
    are not the same.
    """
    ours, theirs = ({row["seed"]: row for row in found if row["model"] == MODEL} for found in (rows, others))
    if not ours or any(theirs.get(seed) != row for seed, row in ours.items()):
        sys.exit("the two results are not of the same factorisations, users and sessions")
    missing = set(POLICIES) - {row["model"] for row in rows}
    return [*(row for row in others if row["model"] in missing and row["seed"] in ours), *rows]


def measured(protocol: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """The protocol, with those variants alone of which there are rows."""
    models = {row["model"] for row in rows}
    variants = {name: how for name, how in protocol["variants"].items() if any(m.endswith(f", {name}") for m in models)}
    return protocol | {"variants": variants}


def tell(result: dict[str, Any], rows: Sequence[Row]) -> None:
    """Prints means and differences of these rows, and puts them into the result."""
    result["summary"], result["paired"] = summaries(rows), paired(rows)
    show(result["summary"], result["paired"])


def finished(
    unfinished: Unfinished,
    seeds: Sequence[int],
    policies: Sequence[str],
    agents: Mapping[str, tuple[Any, str]],
    trial_of: "Callable[[int], Trial]",
) -> list[Row]:
    """A row for each policy and agent, of each seed: those kept, and the others made, kept and printed.

    One model after the other, so that a run that is short of time can end with fewer of them.
    """
    trials = {seed: trial_of(seed) for seed in seeds}
    rows = []
    for model in (*policies, *agents):
        for seed, trial in trials.items():
            row = unfinished.row(model, seed)
            if row is None:
                found = trial.of_agent(*agents[model]) if model in agents else trial.of_policy(model)
                row = row_of(model, seed, found, trial.reference)
                unfinished.keep(row)
            rows.append(row)
            means = "  ".join(f"{name} {value:.4f}" for name, value in row["metrics"].items())
            print(f"{model:<24}seed {seed}  {means}", flush=True)
    return rows


if __name__ == "__main__":
    main()
