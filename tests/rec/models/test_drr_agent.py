"""A DRR agent's file holds its vectors, and what is loaded from it scores as what was saved."""

import numpy as np
import pytest
import torch

from rec.config.drr import DRRNetworkConfig
from rec.errors import BundleError, ScoreError
from rec.models.drr import DRRActor
from rec.models.drr_agent import DRRAgent
from rec.models.session_agent import load_agent
from rec.models.weights import save_described

U, N, K, HISTORY = 5, 9, 4, 3


@pytest.fixture(params=["p", "u", "ave"])
def agent(request):
    torch.manual_seed(0)
    config = DRRNetworkConfig(state=request.param, history_length=HISTORY, hidden=8)
    return DRRAgent(DRRActor(torch.rand(U, K) - 0.5, torch.randn(N, K), config), config)


def sessions(n=6, n_candidates=4):
    rng = np.random.default_rng(0)
    state = {"user": rng.integers(0, U, n), "history": rng.integers(0, N + 1, (n, HISTORY))}
    return state, {"item": rng.integers(0, N, (n, n_candidates))}


def test_a_loaded_agent_scores_the_same(agent, tmp_path):
    agent.save(tmp_path / "agent.safetensors")
    loaded = load_agent(tmp_path / "agent.safetensors")
    np.testing.assert_array_equal(loaded.score(*sessions()), agent.score(*sessions()))


def test_scores_are_products_with_the_ranking_vector_alone_and_among_others(agent):
    state, candidates = sessions()
    together = agent.score(state, candidates)
    with torch.no_grad():
        actions = agent.actor(torch.as_tensor(state["user"]), torch.as_tensor(state["history"])).numpy()
    for row, items in enumerate(candidates["item"]):
        expected = agent.actor.state.items[items].numpy() @ actions[row]
        alone = agent.score({name: values[row] for name, values in state.items()}, {"item": items})
        np.testing.assert_allclose(alone, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(together[row], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("vectors", ["user_vectors", "item_vectors"])
def test_vectors_that_are_not_finite_are_refused_by_file_and_tensor(agent, tmp_path, vectors):
    state = agent.actor.state
    (state.users if vectors == "user_vectors" else state.items)[0, 0] = torch.inf
    agent.save(tmp_path / "agent.safetensors")
    with pytest.raises(BundleError, match=rf"1 of \d+ numbers of {vectors} are not finite.*agent\.safetensors"):
        load_agent(tmp_path / "agent.safetensors")


def test_weights_of_layers_that_are_not_finite_are_refused_by_file_and_tensor(agent, tmp_path):
    agent.actor.state.weights.data[0] = torch.nan
    agent.save(tmp_path / "agent.safetensors")
    with pytest.raises(BundleError, match=r"1 of 3 numbers of state\.weights are not finite.*agent\.safetensors"):
        load_agent(tmp_path / "agent.safetensors")


def test_products_that_are_not_finite_are_refused(agent):
    agent.actor.state.items[:-1] = 3e38
    with pytest.raises(ScoreError, match="values are not finite: vectors or weights are too large"):
        agent.score(*sessions())


def test_what_is_missing_is_named(agent, tmp_path):
    state, candidates = sessions()
    with pytest.raises(ScoreError, match="history is missing"):
        agent.score({"user": state["user"]}, candidates)
    file = tmp_path / "agent.safetensors"
    described = {"kind": "drr", "config": agent.config.model_dump(mode="json")}
    save_described(agent.actor.state_dict(), described, file)
    with pytest.raises(BundleError, match="holds no user_vectors"):
        load_agent(file)
