"""`tandem rl evaluate drr` on a small table of ratings."""

import numpy as np
import pandas as pd
import pytest
import torch

from rec.config import ColumnsConfig, DataConfig
from rec.config.drr import DRRNetworkConfig
from rec.errors import ConfigError
from rec.models.drr import DRRActor
from rec.models.drr_agent import DRRAgent
from rl.config import PMFConfig, RatingEnvConfig
from rl.rating_cli import EvaluateDRROptions, RatingSessions, evaluate_drr

N_USERS, N_ITEMS, EACH = 12, 40, 20
NETWORK = DRRNetworkConfig(history_length=3, hidden=8)
METRICS = {"precision@5", "precision@10", "ndcg@5", "ndcg@10", "online_reward"}


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}") for u in range(N_USERS) for i in rng.choice(N_ITEMS, EACH, replace=False)]
    table = pd.DataFrame(rows, columns=["user_id", "item_id"])
    table["timestamp"] = np.arange(len(table))
    table["rating"] = rng.integers(1, 6, len(table))
    file = tmp_path_factory.mktemp("ratings") / "ratings.csv"
    table.to_csv(file, index=False)
    return RatingSessions(
        data=DataConfig(name="csv", path=str(file), columns=ColumnsConfig(rating="rating")),
        train_fraction=0.5,
        pmf=PMFConfig(dim=4, max_epochs=5),
        env=RatingEnvConfig(history_length=3),
    )


def agent_file(folder, n_users=N_USERS):
    torch.manual_seed(0)
    agent = DRRAgent(DRRActor(torch.rand(n_users, 5) - 0.5, torch.randn(N_ITEMS, 5), NETWORK), NETWORK)
    agent.save(folder / "agent.safetensors")
    return str(folder / "agent.safetensors")


def test_an_evaluation_pairs_the_agent_with_every_other_policy(ratings, tmp_path, capsys):
    told = evaluate_drr(EvaluateDRROptions(agent=agent_file(tmp_path), ratings=ratings, sessions=30))
    names = {"random", "popularity", "item mean", "matrix factorisation", "oracle", "agent"}
    assert set(told["models"]) == names and all(set(found) == METRICS for found in told["models"].values())
    assert told["models"]["oracle"]["ndcg@5"]["value"] == pytest.approx(1)
    assert {(pair["b"], pair["metric"]) for pair in told["paired"]} == {
        (b, m) for b in names - {"agent"} for m in METRICS
    }
    best = told["models"]["oracle"]["online_reward"]["value"]
    assert all(found["online_reward"]["value"] <= best for found in told["models"].values())
    assert "agent - oracle" in capsys.readouterr().out


def test_an_agent_of_other_ratings_is_refused(ratings, tmp_path):
    file = agent_file(tmp_path, n_users=N_USERS + 1)
    with pytest.raises(ConfigError, match=f"trained on {N_USERS + 1} users"):
        evaluate_drr(EvaluateDRROptions(agent=file, ratings=ratings))
