"""An agent joins the files of a bundle, and acts there as it did before, on what InstaTok's sessions show."""

import numpy as np
import pytest
import torch

from rec.bundle import BundleDetails
from rec.config import CandidateQConfig
from rec.errors import BundleError
from rec.models.session_agent import AGENT_FILE, DQNAgent, load_agent
from rec.registry import Registry
from rec.storage import Home
from rl.config import InstaTokConfig, InstaTokEnvConfig
from rl.export import publish_with_agent
from rl.instatok.agent_inputs import INPUTS
from rl.instatok.arena import Arena, VideoRound
from rl.instatok.slot_policies import by_agent, split
from rl.session_env import SessionEnv, SessionVectorEnv
from rl.session_evaluation import evaluation_seeds, play_sessions

DETAILS = BundleDetails(config={"epochs": 3}, seed=1, schema_sha256="5" * 64, metrics={"ndcg@10": 0.3})


@pytest.fixture(scope="module")
def arena():
    return Arena.of(
        InstaTokEnvConfig(world=InstaTokConfig(n_users=40, n_videos=400, sessions_per_user=3, max_steps=12))
    )


def agent_of(seed):
    torch.manual_seed(seed)
    return DQNAgent(INPUTS, CandidateQConfig(hidden=16))


@pytest.fixture
def registry(tmp_path):
    registry = Registry(Home(tmp_path))
    registry.promote(registry.publish(lambda folder: _write(folder / "encoders.json", b"{}"), DETAILS))
    return registry


def _write(file, content):
    file.write_bytes(content)


def test_the_agent_of_a_bundle_plays_the_same_sessions(arena, registry):
    agent, before = agent_of(0), registry.current()
    version = publish_with_agent(registry, agent)
    assert registry.current() == before and version != before
    bundle = registry.open(version)
    assert bundle.path("encoders.json").read_bytes() == b"{}"
    assert bundle.manifest.config == DETAILS.config and bundle.manifest.metrics == DETAILS.metrics
    seeds = evaluation_seeds(0, 200)
    found = play_sessions(arena, by_agent(load_agent(bundle.path(AGENT_FILE))), seeds)
    np.testing.assert_array_equal(found.reward, play_sessions(arena, by_agent(agent), seeds).reward)


def test_another_agent_takes_the_place_of_the_first(registry, arena):
    registry.promote(publish_with_agent(registry, agent_of(0)))
    bundle = registry.open(publish_with_agent(registry, agent_of(1)))
    seen, _ = SessionEnv(VideoRound(arena, 1)).reset(seed=0)
    scores = load_agent(bundle.path(AGENT_FILE)).score(*split(seen))
    np.testing.assert_array_equal(scores, agent_of(1).score(*split(seen)))


def test_one_session_of_many_scores_as_it_does_alone(arena):
    seen, _ = SessionVectorEnv(VideoRound(arena, 50)).reset(seed=3)
    together = agent_of(0).score(*split(seen))
    for row in (0, 17):
        alone = agent_of(0).score(*split({name: values[row] for name, values in seen.items()}))
        np.testing.assert_allclose(alone, together[row], rtol=1e-5, atol=1e-6)


def test_an_agent_that_learnt_no_numbers_is_not_published(registry):
    agent, before = agent_of(0), registry.versions()
    agent.network.advantage.bias.data.fill_(torch.nan)
    with pytest.raises(BundleError, match=r"advantage\.bias are not finite"):
        publish_with_agent(registry, agent)
    assert registry.versions() == before


def test_without_a_bundle_there_is_nothing_to_join(tmp_path):
    with pytest.raises(BundleError, match="no model was promoted yet"):
        publish_with_agent(Registry(Home(tmp_path)), agent_of(0))
