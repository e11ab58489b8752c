"""Deep Q-learning of session agents on RLlib's new API stack."""

from typing import Any, Final, final

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.dqn.dqn import DQN, DQNConfig
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, QNetAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TD_ERROR_KEY,
)
from ray.rllib.utils.schedules.scheduler import Scheduler
from ray.tune.registry import register_env

from rec.config import AgentInputs, CandidateQConfig
from rec.models.candidate_q import CandidateQ
from rec.models.session_agent import DQNAgent
from rl.config import DQNTrainConfig
from rl.replay import PrioritizedReplay, Transitions
from rl.session_env import SessionEnv, SessionVectorEnv
from rl.session_runner import SessionEnvRunner

ENVIRONMENT: Final = "tandem-sessions"


@final
class CandidateQModule(TorchRLModule, InferenceOnlyAPI, TargetNetworkAPI, QNetAPI):
    """The network of `rec.models.candidate_q` as RLlib sees it: epsilon-greedy, with a target network.

    `model_config`: `inputs` and `network` as JSON, `epsilon` as RLlib's schedules, `double_q`.
    """

    def setup(self) -> None:
        """Makes the network."""
        config = self.model_config
        self.network = CandidateQ(
            AgentInputs.model_validate(config["inputs"]), CandidateQConfig.model_validate(config["network"])
        )
        self.epsilon = Scheduler(fixed_value_or_schedule=config["epsilon"], framework="torch")

    def make_target_networks(self) -> None:
        """The target starts as a copy."""
        self.target = make_target_network(self.network)

    def get_target_network_pairs(self) -> list[tuple[Any, Any]]:
        """See TargetNetworkAPI."""
        return [(self.network, self.target)]

    def get_non_inference_attributes(self) -> list[str]:
        """See InferenceOnlyAPI."""
        return ["target"]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Values by the target network."""
        return {QF_PREDS: self.target(batch[Columns.OBS])}

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Values by the network that learns."""
        return {QF_PREDS: self.network(batch[Columns.OBS])}

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.network(batch[Columns.OBS]).argmax(dim=1)}

    def _forward_exploration(self, batch: dict[str, Any], t: int, **kwargs: Any) -> dict[str, Any]:
        self.epsilon.update(t)
        values = self.network(batch[Columns.OBS])
        explores = torch.rand(len(values)) < float(self.epsilon.get_current_value())  # pyright: ignore[reportArgumentType]
        anything = torch.randint(values.shape[1], (len(values),))
        return {Columns.ACTIONS: torch.where(explores, anything, values.argmax(dim=1))}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        seen, seen_next = batch[Columns.OBS], batch[Columns.NEXT_OBS]
        with torch.no_grad():
            values = {QF_TARGET_NEXT_PREDS: self.target(seen_next)}
            if self.model_config["double_q"]:
                values[QF_NEXT_PREDS] = self.network(seen_next)
        return {QF_PREDS: self.network(seen), **values}


class SessionDQN(DQN):
    """RLlib's DQN with sessions side by side in, and transitions by the column out of, the replay.

    Learners, target networks, metrics and checkpoints are RLlib's. A step plays `rollout_fragment_length` steps of all
    sessions and then learns until `training_intensity` times as many have been drawn as were played. `n_updates` counts
    batches learnt since the algorithm was made; the learner's metrics are means, and sums, of all batches of a report.
    """

    def setup(self, config: Any) -> None:
        """Makes the replay."""
        super().setup(config)
        asked: Any = self.config
        env: Any = self.env_creator(asked.env_config)
        self.replay = PrioritizedReplay(
            env.observation_space,
            env.action_space,
            asked.replay_buffer_config["capacity"],
            alpha=asked.replay_buffer_config["alpha"],
            rng=np.random.default_rng(asked.seed),
        )
        self._owed = 0.0
        self.n_updates = 0

    @classmethod
    def get_default_config(cls) -> DQNConfig:
        """RLlib's, for this class."""
        return DQNConfig(algo_class=cls)

    def training_step(self) -> None:
        """Plays, then learns."""
        asked: Any = self.config
        runners: Any = self.env_runner_group
        learners: Any = self.learner_group
        answer: Any = synchronous_parallel_sample(worker_set=runners, _uses_new_env_runners=True, _return_metrics=True)
        played, results = answer
        self.metrics.aggregate(results, key=ENV_RUNNER_RESULTS)
        for steps in played:
            self.replay.add(steps)
            self._owed += asked.training_intensity * len(steps)
        lifetime = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0)
        # Of what is in the replay, not of all that was played: after a resumption it is empty.
        if len(self.replay) < min(asked.num_steps_sampled_before_learning_starts, self.replay.capacity):
            self._owed = 0.0
            return
        n = asked.total_train_batch_size
        learnt: list[Any] = []
        while self._owed >= n:
            self._owed -= n
            self.n_updates += 1
            steps, rows, weights = self.replay.sample(n, beta=asked.replay_buffer_config["beta"])
            answers = learners.update(
                batch=batch_of(steps, weights), timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: lifetime}
            )
            errors = [result[DEFAULT_MODULE_ID].pop(TD_ERROR_KEY).peek() for result in answers]
            self.replay.update(rows, np.concatenate([np.concatenate(each) for each in errors]))
            learnt += answers
        if learnt:
            self.metrics.aggregate(learnt, key=LEARNER_RESULTS)
            runners.sync_weights(
                from_worker_or_learner_group=learners, policies=[DEFAULT_MODULE_ID], inference_only=True
            )


