"""DRR on MovieLens-1M: logged sessions reranked (algorithm 2) and online in the simulator; several seeds.

Run:    TANDEM_DATA=/path/to/data python benchmarks/quality/drr_movielens.py [--seeds 5] [--states p u ave]
                [--variants paper item user logged] [--steps 96000] [--policies NAMES] [--name drr_movielens]
Data:   $TANDEM_DATA/ml-1m in its original files.
Protocol: the earliest 80% of each user's ratings to learn from, the latest 20% are the user's session, ties in file
        order, test ratings of items without a training rating left out. Everything, vectors and histories included,
        comes from the training ratings. Offline, each user's own session is reranked without updates; relevant are
        ratings of 4 and more; means over users with a relevant item; P@k divides by min(k, items of the session).
        Online, sessions of ten items in the simulator of the training ratings, the same users and seeds for all:
        `online_reward` by the networks as training left them, `online_reward_learning` by networks that go on learning
        within a session and are set back before the next one (algorithm 3), the first of the same sessions.
Seeds:  of matrix factorisation, and of the agent that reads its vectors. Choices are made with `--validate`, which
        takes the latest 20% of each user's training ratings in place of the test, and never sees that.
Variants: `paper`; `item`: the critic reads the vector of the item that was recommended, and looks at the next reward
        alone; `user`: that, and actor and critic start from matrix factorisation's vector of the user; `logged`, of the
        state `ave`: no layers but weights of user, bias and average liked item, learned from logged sessions, not in
        the simulator: each user's latest 20% of the training ratings, with vectors of those before and random items.
Beside: `best linear correction` of matrix factorisation by the history, fitted to the training ratings: how much there
        is to gain from what DRR sees.
Expect: one minute a seed for the factorisations and one or two for each agent, on one core. Each row is kept as it
        comes: the same command, or one for fewer or more rows, goes on at the same commit where it was cut off.
Writes: benchmarks/results/NAME.json (not with --validate)
"""

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import ray
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import data_folder, quality_result, write_result
from unfinished import Unfinished

from rec.config.drr import DRRNetworkConfig
from rec.data.dataset import Interactions
from rec.data.movielens import read_movielens_1m
from rec.data.splits import per_user_temporal
from rec.metrics import paired_difference
from rl.config import DRRTrainConfig, PMFConfig, RatingEnvConfig
from rl.drr import RatingVectors, training
from rl.drr_module import DRRModule
from rl.pmf import MatrixFactorisation, latest_of_each_user
from rl.pmf_env import RatingRound, RatingWorld, latest_liked
from rl.rating_evaluation import Scorer, by_actor, judge, scorers
from rl.session_learning import play_learning

TRAIN_FRACTION: Final = 0.8
N_ONLINE: Final = 2000
N_LEARNING: Final = 200
RELEVANT_RATING: Final = 4
MODEL: Final = "matrix factorisation"
CORRECTED: Final = "best linear correction"
POLICIES: Final = ("random", "popularity", "item mean", MODEL, "oracle", CORRECTED)
ONLINE: Final = "online_reward"
LEARNING: Final = "online_reward_learning"
LOGGED: Final = "logged"
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
    LOGGED: {
        "critic_reads": "item",
        "discount": 0.0,
        "actor_learning_rate": 1e-3,
        "final_epsilon": 1.0,
        "network": {"start": "user", "correction": "weights"},
    },
}

