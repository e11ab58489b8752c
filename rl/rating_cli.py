"""What `tandem rl train drr` and `tandem rl evaluate drr` do: DRR on sessions of ratings."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeFloat, PositiveInt

from rec.config import Config, DataConfig, Fraction, Seed
from rec.errors import ConfigError
from rl.config import DRRTrainConfig, PMFConfig, RatingEnvConfig, RatingNeighborsConfig, SimulatorFamily
from rl.run_cli import Learning, RunOptions, start_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rec.data.dataset import Interactions
    from rec.data.splits import Split
    from rl.pmf import MatrixFactorisation
    from rl.pmf_env import RatingWorld
    from rl.rating_evaluation import Scorer


class RatingSessions(Config):
    """Sessions of whose ratings, and the model that predicts what is not known.

    The earliest `train_fraction` of each user's ratings are known; the later ones are a session to rerank.
    """

    data: DataConfig = DataConfig(name="movielens-1m")
    train_fraction: Fraction = 0.8
    pmf: PMFConfig = PMFConfig()
    env: RatingEnvConfig = RatingEnvConfig()


class TrainDRROptions(DRRTrainConfig, RunOptions):
    """Deterministic policy gradient over which item to recommend next.

    The run goes to HOME/runs/NAME. `resume` names a run there that was cut off; give it the same options, and the same
    ratings. `export` publishes the CURRENT bundle of that home with the agent in it, as a new version.
    """

    ratings: RatingSessions = RatingSessions()


class EvaluateDRROptions(Config):
    """A DRR agent beside random, popularity, item mean, matrix factorisation and the oracle.

    `agent`: the agent.safetensors of a run on the same ratings; one of others, or of a run that did not note which, is
    refused, as it may have seen those of the test. Each user's later ratings are reranked, without updates, and
    `sessions` sessions are played in the simulator of the known ones. With `checkpoint`, the folder of that name in the
    agent's run, the first `learning_sessions` of these are played again by networks that learn within each session and
    start from the trained ones in the next, as in the paper. A checkpoint holds pickles: name one of your own runs
    only.

    With `families` or `noises` every policy plays the same `sessions` in other simulators, too: one for each of these
    families (factorisation, where none is named) and levels of noise in stars (that of `ratings.env`). `neighbors` says
    how the second family is fitted.
    """

    agent: str
    checkpoint: str | None = None
    learning_sessions: PositiveInt = 500
    ratings: RatingSessions = RatingSessions()
    sessions: PositiveInt = 2000
    families: tuple[SimulatorFamily, ...] = ()
    noises: tuple[NonNegativeFloat, ...] = ()
    neighbors: RatingNeighborsConfig = RatingNeighborsConfig()
    seed: Seed = 0


def train_drr(options: TrainDRROptions) -> Mapping[str, Any]:
    """`tandem rl train drr`.

    Raises: ConfigError: for a network that reads histories of another length, or as `start_run`.
    """
    from rec.runs import say
    from rl.drr import RatingVectors, agent_of, drr_config, ranked_rounds
    from rl.pmf import MatrixFactorisation, digest_of
    from rl.pmf_env import RatingWorld

    _require_one_length(options.network.history_length, options.ratings.env)

    def learning() -> Learning:
        known = divided_ratings(options.ratings).train
        digest = digest_of(known)

        def algorithm() -> Any:
            model = MatrixFactorisation.fit(known, options.ratings.pmf)
            if model.report.valid_rmse:
                say(
                    f"matrix factorisation: RMSE {min(model.report.valid_rmse):.4f} stars on the ratings held out for "
                    f"validation, after {model.report.epochs} epochs"
                )
            world, vectors = RatingWorld.of(known, model, options.ratings.env), RatingVectors.of(model)
            return drr_config(ranked_rounds(world, vectors), vectors, options.settings(DRRTrainConfig))

        return Learning(algorithm, lambda module: agent_of(module, digest), digest)

    return start_run(options, learning)


def evaluate_drr(options: EvaluateDRROptions) -> Mapping[str, Any]:
    """`tandem rl evaluate drr`.

    Raises: ConfigError: for an agent of another kind, of other ratings, or of histories of another length.
    """
    import numpy as np

    from rec.metrics import format_difference, format_estimate, mean_over_users, paired_difference
    from rec.models.drr_agent import DRRAgent
    from rec.models.session_agent import load_agent
    from rl.pmf import MatrixFactorisation
    from rl.pmf_env import RatingWorld
    from rl.rating_evaluation import by_actor, judge, scorers
    from rl.session_learning import play_learning, trained_module

    began = time.perf_counter()
    agent = load_agent(Path(options.agent))
    if not isinstance(agent, DRRAgent):
        raise ConfigError(f"holds an agent of kind {agent.kind!r}; one of kind 'drr' is required", file=options.agent)
    _require_one_length(agent.config.history_length, options.ratings.env, file=options.agent)
    _require_said(agent.ratings, file=options.agent)
    module = None if options.checkpoint is None else trained_module(Path(options.checkpoint), agent)
    split = divided_ratings(options.ratings)
    users, items = agent.actor.state.users, agent.actor.state.items
    if (len(users), len(items) - 1) != (split.train.n_users, split.train.n_items):
        raise ConfigError(
            f"was trained on {len(users)} users and {len(items) - 1} items; these ratings have {split.train.n_users} "
            f"and {split.train.n_items}: name the same data",
            file=options.agent,
        )
    _require_unseen(agent.ratings, split.train, file=options.agent)
    model = MatrixFactorisation.fit(split.train, options.ratings.pmf)
    offline = RatingWorld.logged(split.train, split.test, model, options.ratings.env)
    online = RatingWorld.of(split.train, model, options.ratings.env)
    played_by = np.random.default_rng(options.seed).choice(online.users, options.sessions)
    policies = {**scorers(split.train, model, options.seed), "agent": by_actor(agent.actor)}
    found = {name: judge(policy, offline, online, played_by, options.seed) for name, policy in policies.items()}
    models = {
        name: {metric: mean_over_users(values).to_json() for metric, values in metrics.items()}
        for name, metrics in found.items()
    }
    paired = [
        {"a": "agent", "b": name, "metric": metric} | paired_difference(found["agent"][metric], values).to_json()
        for name, metrics in found.items()
        for metric, values in metrics.items()
        if name != "agent"
    ]
    for name, metrics in models.items():
        print(f"{name:<22}" + "  ".join(f"{metric} {format_estimate(told)}" for metric, told in metrics.items()))
    for pair in paired:
        print(f"agent - {pair['b']:<22}{pair['metric']:<14}{format_difference(pair)}")
    learning = None
    if module is not None:
        some = played_by[: options.learning_sessions]
        earned = play_learning(online, module, some, options.seed).reward_per_step
        fixed = found["agent"]["online_reward"][: len(some)]
        learning = {
            "online_reward": mean_over_users(earned).to_json(),
            "above_agent": paired_difference(earned, fixed).to_json(),
        }
        print(f"agent, learning in each session  online_reward {format_estimate(learning['online_reward'])}")
        print(f"  above the agent as trained     {format_difference(learning['above_agent'])}")
    simulated = _simulated(options, split.train, online, policies, played_by)
    for told in simulated:
        print(f"in the simulator {told['family']}, noise of {told['noise']:g} stars, a step:")
        for name, estimate in told["models"].items():
            print(f"  {name:<22}{format_estimate(estimate)}")
        for pair in told["paired"]:
            print(f"  agent - {pair['b']:<22}{format_difference(pair)}")
    return {
        "agent": {"file": options.agent, "kind": agent.kind},
        "sessions": {"offline": len(offline.users), "online": options.sessions, "seed": options.seed},
        "models": models,
        "paired": paired,
        "learning_in_session": learning,
        "simulators": simulated,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _require_said(trained_on: str | None, *, file: str) -> None:
    """Refuses an agent that does not say what it has seen."""
    if trained_on is None:
        raise ConfigError(
            "does not say which ratings it was trained on, so it may have seen those of the test; train it again with "
            "`tandem rl train drr`",
            file=file,
            field="ratings",
        )


def _require_unseen(trained_on: str | None, known: "Interactions", *, file: str) -> None:
    """Refuses an agent that may have seen the ratings it is to be judged by."""
    from rl.pmf import digest_of

    if trained_on != digest_of(known):
        raise ConfigError(
            "was trained on other ratings than these options leave to training, so it may have seen those of the test; "
            "give ratings.data and ratings.train_fraction as in training",
            file=file,
            field="ratings",
        )


def _require_one_length(read: int, env: RatingEnvConfig, *, file: str | None = None) -> None:
    if read != env.history_length:
        raise ConfigError(
            f"the network reads the latest {read} liked items (network.history_length) and sessions show "
            f"{env.history_length} (ratings.env.history_length); give both the same number",
            file=file,
            field="ratings.env.history_length",
        )


def _simulated(
    options: EvaluateDRROptions,
    known: "Interactions",
    online: "RatingWorld",
    policies: "Mapping[str, Scorer]",
    users: "NDArray[np.int64]",
) -> list[dict[str, Any]]:
    """What every policy earns a step in each simulator that is asked for, and the agent's difference to the others.

    Where there is the family of neighbours, its own ranking is one more policy.
    """
    from rec.metrics import mean_over_users, paired_difference
    from rl.pmf import RatingModel
    from rl.rating_evaluation import by_model, play
    from rl.rating_neighbors import RatingNeighbors

    if not (options.families or options.noises):
        return []
    models: dict[str, RatingModel] = {"factorisation": online.model}
    if "neighbors" in options.families:
        models["neighbors"] = RatingNeighbors.fit(known, options.neighbors)
        policies = {**policies, "neighbors": by_model(models["neighbors"])}
    found = []
    for family in options.families or ("factorisation",):
        for noise in options.noises or (online.config.noise,):
            world = online.simulated_by(models[family], noise)
            earned = {name: play(world, each, users, options.seed).reward_per_step for name, each in policies.items()}
            paired = {
                name: paired_difference(earned["agent"], values) for name, values in earned.items() if name != "agent"
            }
            found.append(
                {
                    "family": family,
                    "noise": noise,
                    "models": {name: mean_over_users(values).to_json() for name, values in earned.items()},
                    "paired": [{"a": "agent", "b": name} | each.to_json() for name, each in paired.items()],
                }
            )
    return found


def divided_ratings(asked: RatingSessions) -> "Split":
    """Ratings divided into those that are known and the later ones.

    Raises: DataError: for a rating off the scale, or a pair rated twice, in either.
    """
    from rec.data.source import read_dataset
    from rec.data.splits import per_user_temporal
    from rl.pmf_env import require_ratings

    ratings = read_dataset(asked.data).interactions
    require_ratings(ratings)
    return per_user_temporal(ratings, asked.train_fraction)


def fitted_ratings(asked: RatingSessions) -> "tuple[Split, MatrixFactorisation]":
    """Ratings divided, and the model of those that are known.

    Raises: DataError: as `divided_ratings`.
    """
    from rl.pmf import MatrixFactorisation

    split = divided_ratings(asked)
    return split, MatrixFactorisation.fit(split.train, asked.pmf)
