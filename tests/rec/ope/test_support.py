"""What is refused, and what is warned of."""

import re
import warnings

import numpy as np
import pytest

from rec.errors import DataError, SupportError
from rec.ope import (
    ESTIMATORS,
    SHRINKING_ESTIMATORS,
    SLATE_ESTIMATORS,
    LoggedActions,
    LoggedSlates,
    OverlapWarning,
    evaluate,
    evaluate_slates,
)
from rec.ope.support import support_share

RNG = np.random.default_rng(0)


def rounds(propensities, target_p, **more):
    return LoggedActions(np.ones(len(propensities)), np.asarray(propensities), np.asarray(target_p), **more)


def warnings_of(data, **more):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(data, ["ips"], rng=RNG, **more)
    return [str(warning.message) for warning in caught if warning.category is OverlapWarning]


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.1])
def test_propensities_that_are_none_name_the_first_rows(wrong):
    propensities = np.full(10, 0.5)
    propensities[[3, 6]] = wrong
    with pytest.raises(SupportError, match=r"2 of 10 rows are not.*row 3, 6") as refused:
        rounds(propensities, np.full(10, 0.5))
    assert refused.value.row == 3
    assert refused.value.column == "propensity"


def test_missing_propensities_and_impossible_targets_are_refused():
    with pytest.raises(DataError, match="finite"):
        rounds([0.5, np.nan], [0.5, 0.5])
    with pytest.raises(SupportError, match="target_p must be >= 0"):
        rounds([0.5, 0.5], [0.5, -0.5])


def test_a_target_that_shows_what_the_log_never_could_is_refused():
    logging = np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])
    target = np.array([[0.2, 0.2, 0.6], [0.2, 0.2, 0.6]])
    with pytest.raises(SupportError, match=r"30\.0% of the target's choices, in 1 of 2 rows.*row 0"):
        support_share(target, logging)
    assert support_share(target, logging, min_support=0.5) == pytest.approx(0.7)
    assert support_share(target, np.full((2, 3), 1 / 3)) == 1.0


def test_more_than_one_in_twenty_choices_outside_the_log_are_too_many():
    never = np.array([[0.5, 0.5, 0.0]])
    for outside, refused in ((0.04, False), (0.06, True)):
        target = np.array([[0.4, 0.6 - outside, outside]])
        if refused:
            with pytest.raises(SupportError, match=r"6\.0% of the target's choices.*at most 5\.0% is allowed"):
                support_share(target, never)
        else:
            assert support_share(target, never) == pytest.approx(1 - outside)


@pytest.mark.parametrize(("errors", "rows_per_user", "warned"), [(3.0, 1, False), (5.0, 1, True), (3.0, 4, False)])
def test_a_mean_weight_is_doubted_from_four_standard_errors_on(errors, rows_per_user, warned):
    """Errors are of users: of four equal rows each, three of them are six of rows."""
    rng, n_users = np.random.default_rng(0), 1000 // rows_per_user
    weights = rng.uniform(0.5, 1.5, n_users)
    weights += 1 + errors * weights.std(ddof=1) / np.sqrt(n_users) - weights.mean()
    users = np.repeat(np.arange(n_users), rows_per_user)
    told = warnings_of(rounds(np.full(1000, 0.1), weights[users] * 0.1, clusters=users))
    assert any("where 1 is expected" in message for message in told) == warned


def test_small_weights_and_probabilities_are_printed_as_they_are():
    small = np.full(200, 1e-6)
    small[17] = 1e-4
    told = warnings_of(rounds(np.full(200, 0.1), small))
    assert any("row 17 carries" in message and "(weight 0.001)" in message for message in told)
    assert any("the mean weight is 1.50e-05 ±" in message for message in told)
    with pytest.raises(SupportError, match=r"First: 1\.0000001 in row 0"):
        rounds([1.0000001, 0.5], [0.5, 0.5])


def test_a_log_with_plenty_of_overlap_raises_no_warning(world):
    assert warnings_of(world.sample(3000, np.random.default_rng(1)), min_ess=500) == []


def test_few_effective_rows_and_one_row_with_all_the_weight():
    target_p = np.full(200, 1e-4)
    target_p[17] = 1.0
    told = warnings_of(rounds(np.full(200, 0.1), target_p))
    assert any("effective sample size 1.0 of 200 rows" in message for message in told)
    assert any("row 17 carries 98.0%" in message for message in told)


def test_propensities_of_another_policy_show_in_the_mean_weight():
    rng = np.random.default_rng(2)
    told = warnings_of(rounds(rng.uniform(0.4, 0.6, 1000), rng.uniform(0.2, 0.3, 1000)))
    assert any("mean weight is 0.5" in message for message in told)


@pytest.mark.parametrize("support", [None, 1.0, 0.97])
def test_a_tail_that_was_not_drawn_is_named_before_the_log_is_accused(support):
    """A correct log: one row in a million would have had nearly all the weight, and none was drawn."""
    rng = np.random.default_rng(3)
    weights = rng.uniform(0.01, 0.1, 800) * np.where(rng.random(800) < 0.01, 60, 1)
    given = warnings_of(rounds(np.full(800, 0.1), weights / 10, support=support))
    (told,) = (text for text in given if "mean weight" in text)
    causes = told.split(" is expected: ")[1].split("; or ")
    assert "too rare to have been drawn" in causes[0]
    # Where the log could have shown everything, it is not said that it could not; where it could not, that comes first.
    rest = {None: ["propensities", "never could"], 1.0: ["propensities"], 0.97: ["never could", "propensities"]}[
        support
    ]
    assert [word in cause for word, cause in zip(rest, causes[1:], strict=True)] == [True] * len(rest)