Metrics = dict[str, NDArray[np.float64]]
Row = dict[str, Any]


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--states", nargs="*", default=["p", "u", "ave"], choices=["p", "u", "ave"])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=96_000)
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), choices=POLICIES)
    parser.add_argument("--name", default="drr_movielens")
    parser.add_argument("--validate", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    split = per_user_temporal(read_movielens_1m(data_folder() / "ml-1m").interactions, TRAIN_FRACTION)
    known, later = split.train, split.test
    if options.validate:
        latest = latest_of_each_user(split.train, 1 - TRAIN_FRACTION)
        known, later = split.train.take(~latest), split.train.take(latest)
    protocol = {
        "train_fraction": TRAIN_FRACTION,
        "n_train": len(known),
        "n_test": len(later),
        "online_sessions": N_ONLINE,
        "learning_sessions": N_LEARNING,
        "steps": options.steps,
        "variants": VARIANTS,
    }
    name = options.name + ("_validation" if options.validate else "")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    agents = {
        f"DRR-{state}, {variant}": (state, variant)
        for variant in options.variants
        for state in options.states
        if variant != LOGGED or state == "ave"
    }
    unfinished = Unfinished(name, protocol)
    rows = finished(
        unfinished,
        range(options.seeds),
        options.policies,
        agents,
        lambda seed: Trial(known, later, seed, options.steps),
    )
    summary = [line for model in (*options.policies, *agents) for line in summaries(model, rows)]
    show(summary)
    if not options.validate:
        write_result(quality_result(name, protocol=protocol, rows=rows, summary=summary))
    unfinished.end(rows)


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


def row_of(model: str, seed: int, found: Metrics, reference: Metrics) -> Row:
    """Means, and differences from matrix factorisation's with Student's interval over users, or over sessions online.

    Args: found, reference: by user or session; what is of the first sessions only is compared with those.
    """
    theirs = {name: reference[ONLINE if name == LEARNING else name][: len(values)] for name, values in found.items()}
    return {
        "model": model,
        "seed": seed,
        "log": None,
        "metrics": {name: float(values.mean()) for name, values in found.items()},
        "above_matrix_factorisation": {
            name: paired_difference(values, theirs[name]).to_json() for name, values in found.items()
        },
    }


@final
class Trial:
    """A seed's factorisation, worlds and online sessions, made when they are first asked for.

    Args: known: ratings to learn from. later: of the sessions to rerank. steps: that each agent plays.
    """

    def __init__(self, known: Interactions, later: Interactions, seed: int, steps: int) -> None:
        self._known, self._later, self._seed, self._steps = known, later, seed, steps
        self._users = np.random.default_rng(seed).choice(np.unique(known.user).astype(np.int64), N_ONLINE)

    @cached_property
    def reference(self) -> Metrics:
        """Matrix factorisation's metrics."""
        return self._judge(self._scorers[MODEL])

    def of_policy(self, name: str) -> Metrics:
        """Metrics of what agents stand beside."""
        if name == MODEL:
            return self.reference
        if name == CORRECTED:
            return self._judge(corrected(*self._halves, self._earlier, self._model))
        return self._judge(self._scorers[name])

    def of_agent(self, state: Any, variant: str) -> Metrics:
        """Metrics of an agent trained in the simulator."""
        settings = VARIANTS[variant]
        network = DRRNetworkConfig(state=state, **settings.get("network", {}))
        asked = {"network": network, "seed": self._seed, "total_steps": self._steps, "steps_per_report": self._steps}
        config = DRRTrainConfig(**settings | asked)
        trained: DRRModule
        if variant == LOGGED:
            world = RatingWorld.logged(*self._halves, self._earlier, RatingEnvConfig())
            *_, (_, trained) = training(world, RatingVectors.of(self._earlier), config)
            trained = with_vectors(trained, RatingVectors.of(self._model))
        else:
            *_, (_, trained) = training(self._online, RatingVectors.of(self._model), config)
        learning = play_learning(self._online, trained, self._users[:N_LEARNING], self._seed)
        return self._judge(by_actor(trained.actor)) | {LEARNING: learning.reward_per_step}

    @cached_property
    def _halves(self) -> tuple[Interactions, Interactions]:
        latest = latest_of_each_user(self._known, 1 - TRAIN_FRACTION)
        return self._known.take(~latest), self._known.take(latest)

    @cached_property
    def _earlier(self) -> MatrixFactorisation:
        return MatrixFactorisation.fit(self._halves[0], PMFConfig(seed=self._seed))

    @cached_property
    def _model(self) -> MatrixFactorisation:
        return MatrixFactorisation.fit(self._known, PMFConfig(seed=self._seed))

    @cached_property
    def _scorers(self) -> dict[str, Scorer]:
        return scorers(self._known, self._model, self._seed)

    @cached_property
    def _online(self) -> RatingWorld:
        return RatingWorld.of(self._known, self._model, RatingEnvConfig())

    @cached_property
    def _offline(self) -> RatingWorld:
        return RatingWorld.logged(self._known, self._later, self._model, RatingEnvConfig())

    def _judge(self, scorer: Scorer) -> Metrics:
        return judge(scorer, self._offline, self._online, self._users, self._seed)


def with_vectors(trained: DRRModule, vectors: RatingVectors) -> DRRModule:
    """The same weights over other vectors of the same users and items."""
    given = trained.model_config | {"user_vectors": vectors.users, "item_vectors": vectors.items}
    module = DRRModule(model_config=given)
    module.make_target_networks()
    module.load_state_dict(trained.state_dict())
    return module


def corrected(
    before: Interactions, after: Interactions, earlier: MatrixFactorisation, model: MatrixFactorisation
) -> Scorer:
    """What user and history can add to matrix factorisation's ranking, at best and linearly.

    Scores are w1 p.q + w2 b + w3 h.q with h the mean of the history's factors, which changes within a session. The
    weights are those of least squares for relevance, centred by session, of each user's latest known ratings.

    Args: before, after: the known ratings, parted by time. earlier: fitted to the former. model: fitted to all.
    """
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


def summaries(model: str, rows: list[Row]) -> list[dict[str, Any]]:
    """Mean and standard error over seeds of each metric, and of its difference from matrix factorisation's."""
    ours = [row for row in rows if row["model"] == model]
    lines = []
    for metric in ours[0]["metrics"]:
        values = np.array([row["metrics"][metric] for row in ours])
        above = np.array([row["above_matrix_factorisation"][metric]["difference"] for row in ours])
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


def standard_error(values: NDArray[np.float64]) -> float | None:
    """Of the mean over seeds."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def show(summary: list[dict[str, Any]]) -> None:
    """The table: means, and in brackets what they are above matrix factorisation in standard errors over the seeds."""
    metrics = list(dict.fromkeys(line["metric"] for line in summary))
    print(f"{'':<24}" + "".join(f"{metric:>24}" for metric in metrics))
    for model in dict.fromkeys(line["model"] for line in summary):
        cells = []
        for line in (line for line in summary if line["model"] == model):
            error = line["std_error_of_difference"]
            times = f" ({line['above_matrix_factorisation'] / error:+.1f})" if error else ""
            cells.append(f"{line['mean']:.4f}{times}")
        print(f"{model:<24}" + "".join(f"{cell:>24}" for cell in cells))


if __name__ == "__main__":
    main()
