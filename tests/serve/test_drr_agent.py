"""DRR over HTTP recommends what RLlib's module recommends in the simulator, session by session."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns

from rec.config.drr import DRRNetworkConfig
from rec.data.dataset import Interactions
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from rl.config import DRRTrainConfig, PMFConfig, RatingEnvConfig
from rl.drr import RatingVectors, agent_of
from rl.drr_module import DRRModule
from rl.export import publish_with_agent
from rl.pmf import MatrixFactorisation
from rl.pmf_env import RatingRound, RatingWorld
from serve.config import LogConfig, PolicyConfig, ServeConfig

N_USERS, EACH, N_SESSIONS, N_STEPS = 20, 12, 6, 4
HISTORY = 3
Deploy = Callable[[str, ServeConfig], str]


@pytest.fixture(scope="module")
def world(recommender: Recommender) -> RatingWorld:
    """Ratings of the bundle's items, which the agent numbers in another order, by users unknown to the bundle."""
    rng = np.random.default_rng(0)
    ratings = Interactions(
        user_ids=np.array([f"rater-{i}" for i in range(N_USERS)], dtype=object),
        item_ids=recommender.item_ids[::-1],
        user=np.repeat(np.arange(N_USERS), EACH).astype(np.int32),
        item=np.concatenate([rng.permutation(recommender.n_items)[:EACH] for _ in range(N_USERS)]).astype(np.int32),
        timestamp=np.arange(N_USERS * EACH),
        rating=rng.integers(1, 6, N_USERS * EACH).astype(np.float32),
    )
    model = MatrixFactorisation.fit(ratings, PMFConfig(dim=8, max_epochs=3, init_std=0.3))
    return RatingWorld.of(ratings, model, RatingEnvConfig(history_length=HISTORY, session_length=N_STEPS))


def module_of(world: RatingWorld, state: Any) -> DRRModule:
    """RLlib's networks, with random weights: what they rank by differs from state to state."""
    assert isinstance(world.model, MatrixFactorisation)
    torch.manual_seed(0)
    vectors = RatingVectors.of(world.model)
    config = DRRTrainConfig(network=DRRNetworkConfig(state=state, history_length=HISTORY, hidden=16))
    given = {"config": config, "user_vectors": vectors.users, "item_vectors": vectors.items}
    return DRRModule(model_config={**given, "epsilon": [(0, 1.0), (10, 0.1)]})


def body_of(sessions: RatingRound, row: int, item_ids: NDArray[np.object_]) -> dict[str, Any]:
    """What a client asks in this session."""
    items = np.flatnonzero(sessions.available()[row])
    context = {
        "session": {"user": int(sessions.users[row]), "history": sessions.history[row].tolist()},
        "candidates": {"item_id": item_ids[items].tolist(), "item": items.tolist()},
    }
    return {"user_id": f"rater-{sessions.users[row]}", "n": 1, "context": context}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.slow
@pytest.mark.parametrize("state", ["p", "u", "ave"])
def test_over_http_it_recommends_what_rllibs_module_does_in_the_simulator(
    world: RatingWorld, recommender: Recommender, home: str, deploy: Deploy, tmp_path: Path, state: str
):
    """From the networks in memory by the file in the bundle to Ray Serve's answer, with histories that grow."""
    own = str(tmp_path / "home")
    shutil.copytree(home, own)
    module = module_of(world, state)
    version = publish_with_agent(Registry(Home(own)), agent_of(module))
    policy, log = PolicyConfig(epsilon=0.0, temperature=0.0), LogConfig(enabled=False)
    address = deploy(f"drr-{state}", ServeConfig(home=own, version=version, policy=policy, agent=True, log=log))
    sessions = RatingRound(world, N_SESSIONS, module.actor.state.items[:-1].numpy())
    rows, item_ids = np.arange(N_SESSIONS), recommender.item_ids[::-1]
    sessions.seed(rows, rows.astype(np.uint64))
    sessions.start(rows)
    first = sessions.history.copy()
    for _ in range(N_STEPS):
        bodies = [body_of(sessions, row, item_ids) for row in range(N_SESSIONS)]
        with torch.no_grad():
            seen = {name: torch.as_tensor(values) for name, values in sessions.observe().items()}
            actions = module.forward_inference({Columns.OBS: seen})[Columns.ACTIONS].numpy()
        expected = item_ids[sessions.act(actions).info["item"]].tolist()
        answers = [httpx.post(f"{address}/v1/recommend", json=body, timeout=60) for body in bodies]
        assert [answer.status_code for answer in answers] == [200] * N_SESSIONS, answers[0].text
        assert [[item["item_id"] for item in answer.json()["items"]] for answer in answers] == [[i] for i in expected]
    assert (sessions.history != first).any() and len(np.unique(sessions.shown)) > N_STEPS
