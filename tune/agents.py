"""What a trial of an agent is judged by: sessions that neither training nor `tandem rl evaluate` plays."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from rec.config import Config
from rec.metrics import mean_over_users
from rec.models.drr_agent import DRRAgent
from rec.models.session_agent import load_agent
from rl.cli import TrainDQNOptions, train_dqn
from rl.instatok.arena import Arena
from rl.instatok.slot_policies import by_agent
from rl.pmf_env import RatingWorld
from rl.rating_cli import TrainDRROptions, fitted_ratings, train_drr
from rl.rating_evaluation import by_actor, play
from rl.session_evaluation import play_sessions
from tune.trials import Judged, Measured

_VALIDATION: Final = 2_000_003


def judge_dqn(config: Config, folder: Path, sessions: int, seed: int) -> Judged:
    """The reward of a session of short videos."""
    options = cast(TrainDQNOptions, config).model_copy(update={"home": str(folder), "export": False})
    agent = load_agent(Path(train_dqn(options)["agent"]))
    played = play_sessions(Arena.of(options.env), by_agent(agent), validation_seeds(seed, sessions))
    return _mean("session_reward", played.reward)


def judge_drr(config: Config, folder: Path, sessions: int, seed: int) -> Judged:
    """The reward of a step in the simulator of the known ratings; the later ones are not looked at."""
    options = cast(TrainDRROptions, config).model_copy(update={"home": str(folder), "export": False})
    agent = load_agent(Path(train_drr(options)["agent"]))
    assert isinstance(agent, DRRAgent)
    split, model = fitted_ratings(options.ratings)
    world = RatingWorld.of(split.train, model, options.ratings.env)
    streams = validation_seeds(seed, 1)
    users = np.random.default_rng(streams).choice(world.users, sessions)
    return _mean("step_reward", play(world, by_actor(agent.actor), users, int(streams[0] >> 32)).reward_per_step)


JUDGES: Final[Mapping[Literal["dqn", "drr"], Callable[[Config, Path, int, int], Judged]]] = {
    "dqn": judge_dqn,
    "drr": judge_drr,
}


def validation_seeds(seed: int, n_sessions: int) -> NDArray[np.uint64]:
    """Streams of sessions to choose by: other ones than `rl.session_evaluation.evaluation_seeds`, (n,)."""
    return np.random.SeedSequence((seed, _VALIDATION)).generate_state(n_sessions, np.uint64).astype(np.uint64)


def _mean(metric: str, rewards: NDArray[Any]) -> Judged:
    found = mean_over_users(rewards)
    measured = Measured(metric, found.value, found.std_error, found.n, found.value)
    return Judged(measured, np.asarray(rewards, dtype=np.float64))
