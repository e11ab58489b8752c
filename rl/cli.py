"""What `tandem rl` does: training of session agents, and their evaluation."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import PositiveInt

from rec.config import Config, HomePath, Seed
from rec.errors import ConfigError
from rl.config import DQNTrainConfig, InstaTokEnvConfig


class TrainDQNOptions(DQNTrainConfig):
    """Deep Q-learning of which candidate to show next in sessions of short videos.

    The run goes to HOME/runs/NAME. `resume` names a run there that was cut off; give it the same options. `export`
    publishes the CURRENT bundle of that home with the agent in it, as a new version.
    """

    env: InstaTokEnvConfig = InstaTokEnvConfig()
    home: HomePath
    resume: str | None = None
    export: bool = False


class EvaluateAgentOptions(Config):
    """An agent beside random, popularity, greedy, item mean, and two that know what is hidden.

    `agent`: an agent.safetensors; without it that of a bundle, `version` or the CURRENT one, of the home.
    """

    agent: str | None = None
    home: HomePath
    version: str | None = None
    env: InstaTokEnvConfig = InstaTokEnvConfig()
    sessions: PositiveInt = 2000
    seed: Seed = 0


def train_dqn(options: TrainDQNOptions) -> Mapping[str, Any]:
    """`tandem rl train dqn`."""
    from rec.ray_cluster import ensure_ray
    from rec.storage import Home
    from rl.dqn import agent_of, dqn_config
    from rl.instatok.agent_inputs import INPUTS
    from rl.instatok.arena import Arena, VideoRound
    from rl.training import train_agent

    began = time.perf_counter()
    folder = run_folder(Home(options.home), options.resume)
    arena = Arena.of(options.env)
    ensure_ray(options.env_runners + 1)
    asked = {name: getattr(options, name) for name in DQNTrainConfig.model_fields}
    trained = train_agent(
        dqn_config(partial(VideoRound, arena), INPUTS, DQNTrainConfig(**asked)),
        agent_of,
        total_steps=options.total_steps,
        asked=options.model_dump(mode="json", exclude={"home", "resume", "export"}),
        folder=folder,
        resume=options.resume is not None,
    )
    version = _export(options.home, trained.agent) if options.export else None
    print(f"trained for {trained.steps} steps in {trained.folder}" + (f"; published {version}" if version else ""))
    return {
        "run_dir": str(trained.folder),
        "agent": str(trained.folder / "agent.safetensors"),
        "steps": trained.steps,
        "version": version,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - began, 1),
        "last": trained.curve[-1],
    }


def evaluate_agent(options: EvaluateAgentOptions) -> Mapping[str, Any]:
    """`tandem rl evaluate`."""
    from rec.metrics import format_difference, format_estimate
    from rec.models.session_agent import AGENT_FILE, load_agent
    from rec.registry import Registry
    from rec.storage import Home
    from rl.instatok.arena import Arena
    from rl.instatok.slot_policies import baselines, by_agent
    from rl.session_evaluation import compare, evaluation_seeds, to_json

    began = time.perf_counter()
    if options.agent is None:
        file = Registry(Home(options.home)).open(options.version).path(AGENT_FILE)
    else:
        file = Path(options.agent)
    agent = load_agent(file)
    arena, seeds = Arena.of(options.env), evaluation_seeds(options.seed, options.sessions)
    played = compare(arena, {**baselines(arena, seeds), "agent": by_agent(agent)}, seeds)
    told = to_json(played, against="agent")
    for name, metrics in told["models"].items():
        print(f"{name:<12}" + "  ".join(f"{metric} {format_estimate(metrics[metric])}" for metric in metrics))
    for pair in told["paired"]:
        print(f"agent - {pair['b']:<12} {format_difference(pair)}")
    return {
        "agent": {"file": str(file), "kind": agent.kind},
        "sessions": {"n": options.sessions, "seed": options.seed, "dynamics": options.env.world.dynamics},
        **told,
        "seconds": round(time.perf_counter() - began, 1),
    }


def run_folder(home: Any, resume: str | None) -> Path:
    """Of a new run, or of one to go on with.

    Raises: ConfigError: for a run that is not there.
    """
    runs = ((home.folder or home.cache) / "runs").resolve()
    if resume is None:
        return runs / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(4)}"
    if not resume or not (runs / resume).is_dir():
        raise ConfigError(f"there is no run {resume!r} to resume in {runs}", field="resume")
    return runs / resume


def _export(home: str, agent: Any) -> str:
    from rec.registry import Registry
    from rec.storage import Home
    from rl.export import publish_with_agent

    return publish_with_agent(Registry(Home(home)), agent)
