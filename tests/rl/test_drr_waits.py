"""DRR learns to wait for more, in a task whose answer is known."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rec.config.drr import DRRNetworkConfig
from rec.errors import TrainingError
from rl.config import DRRTrainConfig
from rl.drr import RatingVectors, agent_of, drr_config
from rl.session_env import Outcome
from rl.streams import SessionStreams
from rl.training import train_agent

SWEET, PATIENT, LATER, NOTHING = range(4)
N_ITEMS = 4
NONE = N_ITEMS
VECTORS = RatingVectors(torch.full((1, N_ITEMS), 0.5), torch.eye(N_ITEMS))


class Waiting:
    """Two steps at most: SWEET gives 1 and ends; PATIENT gives nothing, and LATER then gives 2; all else ends.

    Actions are ranking vectors of four items that have a dimension each, and a switch for any of them; the history is
    PATIENT once that was recommended.
    """

    def __init__(self, n_sessions):
        self.observation_space = spaces.Dict(
            {
                "user": spaces.Discrete(1),
                "history": spaces.MultiDiscrete([N_ITEMS + 1]),
                "shown": spaces.MultiDiscrete([N_ITEMS + 1] * 2),
            }
        )
        self.action_space = spaces.Box(-1, 1, (N_ITEMS + 1,), np.float32)
        self.users, self.done = np.zeros(n_sessions, np.int64), np.zeros(n_sessions, bool)
        self.shown = np.full((n_sessions, 2), NONE)
        self.streams = SessionStreams(n_sessions)

    @property
    def seeded(self):
        return self.streams.started

    def seed(self, rows, seeds):
        self.streams.seed(rows, seeds)

    def start(self, rows):
        self.streams.start(rows, 1)
        self.shown[rows], self.done[rows] = NONE, False

    def act(self, actions):
        first, live = self.shown[:, 0] == NONE, ~self.done
        anything = (self.streams.at(np.where(first, 1, 2))[:, 0] * N_ITEMS).astype(np.int64)
        item = np.where(actions[:, -1] > 0, anything, actions[:, :-1].argmax(axis=1))
        self.shown[live, np.where(first, 0, 1)[live]] = item[live]
        reward = np.where(live & first & (item == SWEET), 1.0, np.where(live & ~first & (item == LATER), 2.0, 0.0))
        self.done |= ~(first & (item == PATIENT))
        return Outcome(reward, self.done.copy(), {})

    def observe(self):
        waited = self.shown[:, 0] == PATIENT
        return {
            "user": self.users.copy(),
            "history": np.where(waited, PATIENT, NONE)[:, None],
            "shown": self.shown.copy(),
        }


@pytest.mark.usefixtures("ray_session")
def test_it_learns_to_wait_for_more(tmp_path):
    """Looking one step ahead would choose SWEET."""
    config = DRRTrainConfig(
        network=DRRNetworkConfig(history_length=1, hidden=32),
        critic_reads="item",
        actor_learning_rate=2e-3,
        critic_learning_rate=5e-3,
        tau=0.05,
        sessions=32,
        warmup_steps=200,
        training_intensity=8,
        exploration_steps=4000,
        final_epsilon=0.3,
        total_steps=3000,
        steps_per_report=1000,
    )
    run = train_agent(
        drr_config(Waiting, VECTORS, config), agent_of, total_steps=config.total_steps, asked={}, folder=tmp_path
    )
    everything = {"item": np.arange(N_ITEMS)}
    chosen = [run.agent.score({"user": 0, "history": [seen]}, everything).argmax() for seen in (NONE, PATIENT)]
    assert chosen == [PATIENT, LATER]


@pytest.mark.usefixtures("ray_session")
def test_an_actor_that_diverges_is_called_so_before_it_is_asked_for_an_item(tmp_path):
    config = DRRTrainConfig(
        network=DRRNetworkConfig(history_length=1, hidden=32), actor_learning_rate=1e36, warmup_steps=100
    )
    with pytest.raises(TrainingError, match="diverges: actions not finite"):
        train_agent(drr_config(Waiting, VECTORS, config), agent_of, total_steps=3000, asked={}, folder=tmp_path)
