"""DRR as an algorithm of RLlib: deterministic policy gradient over sessions of ratings, on DQN's replay.

    model = MatrixFactorisation.fit(known, PMFConfig())
    vectors = RatingVectors.of(model)
    for trained in training(world, vectors, DRRConfig(network=DRRNetworkConfig(state="ave")), every=10_000):
        ...  # trained.n_steps, trained.actor: a copy to judge or keep

Source: Liu et al. (2018), arXiv:1810.12027, algorithm 1.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self, final

import numpy as np
from ray.rllib.algorithms.dqn import DQN, DQNConfig
from ray.rllib.algorithms.dqn.dqn_learner import QF_LOSS_KEY, QF_MEAN_KEY, TD_ERROR_MEAN_KEY
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor

from rec.models.drr import DRRActor, balanced
from rl.config import DRRConfig
from rl.drr_learner import ACTOR_LOSS, DRRLearner
from rl.drr_module import DRRModule
from rl.pmf import MatrixFactorisation
from rl.pmf_env import RatingWorld
from rl.ranking_env import RankingEnv

LOSSES: Final = (ACTOR_LOSS, QF_LOSS_KEY, QF_MEAN_KEY, TD_ERROR_MEAN_KEY)


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
class DRR(DQN):
    """DQN's loop of sampling, prioritised replay and updates, with DRR's networks and losses."""

    @classmethod
    def get_default_config(cls) -> DRRAlgorithmConfig:
        """The settings."""
        return DRRAlgorithmConfig()


@final
@dataclass(frozen=True, slots=True)
class Trained:
    """An agent after some steps. Attributes: n_steps: in sessions. actor: a copy. losses: latest, by name."""

    n_steps: int
    actor: DRRActor
    losses: dict[str, float]


def algorithm_config(
    world: RatingWorld, vectors: RatingVectors, config: DRRConfig, every: int = 1
) -> DRRAlgorithmConfig:
    """RLlib's settings for one process that samples and learns in turn, and reports every so many steps."""
    first, last = config.epsilon
    made = DRRAlgorithmConfig()
    made.actor_lr, made.critic_lr = config.actor_learning_rate, config.critic_learning_rate
    made.environment(env=RankingEnv, env_config={"world": world, "vectors": vectors.items.numpy()})
    made.env_runners(
        num_env_runners=0,
        num_envs_per_env_runner=config.n_sessions,
        gym_env_vectorize_mode="vector_entry_point",
        rollout_fragment_length=config.steps_per_update // config.n_sessions,
    )
    made.training(
        gamma=config.discount,
        tau=config.tau,
        target_network_update_freq=0,
        train_batch_size_per_learner=config.batch_size,
        num_steps_sampled_before_learning_starts=config.first_steps,
        epsilon=[(0, first), (config.epsilon_steps, last)],
        n_step=1,
        replay_buffer_config={
            "type": "PrioritizedEpisodeReplayBuffer",
            "capacity": config.replay_size,
            "alpha": config.priority,
            "beta": config.importance,
        },
    )
    made.rl_module(
        model_config={"config": config, "user_vectors": vectors.users, "item_vectors": vectors.items},
    )
    made.learners(num_learners=0)
    made.debugging(seed=config.seed, log_level="ERROR")
    made.reporting(
        min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=every, min_train_timesteps_per_iteration=0
    )
    return made


def training(world: RatingWorld, vectors: RatingVectors, config: DRRConfig, *, every: int) -> Iterator[Trained]:
    """Trains an agent, and yields copies of it: before it has learned, and each time so many steps have been taken.

    Args: world: where it learns. vectors: of users and items. config: of networks and training. every: steps between
        two copies.
    """
    algorithm = algorithm_config(world, vectors, config, every).build_algo()
    try:
        n_steps = 0
        yield Trained(n_steps, _actor(algorithm), {})
        while n_steps < config.n_steps:
            result = algorithm.train()
            n_steps = int(result["env_runners"]["num_env_steps_sampled_lifetime"])
            losses = result.get("learners", {}).get("default_policy", {})
            yield Trained(n_steps, _actor(algorithm), {name: float(losses[name]) for name in LOSSES if name in losses})
    finally:
        algorithm.stop()


def _actor(algorithm: Any) -> DRRActor:
    module = algorithm.learner_group._learner.module["default_policy"].unwrapped()
    return copy.deepcopy(module.actor).eval()
