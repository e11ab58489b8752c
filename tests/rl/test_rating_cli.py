"""`tandem rl evaluate drr` on a small table of ratings."""

import numpy as np
import pandas as pd
import pytest
import torch

from rec.config import ColumnsConfig, DataConfig
from rec.config.drr import DRRNetworkConfig
from rec.errors import ConfigError, DataError
from rec.models.drr import DRRActor
from rec.models.drr_agent import DRRAgent
from rl.config import DRRTrainConfig, PMFConfig, RatingEnvConfig
from rl.drr import RatingVectors
from rl.drr_module import DRRModule
from rl.pmf import digest_of
from rl.rating_cli import (
    EvaluateDRROptions,
    RatingSessions,
    TrainDRROptions,
    divided_ratings,
    evaluate_drr,
    fitted_ratings,
    train_drr,
)
from rl.training import MODULE_FOLDER

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


@pytest.fixture(scope="module")
def seen(ratings):
    return digest_of(divided_ratings(ratings).train)


def agent_file(folder, seen=None, n_users=N_USERS):
    torch.manual_seed(0)
    agent = DRRAgent(DRRActor(torch.rand(n_users, 5) - 0.5, torch.randn(N_ITEMS, 5), NETWORK), NETWORK, seen)
    agent.save(folder / "agent.safetensors")
    return str(folder / "agent.safetensors")


def test_an_evaluation_pairs_the_agent_with_every_other_policy(ratings, seen, tmp_path, capsys):
    told = evaluate_drr(EvaluateDRROptions(agent=agent_file(tmp_path, seen), ratings=ratings, sessions=30))
    names = {"random", "popularity", "item mean", "matrix factorisation", "oracle", "agent"}
    assert set(told["models"]) == names and all(set(found) == METRICS for found in told["models"].values())
    assert told["models"]["oracle"]["ndcg@5"]["value"] == pytest.approx(1)
    assert {(pair["b"], pair["metric"]) for pair in told["paired"]} == {
        (b, m) for b in names - {"agent"} for m in METRICS
    }
    best = told["models"]["oracle"]["online_reward"]["value"]
    assert all(found["online_reward"]["value"] <= best for found in told["models"].values())
    assert "agent - oracle" in capsys.readouterr().out


def test_every_policy_plays_the_same_sessions_in_each_simulator_that_is_asked_for(ratings, seen, tmp_path, capsys):
    options = EvaluateDRROptions(agent=agent_file(tmp_path, seen), ratings=ratings, sessions=30)
    assert evaluate_drr(options)["simulators"] == []
    changes = {"families": ("factorisation", "neighbors"), "noises": (0.0, 1.0)}
    told = evaluate_drr(options.model_copy(update=changes))
    places = [(each["family"], each["noise"]) for each in told["simulators"]]
    assert places == [(family, noise) for family in changes["families"] for noise in changes["noises"]]
    for each in told["simulators"]:
        assert set(each["models"]) == {*told["models"], "neighbors"}
        assert {pair["b"] for pair in each["paired"]} == set(each["models"]) - {"agent"}
    as_learnt, noisy, others, _ = (each["models"] for each in told["simulators"])
    assert as_learnt["agent"] == told["models"]["agent"]["online_reward"]
    assert as_learnt["agent"] != noisy["agent"] and as_learnt["agent"] != others["agent"]
    for found in (as_learnt, others):
        assert max(each["value"] for each in found.values()) == pytest.approx(found["oracle"]["value"])
    assert others["neighbors"]["value"] > others["matrix factorisation"]["value"]
    assert "in the simulator neighbors, noise of 1 stars" in capsys.readouterr().out


def test_an_agent_that_ranks_as_another_policy_does_not_differ_from_it_and_others_by_their_means(
    ratings, seen, tmp_path
):
    """Noise of a whole star is the same for all, and rows of both sides are of the same session, or 0 has an error."""
    noisy = ratings.model_copy(update={"env": ratings.env.model_copy(update={"noise": 1.0})})
    _, model = fitted_ratings(noisy)
    vectors, network = RatingVectors.of(model), NETWORK.model_copy(update={"start": "user"})
    agent = DRRAgent(DRRActor(vectors.users, vectors.items, network), network, seen)
    agent.save(tmp_path / "agent.safetensors")
    told = evaluate_drr(
        EvaluateDRROptions(
            agent=str(tmp_path / "agent.safetensors"), ratings=noisy, sessions=30, families=("factorisation",)
        )
    )
    (simulator,) = told["simulators"]
    earned = {name: {"online_reward": found} for name, found in simulator["models"].items()}
    of_simulator = [pair | {"metric": "online_reward"} for pair in simulator["paired"]]
    for paired, models in ((told["paired"], told["models"]), (of_simulator, earned)):
        for pair in paired:
            ours, theirs = (models[pair[side]][pair["metric"]]["value"] for side in ("a", "b"))
            assert pair["a"] == "agent" and pair["difference"] == pytest.approx(ours - theirs, abs=1e-12)
            if pair["b"] == "matrix factorisation":
                assert pair["low"] == pair["high"] == pair["difference"] == 0
    assert told["models"]["agent"]["online_reward"]["std_error"] > 0 < told["models"]["agent"]["ndcg@5"]["std_error"]


