"""Laws of intervals: how often they hold the truth, and how they compare."""

import math

import numpy as np
import pytest
from scipy import stats

from rec.errors import ConfigError
from rec.ope import logged_value
from rec.ope.estimate import Terms, std_error
from rec.ope.intervals import bootstrap_interval, empirical_bernstein_interval, student_t_interval


def clustered(rng, n_users=300):
    """Users with one to five rows around a mean of their own; the mean of all rows is 0 in expectation."""
    sizes = rng.integers(1, 6, n_users)
    codes = np.repeat(np.arange(n_users), sizes)
    return rng.normal(size=n_users)[codes] + 0.3 * rng.normal(size=len(codes)), codes


def test_few_users_have_the_wide_interval_of_students_t_and_it_says_so():
    # Of four degrees of freedom 95% lie within 2.776 standard errors; of a normal distribution within 1.960.
    found = student_t_interval(1.0, 0.5, 5, level=0.95)
    assert (found.low, found.high) == pytest.approx((1 - 2.776 * 0.5, 1 + 2.776 * 0.5), abs=1e-3)
    assert (found.level, found.method) == (0.95, "student_t")


def test_what_was_earned_has_the_textbook_interval_of_a_mean_and_users_widen_it():
    rng = np.random.default_rng(4)
    rewards, codes = clustered(rng, 40)
    n = len(rewards)
    alone = logged_value(rewards, np.arange(n), n, level=0.9)
    textbook = stats.ttest_1samp(rewards, 0.0).confidence_interval(0.9)
    assert alone.interval is not None and alone.value == pytest.approx(rewards.mean())
    assert (alone.interval.low, alone.interval.high) == pytest.approx((textbook.low, textbook.high))
    by_user = logged_value(rewards, codes, 40, level=0.9)
    assert by_user.std_error is not None and alone.std_error is not None
    assert by_user.std_error > 1.2 * alone.std_error and by_user.n_clusters == 40
    assert logged_value(rewards, np.zeros(n, np.int64), 1).interval is None


def test_bootstrap_and_students_t_agree_on_many_users():
    rng = np.random.default_rng(0)
    x, codes = clustered(rng, 2000)
    weights = rng.exponential(size=len(x))
    terms = Terms.ratios([(weights * x, weights)])
    error = std_error(terms, codes, 2000)
    by_error = student_t_interval(terms.value, error, 2000, level=0.95)
    bootstrap = bootstrap_interval(terms, codes, 2000, level=0.95, n_resamples=4000, rng=rng)
    assert bootstrap.low == pytest.approx(by_error.low, abs=0.15 * error)
    assert bootstrap.high == pytest.approx(by_error.high, abs=0.15 * error)


@pytest.mark.parametrize("method", ["student_t", "bootstrap"])
def test_intervals_clustered_by_user_hold_the_truth_in_95_of_100(method):
    rng = np.random.default_rng(1)
    hit = unclustered_hit = 0
    for _ in range(400):
        x, codes = clustered(rng, 100)
        terms = Terms.mean(x)
        if method == "student_t":
            around = student_t_interval(terms.value, std_error(terms, codes, 100), 100, level=0.95)
        else:
            around = bootstrap_interval(terms, codes, 100, level=0.95, n_resamples=400, rng=rng)
        hit += around.low <= 0 <= around.high
        rows = np.arange(len(x))
        naive = student_t_interval(terms.value, std_error(terms, rows, len(x)), len(x), level=0.95)
        unclustered_hit += naive.low <= 0 <= naive.high
    assert 0.91 <= hit / 400 <= 0.98
    assert unclustered_hit / 400 < 0.85


def test_bootstrap_does_not_depend_on_how_many_resamples_fit_in_memory(monkeypatch):
    x, codes = clustered(np.random.default_rng(2), 50)
    run = lambda: bootstrap_interval(  # noqa: E731
        Terms.mean(x), codes, 50, level=0.9, n_resamples=100, rng=np.random.default_rng(5)
    )
    whole = run()
    monkeypatch.setattr("rec.ope.intervals._BLOCK", 7 * 50)
    assert run() == whole


