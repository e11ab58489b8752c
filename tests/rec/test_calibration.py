import numpy as np
import pytest

from rec.calibration import calibration
from rec.errors import DataError


def test_a_worked_example() -> None:
    # Two groups: .2 comes true in 1 of 4 (off by .05), .8 in 2 of 4 (off by .3).
    found = calibration(np.repeat([0.2, 0.8], 4), np.array([1, 0, 0, 0, 1, 1, 0, 0], bool), n_bins=2)
    np.testing.assert_allclose(found.predicted, [0.2, 0.8])
    np.testing.assert_allclose(found.observed, [0.25, 0.5])
    assert found.expected_error == pytest.approx((0.05 + 0.3) / 2)
    assert found.by_chance == pytest.approx(np.sqrt(2 / np.pi * 0.16 / 4))
    assert found.log_loss == pytest.approx(-(3 * np.log(0.8) + np.log(0.2) + 2 * np.log(0.8) + 2 * np.log(0.2)) / 8)


def test_probabilities_that_are_right_err_by_chance_and_exaggerated_ones_by_more() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        p = rng.beta(1, 3, 2000)
        found = calibration(p, rng.random(2000) < p)
        errors.append(found.expected_error / found.by_chance)
        covered = (found.low <= found.predicted) & (found.predicted <= found.high)
        errors[-1] = (errors[-1], covered.mean())
    ratio, covered = np.mean(errors, axis=0)
    assert ratio == pytest.approx(1, abs=0.05)
    assert covered == pytest.approx(0.95, abs=0.02)
    odds = 2 * np.log(p / (1 - p))
    exaggerated = calibration(1 / (1 + np.exp(-odds)), rng.random(2000) < p)
    assert exaggerated.expected_error > 4 * exaggerated.by_chance


def test_groups_are_of_alike_size_and_equal_probabilities_share_one() -> None:
    rng = np.random.default_rng(1)
    p = np.concatenate([np.full(500, 0.1), rng.uniform(0.2, 1, 500)])
    found = calibration(p, rng.random(1000) < p, n_bins=10)
    assert found.n[0] == 500 and found.n.sum() == 1000
    assert set(found.n[1:]) <= {99, 100, 101}
    alone = calibration(np.full(7, 0.3), np.zeros(7, bool))
    assert alone.n.tolist() == [7] and alone.observed.tolist() == [0]


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(DataError, match="from 0 to 1; found"):
        calibration(np.array([0.5, 1.5]), np.zeros(2, bool))
    with pytest.raises(DataError, match="each probability needs an outcome"):
        calibration(np.zeros(0), np.zeros(0, bool))


def test_what_was_impossible_and_happened_costs_much_and_not_everything() -> None:
    found = calibration(np.array([0.0, 1.0]), np.array([True, True]), n_bins=1)
    assert found.log_loss == pytest.approx(-np.log(1e-15) / 2)