def test_noise_alone_keeps_the_family(ratings, seen, tmp_path):
    file = agent_file(tmp_path, seen)
    told = evaluate_drr(EvaluateDRROptions(agent=file, ratings=ratings, sessions=5, noises=(0.5,)))
    (simulator,) = told["simulators"]
    assert (simulator["family"], simulator["noise"]) == ("factorisation", 0.5)
    assert "neighbors" not in simulator["models"]


def test_a_checkpoint_that_is_not_the_agents_own_is_refused_before_ratings_are_read(seen, tmp_path):
    elsewhere = RatingSessions(
        data=DataConfig(name="csv", path=str(tmp_path / "none.csv")), env=RatingEnvConfig(history_length=3)
    )
    options = EvaluateDRROptions(agent=agent_file(tmp_path, seen), checkpoint=str(tmp_path), ratings=elsewhere)
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        evaluate_drr(options)
    torch.manual_seed(1)
    vectors = {"user_vectors": torch.rand(N_USERS, 5) - 0.5, "item_vectors": torch.randn(N_ITEMS, 5)}
    given = {"config": DRRTrainConfig(network=NETWORK), "epsilon": [(0, 0.0)], **vectors}
    DRRModule(model_config=given).save_to_path(str(tmp_path / MODULE_FOLDER))
    with pytest.raises(ConfigError, match="is of another agent"):
        evaluate_drr(options)


def test_an_agent_of_other_ratings_is_refused(ratings, seen, tmp_path):
    file = agent_file(tmp_path, seen, n_users=N_USERS + 1)
    with pytest.raises(ConfigError, match=f"trained on {N_USERS + 1} users"):
        evaluate_drr(EvaluateDRROptions(agent=file, ratings=ratings))


def test_an_agent_that_may_have_seen_the_test_ratings_is_refused(ratings, tmp_path):
    """Of the same users and items, but trained on more of each user's ratings: before a fit, which would diverge."""
    more = digest_of(divided_ratings(ratings.model_copy(update={"train_fraction": 0.9})).train)
    diverging = ratings.model_copy(update={"pmf": PMFConfig(dim=4, learning_rate=1e6)})
    with pytest.raises(ConfigError, match=r"seen those of the test; give ratings\.data and ratings\.train_fraction"):
        evaluate_drr(EvaluateDRROptions(agent=agent_file(tmp_path, more), ratings=diverging))


def test_an_agent_that_does_not_say_what_it_has_seen_is_refused_before_ratings_are_read(ratings, tmp_path):
    none = ratings.data.model_copy(update={"path": str(tmp_path / "none.csv")})
    with pytest.raises(ConfigError, match="does not say which ratings it was trained on"):
        evaluate_drr(EvaluateDRROptions(agent=agent_file(tmp_path), ratings=ratings.model_copy(update={"data": none})))


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_ratings_of_another_scale_or_given_twice_are_refused_before_they_are_fitted(
    ratings, seen, tmp_path, capsys, command
):
    """At a scale of 0 to 300 the fit would diverge."""
    table = pd.read_csv(ratings.data.path)
    agent = agent_file(tmp_path, seen)
    for name, changed, message in (
        ("large", table.assign(rating=60 * table["rating"]), r"ratings from 1 to 5 are required; found \d+"),
        ("twice", pd.concat([table, table.tail(1).assign(timestamp=10**6)]), "twice; keep one rating"),
    ):
        changed.to_csv(tmp_path / f"{name}.csv", index=False)
        data = ratings.data.model_copy(update={"path": str(tmp_path / f"{name}.csv")})
        others = ratings.model_copy(update={"data": data})
        with pytest.raises(DataError, match=message):
            if command == "train":
                train_drr(TrainDRROptions(home=str(tmp_path), ratings=others, network=NETWORK))
            else:
                evaluate_drr(EvaluateDRROptions(agent=agent, ratings=others))
    assert "matrix factorisation" not in capsys.readouterr().err


def test_histories_of_another_length_than_the_network_reads_are_refused_at_once(ratings, seen, tmp_path):
    other = ratings.model_copy(update={"env": RatingEnvConfig(history_length=4)})
    with pytest.raises(ConfigError, match=r"latest 3 liked items .* show 4 \(ratings\.env\.history_length"):
        evaluate_drr(EvaluateDRROptions(agent=agent_file(tmp_path, seen), ratings=other))
    with pytest.raises(ConfigError, match="latest 3 liked items"):
        train_drr(TrainDRROptions(home=str(tmp_path), ratings=other, network=NETWORK))
    assert not (tmp_path / "runs").exists()
