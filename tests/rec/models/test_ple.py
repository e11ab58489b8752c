import numpy as np
import pytest
import torch
from torch import nn

from rec.config import PLEConfig
from rec.models.ple import PLE


def _config(levels: int) -> PLEConfig:
    return PLEConfig(
        levels=levels, shared_experts=2, task_experts=3, expert_hidden=(6,), expert_dim=4, gate_hidden=(5,),
        tower_hidden=(3,),
    )  # fmt: skip


# Wide enough that some unit of every layer is alive.
WIDE = PLEConfig(expert_hidden=(32,), expert_dim=16, tower_hidden=(16,))


def _by_loops(model: PLE, row: np.ndarray, n_tasks: int) -> list[float]:
    """One row's outputs, number by number, as the paper writes them."""

    def layers(network: nn.Module, x: list[float]) -> list[float]:
        for layer in network:
            if isinstance(layer, nn.Linear):
                weight, bias = layer.weight.tolist(), layer.bias.tolist()
                x = [b + sum(w * v for w, v in zip(row, x, strict=True)) for row, b in zip(weight, bias, strict=True)]
            else:
                x = [max(v, 0.0) for v in x]
        return x

    def mixed(gate: nn.Module, at: list[float], experts: list[list[float]]) -> list[float]:
        powers = [np.exp(v) for v in layers(gate.layers, at)]
        shares = [power / sum(powers) for power in powers]
        assert len(shares) == len(experts)
        return [sum(s * e[d] for s, e in zip(shares, experts, strict=True)) for d in range(len(experts[0]))]

    own, shared = [row.tolist()] * n_tasks, row.tolist()
    for place, level in enumerate(model.levels):
        of_shared = [[max(v, 0.0) for v in layers(expert.layers, shared)] for expert in level.shared]
        of_tasks = [
            [[max(v, 0.0) for v in layers(expert.layers, own[k])] for expert in level.of_tasks[k]]
            for k in range(n_tasks)
        ]
        after = [mixed(level.gates[k], own[k], of_tasks[k] + of_shared) for k in range(n_tasks)]
        if place < len(model.levels) - 1:
            every = [output for outputs in of_tasks for output in outputs]
            shared = mixed(level.shared_gate, shared, every + of_shared)
        own = after
    return [layers(model.towers.of_tasks[k], own[k])[0] for k in range(n_tasks)]


@pytest.mark.parametrize(("levels", "n_tasks"), [(1, 2), (2, 1), (3, 3)])
def test_it_is_what_the_paper_writes(levels: int, n_tasks: int) -> None:
    torch.manual_seed(levels)
    model = PLE(7, n_tasks, _config(levels)).double()
    rows = torch.randn(5, 7, dtype=torch.float64)
    expected = [_by_loops(model, row, n_tasks) for row in rows.numpy()]
    np.testing.assert_allclose(model(rows).detach().numpy(), expected, rtol=1e-10)


def test_a_task_reads_its_own_experts_and_the_shared_ones_alone() -> None:
    torch.manual_seed(0)
    model = PLE(7, 2, WIDE.model_copy(update={"levels": 1}))
    model(torch.randn(50, 7))[:, 0].sum().backward()
    level = model.levels[0]
    assert all(p.grad.any() for p in [*level.shared.parameters(), *level.of_tasks[0].parameters()])
    # The towers' outputs stand side by side, so that those that were not asked for get gradients of zero.
    others = [*level.of_tasks[1].parameters(), *level.gates[1].parameters()]
    assert all(p.grad is None or not p.grad.any() for p in others)


def test_above_the_first_level_tasks_reach_each_other_through_the_shared_part() -> None:
    torch.manual_seed(0)
    model = PLE(7, 2, WIDE)
    model(torch.randn(50, 7))[:, 0].sum().backward()
    assert any(p.grad.any() for p in model.levels[0].of_tasks[1].parameters())
    assert not any(p.grad is not None and p.grad.any() for p in model.levels[1].of_tasks[1].parameters())


def test_only_the_last_level_has_no_shared_gate_and_no_expert_is_unregistered() -> None:
    model = PLE(7, 2, _config(3))
    assert [level.shared_gate is None for level in model.levels] == [False, False, True]
    # Of each level 2 shared experts and 3 for each of 2 tasks, of two linear layers with two parameters each.
    n_expert_parameters = sum(".shared." in name or ".of_tasks." in name for name, _ in model.levels.named_parameters())
    assert n_expert_parameters == 3 * (2 + 2 * 3) * 2 * 2
