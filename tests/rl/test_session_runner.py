"""What the runner hands to the replay is what happened in the sessions, one after the other."""

import numpy as np

from rl.dqn import dqn_config
from rl.session_env import SessionVectorEnv
from rl.session_runner import SessionEnvRunner
from tests.rl.marshmallow import CONFIG, INPUTS, Marshmallow

N_SESSIONS = 6


def new_runner():
    config = dqn_config(Marshmallow, INPUTS, CONFIG.model_copy(update={"sessions": N_SESSIONS}))
    return SessionEnvRunner(config=config, worker_index=0)


def streams(runner):
    """Seeds of the sessions under way."""
    return runner.env.unwrapped.round.seeds


def test_two_fragments_are_those_of_an_environment_played_by_hand():
    runner = new_runner()
    found = runner.sample() + runner.sample()
    assert len(found) == 2 * CONFIG.steps_between_updates
    env = SessionVectorEnv(Marshmallow(N_SESSIONS))
    seen, _ = env.reset(seed=streams(runner).tolist())
    over, n_over, n_waited = np.zeros(N_SESSIONS, bool), 0, 0
    for steps in found:
        # The step that only starts a session anew is none of a session.
        live, actions = ~over, np.zeros(N_SESSIONS, np.int64)
        assert len(steps) == live.sum()
        actions[live] = steps.action
        seen_next, reward, terminated, _, _ = env.step(actions)
        for name, values in seen.items():
            np.testing.assert_array_equal(steps.seen[name], values[live])
            np.testing.assert_array_equal(steps.seen_next[name], seen_next[name][live])
        np.testing.assert_array_equal(steps.reward, reward[live])
        np.testing.assert_array_equal(steps.terminated, terminated[live])
        n_over, n_waited = n_over + over.sum(), n_waited + (~steps.terminated).sum()
        seen, over = seen_next, terminated
    assert n_over and n_waited
    assert runner.num_env_steps_sampled_lifetime == sum(len(steps) for steps in found)


def test_a_runner_that_goes_on_from_a_checkpoint_plays_other_sessions():
    first, fresh, going_on = new_runner(), new_runner(), new_runner()
    first.sample()
    going_on.set_state(first.get_state())
    for runner in (fresh, going_on):
        runner.sample()
    np.testing.assert_array_equal(streams(fresh), streams(first))
    assert not np.isin(streams(going_on), streams(first)).any()
