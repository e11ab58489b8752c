"""DRR on MovieLens-1M: logged sessions reranked (algorithm 2) and online in the simulator; several seeds.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/drr_movielens.py [--seeds 5] [--states p u ave]
                [--variants paper item user] [--steps 96000]
Data:   $TANDEM_DATA/ml-1m in its original files.
Protocol: the earliest 80% of each user's ratings to learn from, the latest 20% are the user's session, ties in file
        order, test ratings of items without a training rating left out. Everything, vectors and histories included,
        comes from the training ratings. Offline, each user's own session is reranked without updates; relevant are
        ratings of 4 and more; means over users with a relevant item; P@k divides by min(k, items of the session).
        Online, sessions of ten items in the simulator of the training ratings, the same users and seeds for all, each
        by the networks as training left them.
Seeds:  of matrix factorisation, and of the agent that reads its vectors. Choices are made with `--validate`, which
        takes the latest 20% of each user's training ratings in place of the test, and never sees that.
Variants: `paper`; `item`: the critic reads the vector of the item that was recommended, and looks at the next reward
        alone; `user`: that, and actor and critic start from matrix factorisation's vector of the user.
Beside: `best linear correction` of matrix factorisation by the history, fitted to the training ratings: how much there
        is to gain from what DRR sees.
Expect: two minutes a seed for the factorisations and one or two for each agent, on one core.
Writes: benchmarks/results/drr_movielens.json (not with --validate)
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import data_folder, quality_result, write_result

from rec.config.drr import DRRNetworkConfig
from rec.data.dataset import Interactions
from rec.data.movielens import read_movielens_1m
from rec.data.splits import per_user_temporal
from rec.metrics import paired_difference
from rl.config import DRRTrainConfig, PMFConfig, RatingEnvConfig
from rl.drr import RatingVectors, training
from rl.pmf import MatrixFactorisation, latest_of_each_user
from rl.pmf_env import RatingRound, RatingWorld, latest_liked
from rl.rating_evaluation import Scorer, by_actor, judge, scorers

TRAIN_FRACTION: Final = 0.8
N_ONLINE: Final = 2000
RELEVANT_RATING: Final = 4
MODEL: Final = "matrix factorisation"
PUBLISHED: Final = {
    ("popularity", "precision@5"): 0.675,
    ("popularity", "ndcg@10"): 0.751,
    ("item mean", "precision@5"): 0.733,
    ("item mean", "ndcg@10"): 0.809,
    (MODEL, "precision@5"): 0.747,
    (MODEL, "ndcg@10"): 0.822,
    ("oracle", "precision@5"): 0.916,
    ("oracle", "ndcg@10"): 1.0,
}
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "paper": {},
    "item": {"critic_reads": "item", "discount": 0.0},
    "user": {"critic_reads": "item", "discount": 0.0, "network": {"start": "user"}},
}

Metrics = dict[str, NDArray[np.float64]]


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--states", nargs="*", default=["p", "u", "ave"], choices=["p", "u", "ave"])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=96_000)
    parser.add_argument("--validate", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    split = per_user_temporal(read_movielens_1m(data_folder() / "ml-1m").interactions, TRAIN_FRACTION)
    known, later = split.train, split.test
    if options.validate:
        latest = latest_of_each_user(split.train, 1 - TRAIN_FRACTION)
        known, later = split.train.take(~latest), split.train.take(latest)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    per_user: dict[tuple[str, int], Metrics] = {}
    for seed in range(options.seeds):
        for model, found in seed_results(known, later, seed, options):
            per_user[model, seed] = found
            means = "  ".join(f"{name} {values.mean():.4f}" for name, values in found.items())
            print(f"seed {seed}  {model:<22} {means}", flush=True)
    models = list(dict.fromkeys(model for model, _ in per_user))
    summary = [line for model in models for line in summaries(model, per_user)]
    show(models, summary)
    protocol = {
        "train_fraction": TRAIN_FRACTION,
        "n_train": len(known),
        "n_test": len(later),
        "online_sessions": N_ONLINE,
        "steps": options.steps,
        "variants": VARIANTS,
        "by_user_seed_0": [by_user(model, per_user) for model in models if model != MODEL],
    }
    rows = [
        {"model": model, "seed": seed, "log": None, "metrics": {name: float(v.mean()) for name, v in found.items()}}
        for (model, seed), found in per_user.items()
    ]
    if not options.validate:
        write_result(quality_result("drr_movielens", protocol=protocol, rows=rows, summary=summary))


def seed_results(known: Interactions, later: Interactions, seed: int, options: Any) -> Any:
    """Each model with its metrics by user."""
    model = MatrixFactorisation.fit(known, PMFConfig(seed=seed))
    offline = RatingWorld.logged(known, later, model, RatingEnvConfig())
    online = RatingWorld.of(known, model, RatingEnvConfig())
    users = np.random.default_rng(seed).choice(online.users, N_ONLINE)

    for name, scorer in scorers(known, model, seed).items():
        yield name, judge(scorer, offline, online, users, seed)
    yield "best linear correction", judge(corrected(known, model, seed), offline, online, users, seed)
    vectors = RatingVectors.of(model)
    for variant in options.variants:
        for state in options.states:
            settings = VARIANTS[variant]
            network = DRRNetworkConfig(state=state, **settings.get("network", {}))
            asked = {"network": network, "seed": seed, "total_steps": options.steps, "steps_per_report": options.steps}
            *_, (_, agent) = training(online, vectors, DRRTrainConfig(**settings | asked))
            yield f"DRR-{state}, {variant}", judge(by_actor(agent.actor), offline, online, users, seed)


def corrected(known: Interactions, model: MatrixFactorisation, seed: int) -> Scorer:
    """What user and history can add to matrix factorisation's ranking, at best and linearly.

    Scores are w1 p.q + w2 b + w3 h.q with h the mean of the history's factors, which changes within a session. The
    weights are those of least squares for relevance, centred by session, of the latest ratings of each user among the
    known ones, with a model of those before.
    """
    latest = latest_of_each_user(known, 1 - TRAIN_FRACTION)
    before, after = known.take(~latest), known.take(latest)
    earlier = MatrixFactorisation.fit(before, PMFConfig(seed=seed))
    assert after.rating is not None
    histories = latest_liked(before, RatingEnvConfig().history_length)
    x = np.column_stack(
        [
            (earlier.user_factors[after.user] * earlier.item_factors[after.item]).sum(axis=1),
            earlier.item_bias[after.item],
            (mean_factors(earlier, histories)[after.user] * earlier.item_factors[after.item]).sum(axis=1),
        ]
    )
    y = (after.rating >= RELEVANT_RATING).astype(np.float64)
    counts = np.maximum(np.bincount(after.user, minlength=after.n_users), 1)
    centred = [column - (np.bincount(after.user, column, after.n_users) / counts)[after.user] for column in (*x.T, y)]
    of_user, of_item, of_history = np.linalg.lstsq(np.stack(centred[:-1], axis=1), centred[-1], rcond=None)[0]

    def scores(sessions: RatingRound) -> NDArray[np.float64]:
        wanted = of_user * model.user_factors[sessions.users] + of_history * mean_factors(model, sessions.history)
        return wanted @ model.item_factors.T + of_item * model.item_bias

    return scores


def mean_factors(model: MatrixFactorisation, histories: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the factors of histories' items, zeros for none, (S, n) -> (S, D)."""
    none = np.zeros((1, model.item_factors.shape[1]))
    return np.concatenate([model.item_factors, none])[histories].mean(axis=1)


