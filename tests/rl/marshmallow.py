"""A task in which waiting pays and whose answer is known, and how DQN is trained on it."""

import numpy as np
from gymnasium import spaces

from rec.config import AgentField, AgentInputs, CandidateQConfig
from rl.config import DQNTrainConfig
from rl.session_env import Outcome
from rl.streams import uniforms

SWEET, PATIENT, LATER = 1, 2, 3
SECOND = 1


class Marshmallow:
    """Two steps at most: SWEET gives 1 and ends; PATIENT gives nothing, and LATER then gives 2; all else ends.

    The four candidates come in an order drawn anew each time. Worth 2 to who waits, 1 to who looks one step ahead.
    """

    observation_space = spaces.Dict(
        {
            "stage": spaces.Discrete(2),
            "kind": spaces.MultiDiscrete([4] * 4),
            "order": spaces.Box(0, 1, (4, 1), np.float32),
        }
    )
    action_space = spaces.Discrete(4)

    def __init__(self, n_sessions):
        self.users = np.zeros(n_sessions, np.int64)
        self.stage, self.done = np.zeros(n_sessions, np.int64), np.zeros(n_sessions, bool)
        self.seeds, self.episodes = np.zeros(n_sessions, np.uint64), np.full(n_sessions, -1)

    @property
    def seeded(self):
        return bool((self.episodes >= 0).all())

    def seed(self, rows, seeds):
        self.seeds[rows], self.episodes[rows] = seeds, -1

    def start(self, rows):
        self.episodes[rows] += 1
        self.stage[rows], self.done[rows] = 0, False

    @property
    def kinds(self):
        steps = [uniforms(self.seeds, self.episodes, 2 * self.stage + i) for i in range(2)]
        return np.concatenate(steps, axis=1).argsort(axis=1)

    def act(self, actions):
        kind, live = self.kinds[np.arange(len(actions)), actions], ~self.done
        first = live & (self.stage == 0)
        reward = np.where(first & (kind == SWEET), 1.0, np.where(live & ~first & (kind == LATER), 2.0, 0.0))
        waits = first & (kind == PATIENT)
        self.stage[waits] = SECOND
        self.done |= live & ~waits
        return Outcome(reward, self.done.copy(), {})

    def observe(self):
        return {
            "stage": self.stage.copy(),
            "kind": self.kinds,
            "order": np.zeros((len(self.users), 4, 1), np.float32),
        }


INPUTS = AgentInputs(
    session=(AgentField(name="stage", categories=(2,)),),
    candidate=(AgentField(name="kind", categories=(4,)), AgentField(name="order", numbers=1)),
)
CONFIG = DQNTrainConfig(
    network=CandidateQConfig(hidden=16, embedding_dim=4),
    total_steps=3000,
    sessions=32,
    batch_size=64,
    warmup_steps=200,
    training_intensity=4,
    learning_rate=5e-3,
    exploration_steps=1500,
    tau=0.1,
    replay_capacity=2000,
    priority_exponent=0.6,
    weight_exponent=0.4,
    steps_per_report=1000,
)
