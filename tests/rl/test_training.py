"""What a training run keeps of its reports, and what it refuses to go on from."""

import json

import pytest
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
)

from rec.errors import ConfigError, DataError
from rl.dqn import agent_of, dqn_config
from rl.training import _row, _rows, train_agent
from tests.rl.marshmallow import CONFIG, INPUTS, Marshmallow

NOTHING = float("nan")


def test_a_report_in_which_no_session_ended_has_no_reward():
    """RLlib's mean of no session, or of no update, is NaN, which no JSON holds."""
    played = {NUM_ENV_STEPS_SAMPLED_LIFETIME: 64, EPISODE_RETURN_MEAN: NOTHING, EPISODE_LEN_MEAN: NOTHING}
    learnt = {LEARNER_RESULTS: {"default_policy": {"total_loss": NOTHING, "qf_mean": 0.5}}}
    assert _row({ENV_RUNNER_RESULTS: played}) == {"steps": 64}
    assert _row({ENV_RUNNER_RESULTS: played, **learnt}) == {"steps": 64, "value": 0.5}


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (None, None, ConfigError, "no learner_group/learner/rl_module/default_policy"),
        ("agent.json", b'{"seed": 1', DataError, r"is no JSON.*agent\.json"),
        ("agent.json", b"\xff\xfe\xff", DataError, r"is no JSON.*agent\.json"),
        ("agent.json", b"[]", ConfigError, "asked for something else"),
    ],
)
def test_a_damaged_run_is_not_gone_on_with(tmp_path, name, content, error, message):
    networks = tmp_path / "checkpoint/learner_group/learner/rl_module/default_policy"
    (tmp_path / "checkpoint" if name is None else networks).mkdir(parents=True)
    (tmp_path / "agent.json").write_text("{}")
    (tmp_path / "curve.jsonl").write_text(json.dumps({"steps": 10}) + "\n")
    if name is not None:
        (tmp_path / name).write_bytes(content)
    algorithm = dqn_config(Marshmallow, INPUTS, CONFIG)
    with pytest.raises(error, match=message):
        train_agent(algorithm, agent_of, total_steps=20, asked={}, folder=tmp_path, resume=True)


@pytest.mark.parametrize(
    "line",
    [b'{"steps": 20', b"", b"[1]", b"3", b"null", b'{"loss": 1}', b'{"steps": NaN}', b'{"steps": "20"}', b"\xff"],
)
def test_a_damaged_row_of_a_curve_is_named(tmp_path, line):
    file = tmp_path / "curve.jsonl"
    file.write_bytes(b'{"steps": 10, "reward": NaN}\n' + line + b"\n")
    with pytest.raises(DataError, match=r"object of numbers.*curve\.jsonl', row 2"):
        _rows(file)
    file.write_bytes(b'{"steps": 10, "reward": NaN}\n{"steps": 20, "reward": 0.5}\n')
    assert _rows(file) == [{"steps": 10}, {"steps": 20, "reward": 0.5}]
