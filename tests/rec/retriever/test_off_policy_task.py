"""Learning from logged rounds."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rec.config import TrainingConfig
from rec.crossfit import user_folds
from rec.data.dataset import Dataset
from rec.errors import ConfigError, TrainingError
from rec.features.encoders import Encoders
from rec.retriever.fits import _fit_reward_model, thin_overlap
from rec.retriever.logged_data import N_FOLDS, build_logged_data
from rec.retriever.off_policy_task import NEVER, OffPolicyTask, RewardModel, explained
from rec.retriever.ranker_scores import RankerTables
from rec.training import Progress, Worker, fit
from tests.rec.in_bfloat16 import assert_only_the_network_is_in_bfloat16
from tests.rec.retriever.logged_world import CONFIG, CUT_MS, DAY_MS, N_ITEMS, N_USERS, SAMPLED, logged_world
from tests.rec.retriever.logged_world import off_policy_task as _task


@pytest.fixture(scope="module")
def world() -> Dataset:
    return logged_world()


def _true_value(task: OffPolicyTask, weights) -> float:
    """Expected reward of the policy's first item, over the later rounds; a regression shows its highest prediction."""
    model = task.build_model()
    model.load_state_dict(weights)
    model.eval()
    rows, device = task.data.valid, torch.device("cpu")
    with torch.inference_mode():
        vectors = model.embed_items(task.inputs.items(np.arange(N_ITEMS), 3, device))
        logits = task._logits(model.embed_users(task.inputs.users(rows, device)), vectors, rows)
    wanted = (task.data.moments.user[rows][:, None] + np.arange(N_ITEMS)) % 2 == 0
    if task.config.objective == "regression":
        return float(wanted[np.arange(len(rows)), logits.argmax(dim=1)].mean())
    return float((logits.softmax(dim=1).numpy() * wanted).sum(axis=1).mean())


TRAINING = TrainingConfig(workers=0, epochs=40, batch_size=256, learning_rate=0.02, patience=40)


