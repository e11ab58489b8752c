"""Items drawn for rounds near their users."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rec.data.dataset import Dataset
from rec.models.two_tower import TwoTower
from rec.retriever.drawn_items import DrawnItems
from rec.retriever.off_policy_task import OffPolicyTask
from rec.sampling import LoggedBatch, row_uniforms
from rec.training import Worker
from tests.rec.retriever.logged_world import N_ITEMS, SAMPLED, logged_world
from tests.rec.retriever.logged_world import off_policy_task as _task


@pytest.fixture(scope="module")
def world() -> Dataset:
    return logged_world()


def test_what_could_not_be_shown_is_not_drawn_as_a_neighbour_and_excluded_otherwise():
    task = _task(logged_world(slate=3), **SAMPLED)
    batch, data = task.plan(0)[0], task.data
    torch.manual_seed(0)
    drawn = _drawn(task, task.build_model(), batch)
    banned = [set(data.banned[data.banned_start[row] : data.banned_start[row + 1]]) for row in batch.rows]
    expected = [[item in above for item in items] for items, above in zip(drawn.items.tolist(), banned, strict=True)]
    assert drawn.excluded.tolist() == expected
    assert drawn.excluded.any()
    uniform = math.log(SAMPLED["uniform_share"] / N_ITEMS)
    torch.testing.assert_close(drawn.log_q[drawn.excluded], torch.full_like(drawn.log_q[drawn.excluded], uniform))
    assert (drawn.log_q[~drawn.excluded] > uniform + 0.1).any()


def test_the_index_is_rebuilt_from_the_current_weights_every_few_steps(world):
    task, other = _task(world, **SAMPLED), _task(world, **SAMPLED)
    first, second, third = (replace(task.plan(0)[0], seed=(0, 0, step)) for step in range(3))
    torch.manual_seed(0)
    old, new = task.build_model(), task.build_model()
    for batch, model in ((first, old), (second, new)):
        _drawn(task, model, batch)
    # The users are the new model's, but the items still the old one's.
    assert not torch.equal(_drawn(task, new, second).log_q, _drawn(other, new, second).log_q)
    # Whatever was drawn before, at the step at which it is built again the draws are those of a task begun anew.
    assert torch.equal(_drawn(task, new, third).log_q, _drawn(_task(world, **SAMPLED), new, third).log_q)


def test_neighbours_are_drawn_in_the_proportions_in_which_the_policy_shows_them(world):
    task = _task(world, **SAMPLED)
    batch, device = task.plan(0)[0], torch.device("cpu")
    torch.manual_seed(0)
    model = task.build_model()
    drawn = _drawn(task, model, batch)
    vectors = model.embed_items(task.inputs.items(np.arange(N_ITEMS), batch.snapshot, device))
    logits = task._logits(model.embed_users(task.inputs.users(batch.rows, device)), vectors, batch.rows).detach()
    among_neighbours = drawn.log_q.exp() - SAMPLED["uniform_share"] / N_ITEMS
    near = among_neighbours > 1e-9
    assert (near.sum(dim=1) > 1).all()
    # What lies between the two is the logarithm of a constant of the row.
    constant = among_neighbours.log() - logits.gather(1, drawn.items)
    most = constant.masked_fill(~near, -math.inf).amax(dim=1)
    torch.testing.assert_close(constant.masked_fill(~near, math.inf).amin(dim=1), most, rtol=0, atol=1e-3)


def test_items_are_drawn_without_dropout_and_the_model_stays_in_its_mode(world):
    task = _task(world, **SAMPLED)
    tower = task.config.user_tower.model_copy(update={"dropout": 0.5})
    task = replace(task, config=task.config.model_copy(update={"user_tower": tower}))
    batch = task.plan(0)[0]
    torch.manual_seed(0)
    model = task.build_model()
    found = []
    for training in (True, True, False):
        model.train(training)
        found.append(_drawn(task, model, batch).log_q)
        assert model.training == training
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_items_and_slates_are_drawn_with_different_numbers(world, monkeypatch):
    """The first 24 bits of each: by chance some five of 20,480 are among the 4,096 others."""
    drawn = {}
    for module in ("rec.retriever.drawn_items", "rec.retriever.off_policy_task"):

        def kept(*given, module=module):
            numbers = row_uniforms(*given)
            drawn[module] = np.floor(numbers.astype(np.float64) * 2**24)
            return numbers

        monkeypatch.setattr(f"{module}.row_uniforms", kept)
    task = _task(world, "two_stage_ips", **SAMPLED)
    task.loss(task.build_model(), task.plan(0)[0], Worker())
    of_items, of_slates = drawn.values()
    assert (of_items.size, of_slates.size) == (256 * 16, 256 * 20 * 4)
    assert np.isin(of_slates, of_items).sum() < 50


def _drawn(task: OffPolicyTask, model: TwoTower, batch: LoggedBatch) -> DrawnItems:
    return task._sampler.of(model, task.inputs.users(batch.rows, torch.device("cpu")), batch, Worker())
