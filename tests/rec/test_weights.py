import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rec.errors import DataError, SupportError
from rec.weights import diagnose, effective_sample_size, importance_weights, self_normalized

WEIGHTS = arrays(np.float64, st.integers(1, 30), elements=st.floats(1e-3, 1e3))
SCALE = st.floats(1e-3, 1e3)


def _logged(seed: int = 0, n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.01, 1, n), rng.uniform(0.01, 1, n)


@given(WEIGHTS, SCALE)
def test_normalised_weights_have_mean_one_and_ignore_a_common_factor(weights, scale):
    assert self_normalized(weights).mean() == pytest.approx(1)
    np.testing.assert_allclose(self_normalized(weights * scale), self_normalized(weights), rtol=1e-9)


@given(WEIGHTS, st.floats(-100, 100))
def test_a_constant_added_to_all_rewards_is_added_to_their_weighted_mean(weights, constant):
    rewards = np.linspace(-1, 1, len(weights))
    normalised = self_normalized(weights)
    shifted = (normalised * (rewards + constant)).mean()
    assert shifted == pytest.approx((normalised * rewards).mean() + constant, abs=1e-9)


@given(WEIGHTS, SCALE)
def test_the_effective_sample_size_lies_between_one_and_n_and_ignores_a_common_factor(weights, scale):
    ess = effective_sample_size(weights)
    assert 1 - 1e-9 <= ess <= len(weights) * (1 + 1e-9)
    assert effective_sample_size(weights * scale) == pytest.approx(ess)


def test_equal_weights_are_worth_n_and_one_weight_is_worth_one():
    assert effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_sample_size(np.array([0.0, 5.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(np.zeros(3)) == 0 == effective_sample_size(np.zeros(0))


def test_squares_of_large_weights_do_not_overflow():
    assert effective_sample_size(torch.full((4,), 1e30)) == pytest.approx(4)


def test_numpy_and_torch_agree():
    target_p, propensity = _logged()
    tensors = torch.from_numpy(target_p), torch.from_numpy(propensity)
    weights = importance_weights(target_p, propensity, min_weight=0.5, max_weight=2)
    same = importance_weights(*tensors, min_weight=0.5, max_weight=2)
    assert isinstance(weights, np.ndarray) and isinstance(same, torch.Tensor)
    np.testing.assert_allclose(same.numpy(), weights)
    some = target_p > 0.5
    np.testing.assert_allclose(
        self_normalized(same, among=torch.from_numpy(some)).numpy(), self_normalized(weights, among=some)
    )
    assert effective_sample_size(same) == pytest.approx(effective_sample_size(weights))
    assert astuple(diagnose(same)) == pytest.approx(astuple(diagnose(weights)))


def test_a_worked_example_of_cap_and_floor():
    # Ratios 2, 1 and 1/4, kept within [1/2, 3/2].
    target_p, propensity = np.array([0.2, 0.5, 0.1]), np.array([0.1, 0.5, 0.4])
    weights = importance_weights(target_p, propensity, min_weight=0.5, max_weight=1.5)
    np.testing.assert_allclose(weights, [1.5, 1, 0.5])
    found = diagnose(weights)
    assert (found.n, found.mean, found.max) == (3, pytest.approx(1), 1.5)
    assert found.ess == pytest.approx(9 / 3.5)


def test_unclipped_weights_average_one_over_the_logging_policy():
    rng = np.random.default_rng(0)
    logging, target = rng.dirichlet(np.ones(6), 1)[0], rng.dirichlet(np.ones(6), 1)[0]
    weights = importance_weights(target, logging)
    assert (logging * weights).sum() == pytest.approx(1)


@pytest.mark.parametrize("wrong", [0.0, -0.1, math.nan, 1.5])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_propensity_that_is_no_probability_names_its_row(kind, wrong):
    propensity = np.array([[0.5, 0.5], [0.5, wrong], [wrong, 0.5]])
    with pytest.raises(SupportError, match=r"2 of 6 are not.*row 1") as caught:
        importance_weights(kind(np.full((3, 2), 0.5)), kind(propensity))
    assert caught.value.row == 1 and caught.value.column == "propensity"


def test_impossible_arguments_are_refused():
    half = np.full(3, 0.5)
    with pytest.raises(ValueError, match="row 2 has -1"):
        importance_weights(np.array([0, 0.1, -1]), half)
    with pytest.raises(ValueError, match="row 1 has nan"):
        importance_weights(np.array([0, math.nan, 1]), half)
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(2,\)"):
        importance_weights(half, half[:2])
    with pytest.raises(ValueError, match="max_weight > 0"):
        importance_weights(half, half, max_weight=0.0)
    with pytest.raises(SupportError, match=r"in \(0, 1\]"):
        importance_weights(half, np.array([0.5, 1.0, 1.00001]))
    with pytest.raises(ValueError, match="min_weight <= max_weight"):
        importance_weights(half, half, min_weight=2, max_weight=1)


def test_rows_that_the_target_never_shows_count_in_the_mean():
    for kind in (np.asarray, torch.tensor):
        np.testing.assert_allclose(self_normalized(kind([0.0, 2.0, 4.0])), [0, 1, 2])


def test_the_mean_is_over_the_rows_of_all_workers():
    """Here weights 1 and 3; elsewhere two more, 4 and 8, or of those to be averaged, 4 alone."""
    weights, among = torch.tensor([1.0, 3.0]), torch.tensor([False, True])
    found = self_normalized(weights, total=lambda sums: sums + torch.tensor([12.0, 2.0]))
    torch.testing.assert_close(found, weights / (16 / 4))
    found = self_normalized(weights, among=among, total=lambda sums: sums + torch.tensor([4.0, 1.0]))
    torch.testing.assert_close(found, weights / (7 / 2))


def test_weights_that_cannot_be_averaged_stay_as_they_are():
    weights = np.array([1.0, 2.0])
    np.testing.assert_array_equal(self_normalized(weights, among=np.zeros(2, bool)), weights)
    np.testing.assert_array_equal(self_normalized(np.zeros(2)), np.zeros(2))


@pytest.mark.parametrize("kind", [np.float64, torch.float64])
def test_a_weight_that_overflows_names_its_row_unless_capped(kind):
    array = torch.tensor if isinstance(kind, torch.dtype) else np.array
    target_p, propensity = array([0.5, 0.5], dtype=kind), array([0.5, 1e-320], dtype=kind)
    with pytest.raises(SupportError, match="no number") as refused:
        importance_weights(target_p, propensity)
    assert (refused.value.row, refused.value.column) == (1, "propensity")
    assert float(importance_weights(target_p, propensity, max_weight=10.0)[1]) == 10.0


@pytest.mark.parametrize("none", [[], np.zeros(0), torch.zeros(0)])
def test_no_weights_say_nothing(none):
    with pytest.raises(DataError, match="one at least is required"):
        diagnose(none)
    assert astuple(diagnose([1.0, 3.0])) == pytest.approx((2, 2.0, 3.0, 1.6))
