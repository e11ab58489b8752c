import numpy as np
import pytest
import torch

from rec.config import MMoEConfig, TaskConfig, TrainingConfig
from rec.errors import BundleError, ConfigError
from rec.models.mmoe import MMoE, MMoERanker, MMoETask, combine, formula_exponents, group_ndcg, multi_task_losses
from rec.ranking_data import FeatureLayout, RankingData
from rec.training import Worker, fit

TASKS = (TaskConfig(name="click"), TaskConfig(name="rating", kind="regression", weight=0.5), TaskConfig(name="share"))
CONFIG = MMoEConfig(experts=3, expert_hidden=(16,), expert_dim=8, tower_hidden=(8,))
LAYOUT = FeatureLayout(("a", "b", "colour"), ("colour",))
SIMPLE = TrainingConfig(workers=0, epochs=15, batch_size=256, learning_rate=0.01)


def _data(n_queries: int = 150, seed: int = 0) -> RankingData:
    """Clicks follow a and the colour, ratings follow b, shares are seldom labelled."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(5, 15, n_queries)
    rows = int(groups.sum())
    matrix = np.stack([rng.normal(5, 3, rows), rng.normal(size=rows), rng.integers(0, 4, rows)], axis=1)
    matrix = matrix.astype(np.float32)
    click = ((matrix[:, 0] - 5) / 3 + 2 * (matrix[:, 2] == 2) > 1).astype(np.float32)
    rating = 3 + matrix[:, 1]
    share = np.where(rng.random(rows) < 0.1, click, np.nan)
    labels = np.stack([click, rating, share], axis=1).astype(np.float32)
    return RankingData(LAYOUT, matrix, labels, groups, tuple(task.name for task in TASKS))


def _task(**changes) -> MMoETask:
    return MMoETask(_data(), _data(40, seed=1), TASKS, CONFIG.model_copy(update=changes), 256, seed=0)


def test_each_task_has_a_gate_of_its_own_and_its_weights_sum_to_one():
    model = _task().build_model()
    mixture = model.mixture(model.inputs(torch.from_numpy(_data().matrix)))
    assert mixture.shape[0] == 3 and mixture.shape[2] == 3
    torch.testing.assert_close(mixture.sum(dim=2), torch.ones(mixture.shape[:2]))
    assert not torch.allclose(mixture[0], mixture[1])


def test_an_output_is_its_tower_over_the_mixture_of_experts():
    model = _task().build_model()
    matrix = torch.from_numpy(_data().matrix[:4])
    inputs = model.inputs(matrix)
    weights = model.gates[1](inputs).softmax(dim=1)
    mixed = sum(weights[:, [place]] * expert(inputs).relu() for place, expert in enumerate(model.experts))
    torch.testing.assert_close(model(matrix)[:, 1:2], model.towers[1](mixed))


def test_every_expert_is_trained():
    task = _task()
    model = task.build_model()
    task.loss(model, np.arange(200), Worker()).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_missing_label_teaches_nothing():
    outputs = torch.randn(2, 3, requires_grad=True)
    labels = torch.tensor([[1.0, torch.nan, torch.nan], [0.0, 2.0, torch.nan]])
    losses = multi_task_losses(outputs, labels, TASKS)
    losses.sum().backward()
    assert torch.equal(losses == 0, labels.isnan())
    assert torch.equal(outputs.grad == 0, labels.isnan())


def test_all_tasks_are_learned():
    task = _task(formula={"rating": 0.0, "share": 0.0})
    fitted = fit(task, SIMPLE, seed=0)
    assert fitted.progress.best["ndcg@10"] > 0.9
    test = _data(60, seed=2)
    model = MMoERanker.of(task, fitted.weights).network
    predictions = model.predict(torch.from_numpy(test.matrix)).detach().numpy()
    assert ((predictions[:, 0] > 0.5) == (test.labels[:, 0] > 0)).mean() > 0.95
    assert np.abs(predictions[:, 1] - test.labels[:, 1]).mean() < 0.2


def test_the_parts_of_two_workers_have_the_mean_of_the_whole():
    task = _task()
    torch.manual_seed(0)
    model = task.build_model()
    batch = task.plan(0)[-1]
    whole = task.loss(model, batch, Worker())
    parts = [task.loss(model, batch, Worker(rank, 2)) for rank in range(2)]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_the_formula_is_a_product_of_powers():
    predictions = np.array([[0.5, 4.0], [0.0, 1.0]])
    np.testing.assert_allclose(combine(predictions, [2, 0.5]), [0.5**2 * 2, 1e-12])
    assert formula_exponents({"rating": 0.0}, TASKS) == [1, 0, 1]
    with pytest.raises(ConfigError, match="no task clik; there are click, rating, share"):
        formula_exponents({"clik": 1.0}, TASKS)


def test_saved_and_loaded_it_scores_as_before(tmp_path):
    task = _task(formula={"share": 0.0})
    ranker = MMoERanker.of(task, task.build_model().state_dict())
    ranker.save(tmp_path)
    loaded = MMoERanker.load(tmp_path, LAYOUT)
    matrix = _data(5, seed=3).matrix
    np.testing.assert_array_equal(loaded.predict(matrix), ranker.predict(matrix))


def test_other_features_and_damaged_files_are_refused(tmp_path):
    task = _task()
    MMoERanker.of(task, task.build_model().state_dict()).save(tmp_path)
    with pytest.raises(BundleError, match="trained on other features"):
        MMoERanker.load(tmp_path, FeatureLayout(("a", "b", "size"), ()))
    (tmp_path / MMoERanker.filename).write_bytes(b"nonsense")
    with pytest.raises(BundleError, match=r"ranker\.safetensors"):
        MMoERanker.load(tmp_path, LAYOUT)


def test_unknown_codes_and_missing_numbers_have_scores_too():
    task = _task()
    ranker = MMoERanker.of(task, task.build_model().state_dict())
    matrix = np.array([[np.nan, np.nan, np.nan], [1, 1, 99], [1, 1, -1]], np.float32)
    scores = ranker.predict(matrix)
    assert np.isfinite(scores).all()
    assert scores[1] == scores[2]


def test_group_ndcg_of_a_worked_example():
    # First query: the relevant row is second of two, 1 / log2(3). Second query: none relevant, left out.
    value = group_ndcg(np.array([0.9, 0.1, 0.3]), np.array([False, True, False]), np.array([2, 1]))
    assert value == pytest.approx(1 / np.log2(3))


def test_a_network_of_one_task_and_numbers_only():
    network = MMoE([0, 0], TASKS[:1], CONFIG)
    assert network(torch.zeros(5, 2)).shape == (5, 1)