def batch_of(steps: Transitions, weights: NDArray[np.float32]) -> MultiAgentBatch:
    """What a learner is given: transitions, and the weights of their errors, (n,)."""
    columns = SampleBatch(
        {
            Columns.OBS: dict(steps.seen),
            Columns.NEXT_OBS: dict(steps.seen_next),
            Columns.ACTIONS: steps.action,
            Columns.REWARDS: steps.reward,
            Columns.TERMINATEDS: steps.terminated,
            "weights": weights,
            "n_step": np.ones(len(steps), np.float32),
        }
    )
    return MultiAgentBatch({DEFAULT_MODULE_ID: columns}, env_steps=len(steps))


def agent_of(module: CandidateQModule) -> DQNAgent:
    """The network without RLlib."""
    agent = DQNAgent(module.network.inputs, CandidateQConfig.model_validate(module.model_config["network"]))
    agent.network.load_state_dict(module.network.state_dict())
    return agent


def dqn_config(rounds: Any, inputs: AgentInputs, config: DQNTrainConfig) -> DQNConfig:
    """What RLlib is told.

    Args: rounds: makes a SessionRound of so many sessions. inputs: what the agent sees of it. config: of the training.
    """

    def make(context: Any) -> gymnasium.Env[Any, Any] | SessionVectorEnv:
        n_sessions = context.get("num_envs")
        return SessionEnv(rounds(1)) if n_sessions is None else SessionVectorEnv(rounds(n_sessions))

    register_env(ENVIRONMENT, make)
    module = RLModuleSpec(
        module_class=CandidateQModule,
        model_config={
            "inputs": inputs.model_dump(mode="json"),
            "network": config.network.model_dump(mode="json"),
            "epsilon": [(0, 1.0), (config.exploration_steps, config.final_epsilon)],
            "double_q": config.double,
        },
    )
    return (
        DQNConfig(algo_class=SessionDQN)
        .environment(ENVIRONMENT)
        .env_runners(
            env_runner_cls=SessionEnvRunner,
            num_env_runners=config.env_runners,
            num_envs_per_env_runner=config.sessions,
            rollout_fragment_length=config.steps_between_updates,
            gym_env_vectorize_mode=gymnasium.VectorizeMode.VECTOR_ENTRY_POINT,
        )
        .rl_module(rl_module_spec=module)
        .training(
            lr=[[0, config.learning_rate], [config.total_steps, config.learning_rate * config.final_learning_rate]],
            gamma=config.discount,
            train_batch_size_per_learner=config.batch_size,
            training_intensity=config.training_intensity,
            num_steps_sampled_before_learning_starts=config.warmup_steps,
            target_network_update_freq=config.target_every,
            tau=config.tau,
            double_q=config.double,
            dueling=config.network.dueling,
            td_error_loss_fn=config.loss,
            replay_buffer_config={
                "type": "PrioritizedEpisodeReplayBuffer",
                "no_local_replay_buffer": True,
                "capacity": config.replay_capacity,
                "alpha": config.priority_exponent,
                "beta": config.weight_exponent,
            },
        )
        .reporting(min_sample_timesteps_per_iteration=config.steps_per_report, min_time_s_per_iteration=None)
        .debugging(seed=config.seed, log_level="ERROR")
    )
