from dataclasses import replace

import numpy as np
import pytest
import torch

from rec.config import (
    FrequenciesConfig,
    HardNegativesConfig,
    IndexConfig,
    QueriesConfig,
    RetrieverConfig,
    TowerConfig,
    TrainingConfig,
    UserTowerConfig,
)
from rec.models.two_tower import TwoTower, item_vectors, user_vectors
from rec.retriever.hard_negatives import HardNegatives, draw_hard
from rec.retriever.task import RetrieverTask
from rec.training import Worker, fit
from tests.rec.in_bfloat16 import assert_only_the_network_is_in_bfloat16

QUERIES = QueriesConfig(snapshots=4, half_life_days=None, horizon_days=None, epoch_share=1, min_batches=1)
CONFIG = RetrieverConfig(
    user_tower=UserTowerConfig(history_windows=(20, 3), embedding_dim=16, hidden=(32,)),
    item_tower=TowerConfig(embedding_dim=16, hidden=(32,)),
    output_dim=16,
    mixed_negatives=16,
    positives_per_query=1,
    queries=QUERIES,
)
STREAMING = FrequenciesConfig(kind="streaming", size=4096)
HARD = HardNegativesConfig(per_query=3, pool=5)
SIMPLE = TrainingConfig(workers=0, epochs=15, batch_size=128, learning_rate=0.01)


def _task(checkerboard, config: RetrieverConfig = CONFIG, **changes) -> RetrieverTask:
    config = config.model_copy(update=changes)
    return RetrieverTask(checkerboard.retrieval_data(config.queries), config, 128, seed=0)


@pytest.mark.parametrize("objective", ["logq", "mixed_negative", "cross_entropy"])
def test_a_checkerboard_world_is_solved(checkerboard, objective):
    task = _task(checkerboard, objective=objective)
    fitted = fit(task, SIMPLE, seed=0)
    model = task.build_model()
    model.load_state_dict(fitted.weights)
    valid = task.data.valid
    assert valid is not None
    scores = user_vectors(model, valid.features, valid.history) @ item_vectors(model, valid.items).T
    owner = np.repeat(np.arange(len(scores)), np.diff(valid.excluded_indptr))
    scores[owner, valid.excluded] = -np.inf
    best = scores.argsort(axis=1)[:, -5:]
    parity = valid.relevant[valid.relevant_indptr[:-1], None] % 2
    assert (best % 2 == parity).mean() > 0.97


@pytest.mark.parametrize("objective", ["logq", "mixed_negative", "cross_entropy"])
def test_in_bfloat16_scores_and_losses_are_float32(checkerboard, objective):
    assert_only_the_network_is_in_bfloat16(_task(checkerboard, objective=objective))


def test_several_later_targets_and_snapshots_solve_it_too(checkerboard):
    queries = QueriesConfig(
        snapshots=6, snapshot_share=0.5, horizon_days=60, half_life_days=50, epoch_share=4, min_batches=1
    )
    task = _task(checkerboard, queries=queries, positives_per_query=4)
    fitted = fit(task, SIMPLE, seed=0)
    # Fifteen unseen items of the right parity remain for each user, one of which is the held-out one.
    assert fitted.progress.best["recall@100"] == 1
    assert fitted.progress.best["ndcg@10"] > 0.2


def test_sparse_gradients_train_as_well(checkerboard):
    fitted = fit(_task(checkerboard, sparse_embeddings=True), SIMPLE, seed=0)
    assert fitted.progress.best["ndcg@10"] > 0.2


def test_the_history_ends_strictly_before_the_moment(checkerboard):
    task = _task(checkerboard)
    queries, data = task.data.queries, task.data
    history = task.inputs.history(np.arange(len(queries)))
    slots = data.tables.items["item_id"]
    target = slots[data.liked[queries.target_start]]
    assert not (history == target[:, None]).any()
    np.testing.assert_array_equal((history > 0).sum(axis=1), np.minimum(queries.target_start % 13, 20))


def test_nothing_after_the_end_is_looked_at(checkerboard):
    data = checkerboard.retrieval_data(QUERIES)
    assert len(data.liked) == len(data.tables.log) == 80 * 13
    assert data.queries.target_end.max() <= len(data.liked)


