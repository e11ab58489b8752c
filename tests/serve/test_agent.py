"""An agent chooses over HTTP as it does in its simulator, and every choice has the probability that is logged."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from rec.config import CandidateQConfig
from rec.errors import ConfigError
from rec.models.session_agent import DQNAgent
from rec.policy import slate_propensities
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from rl.config import InstaTokConfig, InstaTokEnvConfig
from rl.export import publish_with_agent
from rl.instatok.agent_inputs import INPUTS
from rl.instatok.arena import Arena, VideoRound
from rl.instatok.slot_policies import split
from rl.streams import uniforms
from serve.api import Api
from serve.arms import Arms
from serve.config import LogConfig, PolicyConfig, ServeConfig
from serve.gateway import Gateway
from serve.stages import Stages

N_SESSIONS = 12
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def agent() -> DQNAgent:
    torch.manual_seed(0)
    return DQNAgent(INPUTS, CandidateQConfig(hidden=16))


@pytest.fixture(scope="module")
def own_home(home: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home of these tests alone, as they publish in it."""
    own = tmp_path_factory.mktemp("agent") / "home"
    shutil.copytree(home, own)
    return str(own)


@pytest.fixture(scope="module")
def version(own_home: str, agent: DQNAgent) -> str:
    """The bundle with the agent in it, which is not CURRENT."""
    return publish_with_agent(Registry(Home(own_home)), agent)


@pytest.fixture(scope="module")
def requests(agent: DQNAgent) -> list[tuple[dict[str, Any], str, np.ndarray]]:
    """Requests of sessions some videos in, what the agent in the simulator shows next, and its values."""
    arena = Arena.of(InstaTokEnvConfig(world=InstaTokConfig(n_users=60, n_videos=300, seed=1), n_candidates=20))
    videos = VideoRound(arena, N_SESSIONS)
    rows = np.arange(N_SESSIONS)
    videos.seed(rows, rows.astype(np.uint64))
    videos.start(rows)
    for _ in range(3):
        seen = videos.observe()
        videos.act((uniforms(rows.astype(np.uint64), rows, videos.sessions.n_steps)[:, 0] * 20).astype(np.int64))
    seen = videos.observe()
    values = agent.score(*split(seen))
    item_ids, user_ids = arena.world.item_ids, arena.world.user_ids
    made = []
    for row in rows:
        state, candidates = split({name: field[row] for name, field in seen.items()})
        ids = item_ids[videos.candidates.ids[row]].tolist()
        context = {
            "session": {name: field.tolist() for name, field in state.items()},
            "candidates": {"item_id": ids, **{name: field.tolist() for name, field in candidates.items()}},
        }
        shown = [item_ids[item] for item in videos.shown[row] if item >= 0]
        body = {"user_id": user_ids[videos.users[row]], "n": 1, "exclude": shown, "context": context}
        made.append((body, ids[int(values[row].argmax())], values[row]))
    return made


def config(home: str, version: str, epsilon: float, seed: int | None = None) -> ServeConfig:
    policy, log = PolicyConfig(epsilon=epsilon, temperature=0.0), LogConfig(enabled=False)
    return ServeConfig(home=home, version=version, policy=policy, agent=True, log=log, seed=seed)


@pytest.fixture(scope="module")
def asked(own_home: str, version: str, ask: Ask) -> Callable[..., httpx.Response]:
    """Sends one request to the interface of the bundle with the agent, epsilon being .3."""
    settings = config(own_home, version, 0.3, seed=0)
    arms = Arms.of_config(settings, version, {version: Stages.here(Recommender.load(own_home, version), settings)})
    api = Api(Gateway(arms, Registry(Home(own_home))), settings)
    return lambda body: ask(api, "POST", "/v1/recommend", json=body)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
