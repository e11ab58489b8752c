"""Playing thousands of sessions side by side inside RLlib, without an object for each."""

import time
from typing import Any, final

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from rec.errors import TrainingError
from rl.replay import Transitions
from rl.session_env import SessionVectorEnv


@final
class SessionEnvRunner(SingleAgentEnvRunner):
    """RLlib's runner for our vectorised sessions: the network sees all of them at once, and so does the replay.

    RLlib's own keeps an episode object for every session and takes every batch apart into them and together again,
    which costs a multiple of playing. `sample` returns `Transitions` in the place of episodes, of
    `rollout_fragment_length` steps of all sessions.
    """

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Transitions]:
        """Goes on with all sessions.

        Raises: ValueError: for a number of steps or episodes, which only the config says. TrainingError: when the
            network's actions are not finite.
        """
        if num_timesteps is not None or num_episodes is not None:
            raise ValueError("set rollout_fragment_length; sessions are played side by side, a step of all at a time")
        env: Any = self.env
        env = env.unwrapped
        assert isinstance(env, SessionVectorEnv)
        if self._needs_initial_reset or force_reset:
            # Streams of neighbouring seeds would be shared with the neighbouring runner. A run that goes on from a
            # checkpoint has played some steps, and does not play the same sessions again.
            played = int(self.num_env_steps_sampled_lifetime)
            seeds = np.random.SeedSequence((self._seed or 0, self.worker_index or 0, played))
            self._seen, _ = env.reset(seed=[int(s) for s in seeds.generate_state(env.num_envs, np.uint64)])
            self._over = np.zeros(env.num_envs, np.bool_)
            self._returns, self._lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
            self._started = np.full(env.num_envs, time.perf_counter())
            self._needs_initial_reset = False
        explores = bool(self.config.explore if explore is None else explore)
        parts = [self._step(env, explores, random_actions) for _ in range(self.config.get_rollout_fragment_length())]
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, window=1)
        return parts

    def _step(self, env: SessionVectorEnv, explore: bool, random_actions: bool) -> Transitions:
        runners = self.config.num_env_runners or 1
        module: Any = self.module
        seen, live = self._seen, ~self._over
        if random_actions:
            actions = env.action_space.sample()
        else:
            batch = {Columns.OBS: {name: torch.as_tensor(values) for name, values in seen.items()}}
            with torch.no_grad():
                if explore:
                    answer = module.forward_exploration(batch, t=self.num_env_steps_sampled_lifetime)
                else:
                    answer = module.forward_inference(batch)
            actions = answer[Columns.ACTIONS].numpy()
            if not np.isfinite(actions).all():
                raise TrainingError("the training diverges: actions not finite; use a lower learning rate")
        self._seen, rewards, terminated, _, _ = env.step(actions)
        self._returns += rewards
        self._lengths += live
        ended = np.flatnonzero(terminated)
        now = time.perf_counter()
        for row in ended:
            self._log_episode_metrics(int(self._lengths[row]), float(self._returns[row]), now - self._started[row])
        self._returns[ended], self._lengths[ended], self._started[ended] = 0.0, 0, now
        self._over = terminated
        n_steps = int(live.sum())
        self.num_env_steps_sampled_lifetime += n_steps * runners
        self._increase_sampled_metrics(n_steps, len(ended))
        return Transitions(
            {name: values[live] for name, values in seen.items()},
            np.asarray(actions)[live],
            rewards[live].astype(np.float32),
            {name: values[live] for name, values in self._seen.items()},
            terminated[live],
        )