def test_log_q_is_the_probability_of_a_drawn_target(checkerboard):
    queries = QueriesConfig(
        snapshots=3, snapshot_share=0.4, horizon_days=30, half_life_days=40, epoch_share=300, min_batches=1
    )
    task = _task(checkerboard, queries=queries, positives_per_query=2)
    counts = np.zeros_like(task.data.log_q)
    for batch in task.plan(0):
        np.add.at(counts[batch.group], batch.targets.ravel(), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(task.data.log_q).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(shares, np.exp(task.data.log_q), atol=0.003)


@pytest.mark.parametrize("objective", ["logq", "mixed_negative"])
@pytest.mark.parametrize("mask_known", [False, True])
def test_the_loss_is_that_of_a_loop_over_draws_corrected_by_their_probabilities(checkerboard, objective, mask_known):
    """-log of the positive's share among it and the draws, each with logit s / temperature - log of its probability."""
    queries = QueriesConfig(
        snapshots=3, snapshot_share=0.4, horizon_days=30, half_life_days=20, epoch_share=1, min_batches=1
    )
    task = _task(checkerboard, objective=objective, mask_known=mask_known, queries=queries, positives_per_query=2)
    torch.manual_seed(0)
    model = task.build_model().eval()
    n_items, catalogue = task.data.tables.n_items, set(task.data.catalogue.tolist())
    for batch in task.plan(0)[:2]:
        n_batch, n_uniform = batch.targets.size, len(batch.uniform)
        assert n_uniform == (16 if objective == "mixed_negative" else 0)
        # A draw takes a query of the snapshot by its weight, and then one of the query's targets, all alike.
        of_batch, total = np.zeros(n_items), 0.0
        data = task.data.queries
        for query in np.flatnonzero(data.moments.snapshot == batch.group):
            targets = task.data.liked[data.target_start[query] : data.target_end[query]]
            total += float(data.weight[query])
            for item in targets:
                of_batch[item] += float(data.weight[query]) / len(targets)
        probability = (n_batch * of_batch / total + n_uniform / len(catalogue)) / (n_batch + n_uniform)

        with torch.inference_mode():
            users, items = model(
                task.inputs.users(batch.queries, torch.device("cpu")),
                task.inputs.items(np.arange(n_items), batch.group, torch.device("cpu")),
            )
            found = float(task.loss(model, batch, Worker()))
        scores = (users @ items.T).double().numpy() / task.config.softmax_temperature
        draws = [*batch.targets.ravel(), *batch.uniform]
        losses = []
        for row, query in enumerate(batch.queries):
            user = data.moments.user[query]
            liked = task.data.liked[task.data.liked_start[user] : task.data.liked_start[user + 1]]
            no_negatives = {*batch.targets[row], *(liked if mask_known else ())}
            negatives = sum(np.exp(scores[row, item]) / probability[item] for item in draws if item not in no_negatives)
            for positive in batch.targets[row]:
                own = np.exp(scores[row, positive]) / probability[positive]
                losses.append(-np.log(own / (own + negatives)))
        assert found == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("objective", ["logq", "mixed_negative"])
@pytest.mark.parametrize("mask_known", [False, True])
def test_the_gradient_with_hard_negatives_is_that_of_a_loop_over_draws(checkerboard, objective, mask_known):
    """A row's draws are those of all rows and those of its own pool, each corrected by the mixture of both."""
    changes = {"objective": objective, "mask_known": mask_known, "hard_negatives": HARD, "positives_per_query": 2}
    task = _task(checkerboard, queries=QUERIES.model_copy(update={"horizon_days": 30.0}), **changes)
    torch.manual_seed(0)
    model = task.build_model()
    task.begin_epoch(model, 1, Worker())
    batch = task.plan(1)[1]
    assert batch.pools is not None and batch.own is not None
    model.eval()
    model.zero_grad()
    loss = task.loss(model, batch, Worker())
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    n_batch, n_uniform, n_catalogue = batch.targets.size, len(batch.uniform), len(task.data.catalogue)
    users, items = model(
        task.inputs.users(batch.queries, torch.device("cpu")),
        task.inputs.items(np.arange(task.data.tables.n_items), batch.group, torch.device("cpu")),
    )
    scores = users @ items.T / task.config.softmax_temperature
    total = torch.zeros(())
    for row, query in enumerate(batch.queries):
        user = task.data.queries.moments.user[query]
        liked = task.data.liked[task.data.liked_start[user] : task.data.liked_start[user + 1]]
        pool = [item for item in batch.pools[row] if item >= 0]
        assert pool and not set(pool) & set(liked)
        draws = [*batch.targets.ravel(), *batch.uniform, *batch.own[row]]
        no_negatives = {*batch.targets[row], *(liked if mask_known else ())}

        def weight(item, pool=pool, draws=draws, group=batch.group):
            expected = n_batch * np.exp(float(task.data.log_q[group, item])) + n_uniform / n_catalogue
            return len(draws) / (expected + (HARD.per_query / len(pool) if item in pool else 0))

        negatives = sum(scores[row, int(item)].exp() * weight(item) for item in draws if int(item) not in no_negatives)
        for positive in batch.targets[row]:
            own = scores[row, int(positive)].exp() * weight(positive)
            total = total - (own / (own + negatives)).log() / batch.targets.size
    total.backward()
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_the_hardest_negatives_are_the_best_ranked_that_the_user_never_liked(checkerboard):
    task = _task(checkerboard, hard_negatives=HARD)
    torch.manual_seed(0)
    model = task.build_model().train()
    queries = np.arange(0, len(task.data.queries), 7)
    hard = HardNegatives.mine(model, task.data, task.inputs, queries[::-1], 5, IndexConfig(), Worker())
    assert model.training
    model.eval()
    latest = len(task.data.log_q) - 1
    with torch.inference_mode():
        users, items = model(
            task.inputs.users(queries, torch.device("cpu")),
            task.inputs.items(np.arange(task.data.tables.n_items), latest, torch.device("cpu")),
        )
    scores = (users @ items.T).numpy()
    for row, user in enumerate(task.data.queries.moments.user[queries]):
        scores[row, task.data.liked[task.data.liked_start[user] : task.data.liked_start[user + 1]]] = -np.inf
    np.testing.assert_array_equal(hard.of(queries), np.argsort(-scores, axis=1, kind="stable")[:, :5])


def test_hard_negatives_are_drawn_uniformly_from_what_the_pool_holds():
    pools = np.array([[4, 9, 2], [7, -1, -1], [-1, -1, -1]], np.int32)
    drawn = draw_hard(pools, 3000, np.random.default_rng(0))
    shares = np.bincount(drawn[0], minlength=10)[[4, 9, 2]] / 3000
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / 3000))
    assert set(drawn[1]) == {7} and set(drawn[2]) == {-1}


