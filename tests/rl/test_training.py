"""What a training run keeps of its reports, and what it refuses to go on from."""

import json
from dataclasses import replace

import pytest
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_LEN_MEAN,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_MODULE_STEPS_TRAINED,
)

from rec.errors import BundleError, ConfigError, DataError, TrainingError
from rec.models.session_agent import AGENT_FILE
from rl.dqn import agent_of, dqn_config
from rl.training import _row, _rows, train_agent
from tests.rl.marshmallow import CONFIG, INPUTS, Marshmallow

NOTHING = float("nan")
SHORT = CONFIG.model_copy(update={"total_steps": 300, "steps_per_report": 300})
NETWORKS = "learner_group/learner/rl_module/default_policy"


PLAYED = {NUM_ENV_STEPS_SAMPLED_LIFETIME: 64, NUM_EPISODES: 3, EPISODE_RETURN_MEAN: 1.5, EPISODE_LEN_MEAN: 2.0}
LEARNT = {NUM_MODULE_STEPS_TRAINED: 32, "total_loss": 0.25, "qf_mean": 0.5}


def row_of(played, learnt):
    return _row({ENV_RUNNER_RESULTS: PLAYED | played, LEARNER_RESULTS: {"default_policy": LEARNT | learnt}})


def test_a_report_has_no_mean_of_no_session_and_of_no_update():
    """RLlib's mean of nothing is NaN, which no JSON holds; so is the number of transitions learnt where none were."""
    assert row_of({}, {}) == {"steps": 64, "reward": 1.5, "videos": 2, "loss": 0.25, "value": 0.5}
    no_session = {NUM_EPISODES: 0, EPISODE_RETURN_MEAN: NOTHING, EPISODE_LEN_MEAN: NOTHING}
    assert row_of(no_session, {}) == {"steps": 64, "loss": 0.25, "value": 0.5}
    no_update = dict.fromkeys(LEARNT, NOTHING)
    assert row_of({}, no_update) == {"steps": 64, "reward": 1.5, "videos": 2}
    assert _row({ENV_RUNNER_RESULTS: PLAYED | no_session}) == {"steps": 64}


@pytest.mark.parametrize(
    ("played", "learnt", "named"),
    [
        ({}, {"total_loss": NOTHING, "qf_mean": NOTHING}, "loss and value"),
        ({}, {"total_loss": float("inf")}, "loss"),
        ({EPISODE_RETURN_MEAN: NOTHING}, {}, "reward"),
    ],
)
def test_a_report_of_a_diverged_training_is_called_so(played, learnt, named):
    with pytest.raises(TrainingError, match=f"diverges: {named} not finite after 64 steps; use a lower"):
        row_of(played, learnt)


class Dear(Marshmallow):
    """Rewards whose squares are infinite in float32."""

    def act(self, actions):
        outcome = super().act(actions)
        return replace(outcome, reward=outcome.reward * 1e30)


@pytest.mark.usefixtures("ray_session")
def test_a_training_whose_losses_are_infinite_fails_and_leaves_no_agent(tmp_path):
    with pytest.raises(TrainingError, match="diverges: loss not finite"):
        train_agent(dqn_config(Dear, INPUTS, SHORT), agent_of, total_steps=300, asked={}, folder=tmp_path)
    assert not (tmp_path / AGENT_FILE).exists()


@pytest.mark.usefixtures("ray_session")
def test_networks_that_are_not_finite_in_the_end_fail_the_run_by_its_file(tmp_path):
    """Of the last update no loss is seen."""

    def diverged(module):
        agent = agent_of(module)
        agent.network.session.weight.data.fill_(NOTHING)
        return agent

    with pytest.raises(BundleError, match=rf"of session\.weight are not finite.*{tmp_path}/agent\.safetensors"):
        train_agent(dqn_config(Marshmallow, INPUTS, SHORT), diverged, total_steps=300, asked={}, folder=tmp_path)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("changes", "learns"),
    [
        # All of the first report is played, of however many more steps than were asked for.
        ({"total_steps": 100}, True),
        ({"warmup_steps": 5000}, False),
        ({"warmup_steps": 5000, "replay_capacity": 150}, True),
        # 256 steps at most are learnt from, and then no whole batch is owed.
        ({"training_intensity": 0.1, "warmup_steps": 0}, False),
    ],
)
def test_a_training_that_made_no_update_fails_and_any_other_does_not(tmp_path, changes, learns):
    config = SHORT.model_copy(update=changes)
    asked = {"total_steps": config.total_steps, "asked": {}, "folder": tmp_path}
    algorithm = dqn_config(Marshmallow, INPUTS, config)
    if learns:
        assert "loss" in train_agent(algorithm, agent_of, **asked).curve[-1]
        return
    with pytest.raises(TrainingError, match=r"no update was made in 3\d\d steps"):
        train_agent(algorithm, agent_of, **asked)
    assert not (tmp_path / AGENT_FILE).exists()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        (NETWORKS, None, ConfigError, "no learner_group/learner/rl_module/default_policy"),
        ("env_runner", None, ConfigError, "no env_runner"),
        ("agent.json", b'{"seed": 1', DataError, r"is no JSON.*agent\.json"),
        ("agent.json", b"\xff\xfe\xff", DataError, r"is no JSON.*agent\.json"),
        ("agent.json", b"[]", DataError, r"is no JSON object.*agent\.json"),
        ("agent.json", b'{"seed": 1}', ConfigError, r"asked for something else, see seed in agent\.json"),
    ],
)
def test_a_damaged_run_is_not_gone_on_with(tmp_path, name, content, error, message):
    for part in (NETWORKS, "env_runner"):
        (tmp_path / "checkpoint" / ("" if part == name else part)).mkdir(parents=True, exist_ok=True)
    (tmp_path / "agent.json").write_text("{}")
    (tmp_path / "curve.jsonl").write_text(json.dumps({"steps": 10}) + "\n")
    if content is not None:
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
