"""Laws of terms, their influence and their standard errors."""

import numpy as np
import pytest

from rec.ope.estimate import Estimate, Interval, Terms, cluster_codes, std_error


@pytest.fixture
def terms():
    rng = np.random.default_rng(3)
    weights = rng.exponential(size=60)
    return Terms.ratios([(rng.normal(size=60), np.ones(60)), (weights * rng.normal(2, 1, 60), weights)])


def test_influence_is_the_derivative_by_the_rows_share(terms):
    # Give row i a little more mass: value(1 + h at i) - value = h * influence_i / n.
    h = 1e-6
    slope = np.empty(len(terms))
    for row in range(len(terms)):
        mass = np.ones(len(terms))
        mass[row] += h
        numerator, denominator = mass @ terms.numerator, mass @ terms.denominator
        slope[row] = ((numerator / denominator).sum() - terms.value) / h * len(terms)
    np.testing.assert_allclose(terms.influence(), slope, rtol=1e-4, atol=1e-4)
    assert terms.influence().sum() == pytest.approx(0, abs=1e-9)


def test_of_a_plain_mean_it_is_the_usual_standard_error():
    x = np.random.default_rng(0).normal(size=50)
    assert std_error(Terms.mean(x), np.arange(50), 50) == pytest.approx(x.std(ddof=1) / np.sqrt(50))


def test_copies_of_a_users_rows_say_nothing_new(terms):
    alone = std_error(terms, np.arange(60), 60)
    copied = Terms(np.repeat(terms.numerator, 4, axis=0), np.repeat(terms.denominator, 4, axis=0))
    assert std_error(copied, np.repeat(np.arange(60), 4), 60) == pytest.approx(alone)
    assert std_error(copied, np.arange(240), 240) < 0.6 * alone


def test_one_user_has_no_standard_error(terms):
    assert std_error(terms, np.zeros(60, int), 1) is None


def test_difference_of_terms_is_paired():
    x = np.random.default_rng(1).normal(size=40)
    difference = Terms.mean(x + 0.5) - Terms.mean(x)
    assert difference.value == pytest.approx(0.5)
    assert std_error(difference, np.arange(40), 40) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="same rows"):
        Terms.mean(x) - Terms.mean(x[1:])


def test_clusters_may_be_named_anyhow():
    codes, n = cluster_codes(np.array(["b", "a", "b", "c"]))
    assert n == 3
    assert codes.tolist() == [1, 0, 1, 2]


def test_json_has_the_fields_of_the_contract():
    interval = Interval(0.1, 0.3, 0.95, "student_t")
    told = Estimate(0.2, 0.05, interval, 10, 5, 8.0, 2.0, None, "dr").to_json()
    assert list(told) == [
        "value", "std_error", "interval", "n", "n_clusters", "ess", "max_weight", "support", "estimator"
    ]  # fmt: skip
    assert told["interval"] == {"low": 0.1, "high": 0.3, "level": 0.95, "method": "student_t"}