def test_the_first_epoch_has_no_hard_negatives_and_neither_has_a_second_fit_of_the_task(checkerboard):
    task = _task(checkerboard, hard_negatives=HARD)
    model = task.build_model()
    task.begin_epoch(model, 2, Worker())
    batch = task.plan(2)[0]
    assert batch.own is not None and batch.own.shape == (len(batch.queries), 3)
    task.begin_epoch(model, 0, Worker())
    assert task.plan(0)[0].own is None


def test_streaming_frequencies_come_near_those_counted(checkerboard):
    """One target a moment, every moment in each epoch: the draws of a batch are independent, or nearly so."""
    queries = QUERIES.model_copy(update={"snapshots": 1, "epoch_share": 20})
    task = _task(checkerboard, queries=queries, frequencies=STREAMING, objective="logq")
    late = task.plan(1)[-20:]
    assert all(batch.log_q is not None for batch in late)
    errors = np.concatenate([batch.log_q - task.data.log_q[0, batch.items()] for batch in late])
    # With alpha .01 and after 300 batches the gaps have a relative standard error of some .07.
    assert abs(errors.mean()) < 0.05 and errors.std() < 0.15


def test_the_stream_is_the_order_of_the_batches_whatever_was_planned_before(checkerboard):
    task, other = (_task(checkerboard, frequencies=STREAMING) for _ in range(2))
    for epoch in range(3):
        planned = task.plan(epoch)
    later = other.plan(2)
    again = task.plan(2)
    resumed = _task(checkerboard, frequencies=STREAMING)
    resumed.restore(2, task.state(2))
    for batches in (later, again, resumed.plan(2)):
        for batch, expected in zip(batches, planned, strict=True):
            np.testing.assert_array_equal(batch.log_q, expected.log_q)
    assert task.state(3)["step"] == 3 * len(planned)
    assert not np.array_equal(task.plan(0)[-1].log_q[:20], planned[-1].log_q[:20])


def test_a_fit_that_is_resumed_goes_on_in_the_stream(checkerboard, tmp_path):
    """The interrupted fit ends with the weights of the whole one, hard negatives and frequencies included."""
    changes = {"frequencies": STREAMING, "hard_negatives": HARD}
    training = SIMPLE.model_copy(update={"epochs": 3, "schedule": "constant"})
    whole = fit(_task(checkerboard, **changes), training, seed=0)

    def keep(metrics, save):
        folder = tmp_path / str(int(metrics["epoch"]))
        folder.mkdir()
        save(folder)

    task = _task(checkerboard, **changes)
    fit(task, training, seed=0, report=keep)
    assert (tmp_path / "2" / "task.safetensors").exists()
    resumed_task = _task(checkerboard, **changes)
    resumed = fit(resumed_task, training, seed=0, checkpoint=tmp_path / "2")
    assert resumed.progress.epoch == 3
    for name, weights in whole.weights.items():
        torch.testing.assert_close(resumed.weights[name], weights, rtol=0, atol=0)
    for name, array in task.state(3).items():
        np.testing.assert_array_equal(resumed_task.state(3)[name], array)


