import torch

from rec.config import MMoEConfig
from rec.models.mmoe import MMoE

CONFIG = MMoEConfig(experts=3, expert_hidden=(16,), expert_dim=8, tower_hidden=(8,))


def _model(n_tasks: int = 2) -> MMoE:
    torch.manual_seed(0)
    return MMoE(5, n_tasks, CONFIG)


def test_each_task_has_a_gate_of_its_own_and_its_shares_sum_to_one():
    first, second = (gate(torch.randn(7, 5)) for gate in _model().gates)
    assert first.shape == (7, 3)
    torch.testing.assert_close(first.sum(dim=1), torch.ones(7))
    assert not torch.allclose(first, second)


def test_an_output_is_its_tower_over_the_mixture_of_experts():
    model, rows = _model(), torch.randn(4, 5)
    shares = model.gates[1].layers(rows).softmax(dim=1)
    mixed = sum(shares[:, [place]] * expert.layers(rows).relu() for place, expert in enumerate(model.experts))
    torch.testing.assert_close(model(rows)[:, 1:2], model.towers.of_tasks[1](mixed))


def test_one_task():
    assert _model(1)(torch.zeros(5, 5)).shape == (5, 1)