def test_over_http_it_shows_what_it_shows_in_its_simulator(requests, deploy, own_home, version):
    """From the network in memory by the file in the bundle to Ray Serve's answer, action by action."""
    address = deploy("agent", config(own_home, version, 0.0))
    for body, expected, values in requests:
        answer = httpx.post(f"{address}/v1/recommend", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        (item,) = answer.json()["items"]
        assert (item["item_id"], item["propensity"]) == (expected, 1.0)
        assert item["score"] == pytest.approx(values.max(), rel=1e-5)


def test_propensities_are_those_of_exploring(requests, asked, own_home, version):
    """epsilon / |E| for any eligible item, and 1 - epsilon more for what the agent values most of those left."""
    recommender = Recommender.load(own_home, version)
    explored = 0
    for body, _, values in requests:
        answer = asked({**body, "n": 5}).json()
        ids = body["context"]["candidates"]["item_id"]
        states = recommender.hydrate([body["user_id"]], exclude=[body["exclude"]])
        candidates = np.array([[recommender.position_of(item) for item in ids]])
        candidates[np.isin(candidates, states.excluded)] = -1
        scores = np.where(candidates >= 0, values, -np.inf)
        slate = np.array([[recommender.position_of(item["item_id"]) for item in answer["items"]]])
        n_eligible = recommender.n_items - len(states.excluded) - np.arange(5)[None]
        expected = slate_propensities(scores, candidates, slate, n_eligible, epsilon=0.3, temperature=0.0)
        np.testing.assert_allclose([[item["propensity"] for item in answer["items"]]], expected, rtol=1e-12)
        explored += sum(item["source"] == "explore" for item in answer["items"])
    assert 0 < explored < 5 * N_SESSIONS / 2


def test_the_request_in_the_documentation_is_answered(asked):
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
    (body,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    answer = asked(json.loads(body))
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["items"]) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.pop("session"), "context.session"),
        (lambda c: c["session"].pop("profile"), "profile is missing"),
        (lambda c: c["session"].update(profile=[0, 0, 99, 0]), "profile must hold categories"),
        (lambda c: c["session"].update(numbers=[0.5]), r"numbers of shape (6,) is required"),
        (lambda c: c["session"].update(numbers=[1e39] * 6), "numbers must hold numbers that are finite"),
        (lambda c: c["session"].update(last_action=2**63), "context.session.last_action: out of range: whole numbers"),
        (lambda c: c["session"].update(last_action=2**64), "context.session.last_action: out of range"),
        (lambda c: c["session"].update(numbers=[-(2**63) - 1] * 6), "context.session.numbers: out of range"),
        (lambda c: c["session"].update(numbers="many"), "context.session.numbers: a number"),
        (lambda c: c["session"].update(numbers=[2**64, None]), "context.session.numbers: a number"),
        (lambda c: c["candidates"].pop("item_id"), "context.candidates.item_id"),
        (lambda c: c["candidates"]["item_id"].pop(), "context.candidates.candidates"),
        (lambda c: c["candidates"]["item_id"].__setitem__(0, c["candidates"]["item_id"][1]), "twice"),
    ],
)
def test_what_the_agent_cannot_see_is_named(requests, asked, change, named):
    body = copy.deepcopy(requests[0][0])
    change(body["context"])
    answer = asked(body)
    assert answer.status_code == 422 and named in answer.json()["detail"]


def test_items_that_are_not_in_the_catalogue_are_no_candidates(requests, asked):
    body, _, values = requests[0]
    ids = ["nowhere", *body["context"]["candidates"]["item_id"][1:]]
    context = {**body["context"], "candidates": {**body["context"]["candidates"], "item_id": ids}}
    items = asked({**body, "n": 30, "context": context}).json()["items"]
    assert "nowhere" not in {item["item_id"] for item in items}
    assert sum(item["score"] is not None for item in items) <= len(values) - 1


def test_a_bundle_without_an_agent_is_refused(home, recommender):
    with pytest.raises(ConfigError, match="holds no agent"):
        Stages.here(recommender, config(home, recommender.version, 0.0))


def test_a_softmax_over_an_agents_values_is_refused(home):
    with pytest.raises(ValueError, match=r"policy\.temperature 0"):
        ServeConfig(home=home, agent=True)
