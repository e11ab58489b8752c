"""The Python that pages show runs, given what each says is there; off-policy.md and data.md have a test apart."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import rec
from rec.config import AgentField, AgentInputs, CandidateQConfig
from rec.config.drr import DRRNetworkConfig
from rec.models.drr import DRRActor
from rec.models.drr_agent import DRRAgent
from rec.models.session_agent import DQNAgent
from rec.recommender import Recommendations, Recommender
from rl.config import InstaTokConfig
from rl.instatok import InstaTok

ROOT = Path(__file__).parents[2]


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def run(page: str, number: int, *, written: str = "", read: str = "", **names: Any) -> dict[str, Any]:
    """The names that are there after an example of a page, counted from 0, with those that were there before.

    Args: written: an id of the page's own data, read: the one that stands for it here.
    """
    example = examples(page)[number]
    exec(compile(example.replace(written, read) if written else example, page, "exec"), names)
    return names


@pytest.fixture
def home(trained: tuple[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recommender:
    """What serves in ./.tandem."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(trained[0]) / "models", ".tandem/models")
    return rec.load("./.tandem")


def test_the_readme(home: Recommender, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("README.md", 0)
    assert isinstance(names["answer"], Recommendations) and len(capsys.readouterr().out.splitlines()) == 10


def test_a_table_of_candidates_as_a_source(home: Recommender, tandem: Any) -> None:
    done = tandem("candidates", "--home", ".tandem", "--out", "candidates/2026-11-22", "--k", "50", "--workers", "0")
    assert done.returncode == 0, done.stderr
    source = run("docs/batch.md", 0, recommender=home)["source"]
    known = home.snapshot.user_ids[:3].tolist()
    found = source.candidates(home.hydrate(known), 5).items
    assert (found == home.retrieve(home.hydrate(known), 5).items).all()


def test_neighbours() -> None:
    rng = np.random.default_rng(0)
    users, items = (np.array([f"{name}{n}" for n in rng.integers(0, 20, 300)]) for name in "ui")
    neighbors = run("docs/candidates.md", 0, user_ids=users, item_ids=items)["neighbors"]
    assert len(neighbors.item_ids) == 20 and len(neighbors.indices) > 0
    log = InstaTok(InstaTokConfig(n_users=20, n_videos=30)).dataset(n_sessions=60).interactions
    middle = int(np.median(log.timestamp))
    names = run("docs/candidates.md", 1, log=log.before(middle), day=log.take(log.timestamp >= middle))
    both = names["CosineSums"].build(log, names["state"].config).neighbors()
    assert names["state"].neighbors().scores.tolist() == both.scores.tolist()


def test_what_is_new(home: Recommender) -> None:
    withdrawn = str(home.item_ids[3])
    frame = pd.DataFrame({"item_id": ["video-new"], "title": ["New"], "category": [home.item(withdrawn)["category"]]})
    answer = run("docs/cold_start.md", 0, frame=frame, written="1193", read=withdrawn)["answer"]
    assert (answer["added"], answer["changed"], answer["withdrawn"]) == (1, 0, 1)
    updated = run("docs/cold_start.md", 1, rec=rec)["recommender"]
    assert updated.version == answer["version"] and "video-new" in updated.item_ids


def test_an_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session_field, field = AgentField(name="mood", numbers=2), AgentField(name="category", categories=(4,))
    inputs = AgentInputs(session=(session_field,), candidate=(field,))
    DQNAgent(inputs, CandidateQConfig()).save(Path("agent.safetensors"))
    session, candidates = {"mood": np.zeros(2, np.float32)}, {"category": np.arange(3)}
    assert run("docs/agents.md", 0, session=session, candidates=candidates)["values"].shape == (3,)


def test_an_agent_of_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = DRRNetworkConfig(hidden=8)
    actor = DRRActor(torch.rand(10, 4), torch.rand(3706, 4), config)
    DRRAgent(actor, config).save(Path("agent.safetensors"))
    assert run("docs/agents.md", 1)["agent"].config == config


def test_sessions() -> None:
    names = run("docs/simulators.md", 0)
    assert names["reward"].shape == (4096,)


@pytest.mark.slow
def test_sessions_of_ratings(tandem_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tandem_data)
    names = run("docs/simulators.md", 1)
    assert names["env"].num_envs == 4096


def test_no_page_has_an_example_that_nothing_runs() -> None:
    elsewhere = {"docs/off-policy.md", "docs/data.md"}
    ours = {"README.md": 1, "docs/batch.md": 1, "docs/candidates.md": 2, "docs/cold_start.md": 2, "docs/agents.md": 2}
    ours["docs/simulators.md"] = 2
    pages = [str(page.relative_to(ROOT)) for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]]
    assert {page: len(examples(page)) for page in pages if examples(page) and page not in elsewhere} == ours
