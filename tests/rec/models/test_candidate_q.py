"""One network for all candidates: their order does not matter, nor does their number."""

import numpy as np
import pytest
import torch

from rec.config import AgentField, AgentInputs, CandidateQConfig
from rec.errors import ConfigError
from rec.models.candidate_q import CandidateQ

INPUTS = AgentInputs(
    session=(AgentField(name="numbers", numbers=3), AgentField(name="kind", categories=(4,))),
    candidate=(AgentField(name="features", numbers=2), AgentField(name="category", categories=(5,))),
)


def seen_by(n_rows, n_candidates, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "numbers": torch.tensor(rng.random((n_rows, 3)), dtype=torch.float32),
        "kind": torch.tensor(rng.integers(0, 4, n_rows)),
        "features": torch.tensor(rng.random((n_rows, n_candidates, 2)), dtype=torch.float32),
        "category": torch.tensor(rng.integers(0, 5, (n_rows, n_candidates))),
    }


@pytest.fixture(params=[True, False])
def network(request):
    torch.manual_seed(0)
    return CandidateQ(INPUTS, CandidateQConfig(hidden=16, dueling=request.param))


def test_values_follow_their_candidates(network):
    seen, order = seen_by(6, 9), torch.randperm(9)
    moved = {**seen, **{name: seen[name][:, order] for name in ("features", "category")}}
    torch.testing.assert_close(network(moved), network(seen)[:, order], rtol=1e-5, atol=1e-6)


def test_values_depend_on_the_candidate_the_session_and_the_other_candidates(network):
    seen = seen_by(1, 9)
    before = network(seen)[0]
    for name in ("features", "category"):
        changed = seen[name].clone()
        changed[0, 0] = (changed[0, 0] + 1) % 5
        after = network({**seen, name: changed})[0]
        assert (after - before).abs().min() > 1e-6
    for name in ("numbers", "kind"):
        assert (network({**seen, name: (seen[name] + 1) % 4})[0] - before).abs().min() > 1e-6


def test_any_number_of_candidates_will_do(network):
    assert network(seen_by(2, 3)).shape == (2, 3) and network(seen_by(2, 40)).shape == (2, 40)


def test_the_mean_of_dueling_values_is_the_value_of_the_session():
    torch.manual_seed(0)
    network = CandidateQ(INPUTS, CandidateQConfig(hidden=16))
    network.advantage.weight.data *= 100
    seen = seen_by(4, 7)
    scaled = network(seen)
    network.advantage.weight.data /= 100
    torch.testing.assert_close(scaled.mean(dim=1), network(seen).mean(dim=1), rtol=1e-4, atol=1e-4)


def test_a_candidate_that_matches_its_session_is_another_candidate():
    """Without embeddings nothing but the match tells candidates apart: those that match are worth the same."""
    torch.manual_seed(0)
    network = CandidateQ(INPUTS, CandidateQConfig(hidden=16, matches=(("kind", "category"),)))
    for name in ("kind", "category"):
        encoder = network.of_session if name == "kind" else network.of_candidate
        encoder.embeddings[name][0].weight.data.zero_()
    seen = seen_by(5, 12) | {"features": torch.zeros(5, 12, 2)}
    same = seen["category"] == seen["kind"][:, None]
    for values, matching in zip(network(seen), same, strict=True):
        assert matching.any() and not matching.all()
        torch.testing.assert_close(values[matching], values[matching][:1].expand(matching.sum()))
        torch.testing.assert_close(values[~matching], values[~matching][:1].expand((~matching).sum()))
        assert (values[matching][0] - values[~matching][0]).abs() > 1e-4


def test_fields_that_are_compared_are_categories():
    with pytest.raises(ConfigError, match=r"numbers is no field of categories; there are kind"):
        CandidateQ(INPUTS, CandidateQConfig(matches=(("numbers", "category"),)))


def test_a_field_is_numbers_or_categories():
    with pytest.raises(ValueError, match="one of them"):
        AgentField(name="both", numbers=1, categories=(3,))
