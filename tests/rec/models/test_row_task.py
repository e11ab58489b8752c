"""What every pointwise ranker learns, whatever its network."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rec.config import LogisticConfig, MMoEConfig, PLEConfig, RankerConfig, TaskConfig, TrainConfig, TrainingConfig
from rec.errors import ConfigError, TrainingError
from rec.models.crosses import HashedCrosses
from rec.models.expert_ranker import ExpertDesign, ExpertRanker
from rec.models.logistic import LogisticDesign, LogisticRanker
from rec.models.row_inputs import cardinalities_of
from rec.models.row_task import RowTask, group_ndcg, mean_log_likelihood, positions_to_learn
from rec.ranking.data import RankingData
from rec.ranking.fits import RANKER_FITS
from rec.training import Fitted, Progress, Worker, fit
from tests.rec.in_bfloat16 import assert_only_the_network_is_in_bfloat16

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
    formula = {"rating": 0.0, "share": 0.0}
    design = _design(kind, train, tasks, formula=formula, judged_by="log_likelihood")
    fitted = fit(RowTask(design, train, three_tasks(60, seed=1), 256, seed=0), _settings(kind, 30), seed=0)
    ranker = _ranker(design, fitted.weights)
    clicked = test.labels[:, 0] > 0
    # The truth orders perfectly and is never wrong: three quarters of the way there, from random order and from "no".
    shuffled = group_ndcg(np.random.default_rng(0).random(len(clicked)), clicked, test.groups)
    assert 1 - group_ndcg(ranker.predict(test.matrix), clicked, test.groups) < (1 - shuffled) / 4
    assert ((ranker.probabilities(test.matrix) > 0.5) != clicked).mean() < clicked.mean() / 4
    np.testing.assert_allclose(
        ranker.predict(test.matrix), np.log(np.maximum(ranker.probabilities(test.matrix), 1e-6)), atol=1e-5
    )
    ratings = replace(design, config=design.config.model_copy(update={"formula": {"click": 0.0, "share": 0.0}}))
    predicted = np.exp(_ranker(ratings, fitted.weights).predict(test.matrix))
    # Ratings are 3 + b: a predictor that read nothing would be off by their variance, one that reads b by nothing.
    assert ((predicted - test.labels[:, 1]) ** 2).mean() < test.labels[:, 1].var() / 2


@pytest.mark.parametrize("kind", QUICK_AND_SLOW_KINDS)
def test_what_the_position_adds_is_told_apart_from_what_an_item_is_worth(
    kind: str, shown_by_a: Callable[[int], tuple[RankingData, np.ndarray]]
) -> None:
    (train, train_at_the_top), (test, at_the_top) = shown_by_a(0), shown_by_a(1)
    relevant = at_the_top > np.quantile(at_the_top, 0.8)
    ndcg, error, begun = {}, {}, {}
    for n_positions in (0, positions_to_learn(train)):
        design = _design(kind, train, (TaskConfig(name="click"),), n_positions, l2=3.0)
        task = RowTask(design, train, None, 256, seed=0)
        begun = task.build_model().state_dict()
        fitted = fit(task, _settings(kind, 6 if kind == "logistic" else 20), seed=0)
        ranker = _ranker(design, fitted.weights)
        ndcg[n_positions] = _by_query(ranker.predict(test.matrix), relevant, test.groups)
        error[n_positions] = np.abs(ranker.probabilities(test.matrix) - at_the_top).mean()
    # Uncorrected, `a` is taken for worth, as it stood where people looked: correcting orders better, query by query.
    gain = ndcg[10] - ndcg[0]
    assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))
    # The truth at the top, and the truth where items happened to be: each model is nearer to its own.
    assert train.positions is not None and test.positions is not None
    as_shown = _shown(at_the_top, test.positions)
    between = np.abs(as_shown - at_the_top).mean()
    assert error[10] < between / 2 < error[0]
    truth = 0.4 * np.arange(1, 10)
    off, off_at_first = (
        np.abs(weights["outputs.below_the_top"][:, 0].numpy() + truth) for weights in (fitted.weights, begun)
    )
    if kind == "logistic":
        # A convex loss is near its optimum, which is as sure as clicks of these probabilities make it.
        shown = _shown(train_at_the_top, train.positions)
        variance = 1 / np.bincount(train.positions, shown * (1 - shown))
        assert (off < 4 * np.sqrt(variance[1:] + variance[0])).all()
    else:
        # Networks are not: they have to be nearer to the truth than what happened at each position, where they began.
        assert off.mean() < off_at_first.mean()


@pytest.mark.parametrize("worse_by", [0.01, 0.0, -0.1])
def test_a_ranker_that_says_less_than_how_frequent_success_is_is_doubted(
    three_tasks: Rows, tasks: tuple[TaskConfig, ...], worse_by: float
) -> None:
    train, valid = three_tasks(), three_tasks(60, seed=1)
    learned, success = train.labels[:, 0], valid.labels[:, 0]
    known = ~np.isnan(success)
    odds, happened = (learned[~np.isnan(learned)] > 0).mean(), (success[known] > 0).mean()
    constant = happened * np.log(odds) + (1 - happened) * np.log1p(-odds)
    progress = Progress(epoch=3, best_epoch=2, best={"ndcg@10": 0.5, "log_likelihood": constant - worse_by})
    config = TrainConfig(
        ranker=RankerConfig(kind="logistic", tasks=tasks, logistic=LogisticConfig(crosses=(("a", "colour"),), bits=14))
    )
    doubts: list[str] = []
    runs: Any = SimpleNamespace(
        config=config,
        fit=lambda task, training, name: Fitted(dict(task.build_model().state_dict()), progress),
        doubt=doubts.append,
    )
    periods: Any = SimpleNamespace(
        config=config, tasks=tasks, last=lambda: valid, earlier=lambda: train, all=lambda last: train
    )
    RANKER_FITS["logistic"](runs, periods)
    assert len(doubts) == (worse_by > 0)
    assert all(f"validation rows is {worse_by - constant:.4f}, and {-constant:.4f}" in each for each in doubts)


def _shown(at_the_top: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The probability of a click where the item stood, in the world of `shown_by_a`."""
    return 1 / (1 + (1 - at_the_top) / at_the_top * np.exp(0.4 * positions))