def test_what_is_dropped_follows_from_seed_and_epoch_alone(checkerboard, tmp_path):
    """Ids, histories and activations: a fit that is resumed drops what the whole one did, whatever was drawn before."""
    config = CONFIG.model_copy(
        update={
            "item_tower": CONFIG.item_tower.model_copy(update={"id_dropout": 0.3, "dropout": 0.1}),
            "user_tower": CONFIG.user_tower.model_copy(update={"history_windows": (5,), "history_dropout": 0.3}),
        }
    )
    training = SIMPLE.model_copy(update={"epochs": 2, "schedule": "constant"})

    def keep(metrics, save):
        folder = tmp_path / str(int(metrics["epoch"]))
        folder.mkdir()
        save(folder)

    torch.manual_seed(1)
    whole = fit(_task(checkerboard, config), training, seed=0, report=keep)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    resumed = fit(_task(checkerboard, config), training, seed=0, checkpoint=tmp_path / "1")
    assert torch.equal(torch.get_rng_state(), before)
    for name, weights in whole.weights.items():
        torch.testing.assert_close(resumed.weights[name], weights, rtol=0, atol=0)


@pytest.mark.parametrize("objective", ["logq", "mixed_negative"])
def test_hard_negatives_and_streaming_frequencies_solve_the_checkerboard(checkerboard, objective):
    task = _task(checkerboard, objective=objective, frequencies=STREAMING, hard_negatives=HARD)
    fitted = fit(task, SIMPLE, seed=0)
    # Fifteen unseen items of the right parity remain for each user, one of which is the held-out one.
    assert fitted.progress.best["ndcg@10"] > 0.2


@pytest.mark.parametrize("objective", ["cross_entropy", "ips"])
@pytest.mark.parametrize("changes", [{"frequencies": STREAMING}, {"hard_negatives": HARD}])
def test_objectives_that_sample_no_negatives_refuse_what_is_of_them(objective, changes):
    with pytest.raises(ValueError, match="sample negatives"):
        RetrieverConfig(objective=objective, **changes)


def test_settings_without_effect_are_refused():
    with pytest.raises(ValueError, match="alpha has no effect"):
        FrequenciesConfig(alpha=0.1)
    with pytest.raises(ValueError, match="pool has no effect"):
        HardNegativesConfig(pool=10)


def test_a_plan_is_the_same_again_and_another_in_the_next_epoch(checkerboard):
    task = _task(checkerboard)
    first, again, other = task.plan(3), task.plan(3), task.plan(4)
    np.testing.assert_array_equal(first[0].queries, again[0].queries)
    np.testing.assert_array_equal(first[0].uniform, again[0].uniform)
    assert not np.array_equal(first[0].queries, other[0].queries)


def test_two_workers_have_the_gradient_of_one(two_workers_agree, checkerboard):
    tasks = [
        _task(checkerboard, objective=objective, sparse_embeddings=sparse, positives_per_query=2)
        for objective, sparse in [("logq", False), ("mixed_negative", True), ("cross_entropy", False)]
    ]
    # A whole batch, one that two workers cannot share evenly, and one that leaves a worker nothing.
    whole = tasks[1].plan(0)[0]
    batches = [whole, *(replace(whole, queries=whole.queries[:n], targets=whole.targets[:n]) for n in (7, 1))]
    learned = _task(checkerboard, frequencies=STREAMING, hard_negatives=HARD, positives_per_query=2)
    torch.manual_seed(0)
    learned.begin_epoch(learned.build_model(), 1, Worker())
    cases = [(task, batch) for task in tasks for batch in batches]
    two_workers_agree([*cases, *((learned, batch) for batch in learned.plan(1)[:2])])


def test_two_workers_mine_what_one_does(two_workers_agree, checkerboard):
    """Each embeds and searches a part; drawn from other pools, the gradient would be another one."""
    task = _task(checkerboard, frequencies=STREAMING, hard_negatives=HARD, positives_per_query=2)

    # Local, so that it travels by value: workers cannot import test modules.
    class Mining:
        config = task.config

        def build_model(self):
            return task.build_model()

        def loss(self, model, step, worker):
            task.begin_epoch(getattr(model, "module", model), 1, worker)
            return task.loss(model, task.plan(1)[step], worker)

    two_workers_agree([(Mining(), step) for step in (0, 3)])


def test_weights_to_begin_with_are_begun_with(checkerboard):
    task = _task(checkerboard)
    fitted = fit(task, SIMPLE, seed=0)
    gentle = TrainingConfig(workers=0, epochs=1, batch_size=128, learning_rate=1e-6)
    warm = fit(task, gentle, seed=1, init_from=fitted.weights)
    cold = fit(task, gentle, seed=1)
    assert warm.progress.best["ndcg@10"] > 0.2 > cold.progress.best["ndcg@10"]


def test_the_task_builds_the_configured_model(checkerboard):
    task = _task(checkerboard)
    model = task.build_model()
    assert isinstance(model, TwoTower) and model.history_length == 20
