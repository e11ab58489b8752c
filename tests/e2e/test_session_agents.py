"""`tandem rl`: an agent is trained, and judged beside others."""

import json

import numpy as np
import pandas as pd
import pytest

from rec.cli import main

WORLD = ["--env.world.n-users", "40", "--env.world.n-videos", "400", "--env.world.max-steps", "12"]
FEW = ["--sessions", "300", "--logged-sessions", "300"]
SHORT = ["--sessions", "32", "--batch-size", "32", "--warmup-steps", "100", "--steps-per-report", "200"]


def answer(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
def test_an_agent_from_the_command_line(ray_session, tmp_path, capsys):
    train = ["rl", "train", "dqn", "--home", str(tmp_path), *WORLD, *SHORT, "--total-steps", "400", "--json"]
    assert main(train) == 0
    trained = answer(capsys)
    assert trained["steps"] >= 400 and trained["version"] is None
    assert main(["rl", "evaluate", "--agent", trained["agent"], *WORLD, *FEW, "--json"]) == 0
    told = answer(capsys)
    assert told["command"] == "rl evaluate" and told["agent"]["kind"] == "dqn"
    policies = {"random", "popularity", "greedy", "item_mean", "myopic", "oracle", "agent"}
    assert set(told["models"]) == policies and {pair["b"] for pair in told["paired"]} == policies - {"agent"}
    assert set(told["models"]["agent"]) == {"reward", "videos", "repeats", "quit"}
    assert set(told["off_policy"]["estimates"]) == {"cascade", "sn_cascade", "cascade_dr"}
    assert told["off_policy"]["true"] == told["models"]["agent"]["reward"]


@pytest.mark.slow
def test_an_agent_of_ratings_learns_within_sessions_from_its_own_checkpoint(ray_session, tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", rng.integers(1, 6)) for u in range(12) for i in rng.choice(60, 30, replace=False)]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "rating"]).assign(timestamp=np.arange(len(rows)))
    table.to_csv(tmp_path / "ratings.csv", index=False)
    ratings = ["--ratings.data.data", "csv", "--ratings.data.path", str(tmp_path / "ratings.csv")]
    ratings += ["--ratings.data.columns.rating", "rating", "--ratings.pmf.dim", "4", "--ratings.pmf.max-epochs", "3"]
    train = ["rl", "train", "drr", "--home", str(tmp_path), *ratings, "--total-steps", "400", "--warmup-steps", "100"]
    assert main([*train, "--steps-per-report", "200", "--json"]) == 0
    trained = answer(capsys)
    judge = ["rl", "evaluate", "drr", "--agent", trained["agent"], *ratings, "--sessions", "20", "--json"]
    checkpoint = ["--checkpoint", f"{trained['run_dir']}/checkpoint", "--learning-sessions", "5"]
    assert main([*judge, *checkpoint]) == 0
    told = answer(capsys)
    learning = told["learning_in_session"]
    assert learning["online_reward"]["n"] == 5 and {"difference", "low", "high"} <= set(learning["above_agent"])
    assert main([*judge, "--checkpoint", str(tmp_path)]) == 2
    assert "holds no checkpoint" in answer(capsys)["error"]["message"]


def test_what_is_not_there_is_named(tmp_path, capsys):
    assert main(["rl", "train", "dqn", "--home", str(tmp_path), "--resume", "nothing", "--json"]) == 2
    assert "no run 'nothing'" in answer(capsys)["error"]["message"]
    assert main(["rl", "evaluate", "--home", str(tmp_path), "--json"]) == 2
    assert "no model was promoted yet" in answer(capsys)["error"]["message"]