@pytest.mark.parametrize(
    "objective", ["regression", "ips", "dr", "weighted_log_likelihood", "top_k_reinforce", "two_stage_ips"]
)
def test_every_objective_learns_what_users_want(world, objective):
    task = _task(world, objective)
    fitted = fit(task, TRAINING, seed=0)
    value = _true_value(task, fitted.weights)
    # Whatever does not look at the user earns half.
    assert value > 0.8, f"{objective}: {value:.3f}"
    if objective == "regression":
        assert 0.3 < fitted.progress.best["explained"] < 1
    else:
        # The estimate on later rounds is near the truth; epochs are compared by its bound.
        assert abs(fitted.progress.best["snips"] - value) < 0.1
        assert fitted.progress.best["snips_low"] == max(epoch["snips_low"] for epoch in fitted.progress.history)


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        *[(name, {}) for name in ("regression", "ips", "dr", "weighted_log_likelihood", "top_k_reinforce")],
        *[("two_stage_ips", settings) for settings in ({}, SAMPLED)],
        ("ips", SAMPLED),
    ],
)
def test_in_bfloat16_scores_and_losses_are_float32(world, objective, settings):
    assert_only_the_network_is_in_bfloat16(_task(world, objective, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ips", "two_stage_ips"])
def test_from_sampled_items_nearly_as_much_is_learned_as_from_all(world, objective):
    values = []
    # The neighbours are as many as a user wants; with fewer, or with fewer draws, clearly less is learned.
    for settings in ({}, {"sampled_items": 64, "neighbors": 20, "uniform_share": 0.3, "rebuild_steps": 2}):
        task = _task(world, objective, **settings)
        values.append(np.mean([_true_value(task, fit(task, TRAINING, seed=seed).weights) for seed in (0, 1)]))
    # Runs differ by their seed as much as this; over six seeds of ips the means were .954 and .921.
    assert values[1] > values[0] - 0.06, values


@pytest.mark.parametrize("objective", ["ips", "two_stage_ips"])
def test_with_many_draws_the_gradient_is_that_of_the_whole_catalogue(objective):
    world = logged_world(slate=3)
    found = []
    many = {"sampled_items": 20_000, "neighbors": 10, "uniform_share": 0.5}
    # Slates so long hold nearly every item, and do not differ by chance.
    for settings in ({}, many):
        task = _task(world, objective, **settings)
        task = replace(task, off_policy=task.off_policy.model_copy(update={"slate_size": 2000, "n_slates": 2}))
        batch = replace(task.plan(0)[0], rows=task.data.train[:30])
        torch.manual_seed(0)
        model = task.build_model()
        task.loss(model, batch, Worker()).backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert (found[1] - found[0]).norm() < 0.02 * found[0].norm()


def test_the_likelihood_weighs_against_what_could_be_shown_at_the_position():
    """Two items above the third of a slate leave N - 2 of N."""
    task = _task(logged_world(slate=3), "weighted_log_likelihood", self_normalize=False, max_weight=1e6)
    batch, data = task.plan(0)[0], task.data
    torch.manual_seed(0)
    model = task.build_model().eval()
    rows, device = batch.rows, torch.device("cpu")
    with torch.no_grad():
        found = task.loss(model, batch, Worker()).item()
        vectors = model.embed_items(task.inputs.items(np.arange(N_ITEMS), batch.snapshot, device))
        logits = task._logits(model.embed_users(task.inputs.users(rows, device)), vectors, rows)
    log_p = logits.log_softmax(dim=1).double().numpy()[np.arange(len(rows)), data.item[rows]]
    n_eligible = N_ITEMS - np.diff(data.banned_start)[rows]
    assert set(n_eligible) == {N_ITEMS, N_ITEMS - 1, N_ITEMS - 2}
    assert found == pytest.approx(-(data.reward[rows] / n_eligible / data.propensity[rows] * log_p).mean(), rel=1e-5)


@pytest.mark.parametrize("error", ["squared", "logistic"])
def test_the_mean_explains_nothing_and_the_rewards_explain_all(error):
    rewards = torch.tensor([0.0, 1, 0, 0])
    sure = rewards if error == "squared" else 40 * (2 * rewards - 1)
    mean = torch.full((4,), 0.25 if error == "squared" else math.log(0.25 / 0.75))
    assert explained(sure, rewards, 0.25, error) == pytest.approx(1)
    assert explained(mean, rewards, 0.25, error) == pytest.approx(0, abs=1e-6)
    assert explained(-sure, rewards, 0.25, error) < 0
    # Of squares it is R^2: 1 - (.25 * 4) / .75.
    if error == "squared":
        assert explained(torch.full((4,), 0.5), rewards, 0.25, error) == pytest.approx(1 - 1 / 0.75)


def test_what_comes_later_changes_nothing(world):
    rounds, rng = world.rounds, np.random.default_rng(1)
    later = np.flatnonzero(rounds.timestamp >= CUT_MS)
    reward = rounds.reward.copy()
    reward[later] = rng.permutation(reward[later])
    item_id = rounds.item_id.copy()
    item_id[later] = rng.permutation(item_id[later])
    log = world.interactions
    item = log.item.copy()
    item[log.timestamp >= CUT_MS] = rng.permutation(item[log.timestamp >= CUT_MS])
    changed = replace(
        world, rounds=replace(rounds, reward=reward, item_id=item_id), interactions=replace(log, item=item)
    )
    first, second = _task(world), _task(changed)
    for batch, other in zip(first.plan(0), second.plan(0), strict=True):
        np.testing.assert_array_equal(batch.rows, other.rows)
        torch.manual_seed(0)
        model = first.build_model()
        assert torch.equal(first.loss(model, batch, Worker()), second.loss(model, other, Worker()))


def test_items_above_cannot_be_shown_again_and_the_shown_one_can():
    task = _task(logged_world(slate=3))
    model, device = task.build_model(), torch.device("cpu")
    rows = task.data.train[:200]
    vectors = model.embed_items(task.inputs.items(np.arange(N_ITEMS), 0, device))
    logits = task._logits(model.embed_users(task.inputs.users(rows, device)), vectors, rows)
    never = logits.detach().numpy() == NEVER
    np.testing.assert_array_equal(never.sum(axis=1), np.tile([0, 1, 2], 200)[: len(rows)])
    assert not never[np.arange(len(rows)), task.data.item[rows]].any()


def test_every_round_is_learned_from_as_often_as_any_other(world):
    task = _task(world)
    plans = [task.plan(epoch) for epoch in range(400)]
    assert all(len(batch.rows) for plan in plans for batch in plan)
    rows = np.concatenate([batch.rows for plan in plans for batch in plan])
    times = np.bincount(rows, minlength=len(task.data.item))
    assert times[task.data.valid].sum() == 0
    assert times.sum() == 400 * len(task.data.train)
    assert np.abs(times[task.data.train] / 400 - 1).max() < 0.15


def test_data_without_propensities_and_logs_without_past_are_refused(world):
    encoders = Encoders.fit(world, world.interactions)
    with pytest.raises(ConfigError, match="with which probability"):
        build_logged_data(replace(world, rounds=None), encoders, world.interactions, CONFIG.queries, end_ms=CUT_MS)
    with pytest.raises(TrainingError, match="was final before"):
        build_logged_data(world, encoders, world.interactions, CONFIG.queries, end_ms=1)


def test_two_workers_have_the_gradient_of_one(two_workers_agree, world):
    cases = [("ips", {}), ("dr", {}), ("two_stage_ips", {}), ("ips", SAMPLED), ("two_stage_ips", SAMPLED)]
    tasks = [_task(world, objective, **settings) for objective, settings in cases]
    # A whole batch, one that two workers cannot share evenly, and one that leaves a worker nothing.
    whole = tasks[0].plan(0)[0]
    earning = whole.rows[tasks[0].data.reward[whole.rows] > 0]
    batches = [whole, replace(whole, rows=whole.rows[:7]), replace(whole, rows=earning[:1])]
    two_workers_agree([(task, batch) for task in tasks for batch in batches])


def test_rewards_that_were_not_final_by_then_are_not_learned_from(world):
    rounds = world.rounds
    late = replace(world, rounds=replace(rounds, attribution_s=86_400.0))
    data = _task(late).data
    assert (data.at_ms[data.train] + DAY_MS <= CUT_MS).all() and len(data.train)
    assert (data.at_ms[data.valid] >= CUT_MS).all() and (data.at_ms[data.valid] + DAY_MS <= 100 * DAY_MS).all()
    within = (rounds.timestamp > CUT_MS - DAY_MS) & (rounds.timestamp < CUT_MS)
    assert within.any() and len(data.train) == (rounds.timestamp <= CUT_MS - DAY_MS).sum()


def test_predicted_rewards_are_those_of_the_model_of_the_rows_fold(world):
    task = _task(world, "dr")
    models = []
    for fold in range(2):
        torch.manual_seed(fold)
        models.append(task.build_model().eval())
    rng = np.random.default_rng(0)
    users = rng.normal(size=(len(task.data.item), 8)).astype(np.float32)
    task = replace(task, reward_model=RewardModel(users, tuple(model.state_dict() for model in models)))
    rows, device = task.data.train[::20], torch.device("cpu")
    assert set(task.data.fold[rows]) == {0, 1}
    for snapshot in (0, 3):
        items = [model.embed_items(task.inputs.items(np.arange(N_ITEMS), snapshot, device)) for model in models]
        expected = [torch.from_numpy(users[row]) @ items[task.data.fold[row]].T for row in rows]
        predicted = task._predicted(rows, snapshot, device)
        torch.testing.assert_close(predicted, (torch.stack(expected) / 0.1).sigmoid())


def test_what_users_earned_changes_no_prediction_of_their_own_rewards(world):
    two_epochs = TRAINING.model_copy(update={"epochs": 2})

    def fitted(dataset: Dataset) -> tuple[OffPolicyTask, RewardModel]:
        task = _task(dataset, "dr")
        runs = SimpleNamespace(
            config=SimpleNamespace(retriever=task.config, training=two_epochs),
            fit=lambda task, training, name: fit(task, training, seed=0),
        )
        return task, _fit_reward_model(runs, task, "test")

    rounds = world.rounds
    own = user_folds(rounds.user_id, N_FOLDS) == 0
    other = replace(world, rounds=replace(rounds, reward=np.where(own, 1 - rounds.reward, rounds.reward)))
    (task, before), (_, after) = fitted(world), fitted(other)
    own = task.data.fold == 0
    np.testing.assert_array_equal(after.users[own], before.users[own])
    assert not np.array_equal(after.users[~own], before.users[~own])
    changed = [
        any(not torch.equal(weight, found[name]) for name, weight in expected.items())
        for expected, found in zip(before.weights, after.weights, strict=True)
    ]
    assert changed == [False, True]


def test_all_folds_predict_by_one_error_whoever_earned_what_is_no_share(world):
    rounds = world.rounds
    one = int(np.flatnonzero(user_folds(rounds.user_id, N_FOLDS) == 0)[0])
    rewards = np.where(np.arange(len(rounds.reward)) == one, 5.0, rounds.reward)
    task = _task(replace(world, rounds=replace(rounds, reward=rewards)), "dr")
    parts = [replace(task, data=task.data.without_fold(fold)) for fold in range(N_FOLDS)]
    assert [part._error for part in (task, *parts)] == ["squared"] * 3
    assert _task(world, "dr")._error == "logistic"


@pytest.mark.parametrize("settings", [{}, SAMPLED])
def test_what_the_ranker_draws_depends_on_its_scores_over_its_temperature(world, settings):
    scores = np.random.default_rng(0).normal(size=(1, N_USERS, N_ITEMS)).astype(np.float32)

    def loss(scale: float, temperature: float) -> float:
        task = _task(world, "two_stage_ips", ranker_temperature=temperature, **settings)
        task = replace(task, ranker=RankerTables(scale * scores, np.zeros(1, int)))
        torch.manual_seed(0)
        return task.loss(task.build_model(), task.plan(0)[0], Worker()).item()

    assert loss(1.0, 0.5) == pytest.approx(loss(2.0, 1.0), rel=1e-5)
    assert loss(1.0, 0.5) != pytest.approx(loss(1.0, 1.0), rel=1e-2)


def test_a_choice_by_few_rounds_is_said():
    text = thin_overlap(Progress(best_epoch=7, best={"snips": 0.8, "ess": 1.7}))
    assert text is not None and text.startswith("epoch 7 was chosen by an effective sample of 1.7 later rounds")
    assert thin_overlap(Progress(best={"snips": 0.8, "ess": 100.0})) is None
    assert thin_overlap(Progress(best={"explained": 0.8})) is None
