"""Runs of either agent from options: trained, published, gone on with, and refused."""

import json
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
from rl.rating_cli import RatingSessions, TrainDRROptions, divided_ratings, train_drr
from rl.run_cli import Learning, start_run
from rl.training import MODULE_FOLDER

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
        assert load_agent(published).ratings == digest_of(divided_ratings(options.ratings).train)
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
        start_run(options, lambda: Learning(interrupt, agent_of))
    assert "stopped before the first report" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        start_run(options, lambda: Learning(algorithm, interrupt))
    (run,) = (tmp_path / "runs").iterdir()
    told = capsys.readouterr().err
    assert told.startswith(f"run {run}\n") and told.endswith(f"--resume {run.name}\n")
    again = start_run(options.model_copy(update={"resume": run.name}), lambda: Learning(algorithm, agent_of))
    assert again["run_dir"] == str(run) and load_agent(run / AGENT_FILE).kind == "dqn"


@pytest.fixture
def begun(tmp_path):
    """Options that go on with a run of DRR, as far as it can be told before it is read: the record and the folders."""
    options = drr_options(str(tmp_path)).model_copy(update={"resume": "begun"})
    for part in (MODULE_FOLDER, "env_runner"):
        (tmp_path / "runs/begun/checkpoint" / part).mkdir(parents=True)
    (tmp_path / "runs/begun/curve.jsonl").write_text('{"steps": 10}\n')
    digest = digest_of(divided_ratings(options.ratings).train)
    asked = options.model_dump(mode="json", exclude={"home", "resume", "export"}) | {"digest": digest}
    (tmp_path / "runs/begun/agent.json").write_text(json.dumps(asked))
    return options


def test_a_run_is_not_gone_on_with_on_other_ratings_of_the_same_name(begun, tmp_path, capsys):
    """Its agent has not learnt from them, whatever the file says; and it is said before anything is fitted."""
    record = tmp_path / "runs/begun/agent.json"
    before = record.read_bytes()
    table = pd.read_csv(tmp_path / "ratings.csv")
    other = table["rating"].where(table.index > 0, 6 - table["rating"])
    assert (other != table["rating"]).sum() == 1
    table.assign(rating=other).to_csv(tmp_path / "ratings.csv", index=False)
    with pytest.raises(ConfigError, match=r"asked for something else, see digest in agent\.json"):
        train_drr(begun)
    assert record.read_bytes() == before and "matrix factorisation" not in capsys.readouterr().err


def test_a_run_that_did_not_note_its_ratings_is_not_gone_on_with(begun, tmp_path):
    record = tmp_path / "runs/begun/agent.json"
    record.write_text(json.dumps({name: it for name, it in json.loads(record.read_text()).items() if name != "digest"}))
    with pytest.raises(ConfigError, match=r"asked for something else, see digest in agent\.json"):
        train_drr(begun)


def test_other_options_are_refused_before_ratings_are_read(begun, tmp_path):
    (tmp_path / "ratings.csv").unlink()
    with pytest.raises(ConfigError, match=r"asked for something else, see discount, seed in agent\.json"):
        train_drr(begun.model_copy(update={"seed": 1, "discount": 0.5}))


@pytest.mark.parametrize("kind", list(AGENTS))
def test_a_run_that_is_not_there_is_named(kind, tmp_path):
    options_of, train = AGENTS[kind]
    with pytest.raises(ConfigError, match="no run 'nothing' to resume"):
        train(options_of(str(tmp_path)).model_copy(update={"resume": "nothing"}))
