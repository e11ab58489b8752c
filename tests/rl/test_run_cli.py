"""Runs of either agent from options: trained, published, gone on with, and refused."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rec.bundle import BundleDetails
from rec.config import CandidateQConfig, ColumnsConfig, DataConfig
from rec.config.drr import DRRNetworkConfig
from rec.errors import BundleError, ConfigError
from rec.models.session_agent import AGENT_FILE, load_agent
from rec.registry import Registry
from rec.storage import Home
from rl.cli import TrainDQNOptions, train_dqn
from rl.config import InstaTokConfig, InstaTokEnvConfig, PMFConfig
from rl.pmf import digest_of
from rl.rating_cli import RatingSessions, TrainDRROptions, fitted_ratings, train_drr
from rl.run_cli import start_run

SHORT: dict[str, Any] = {
    "sessions": 8,
    "warmup_steps": 50,
    "exploration_steps": 100,
    "total_steps": 200,
    "steps_per_report": 100,
}


def dqn_options(home):
    world = InstaTokConfig(n_users=40, n_videos=400, sessions_per_user=3, max_steps=12)
    small = CandidateQConfig(hidden=8, embedding_dim=2)
    return TrainDQNOptions(home=home, env=InstaTokEnvConfig(world=world), network=small, batch_size=32, **SHORT)


def drr_options(home):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}") for u in range(12) for i in rng.choice(40, 20, replace=False)]
    table = pd.DataFrame(rows, columns=["user_id", "item_id"])
    table["timestamp"], table["rating"] = np.arange(len(table)), rng.integers(1, 6, len(table))
    table.to_csv(f"{home}/ratings.csv", index=False)
    data = DataConfig(name="csv", path=f"{home}/ratings.csv", columns=ColumnsConfig(rating="rating"))
    ratings = RatingSessions(data=data, train_fraction=0.5, pmf=PMFConfig(dim=4, max_epochs=5))
    return TrainDRROptions(home=home, ratings=ratings, network=DRRNetworkConfig(hidden=8), **SHORT)


AGENTS = {"dqn": (dqn_options, train_dqn), "drr": (drr_options, train_drr)}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("kind", list(AGENTS))
def test_a_run_is_published_gone_on_with_and_refuses_other_options(kind, tmp_path, capsys):
    options_of, train = AGENTS[kind]
    registry = Registry(Home(tmp_path))
    details = BundleDetails(config={}, seed=1, schema_sha256="5" * 64, metrics={})

    def fill(folder):
        (folder / "encoders.json").write_text("{}")

    registry.promote(registry.publish(fill, details))
    options = options_of(str(tmp_path)).model_copy(update={"export": True})
    told = train(options)
    assert told["steps"] >= 200 and "loss" in told["last"]
    assert ("RMSE" in capsys.readouterr().err) == (kind == "drr")
    published = registry.open(told["version"]).path(AGENT_FILE)
    assert load_agent(published).kind == kind
    if kind == "drr":
        assert load_agent(published).ratings == digest_of(fitted_ratings(options.ratings)[0].train)
    run = tmp_path / "runs" / told["run_dir"].split("/")[-1]
    assert published.read_bytes() == (run / AGENT_FILE).read_bytes()
    again = options.model_copy(update={"resume": run.name, "export": False})
    # What was asked for has been played, so nothing is left to learn.
    resumed = train(again)
    assert (resumed["steps"], resumed["version"]) == (told["steps"], None)
    assert published.read_bytes() == (run / AGENT_FILE).read_bytes()
    with pytest.raises(ConfigError, match="asked for something else"):
        train(again.model_copy(update={"seed": 1}))


@pytest.mark.parametrize("kind", list(AGENTS))
def test_what_cannot_be_published_is_not_trained(kind, tmp_path):
    options_of, train = AGENTS[kind]
    with pytest.raises(BundleError, match="no model was promoted yet"):
        train(options_of(str(tmp_path)).model_copy(update={"export": True}))
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("ray_session")
def test_a_run_that_is_interrupted_says_how_it_goes_on(tmp_path, capsys):
    """Once before it has a checkpoint, and once after its last report."""
    from rl.dqn import agent_of, dqn_config
    from tests.rl.marshmallow import CONFIG, INPUTS, Marshmallow

    short = CONFIG.model_copy(update={"total_steps": 400, "steps_per_report": 400})
    options = TrainDQNOptions(home=str(tmp_path), **short.model_dump())

    def interrupt(module: Any = None) -> Any:
        raise KeyboardInterrupt

    def algorithm() -> Any:
        return dqn_config(Marshmallow, INPUTS, short)

    with pytest.raises(KeyboardInterrupt):
        start_run(options, interrupt, agent_of)
    assert "stopped before the first report" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        start_run(options, algorithm, interrupt)
    (run,) = (tmp_path / "runs").iterdir()
    told = capsys.readouterr().err
    assert told.startswith(f"run {run}\n") and told.endswith(f"--resume {run.name}\n")
    again = start_run(options.model_copy(update={"resume": run.name}), algorithm, agent_of)
    assert again["run_dir"] == str(run) and load_agent(run / AGENT_FILE).kind == "dqn"


@pytest.mark.parametrize("kind", list(AGENTS))
def test_a_run_that_is_not_there_is_named(kind, tmp_path):
    options_of, train = AGENTS[kind]
    with pytest.raises(ConfigError, match="no run 'nothing' to resume"):
        train(options_of(str(tmp_path)).model_copy(update={"resume": "nothing"}))
