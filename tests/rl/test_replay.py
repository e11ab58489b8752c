"""Prioritised replay draws by priority, corrects for it, and forgets the oldest first."""

import numpy as np
import pytest
from gymnasium import spaces

from rl.replay import PrioritizedReplay, Transitions

SEEN = spaces.Dict({"a": spaces.Box(0, 1, (2,), np.float32), "b": spaces.Discrete(100)})


def steps(first, n):
    place = np.arange(first, first + n)
    seen = {"a": np.stack([place, place], axis=1) / 100, "b": place}
    seen_next = {"a": np.stack([place, place], axis=1) / 50, "b": place + 1}
    return Transitions(seen, place % 3, place.astype(np.float32), seen_next, place % 2 == 0)


def replay_of(alpha, capacity=10, n=10):
    replay = PrioritizedReplay(SEEN, spaces.Discrete(3), capacity, alpha=alpha, rng=np.random.default_rng(0))
    replay.add(steps(0, n))
    return replay


def test_what_is_drawn_is_what_was_added():
    drawn, rows, _ = replay_of(1.0).sample(50, beta=0.4)
    expected = steps(0, 10)
    for name in SEEN:
        np.testing.assert_allclose(drawn.seen[name], expected.seen[name][rows], rtol=1e-6)
        np.testing.assert_allclose(drawn.seen_next[name], expected.seen_next[name][rows], rtol=1e-6)
    np.testing.assert_array_equal(drawn.action, rows % 3)
    np.testing.assert_array_equal(drawn.reward, rows)
    np.testing.assert_array_equal(drawn.terminated, rows % 2 == 0)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_rows_are_drawn_by_priority_and_weighted_by_the_inverse(alpha):
    """P(i) = p_i^alpha / sum, and with beta 1 the weighted mean of anything is its plain mean."""
    replay, errors = replay_of(alpha), np.linspace(-2, 3, 10)
    replay.update(np.arange(10), errors)
    p = (np.abs(errors) + 1e-3) ** alpha
    p /= p.sum()
    _, rows, weights = replay.sample(200_000, beta=1.0)
    share = np.bincount(rows, minlength=10) / 200_000
    assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / 200_000)).all()
    np.testing.assert_allclose(weights, p[rows].min() / p[rows], rtol=1e-5)


def test_beta_0_leaves_errors_as_they_are():
    replay = replay_of(1.0)
    replay.update(np.arange(10), np.arange(10.0))
    np.testing.assert_array_equal(replay.sample(100, beta=0.0)[2], 1.0)


def test_the_oldest_give_way_and_new_ones_have_the_highest_priority():
    replay = replay_of(1.0)
    replay.update(np.arange(10), np.full(10, 5.0))
    replay.add(steps(10, 4))
    drawn, _, _ = replay.sample(5000, beta=0.4)
    assert len(replay) == 10 and set(drawn.reward) == set(range(4, 14))
    new = (drawn.reward >= 10).mean()
    assert abs(new - 0.4) < 4 * np.sqrt(0.4 * 0.6 / 5000)
