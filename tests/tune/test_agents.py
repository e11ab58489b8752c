"""What trials of agents are judged by."""

from pathlib import Path

import numpy as np
import pytest

from rl.cli import TrainDQNOptions
from rl.session_evaluation import evaluation_seeds
from tune.agents import JUDGES, validation_seeds

TINY = {
    "total_steps": 256,
    "sessions": 16,
    "warmup_steps": 16,
    "batch_size": 16,
    "steps_per_report": 128,
    "env": {"world": {"n_users": 20, "n_videos": 200, "max_steps": 5}, "n_candidates": 8},
}


def test_validation_plays_other_sessions_than_evaluation():
    seeds = validation_seeds(0, 2000)
    assert len(np.unique(seeds)) == 2000
    assert not np.intersect1d(seeds, evaluation_seeds(0, 2000)).size
    np.testing.assert_array_equal(seeds, validation_seeds(0, 2000))


@pytest.mark.slow
def test_an_agent_is_judged_by_the_reward_of_its_sessions(tmp_path: Path, ray_session):
    options = TrainDQNOptions.model_validate({**TINY, "home": "nowhere"})
    found = JUDGES["dqn"](options, tmp_path, 50, 0).measured
    assert found.metric == "session_reward" and found.n == 50
    assert found.std_error is not None and found.std_error > 0
    assert found.score == found.value and -2 <= found.value <= 2 * 5
    assert (tmp_path / "runs").is_dir()
