"""What `tandem rl` does: training of session agents, and their evaluation."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveInt

from rec.config import Config, HomePath, Seed
from rec.errors import ConfigError
from rl.config import DQNTrainConfig, InstaTokEnvConfig
from rl.run_cli import Learning, RunOptions, start_run

if TYPE_CHECKING:
    from rec.models.session_agent import DQNAgent


class TrainDQNOptions(DQNTrainConfig, RunOptions):
    """Deep Q-learning of which candidate to show next in sessions of short videos.

    The run goes to HOME/runs/NAME. `resume` names a run there that was cut off; give it the same options. `export`
    publishes the CURRENT bundle of that home with the agent in it, as a new version.
    """

    env: InstaTokEnvConfig = InstaTokEnvConfig()


class EvaluateAgentOptions(Config):
    """An agent beside random, popularity, greedy, item mean, and two that know what is hidden.

    `agent`: an agent.safetensors; without it that of a bundle, `version` or the CURRENT one, of the home. What it earns
    is estimated, too, from `logged_sessions` of another agent, `logged_by` (another file; without it the agent itself),
    which showed any candidate with probability `log_epsilon`: how far such estimates can be relied on is seen where the
    truth is known.
    """

    agent: str | None = None
    home: HomePath
    version: str | None = None
    env: InstaTokEnvConfig = InstaTokEnvConfig()
    sessions: PositiveInt = 2000
    logged_by: str | None = None
    log_epsilon: Annotated[float, Field(gt=0, le=1)] = 0.1
    logged_sessions: PositiveInt = 2000
    seed: Seed = 0


def train_dqn(options: TrainDQNOptions) -> Mapping[str, Any]:
    """`tandem rl train dqn`."""
    from rl.dqn import agent_of, dqn_config
    from rl.instatok.agent_inputs import INPUTS
    from rl.instatok.arena import Arena, VideoRound

    def algorithm() -> Any:
        rounds = partial(VideoRound, Arena.of(options.env))
        return dqn_config(rounds, INPUTS, options.settings(DQNTrainConfig))

    return start_run(options, lambda: Learning(algorithm, agent_of), processes=options.env_runners + 1)


def evaluate_agent(options: EvaluateAgentOptions) -> Mapping[str, Any]:
    """`tandem rl evaluate`."""
    from rec.metrics import format_difference, format_estimate
    from rec.models.session_agent import AGENT_FILE
    from rec.registry import Registry
    from rec.storage import Home
    from rl.instatok.arena import Arena
    from rl.instatok.slot_policies import baselines, by_agent
    from rl.logged_sessions import estimates_from_log
    from rl.session_evaluation import compare, evaluation_seeds, to_json

    began = time.perf_counter()
    if options.agent is None:
        file = Registry(Home(options.home)).open(options.version).path(AGENT_FILE)
    else:
        file = Path(options.agent)
    agent = _agent_of_videos(file)
    logging = agent if options.logged_by is None else _agent_of_videos(Path(options.logged_by))
    arena, seeds = Arena.of(options.env), evaluation_seeds(options.seed, options.sessions)
    played = compare(arena, {**baselines(arena, seeds), "agent": by_agent(agent)}, seeds)
    told = to_json(played, against="agent")
    for name, metrics in told["models"].items():
        print(f"{name:<12}" + "  ".join(f"{metric} {format_estimate(metrics[metric])}" for metric in metrics))
    for pair in told["paired"]:
        print(f"agent - {pair['b']:<12} {format_difference(pair)}")
    estimates = estimates_from_log(
        arena, logging, agent, n_sessions=options.logged_sessions, epsilon=options.log_epsilon, seed=options.seed
    )
    for name, estimate in estimates.items():
        print(f"agent's reward from the log, {name:<11}{format_estimate(estimate)}  effective n {estimate['ess']:.0f}")
    return {
        "agent": {"file": str(file), "kind": agent.kind},
        "sessions": {"n": options.sessions, "seed": options.seed, "dynamics": options.env.world.dynamics},
        **told,
        "off_policy": {
            "logged_by": options.logged_by or str(file),
            "epsilon": options.log_epsilon,
            "sessions": options.logged_sessions,
            "estimates": estimates,
            "true": told["models"]["agent"]["reward"],
        },
        "seconds": round(time.perf_counter() - began, 1),
    }


def _agent_of_videos(file: Path) -> "DQNAgent":
    from rec.models.session_agent import DQNAgent, load_agent

    agent = load_agent(file)
    if not isinstance(agent, DQNAgent):
        raise ConfigError(
            f"holds an agent of kind {agent.kind!r}, which plays no sessions of videos; judge it with "
            f"`tandem rl evaluate {agent.kind} --agent {file}`",
            file=str(file),
        )
    return agent
