"""DRR as an algorithm of RLlib: deterministic policy gradient over sessions of ratings, on the replay of `rl.dqn`.

    model = MatrixFactorisation.fit(known, PMFConfig())
    vectors = RatingVectors.of(model)
    for played, module in training(world, vectors, DRRTrainConfig(network=DRRNetworkConfig(state="ave"))):
        ...  # agent_of(module): to judge or keep

Source: Liu et al. (2018), arXiv:1810.12027, algorithm 1.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self, final

import numpy as np
from gymnasium import VectorizeMode
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.tune.registry import register_env
from torch import Tensor

from rec.models.drr import balanced
from rec.models.drr_agent import DRRAgent
from rl.config import DRRTrainConfig
from rl.dqn import SessionDQN
from rl.drr_learner import GRADIENT_NORM, DRRLearner
from rl.drr_module import DRRModule
from rl.pmf import MatrixFactorisation
from rl.pmf_env import RatingRound, RatingWorld
from rl.session_env import SessionEnv, SessionRound, SessionVectorEnv
from rl.session_runner import SessionEnvRunner

ENVIRONMENT: Final = "tandem-ratings"


@final
@dataclass(frozen=True, slots=True)
class RatingVectors:
    """Vectors whose products are a model's predicted ratings, up to a constant of the user and one factor.

    Attributes: users: within (-1, 1), float32, (U, k). items: float32, (N, k).
    """

    users: Tensor
    items: Tensor

    @classmethod
    def of(cls, model: MatrixFactorisation) -> Self:
        """Factors, and a last dimension for the item's bias: k is one more than the model's."""
        one = np.ones((len(model.user_factors), 1))
        users = np.concatenate([model.user_factors, one], axis=1)
        return cls(*balanced(users, np.concatenate([model.item_factors, model.item_bias[:, None]], axis=1)))


@final
class DRRAlgorithmConfig(DQNConfig):
    """DQN's settings, and the learning rates of actor and critic."""

    def __init__(self, algo_class: Any = None) -> None:
        self.actor_lr = 1e-4
        self.critic_lr = 1e-3
        super().__init__(algo_class=algo_class or DRR)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """DRR's networks."""
        return RLModuleSpec(module_class=DRRModule, model_config=self.model_config)

    def get_default_learner_class(self) -> type[DRRLearner]:
        """DRR's losses."""
        return DRRLearner


@final
class DRR(SessionDQN):
    """The loop of playing, prioritised replay and updates of `rl.dqn`, with DRR's networks and losses."""

    @classmethod
    def get_default_config(cls) -> DRRAlgorithmConfig:
        """The settings."""
        return DRRAlgorithmConfig()


def ranked_rounds(world: RatingWorld, vectors: RatingVectors) -> Callable[[int], RatingRound]:
    """Makes so many sessions, whose actions are ranking vectors of the items'."""
    return partial(RatingRound, world, vectors=vectors.items.numpy())


def drr_config(
    rounds: Callable[[int], SessionRound], vectors: RatingVectors, config: DRRTrainConfig
) -> DRRAlgorithmConfig:
    """What RLlib is told: one process plays and learns in turn.

    Args: rounds: makes so many sessions, with the observations and actions of `ranked_rounds`. vectors: of users and
        items. config: of networks and training.
    """

    def make(context: Any) -> SessionEnv | SessionVectorEnv:
        n_sessions = context.get("num_envs")
        return SessionVectorEnv(rounds(n_sessions)) if n_sessions else SessionEnv(rounds(1))

    register_env(ENVIRONMENT, make)
    made = DRRAlgorithmConfig()
    made.actor_lr, made.critic_lr = config.actor_learning_rate, config.critic_learning_rate
    made.environment(ENVIRONMENT)
    made.env_runners(
        env_runner_cls=SessionEnvRunner,
        num_env_runners=0,
        num_envs_per_env_runner=config.sessions,
        rollout_fragment_length=1,
        gym_env_vectorize_mode=VectorizeMode.VECTOR_ENTRY_POINT,
    )
    made.training(
        gamma=config.discount,
        tau=config.tau,
        grad_clip=GRADIENT_NORM,
        target_network_update_freq=0,
        train_batch_size_per_learner=config.batch_size,
        training_intensity=config.training_intensity,
        num_steps_sampled_before_learning_starts=config.warmup_steps,
        epsilon=[(0, 1.0), (config.exploration_steps, config.final_epsilon)],
        replay_buffer_config={
            "type": "PrioritizedEpisodeReplayBuffer",
            "no_local_replay_buffer": True,
            "capacity": config.replay_capacity,
            "alpha": config.priority_exponent,
            "beta": config.weight_exponent,
        },
    )
    made.rl_module(
        model_config={"config": config, "user_vectors": vectors.users, "item_vectors": vectors.items},
    )
    made.debugging(seed=config.seed, log_level="ERROR")
    made.reporting(min_sample_timesteps_per_iteration=config.steps_per_report, min_time_s_per_iteration=None)
    return made


def training(world: RatingWorld, vectors: RatingVectors, config: DRRTrainConfig) -> Iterator[tuple[int, DRRModule]]:
    """Trains, and yields steps played and a copy of all networks, untrained at first and then with each report.

    Args: world: where it learns. vectors: of users and items. config: of networks and training.
    """
    algorithm = drr_config(ranked_rounds(world, vectors), vectors, config).build_algo()
    try:
        played = 0
        yield played, _networks(algorithm)
        while played < config.total_steps:
            played = int(algorithm.train()[ENV_RUNNER_RESULTS][NUM_ENV_STEPS_SAMPLED_LIFETIME])
            yield played, _networks(algorithm)
    finally:
        algorithm.stop()


def _networks(algorithm: Any) -> DRRModule:
    """A copy of the learner's, as the module that plays has no critic."""
    learnt = algorithm.learner_group.foreach_learner(lambda learner: learner.module[DEFAULT_MODULE_ID])
    return copy.deepcopy(next(iter(learnt)).get())


def agent_of(module: Any, ratings: str | None = None) -> DRRAgent:
    """A copy of the actor, without RLlib; `ratings` is the digest of those it was trained on (`rl.pmf.digest_of`)."""
    return DRRAgent(copy.deepcopy(module.actor), module.settings.network, ratings)
