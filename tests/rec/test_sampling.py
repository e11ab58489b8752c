import numpy as np
import pytest

from rec.sampling import Groups, draw_within, grouped_batches, row_uniforms, run_mass, runs, systematic_sample
from rec.training import Worker


def test_equal_weights_draw_each_position_once():
    drawn = systematic_sample(np.full(1000, 0.1, np.float32), 1000, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, np.arange(1000))


def test_positions_are_drawn_in_proportion_to_their_weights():
    weights = np.array([1.0, 0.0, 2.5, 0.5])
    rng = np.random.default_rng(0)
    counts = np.mean([np.bincount(systematic_sample(weights, 10, rng), minlength=4) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(counts, 10 * weights / weights.sum(), atol=0.05)
    one = np.bincount(systematic_sample(weights, 10, rng), minlength=4)
    assert np.all(np.abs(one - 10 * weights / 4) < 1)


def test_one_group_of_equal_weights_is_cut_into_batches_with_a_short_last_one():
    weights = np.ones(10)
    batches = grouped_batches(Groups.of(np.zeros(10, int), weights), weights, 10, 4, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(np.concatenate(batches)) == list(range(10))


def test_a_batch_holds_one_group_and_groups_come_in_proportion():
    groups = np.repeat([0, 2], [30, 10])
    weights = np.ones(40)
    batches = grouped_batches(Groups.of(groups, weights), weights, 400, 10, np.random.default_rng(0))
    of_batch = [set(groups[batch]) for batch in batches]
    assert all(len(group) == 1 for group in of_batch)
    assert sum(group == {0} for group in of_batch) == 30
    assert {len(batch) for batch in batches} == {10}


def test_the_same_seed_draws_the_same_batches():
    weights = np.random.default_rng(1).random(50)
    groups = Groups.of(np.arange(50) % 3, weights)
    first, second = (grouped_batches(groups, weights, 64, 8, np.random.default_rng(7)) for _ in range(2))
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left, right)


def test_draws_stay_within_their_runs_and_reach_all_of_them():
    drawn = draw_within(np.array([3, 10]), np.array([5, 11]), 200, np.random.default_rng(0))
    assert set(drawn[0]) == {3, 4} and set(drawn[1]) == {10}


def test_run_mass_is_the_probability_of_drawing_each_position():
    # Runs 0:2 with weight 1 and 1:4 with weight 3: position 0 gets 1/2, position 1 1/2 + 1, positions 2 and 3 get 1.
    mass = run_mass(np.array([0, 1]), np.array([2, 4]), np.array([1.0, 3.0]), 5)
    np.testing.assert_allclose(mass, [0.5, 1.5, 1, 1, 0], atol=1e-12)


def test_runs_are_laid_end_to_end():
    owner, place = runs(np.array([5, 0, 2]), np.array([7, 0, 3]))
    np.testing.assert_array_equal(owner, [0, 0, 2])
    np.testing.assert_array_equal(place, [5, 6, 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rows_uniform_numbers_are_the_same_whichever_worker_draws_them(dtype):
    whole = row_uniforms([3, 1], slice(0, 40), 13, dtype)
    parts = [row_uniforms([3, 1], Worker(rank, 3).part(40), 13, dtype) for rank in range(3)]
    assert whole.dtype == dtype
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not np.isin(whole, row_uniforms([3, 2], slice(0, 40), 13, dtype)).any()
    assert row_uniforms([3, 1], slice(5, 5), 13).shape == (0, 13)


def test_rows_have_uniform_numbers_of_their_own():
    numbers = row_uniforms([0], slice(10, 1010), 50)
    assert len(np.unique(numbers)) > 0.99 * numbers.size
    gap = np.sort(numbers, axis=None) - (np.arange(numbers.size) + 0.5) / numbers.size
    assert np.abs(gap).max() < 1.95 / np.sqrt(numbers.size)
