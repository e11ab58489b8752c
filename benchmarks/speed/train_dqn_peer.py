"""The peer of train_dqn.py: Stable-Baselines3's DQN, asked line by line for the seeds to train from.

Knows of us the world, its environment's `VideoRound`, the network and how an agent is judged; playing, replay, losses
and updates are the peer's.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import MultiInputPolicy

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from rec.config import CandidateQConfig
from rec.models.candidate_q import CandidateQ
from rl.config import DQNTrainConfig, InstaTokEnvConfig
from rl.instatok.agent_inputs import INPUTS
from rl.instatok.arena import Arena, VideoRound
from rl.session_evaluation import evaluation_seeds, play_sessions


class Sessions(VecEnv):
    """Our sessions side by side, as the peer has them: one that ends starts anew in the same step."""

    def __init__(self, videos: VideoRound, n_sessions: int, seed: int) -> None:
        super().__init__(n_sessions, videos.observation_space, videos.action_space)
        self.videos, self.everything = videos, np.arange(n_sessions)
        videos.seed(self.everything, np.random.SeedSequence((seed, 0)).generate_state(n_sessions, np.uint64))

    def reset(self) -> dict[str, np.ndarray]:
        """New sessions everywhere."""
        self.videos.start(self.everything)
        return self.videos.observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Takes what to show."""
        self.actions = actions

    def step_wait(self) -> Any:
        """Shows it."""
        outcome = self.videos.act(self.actions)
        self.videos.start(np.flatnonzero(outcome.done))
        # What is seen at the end of a session has no value, so that the peer is not told of it costs it nothing.
        return self.videos.observe(), outcome.reward, outcome.done, [{} for _ in self.everything]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Of the environments, which have none that the peer asks for."""
        return [None] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """They are not."""
        return [False] * self.num_envs

    def close(self) -> None:
        """Nothing is open."""

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """The peer's class is abstract without it, and its DQN does not ask for it."""
        raise NotImplementedError

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """As `set_attr`."""
        raise NotImplementedError


class Network(torch.nn.Module):
    """Our network as the peer's policy asks it."""

    def __init__(self, config: CandidateQConfig) -> None:
        super().__init__()
        self.network = CandidateQ(INPUTS, config)

    def forward(self, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        """Values of the candidates."""
        return self.network(seen)

    def _predict(self, seen: dict[str, torch.Tensor], deterministic: bool = True) -> torch.Tensor:
        return self.network(seen).argmax(dim=1)

    def set_training_mode(self, mode: bool) -> None:
        """As the peer names it."""
        self.train(mode)


class Policy(MultiInputPolicy):
    """The peer's, with our network."""

    def __init__(self, *args: Any, candidate_q: CandidateQConfig, **kwargs: Any) -> None:
        self.candidate_q = candidate_q
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> Any:
        """Makes one of the two."""
        return Network(self.candidate_q)


class Curve(BaseCallback):
    """What the policy earns after every so many steps, and the processor time of all but finding that out."""

    def __init__(self, arena: Arena, every: int, seeds: np.ndarray) -> None:
        super().__init__()
        self.arena, self.every, self.seeds = arena, every, seeds
        self.rows: list[dict[str, float]] = []
        self.seconds, self.began = 0.0, time.process_time()

    def _on_step(self) -> bool:
        if self.num_timesteps // self.every > len(self.rows):
            self.seconds += time.process_time() - self.began
            network = self.model.q_net.network

            def policy(seen: dict[str, np.ndarray], videos: VideoRound) -> np.ndarray:
                tensors = {name: torch.as_tensor(values) for name, values in seen.items()}
                with torch.no_grad():
                    return network(tensors).argmax(dim=1).numpy()

            reward = float(play_sessions(self.arena, policy, self.seeds).reward.mean())
            self.rows.append({"steps": self.num_timesteps, "seconds": self.seconds, "reward": reward})
            self.began = time.process_time()
        return True


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    config = DQNTrainConfig.model_validate(given["training"])
    arena = Arena.of(InstaTokEnvConfig.model_validate(given["environment"]))
    # What the environment has compiled is compiled here, and not while the first seed is timed.
    untimed = Sessions(VideoRound(arena, config.sessions), config.sessions, seed=0)
    untimed.reset()
    untimed.step(np.zeros(config.sessions, np.int64))
    say = {"parameters": sum(p.numel() for p in CandidateQ(INPUTS, config.network).parameters())}
    say |= {"version": stable_baselines3.__version__, "torch": torch.__version__}
    print(json.dumps(say), flush=True)
    for line in sys.stdin:
        seed = int(line)
        print(json.dumps(trained(arena, config, seed, evaluation_seeds(seed, given["sessions"]))), flush=True)


def trained(arena: Arena, config: DQNTrainConfig, seed: int, seeds: np.ndarray) -> dict[str, Any]:
    """The curve of one agent, its updates and the steps it played."""
    round_steps = config.steps_between_updates * config.sessions
    end = config.final_learning_rate
    model = DQN(
        Policy,
        Sessions(VideoRound(arena, config.sessions), config.sessions, seed),
        learning_rate=lambda left: config.learning_rate * (end + (1 - end) * left),
        buffer_size=config.replay_capacity,
        learning_starts=config.warmup_steps,
        batch_size=config.batch_size,
        tau=config.tau,
        gamma=config.discount,
        train_freq=config.steps_between_updates,
        gradient_steps=round(config.training_intensity * round_steps / config.batch_size),
        target_update_interval=round_steps,
        exploration_fraction=config.exploration_steps / config.total_steps,
        exploration_final_eps=config.final_epsilon,
        max_grad_norm=40.0,
        policy_kwargs={"candidate_q": config.network},
        seed=seed,
        device="cpu",
    )
    curve = Curve(arena, config.steps_per_report, seeds)
    model.learn(config.total_steps, callback=curve)
    return {"curve": curve.rows, "updates": model._n_updates, "steps": model.num_timesteps}


if __name__ == "__main__":
    main()
