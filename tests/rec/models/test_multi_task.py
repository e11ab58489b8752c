import numpy as np
import pytest
import torch

from rec.config import TaskConfig
from rec.errors import ConfigError
from rec.models.multi_task import TaskOutputs, combine, formula_exponents, multi_task_losses


def test_a_missing_label_teaches_nothing(tasks: tuple[TaskConfig, ...]) -> None:
    outputs = torch.randn(2, 3, requires_grad=True)
    labels = torch.tensor([[1.0, torch.nan, torch.nan], [0.0, 2.0, torch.nan]])
    losses = multi_task_losses(outputs, labels, tasks)
    losses.sum().backward()
    assert torch.equal(losses == 0, labels.isnan())
    assert torch.equal(outputs.grad == 0, labels.isnan())


def test_the_formula_is_a_product_of_powers(tasks: tuple[TaskConfig, ...]) -> None:
    predictions = np.array([[0.5, 4.0], [0.0, 1.0]])
    np.testing.assert_allclose(combine(predictions, [2, 0.5]), [0.5**2 * 2, 1e-12])
    assert formula_exponents({"rating": 0.0}, tasks) == [1, 0, 1]
    with pytest.raises(ConfigError, match="no task clik; there are click, rating, share"):
        formula_exponents({"clik": 1.0}, tasks)


def test_a_position_shifts_binary_tasks_and_the_top_none(tasks: tuple[TaskConfig, ...]) -> None:
    heads = TaskOutputs(tasks, n_positions=3)
    with torch.no_grad():
        heads.below_the_top.copy_(torch.tensor([[-1.0, 5.0, -2.0], [-3.0, 5.0, -4.0]]))
    shifted = heads.shifted(torch.zeros(3, 3), torch.tensor([0, 1, 2], dtype=torch.int16))
    assert shifted.tolist() == [[0, 0, 0], [-1, 0, -2], [-3, 0, -4]]
    assert torch.equal(heads.shifted(torch.zeros(3, 3), None), torch.zeros(3, 3))


def test_predictions_have_the_scale_of_the_labels(tasks: tuple[TaskConfig, ...]) -> None:
    heads = TaskOutputs(tasks, 0)
    heads.label_mean[1], heads.label_std[1] = 3.0, 2.0
    found = heads.predictions(torch.tensor([[0.0, 0.5, 100.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 4.0, 1.0]]))


def test_positions_begin_at_the_log_odds_of_what_happened_there(tasks: tuple[TaskConfig, ...]) -> None:
    heads = TaskOutputs(tasks, n_positions=2)
    # At the top 3 of 4 clicked, below 1 of 4, and what has no label counts for nothing.
    clicks = np.array([1, 1, 1, 0, 1, 0, 0, 0, np.nan])
    labels = np.stack([clicks, np.zeros(9), np.full(9, np.nan)], axis=1)
    heads.begin(labels, np.array([0, 0, 0, 0, 1, 1, 1, 1, 1]))
    expected = np.log(1.5 / 3.5) - np.log(3.5 / 1.5)
    assert heads.below_the_top[0, [0, 2]].tolist() == pytest.approx([expected, 0.0])
