"""What a log of sessions says of another agent is what that agent earns."""

import numpy as np
import pytest
import torch

from rec.config import CandidateQConfig
from rec.models.session_agent import DQNAgent
from rl.config import InstaTokConfig, InstaTokEnvConfig
from rl.instatok.agent_inputs import INPUTS
from rl.instatok.arena import Arena
from rl.instatok.slot_policies import by_agent
from rl.logged_sessions import estimates_from_log, logged_sessions
from rl.session_evaluation import evaluation_seeds, play_sessions

N = 4000
CANDIDATES = 4


@pytest.fixture(scope="module")
def arena():
    """Sessions of two videos at most, so that the log of one agent says much about another."""
    world = InstaTokConfig(n_users=40, n_videos=400, sessions_per_user=3, max_steps=2, dynamics="fatigue")
    return Arena.of(InstaTokEnvConfig(world=world, n_candidates=CANDIDATES, per_category=1))


def agent_of(seed):
    torch.manual_seed(seed)
    return DQNAgent(INPUTS, CandidateQConfig(hidden=16))


@pytest.mark.parametrize("epsilon", [1.0, 0.5])
def test_estimates_are_what_the_target_earns(arena, epsilon):
    """Two agents that agree now and then; every estimator within four standard errors of the truth."""
    logging, target = agent_of(0), agent_of(1)
    true = play_sessions(arena, by_agent(target), evaluation_seeds(5, N)).reward
    found = estimates_from_log(arena, logging, target, n_sessions=N, epsilon=epsilon, seed=5)
    assert set(found) == {"cascade", "sn_cascade", "cascade_dr"}
    for name, estimate in found.items():
        error = np.hypot(estimate["std_error"], true.std() / np.sqrt(N))
        assert abs(estimate["value"] - true.mean()) < 4 * error, name
        assert estimate["ess"] < N / 2  # so it was no log of the target itself


def test_propensities_are_those_of_an_agent_that_explores(arena):
    """1 - epsilon + epsilon / M for what the agent values most, epsilon / M for each of the others, 1 after the end."""
    agent, epsilon = agent_of(0), 0.4
    slates = logged_sessions(arena, agent, agent, evaluation_seeds(6, N), epsilon=epsilon)
    shown = slates.propensities < 1
    assert shown[:, 0].all() and not shown.all()
    greedy, other = 1 - epsilon + epsilon / CANDIDATES, epsilon / CANDIDATES
    np.testing.assert_allclose(
        slates.propensities[shown], np.where(slates.target_p[shown] == 1, greedy, other), rtol=1e-12
    )
    for step in range(2):
        chose = slates.target_p[shown[:, step], step]
        assert abs(chose.mean() - greedy) < 4 * np.sqrt(greedy * other / len(chose))


def test_the_same_streams_give_the_same_log(arena):
    seeds = evaluation_seeds(7, 50)
    first, again = (logged_sessions(arena, agent_of(0), agent_of(1), seeds, epsilon=0.5) for _ in range(2))
    np.testing.assert_array_equal(first.rewards, again.rewards)
    np.testing.assert_array_equal(first.propensities, again.propensities)