def summaries(model: str, per_user: dict[tuple[str, int], Metrics]) -> list[dict[str, Any]]:
    """Mean and standard error over seeds of each metric, and of its difference from matrix factorisation's."""
    seeds = [seed for name, seed in per_user if name == model]
    lines = []
    for metric in per_user[model, seeds[0]]:
        values = np.array([per_user[model, seed][metric].mean() for seed in seeds])
        above = values - [per_user[MODEL, seed][metric].mean() for seed in seeds]
        difference, error = float(above.mean()), standard_error(above)
        reached = None
        if model.startswith("DRR"):
            reached = error is not None and difference > 2 * error
        lines.append(
            {
                "model": model,
                "metric": metric,
                "mean": float(values.mean()),
                "std_error": standard_error(values),
                "n": len(values),
                "above_matrix_factorisation": difference,
                "std_error_of_difference": error,
                "published": PUBLISHED.get((model, metric)),
                "goal": None,
                "reached": reached,
            }
        )
    return lines


def by_user(model: str, per_user: dict[tuple[str, int], Metrics]) -> dict[str, Any]:
    """Differences from matrix factorisation's by user, with Student's interval, for the first seed."""
    ours, theirs = per_user[model, 0], per_user[MODEL, 0]
    return {"model": model} | {name: paired_difference(ours[name], theirs[name]).to_json() for name in ours}


def standard_error(values: NDArray[np.float64]) -> float | None:
    """Of the mean over seeds."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def show(models: list[str], summary: list[dict[str, Any]]) -> None:
    """The table: means, and in brackets what they are above matrix factorisation in standard errors over the seeds."""
    metrics = list(dict.fromkeys(line["metric"] for line in summary))
    print(f"{'':<22}" + "".join(f"{metric:>22}" for metric in metrics))
    for model in models:
        cells = []
        for line in (line for line in summary if line["model"] == model):
            error = line["std_error_of_difference"]
            times = f" ({line['above_matrix_factorisation'] / error:+.1f})" if error else ""
            cells.append(f"{line['mean']:.4f}{times}")
        print(f"{model:<22}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
