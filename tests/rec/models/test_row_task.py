"""What every pointwise ranker learns, whatever its network."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rec.config import LogisticConfig, MMoEConfig, PLEConfig, TaskConfig, TrainingConfig
from rec.errors import ConfigError, TrainingError
from rec.models.crosses import HashedCrosses
from rec.models.expert_ranker import ExpertDesign, ExpertRanker
from rec.models.logistic import LogisticDesign, LogisticRanker
from rec.models.row_inputs import cardinalities_of
from rec.models.row_task import RowTask, group_ndcg, positions_to_learn
from rec.ranking_data import RankingData
from rec.training import Worker, fit

KINDS = ("logistic", "mmoe", "ple")
QUICK_AND_SLOW_KINDS = ("logistic", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mmoe", "ple")))
SMALL = {"expert_hidden": (16,), "expert_dim": 8, "tower_hidden": (8,)}
LEARNING_RATE = {"logistic": 0.1, "mmoe": 0.01, "ple": 0.01}
Rows = Callable[..., RankingData]


def _design(
    kind: str, train: RankingData, tasks: tuple[TaskConfig, ...], n_positions: int = 0, l2: float = 0.1, **changes: Any
) -> Any:
    if kind == "logistic":
        config = LogisticConfig(crosses=(("a", "colour"),), bits=14, l2=l2, **changes)
        return LogisticDesign(HashedCrosses.fit(train.layout, train.matrix, config), tasks, config, n_positions)
    config = (
        MMoEConfig(experts=3, **SMALL, **changes) if kind == "mmoe" else PLEConfig(task_experts=1, **SMALL, **changes)
    )
    return ExpertDesign(kind, train.layout, cardinalities_of(train), tasks, config, n_positions)


def _ranker(design: Any, weights: dict[str, torch.Tensor]) -> Any:
    return (LogisticRanker if isinstance(design, LogisticDesign) else ExpertRanker).of(design, weights)


def _settings(kind: str, epochs: int) -> TrainingConfig:
    rate = LEARNING_RATE[kind]
    return TrainingConfig(workers=0, epochs=epochs, batch_size=256, learning_rate=rate, weight_decay=0.0, patience=99)


@pytest.mark.parametrize("kind", QUICK_AND_SLOW_KINDS)
def test_all_tasks_are_learned(kind: str, three_tasks: Rows, tasks: tuple[TaskConfig, ...]) -> None:
    train, test = three_tasks(), three_tasks(60, seed=2)
    design = _design(kind, train, tasks, formula={"rating": 0.0, "share": 0.0})
    # Without validation: an order can be right long before its probabilities are.
    fitted = fit(RowTask(design, train, None, 256, seed=0), _settings(kind, 30), seed=0)
    ranker = _ranker(design, fitted.weights)
    clicked = test.labels[:, 0] > 0
    assert group_ndcg(ranker.predict(test.matrix), clicked, test.groups) > 0.9
    assert ((ranker.probabilities(test.matrix) > 0.5) == clicked).mean() > 0.93
    np.testing.assert_allclose(
        ranker.predict(test.matrix), np.log(np.maximum(ranker.probabilities(test.matrix), 1e-6)), atol=1e-5
    )
    ratings = replace(design, config=design.config.model_copy(update={"formula": {"click": 0.0, "share": 0.0}}))
    predicted = np.exp(_ranker(ratings, fitted.weights).predict(test.matrix))
    # Ratings lie .8 from their mean; bins tell them apart no better than they are wide.
    assert np.abs(predicted - test.labels[:, 1]).mean() < (0.5 if kind == "logistic" else 0.35)


@pytest.mark.parametrize("kind", QUICK_AND_SLOW_KINDS)
def test_what_the_position_adds_is_told_apart_from_what_an_item_is_worth(
    kind: str, shown_by_a: Callable[[int], tuple[RankingData, np.ndarray]]
) -> None:
    (train, _), (test, at_the_top) = shown_by_a(0), shown_by_a(1)
    relevant = at_the_top > np.quantile(at_the_top, 0.8)
    ndcg, error = {}, {}
    for n_positions in (0, positions_to_learn(train)):
        design = _design(kind, train, (TaskConfig(name="click"),), n_positions, l2=3.0)
        fitted = fit(RowTask(design, train, None, 256, seed=0), _settings(kind, 6), seed=0)
        ranker = _ranker(design, fitted.weights)
        ndcg[n_positions] = group_ndcg(ranker.predict(test.matrix), relevant, test.groups)
        error[n_positions] = np.abs(ranker.probabilities(test.matrix) - at_the_top).mean()
    # Uncorrected, `a` is taken for worth, as it stood where people looked.
    assert ndcg[10] > 0.99 and ndcg[0] < 0.97
    # The corrected probability is that of a click at the top; the other is of where items happened to be.
    assert error[10] < 0.1 and error[0] > 0.2
    learned = fitted.weights["outputs.below_the_top"][:, 0].numpy()
    np.testing.assert_allclose(learned, -0.4 * np.arange(1, 10), atol=1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_two_workers_have_the_mean_of_the_whole(
    kind: str, three_tasks: Rows, tasks: tuple[TaskConfig, ...]
) -> None:
    task = RowTask(_design(kind, three_tasks(), tasks), three_tasks(), None, 256, seed=0)
    torch.manual_seed(0)
    model = task.build_model()
    batch = task.plan(0)[-1]
    whole = task.loss(model, batch, Worker())
    parts = [task.loss(model, batch, Worker(rank, 2)) for rank in range(2)]
    torch.testing.assert_close(sum(parts) / 2, whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_have_the_gradient_of_one(
    kind: str, three_tasks: Rows, tasks: tuple[TaskConfig, ...], two_workers_agree: Callable
) -> None:
    train = three_tasks()
    positions = np.arange(len(train.matrix)) % 4
    task = RowTask(_design(kind, train, tasks, 4), replace(train, positions=positions.astype(np.int16)), None, 256, 0)
    two_workers_agree([(task, task.plan(0)[-1])])


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_trained(kind: str, three_tasks: Rows, tasks: tuple[TaskConfig, ...]) -> None:
    train = replace(three_tasks(), positions=np.ones(len(three_tasks().matrix), np.int16))
    task = RowTask(_design(kind, train, tasks, 2), train, None, 256, seed=0)
    torch.manual_seed(0)
    model = task.build_model()
    task.loss(model, np.arange(400), Worker()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_what_cannot_be_learned_is_refused(three_tasks: Rows, tasks: tuple[TaskConfig, ...]) -> None:
    train = three_tasks()
    with pytest.raises(ConfigError, match="no task clik"):
        RowTask(_design("ple", train, tasks, formula={"clik": 1.0}), train, None, 256, 0).build_model()
    with pytest.raises(TrainingError, match="position_bias needs the position"):
        positions_to_learn(train)
    with pytest.raises(TrainingError, match="position_bias needs the position"):
        positions_to_learn(replace(train, positions=np.full(len(train.matrix), -1, np.int16)))


def test_group_ndcg_of_a_worked_example() -> None:
    # First query: the relevant row is second of two, 1 / log2(3). Second query: none relevant, left out.
    value = group_ndcg(np.array([0.9, 0.1, 0.3]), np.array([False, True, False]), np.array([2, 1]))
    assert value == pytest.approx(1 / np.log2(3))
