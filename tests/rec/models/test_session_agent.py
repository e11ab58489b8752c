"""An agent's file holds no code, and what is loaded from it scores as what was saved."""

import json

import numpy as np
import pytest
import torch

from rec.config import AgentField, AgentInputs, CandidateQConfig
from rec.errors import BundleError, ScoreError
from rec.models.session_agent import DQNAgent, load_agent
from rec.models.weights import save_described

SMALL = CandidateQConfig(hidden=16)
INPUTS = AgentInputs(
    session=(AgentField(name="numbers", numbers=3), AgentField(name="last", categories=(4,))),
    candidate=(AgentField(name="category", categories=(5,)), AgentField(name="features", numbers=2)),
)


def session(n_candidates, seed=0, n=None):
    rng = np.random.default_rng(seed)
    rows = () if n is None else (n,)
    state = {"numbers": rng.random((*rows, 3)), "last": rng.integers(0, 4, rows)}
    candidates = {
        "category": rng.integers(0, 5, (*rows, n_candidates)),
        "features": rng.random((*rows, n_candidates, 2)),
    }
    return state, candidates


@pytest.fixture
def agent():
    torch.manual_seed(0)
    return DQNAgent(INPUTS, SMALL)


def test_a_loaded_agent_scores_the_same(agent, tmp_path):
    agent.save(tmp_path / "agent.safetensors")
    loaded = load_agent(tmp_path / "agent.safetensors")
    for seed in range(5):
        state, candidates = session(8, seed)
        np.testing.assert_array_equal(loaded.score(state, candidates), agent.score(state, candidates))


def test_one_session_scores_as_it_does_among_others(agent):
    state, candidates = session(8, n=6)
    together = agent.score(state, candidates)
    assert together.shape == (6, 8) and together.dtype == np.float64
    for row in range(6):
        alone = agent.score({n: v[row] for n, v in state.items()}, {n: v[row] for n, v in candidates.items()})
        np.testing.assert_allclose(alone, together[row], rtol=1e-5, atol=1e-6)


def test_what_is_missing_is_named(agent):
    state, candidates = session(8)
    with pytest.raises(ScoreError, match="last is missing"):
        agent.score({"numbers": state["numbers"]}, candidates)


@pytest.mark.parametrize("number", [np.inf, np.nan, -1e39])
def test_a_number_that_is_not_finite_in_float32_is_refused_and_its_field_named(agent, number):
    state, candidates = session(8)
    with pytest.raises(ScoreError, match=r"^numbers must hold"):
        agent.score(state | {"numbers": np.full(3, number)}, candidates)
    with pytest.raises(ScoreError, match=r"^features must hold"):
        agent.score(state, candidates | {"features": np.full((8, 2), number)})


def test_numbers_whose_sums_are_not_finite_are_refused(agent):
    agent.network.session.weight.data.fill_(2.0)
    state, candidates = session(8)
    with pytest.raises(ScoreError, match="values are not finite: numbers, features, or weights are too large"):
        agent.score(state | {"numbers": np.full(3, 3e38)}, candidates)


def test_without_numbers_only_weights_can_be_too_large():
    field = AgentField(name="last", categories=(4,))
    alone = DQNAgent(AgentInputs(session=(field,), candidate=(field.model_copy(update={"name": "kind"}),)), SMALL)
    alone.network.advantage.bias.data.fill_(torch.inf)
    with pytest.raises(ScoreError, match=r"^values are not finite: weights are too large"):
        alone.score({"last": np.array(1)}, {"kind": np.arange(4)})


def test_weights_that_are_not_finite_are_refused_by_file_and_tensor(agent, tmp_path):
    agent.network.session.weight.data[0, 0] = torch.nan
    agent.save(tmp_path / "agent.safetensors")
    with pytest.raises(BundleError, match=r"1 of \d+ numbers of session\.weight are not finite.*agent\.safetensors"):
        load_agent(tmp_path / "agent.safetensors")


def test_files_that_hold_no_agent_are_refused_by_name(agent, tmp_path):
    file = tmp_path / "agent.safetensors"
    save_described(agent.network.state_dict(), {"kind": "oracle"}, file)
    with pytest.raises(BundleError, match=r"kind 'oracle'; there are .*dqn"):
        load_agent(file)
    for no_mapping in (["dqn"], "dqn", 3, None):
        save_described(agent.network.state_dict(), no_mapping, file)
        with pytest.raises(BundleError, match=r"which is no mapping.*agent\.safetensors"):
            load_agent(file)
    save_described(agent.network.state_dict(), {"kind": ["dqn"]}, file)
    with pytest.raises(BundleError, match=r"kind \['dqn'\].*agent\.safetensors"):
        load_agent(file)
    described = {"kind": "dqn", "inputs": INPUTS.model_dump(mode="json"), "config": {"hidden": 17}}
    save_described(agent.network.state_dict(), json.loads(json.dumps(described)), file)
    with pytest.raises(BundleError, match="weights are of another model"):
        load_agent(file)
    with pytest.raises(BundleError, match=rf"is a folder; name agent\.safetensors in it .*{tmp_path}'"):
        load_agent(tmp_path)
    with pytest.raises(BundleError, match=r"no such file .*nowhere\.safetensors"):
        load_agent(tmp_path / "nowhere.safetensors")
    file.write_bytes(b"nothing")
    with pytest.raises(BundleError, match=r"agent\.safetensors"):
        load_agent(file)
