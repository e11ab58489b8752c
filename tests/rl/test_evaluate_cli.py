"""`tandem rl evaluate` on a small world: what is refused, and of which agent the log is asked."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rec.config import CandidateQConfig
from rec.config.drr import DRRNetworkConfig
from rec.errors import BundleError, ConfigError
from rec.models.drr import DRRActor
from rec.models.drr_agent import DRRAgent
from rec.models.session_agent import DQNAgent
from rl.cli import EvaluateAgentOptions, evaluate_agent
from rl.config import InstaTokConfig, InstaTokEnvConfig
from rl.instatok.agent_inputs import INPUTS
from rl.instatok.arena import Arena
from rl.logged_sessions import estimates_from_log

ENV = InstaTokEnvConfig(world=InstaTokConfig(n_users=40, n_videos=400, sessions_per_user=3, max_steps=3))


def agent_of(seed):
    torch.manual_seed(seed)
    return DQNAgent(INPUTS, CandidateQConfig(hidden=16))


def options_of(folder, **changes):
    return EvaluateAgentOptions(home=str(folder), env=ENV, sessions=20, logged_sessions=50, **changes)


@pytest.mark.parametrize("option", ["agent", "logged_by"])
def test_files_of_no_agent_of_videos_are_refused_before_anything_is_played(tmp_path, option):
    agent_of(0).save(tmp_path / "agent.safetensors")
    config = DRRNetworkConfig(hidden=8)
    DRRAgent(DRRActor(torch.rand(3, 4), torch.rand(5, 4), config), config).save(tmp_path / "drr.safetensors")
    given = {"agent": str(tmp_path / "agent.safetensors")}
    with pytest.raises(BundleError, match="no such file"):
        evaluate_agent(options_of(tmp_path, **given | {option: str(tmp_path / "none.safetensors")}))
    with pytest.raises(ConfigError, match=r"kind 'drr'.*`tandem rl evaluate drr --agent"):
        evaluate_agent(options_of(tmp_path, **given | {option: str(tmp_path / "drr.safetensors")}))


def test_the_log_of_one_agent_is_asked_for_what_the_other_earns(tmp_path):
    files = [str(tmp_path / f"{seed}.safetensors") for seed in range(2)]
    for seed, file in enumerate(files):
        agent_of(seed).save(Path(file))
    told = evaluate_agent(options_of(tmp_path, agent=files[0], logged_by=files[1], log_epsilon=0.5))["off_policy"]
    estimates = {
        judged: estimates_from_log(Arena.of(ENV), agent_of(1), agent_of(judged), n_sessions=50, epsilon=0.5, seed=0)
        for judged in range(2)
    }
    assert told["logged_by"] == files[1]
    for name, found in told["estimates"].items():
        np.testing.assert_allclose(found["value"], estimates[0][name]["value"])
        assert abs(found["value"] - estimates[1][name]["value"]) > 1e-3, name