def _by_query(scores: np.ndarray, relevant: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """NDCG of each query that has a relevant row."""
    queries = np.split(np.arange(len(scores)), np.cumsum(groups)[:-1])
    return np.array(
        [group_ndcg(scores[rows], relevant[rows], np.array([len(rows)])) for rows in queries if relevant[rows].any()]
    )


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


@pytest.mark.parametrize("kind", ["mmoe", "ple"])
def test_in_bfloat16_losses_are_float32(kind: str, three_tasks: Rows, tasks: tuple[TaskConfig, ...]) -> None:
    train = three_tasks(20)
    assert_only_the_network_is_in_bfloat16(RowTask(_design(kind, train, tasks), train, None, 64, seed=0))


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


def test_log_likelihood_is_minus_the_log_loss_of_what_is_labelled() -> None:
    found = mean_log_likelihood(np.array([0.8, 0.4, 0.5, 0.0]), np.array([1.0, 0.0, np.nan, 1.0]))
    assert found == pytest.approx((np.log(0.8) + np.log(0.6) + np.log(1e-6)) / 3)
    assert mean_log_likelihood(np.array([0.8]), np.array([np.nan])) == 0.0


def test_the_epoch_of_the_best_probabilities_is_kept_where_these_are_asked_for(
    three_tasks: Rows, tasks: tuple[TaskConfig, ...]
) -> None:
    train, valid = three_tasks(), three_tasks(60, seed=1)
    for judged_by in ("ndcg@10", "log_likelihood"):
        design = _design("logistic", train, tasks, judged_by=judged_by)
        progress = fit(RowTask(design, train, valid, 256, seed=0), _settings("logistic", 5), seed=0).progress
        values = [epoch[judged_by] for epoch in progress.history]
        assert progress.best_epoch == 1 + int(np.argmax(values))


def test_probabilities_are_judged_where_the_items_were_shown(
    shown_by_a: Callable[[int], tuple[RankingData, np.ndarray]],
) -> None:
    (train, _), (valid, at_the_top) = shown_by_a(0), shown_by_a(1)
    design = _design("logistic", train, (TaskConfig(name="click"),), positions_to_learn(train), l2=3.0)
    fitted = fit(RowTask(design, train, valid, 256, seed=0), _settings("logistic", 6), seed=0)
    found = max(epoch["log_likelihood"] for epoch in fitted.progress.history)
    assert valid.positions is not None
    clicked = valid.labels[:, 0]
    # What is known of the world: the truth where items stood, and the truth as if all had stood at the top.
    told = {name: mean_log_likelihood(p, clicked) for name, p in (
        ("shown", _shown(at_the_top, valid.positions)), ("top", at_the_top)
    )}  # fmt: skip
    assert told["top"] < (told["top"] + told["shown"]) / 2 < found
