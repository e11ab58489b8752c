"""What a training run keeps of its reports, and what it refuses to go on from."""

from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)

from rl.training import _row

NOTHING = float("nan")


def test_a_report_in_which_no_session_ended_has_no_reward():
    """RLlib's mean of no session, or of no update, is NaN, which no JSON holds."""
    played = {NUM_ENV_STEPS_SAMPLED_LIFETIME: 64, EPISODE_RETURN_MEAN: NOTHING, EPISODE_LEN_MEAN: NOTHING}
    learnt = {LEARNER_RESULTS: {"default_policy": {"total_loss": NOTHING, "qf_mean": 0.5}}}
    assert _row({ENV_RUNNER_RESULTS: played}) == {"steps": 64}
    assert _row({ENV_RUNNER_RESULTS: played, **learnt}) == {"steps": 64, "value": 0.5}