def test_every_user_may_be_resampled():
    """Of two users, who earned 0 and 1, the four samples have the means 0, 1/2, 1/2 and 1."""
    given = Terms.mean(np.array([0.0, 1.0])), np.arange(2), 2
    found = bootstrap_interval(*given, level=0.9, n_resamples=1000, rng=np.random.default_rng(0))
    assert (found.low, found.high) == (0.0, 1.0)


def test_empirical_bernstein_worked_example():
    # Four users of one row, 0 0 1 1 in [0, 1]: variance 1/3, log(2 / .025) a side at level .95.
    x = np.array([0.0, 0.0, 1.0, 1.0])
    log_term = math.log(2 / 0.025)
    half = math.sqrt(2 / 3 * log_term / 4) + 7 * log_term / 9
    found = empirical_bernstein_interval(x, np.arange(4), 4, bounds=(0.0, 1.0), level=0.95)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_the_busiest_user_sets_how_much_one_user_can_move():
    # Three users of two, one and one rows, in [0, 1]: with C / n = 3 / 4 their sums are 3/2, 0 and 3/4, of at most 3/2.
    x, codes = np.array([1.0, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 2])
    log_term = math.log(2 / 0.025)
    half = math.sqrt(2 * 0.5625 * log_term / 3) + 7 * 1.5 * log_term / (3 * 2)
    found = empirical_bernstein_interval(x, codes, 3, bounds=(0.0, 1.0), level=0.95)
    assert (found.low, found.high) == pytest.approx((0.75 - half, 0.75 + half))


@pytest.mark.parametrize(("n_clusters", "quantile"), [(2, 12.706), (3, 4.303), (11, 2.228)])
def test_few_users_widen_the_student_t_interval_as_students_t(n_clusters, quantile):
    # The 97.5% quantiles of Student's t of 1, 2 and 10 degrees of freedom, from a printed table.
    found = student_t_interval(1.0, 2.0, n_clusters, level=0.95)
    assert (found.low, found.high) == pytest.approx((1 - 2 * quantile, 1 + 2 * quantile), rel=1e-3)


def test_empirical_bernstein_moves_and_scales_with_the_contributions():
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 30, 100)
    x = rng.random(100)
    one = empirical_bernstein_interval(x, codes, 30, bounds=(0.0, 1.0), level=0.9)
    other = empirical_bernstein_interval(5 * x - 2, codes, 30, bounds=(-2.0, 3.0), level=0.9)
    assert (other.low, other.high) == pytest.approx((5 * one.low - 2, 5 * one.high - 2))


def test_empirical_bernstein_holds_where_the_student_t_interval_fails():
    # A rare large weight: with .3 of them expected in 300 rows, most logs look as if the value were 0.
    rng = np.random.default_rng(4)
    truth, p, size = 1.0, 0.001, 1000.0
    by_error_hit = bernstein_hit = 0
    for _ in range(200):
        x = np.where(rng.random(300) < p, size, 0.0)
        rows, terms = np.arange(300), Terms.mean(x)
        by_error = student_t_interval(terms.value, std_error(terms, rows, 300), 300, level=0.95)
        sure = empirical_bernstein_interval(x, rows, 300, bounds=(0.0, size), level=0.95)
        by_error_hit += by_error.low <= truth <= by_error.high
        bernstein_hit += sure.low <= truth <= sure.high
    assert by_error_hit < 100
    assert bernstein_hit == 200


@pytest.mark.parametrize("outside", [7.0, 1.001, -0.001])
def test_contributions_outside_their_bounds_are_refused(outside):
    given = np.arange(3), 3
    with pytest.raises(ConfigError, match=rf"row 2 has {outside:g};"):
        empirical_bernstein_interval(np.array([0.0, 1, outside]), *given, bounds=(0.0, 1.0), level=0.95)
    empirical_bernstein_interval(np.array([-1e-12, 0.5, 1 + 1e-12]), *given, bounds=(0.0, 1.0), level=0.95)