def causes_of(data, estimator):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate_slates(data, [estimator], rng=RNG)
    (told,) = (str(warning.message) for warning in caught if "mean weight" in str(warning.message))
    return told.split(" is expected: ")[1].split("; or ")


@pytest.mark.parametrize("reproduced", [False, True])
@pytest.mark.parametrize(("mean", "support"), [(0.96, 0.96), (0.9, 0.97), (0.9, 1.0), (1.1, 1.0)])
def test_no_cause_is_named_that_is_known_to_be_absent(reproduced, mean, support):
    """Missing support first, as it is known; alone, where it accounts for what the mean lacks and the log is right."""
    weights = np.random.default_rng(0).uniform(0.9, 1.1, (1000, 1)) * mean
    p = np.full((1000, 1), 0.1)
    slates = LoggedSlates(np.ones((1000, 1)), p, p * weights, support=support, reproduced=reproduced)
    causes = causes_of(slates, "cascade")
    assert any("propensities" in cause for cause in causes) != reproduced
    assert any("never could" in cause for cause in causes) == (support < 1)
    if support < 1:
        assert "never could" in causes[0]
    assert any("too rare" in cause for cause in causes) == (mean == 0.9)


def test_too_little_support_is_refused_by_every_estimate():
    p = np.full((500, 2), 0.1)
    with pytest.raises(SupportError, match=r"94\.0% of what the target"):
        evaluate(rounds(p[:, 0], p[:, 0], support=0.94), ["ips"], rng=RNG)
    slates = LoggedSlates(
        np.ones((500, 2)), p, p, marginal_propensities=p, marginal_target_p=p, support=0.94, marginal_support=0.97
    )
    with pytest.raises(SupportError):
        evaluate_slates(slates, ["cascade"], rng=RNG)
    with pytest.warns(OverlapWarning, match=r"3\.00% of the target"):
        assert evaluate_slates(slates, ["position_wise"], rng=RNG)["position_wise"].support == 0.97


def test_weights_too_large_are_no_tail_that_is_missing():
    rng = np.random.default_rng(2)
    told = warnings_of(rounds(rng.uniform(0.2, 0.3, 1000), rng.uniform(0.4, 0.6, 1000)))
    (about,) = (text for text in told if "mean weight" in text)
    assert "propensities" in about and "drawn" not in about and "never" not in about


def test_what_is_advised_exists():
    """Slates have no estimators that shrink weights."""
    target_p = np.full((200, 2), 1e-4)
    target_p[17] = 1.0
    p = np.full((200, 2), 0.1)
    slates = LoggedSlates(np.ones((200, 2)), p, target_p, marginal_propensities=p, marginal_target_p=target_p)
    for name in SLATE_ESTIMATORS.keys() - {"cascade_dr"}:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            evaluate_slates(slates, [name], rng=RNG)
        told = " ".join(str(warning.message) for warning in caught)
        assert "row 17 carries" in told
        assert not {*ESTIMATORS, *SHRINKING_ESTIMATORS} & set(re.findall(r"\w+", told))
        assert ("look at position_wise (tandem ope" in told) == ("cascade" in name)
    told = " ".join(warnings_of(rounds(np.full(200, 0.1), target_p[:, 0])))
    assert all(name in told for name in SHRINKING_ESTIMATORS)


def test_what_support_is_missing_is_told():
    p = np.random.default_rng(0).uniform(0.4, 0.5, 500)
    assert any("2.00% of the target" in message for message in warnings_of(rounds(p, p, support=0.98)))


@pytest.mark.parametrize(("share", "warned"), [(0.04, False), (0.06, True)])
def test_a_row_with_more_than_a_twentieth_of_the_weight_is_named(share, warned):
    """The other 999 share the rest, so that the effective sample size is above 200."""
    weights = np.full(1000, 1000 * (1 - share) / 999)
    weights[17] = 1000 * share
    told = warnings_of(rounds(np.full(1000, 1e-3), weights * 1e-3))
    assert told == [message for message in told if message.startswith("row 17 carries 6.0%")]
    assert bool(told) == warned


@pytest.mark.parametrize(("counting", "warned"), [(105, False), (95, True)])
def test_an_effective_sample_size_below_100_is_warned_of(counting, warned):
    weights = np.zeros(200)
    weights[:counting] = 200 / counting
    told = warnings_of(rounds(np.full(200, 0.1), weights / 10))
    assert told == [message for message in told if message.startswith("effective sample size 95.0 of 200 rows")]
    assert bool(told) == warned


@pytest.mark.parametrize("logged", [0.0217391304347826, 0.021739, 0.02174, float(np.float32(1 / 46))])
def test_weights_of_1_but_for_rounding_accuse_no_log(logged):
    """Uniform over 46 items: where all weights are equal the mean has no error to hide what rounding does."""
    assert warnings_of(rounds(np.full(500, logged), np.full(500, 1 / 46))) == []
    (told,) = warnings_of(rounds(np.full(500, 1 / 45), np.full(500, 1 / 46)))
    assert "the mean weight is 0.978" in told
