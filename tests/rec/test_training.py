import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from rec.config import TrainingConfig
from rec.errors import BundleError, TrainingError
from rec.models.weights import read_weights
from rec.training import (
    MODEL_FILE,
    PROGRESS_FILE,
    Progress,
    Worker,
    advance,
    fit,
    learning_rate,
    read_fitted,
)

CONFIG = TrainingConfig(workers=0, epochs=6, batch_size=8, learning_rate=0.05, weight_decay=0, patience=2)


class LineNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.bias = nn.Embedding(2, 1, sparse=True)

    def forward(self, x, side):
        return self.line(nn.functional.dropout(x, 0.1, training=self.training)) + self.bias(side)


@dataclass(frozen=True)
class Line:
    """Fits y = 2x with dropout and an embedding that has sparse gradients; `scores` are the validation metrics."""

    scores: tuple[float, ...] = ()
    scale: float = 1.0

    @property
    def metric(self):
        return "score"

    def build_model(self):
        return LineNetwork()

    def plan(self, epoch):
        rows = np.random.default_rng([0, epoch]).permutation(20)
        return np.split(rows, [8, 16])

    def loss(self, model, batch, worker):
        x = torch.from_numpy(batch).float()[:, None] / 10
        output = model(x, torch.from_numpy(batch % 2))
        return ((output - 2 * x) ** 2).mean() * self.scale

    def validate(self, model, device):
        epoch = getattr(model, "validated", 0)
        model.validated = epoch + 1
        return {"score": self.scores[epoch]} if self.scores else {}


def test_without_validation_the_last_epoch_is_the_best():
    fitted = fit(Line(), CONFIG, seed=0)
    assert (fitted.progress.epoch, fitted.progress.best_epoch, fitted.progress.best) == (6, 6, {})
    losses = [epoch["loss"] for epoch in fitted.progress.history]
    assert losses[-1] < losses[0]


def test_training_stops_when_patience_is_over_and_returns_the_best_epoch():
    ends = []
    fitted = fit(
        Line((0.1, 0.4, 0.3, 0.4, 0.9, 0.9)), CONFIG, seed=0, report=lambda metrics, save: ends.append(metrics)
    )
    assert [epoch["epoch"] for epoch in ends] == [1, 2, 3, 4]
    assert fitted.progress.best_epoch == 2 and fitted.progress.best == {"score": 0.4} and fitted.progress.finished
    constant = CONFIG.model_copy(update={"schedule": "constant", "warmup": 0})
    stopped = fit(Line((0.1, 0.4, 0.3, 0.4)), constant, seed=0)
    shorter = fit(Line((0.1, 0.4)), constant.model_copy(update={"epochs": 2}), seed=0)
    for name, weights in shorter.weights.items():
        assert torch.equal(weights, stopped.weights[name])


def test_going_on_from_a_checkpoint_gives_what_an_unbroken_run_gives(tmp_path):
    unbroken = fit(Line(), CONFIG, seed=0)

    class KilledError(Exception):
        pass

    def killed_in_epoch_four(metrics, save):
        if metrics["epoch"] == 4:
            raise KilledError
        folder = tmp_path / str(metrics["epoch"])
        folder.mkdir()
        save(folder)

    with pytest.raises(KilledError):
        fit(Line(), CONFIG, seed=0, report=killed_in_epoch_four)
    assert read_fitted(tmp_path / "3").progress.epoch == 3
    resumed = fit(Line(), CONFIG, seed=0, checkpoint=tmp_path / "3")
    for name, weights in unbroken.weights.items():
        assert torch.equal(weights, resumed.weights[name])
    same = [[epoch["loss"] for epoch in run.progress.history] for run in (unbroken, resumed)]
    assert same[0] == same[1]


@dataclass(frozen=True)
class Judged(Line):
    """Epochs are compared by how near the line's weight is to a number."""

    number: float = 0.0

    def validate(self, model, device):
        return {"score": -abs(float(model.line.weight) - self.number)}


def test_a_run_whose_epochs_were_compared_by_another_metric_goes_on(tmp_path):
    """As a version before may have: its best weights are judged by what decides now, and stay the best if they are."""

    def keep(metrics, save):
        folder = tmp_path / str(metrics["epoch"])
        folder.mkdir(exist_ok=True)
        save(folder)

    config = CONFIG.model_copy(update={"patience": 6})
    fit(Judged(), config, seed=0, report=keep)
    second = float(read_weights(tmp_path / "2" / MODEL_FILE)["line.weight"])
    unbroken = fit(Judged(number=second), config, seed=0, report=keep)
    assert unbroken.progress.best_epoch == 2
    progress = tmp_path / "4" / PROGRESS_FILE
    older = json.loads(progress.read_text()) | {"best": {"older": 0.5}}
    progress.write_text(json.dumps(older))
    resumed = fit(Judged(number=second), config, seed=0, checkpoint=progress.parent)
    assert resumed.progress.best_epoch == 2 and resumed.progress.best == unbroken.progress.best
    for name, weights in unbroken.weights.items():
        assert torch.equal(weights, resumed.weights[name])


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second, other = (fit(Line(), CONFIG, seed=seed).weights["line.weight"] for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_do():
    with pytest.raises(TrainingError, match=r"loss of epoch 1 is (nan|inf); lower training.learning_rate"):
        fit(Line(scale=math.inf), CONFIG, seed=0)


def test_weights_of_another_model_are_not_begun_with():
    with pytest.raises(BundleError, match=r"at bias\.weight the configured model has"):
        fit(Line(), CONFIG, seed=0, init_from={"line.weight": torch.zeros(3, 1)})


def test_equal_metrics_are_no_improvement():
    progress = Progress(epoch=1, best_epoch=1, best={"score": 0.5})
    assert advance(progress, {}, {"score": 0.5}, "score", CONFIG).best_epoch == 1
    assert advance(progress, {}, {"score": 0.6}, "score", CONFIG).best_epoch == 2


@dataclass(frozen=True)
class OneStep(Line):
    """All rows in one batch."""

    def plan(self, epoch):
        return [np.arange(20)]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_fit_of_one_step_learns(schedule):
    config = CONFIG.model_copy(update={"epochs": 1, "schedule": schedule})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = OneStep().build_model().line.weight
    after = fit(OneStep(), config, seed=0).weights["line.weight"]
    assert (before - after).abs().item() > 0.001


def test_the_learning_rate_rises_and_falls():
    config = CONFIG.model_copy(update={"learning_rate": 2.0, "warmup": 0.2})
    rates = [learning_rate(config, done) for done in (0.1, 0.2, 0.6, 1)]
    assert rates == pytest.approx([1, 2, 1, 0])
    assert learning_rate(config.model_copy(update={"schedule": "constant"}), 0.9) == 2


def test_bfloat16_learns_too():
    config = CONFIG.model_copy(update={"precision": "bfloat16", "epochs": 20})
    history = fit(Line(), config, seed=0).progress.history
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]


@pytest.mark.parametrize("n", [0, 1, 5, 6, 7])
def test_the_parts_of_all_workers_are_the_whole(n):
    rows = np.arange(n)
    parts = [rows[Worker(rank, 3).part(n)] for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
