"""Settings with which no agent would learn are refused, by the names of both."""

import pytest

from rec.cli import main
from rl.config import DQNTrainConfig, DRRTrainConfig


@pytest.mark.parametrize("config", [DQNTrainConfig, DRRTrainConfig])
def test_a_training_without_an_update_is_refused(config):
    with pytest.raises(ValueError, match=r"total_steps must be above warmup_steps.*found 500 and 500"):
        config(total_steps=500, warmup_steps=500)
    assert config(total_steps=501, warmup_steps=500).total_steps == 501
    assert config(total_steps=500, warmup_steps=500, replay_capacity=499).total_steps == 500


@pytest.mark.parametrize("kind", ["dqn", "drr"])
def test_the_command_line_refuses_it_before_anything_is_made(kind, tmp_path, capsys):
    assert main(["rl", "train", kind, "--home", str(tmp_path / "home"), "--total-steps", "500"]) == 2
    assert "total_steps must be above warmup_steps" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
