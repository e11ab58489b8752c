"""Estimates as a whole: unbiased, of the right coverage; and what is refused."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from rec.errors import ConfigError, DataError
from rec.ope import (
    ESTIMATORS,
    SHRINKING_ESTIMATORS,
    IntervalSettings,
    LoggedActions,
    LoggedSlates,
    OverlapWarning,
    evaluate,
    evaluate_difference,
    evaluate_slates,
)

SIMULATED = ("ips", "snips", "dr", "sndr")
N_LOGS = 400


@pytest.fixture(scope="module")
def simulated(world):
    """Estimates from 400 logs of 600 rows, two a user."""
    rng = np.random.default_rng(11)
    logs = []
    for _ in range(N_LOGS):
        logs.append(_quiet(world.sample(600, rng, rows_per_user=2), SIMULATED, rng))
    return logs


@pytest.mark.parametrize("name", SIMULATED)
def test_unbiased_within_four_standard_errors(world, simulated, name):
    values = np.array([log[name].value for log in simulated])
    assert abs(values.mean() - world.value) < 4 * values.std(ddof=1) / np.sqrt(N_LOGS)


@pytest.mark.parametrize("name", SIMULATED)
def test_95_of_100_intervals_hold_the_truth(world, simulated, name):
    hits = [log[name].interval.low <= world.value <= log[name].interval.high for log in simulated]
    assert 0.92 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize("name", SIMULATED)
def test_the_standard_error_is_the_spread_over_logs(simulated, name):
    spread = np.std([log[name].value for log in simulated], ddof=1)
    assert np.mean([log[name].std_error for log in simulated]) == pytest.approx(spread, rel=0.12)


def test_predictions_of_use_make_doubly_robust_the_sharper_one(simulated):
    error = {name: np.mean([log[name].std_error for log in simulated]) for name in ("ips", "dr")}
    assert error["dr"] < 0.8 * error["ips"]


@pytest.mark.slow
def test_shrinking_costs_little_where_weights_are_light_and_saves_where_they_are_heavy(world):
    rng = np.random.default_rng(3)
    names = ("dr", "switch_dr", "dr_os")
    rare = np.full_like(world.logging, 0.004)
    rare[:, 0] = 1 - 3 * 0.004
    for skewed in (world, replace(world, logging=rare)):
        values = [[found.value for found in _quiet(skewed.sample(400, rng), names, rng).values()] for _ in range(60)]
        error = dict(zip(names, np.sqrt(np.square(np.array(values) - world.value).mean(axis=0)), strict=True))
        limit = 1.25 if skewed is world else 1.0
        assert max(error["switch_dr"], error["dr_os"]) < limit * error["dr"]


def _quiet(rounds, names, rng):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        return evaluate(rounds, names, rng=rng)


def test_what_an_estimate_says_of_its_rows(world):
    rounds = world.sample(600, np.random.default_rng(0), rows_per_user=3)
    found = evaluate(rounds, ["ips"], rng=np.random.default_rng(0))["ips"]
    assert (found.n, found.n_clusters, found.estimator) == (600, 200, "ips")
    assert found.max_weight == rounds.weights.max()
    assert found.ess == pytest.approx(rounds.weights.sum() ** 2 / (rounds.weights**2).sum())
    assert found.support is None
    assert found.interval.method == "student_t"


@pytest.mark.parametrize("method", ["student_t", "bootstrap", "empirical_bernstein"])
def test_every_interval_around_the_estimators_that_have_it(world, method):
    rounds = world.sample(800, np.random.default_rng(0))
    settings = IntervalSettings(method, reward_range=(0, 1), weight_bound=20, n_resamples=300)
    names = ["dm", "ips", "clipped_ips", "dr", "switch_dr", "dr_os"]
    parameters = {"clipped_ips": 5.0, "switch_dr": 5.0, "dr_os": 25.0}
    found = evaluate(rounds, names, rng=np.random.default_rng(0), parameters=parameters, interval=settings)
    for estimate in found.values():
        assert estimate.interval.method == method
        assert estimate.interval.low < estimate.value < estimate.interval.high
    if method == "empirical_bernstein":
        assert found["ips"].interval.high - found["ips"].interval.low > 4 * found["ips"].std_error


def test_the_bernstein_interval_of_weights_that_stay_as_they_are_begins_where_that_of_ips_does(world):
    """A cap beyond the largest weight possible bounds no row any better than that weight does."""
    rounds = world.sample(400, np.random.default_rng(0))
    settings = IntervalSettings("empirical_bernstein", reward_range=(0, 1), weight_bound=20)
    found = evaluate(
        rounds, ["ips", "clipped_ips"], rng=np.random.default_rng(0), parameters={"clipped_ips": 1e6}, interval=settings
    )
    assert found["clipped_ips"].interval.method == "empirical_bernstein"
    assert found["clipped_ips"].interval.low == pytest.approx(found["ips"].interval.low)


def test_where_there_is_no_such_interval_it_is_said(world):
    rounds = world.sample(400, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="reward_range"):
        IntervalSettings("empirical_bernstein")
    bernstein = IntervalSettings("empirical_bernstein", reward_range=(0, 1), weight_bound=20)
    with pytest.raises(ConfigError, match="snips"):
        evaluate(rounds, ["snips"], rng=np.random.default_rng(0), interval=bernstein)
    with pytest.raises(ConfigError, match=r"parameters\['dr_os'\]"):
        evaluate(rounds, ["dr_os"], rng=np.random.default_rng(0), interval=bernstein)


def test_the_empirical_bernstein_interval_is_refused_before_anything_is_chosen(world, monkeypatch):
    def chosen(*_):
        raise AssertionError("a parameter was chosen from the log")

    monkeypatch.setattr("rec.ope.evaluation.chosen_by_others", chosen)
    bernstein = IntervalSettings("empirical_bernstein", reward_range=(0, 1), weight_bound=20)
    with pytest.raises(ConfigError, match="dm, ips, dr have one"):
        evaluate(
            world.sample(400, np.random.default_rng(0)), ["dr_os"], rng=np.random.default_rng(0), interval=bernstein
        )


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        ({"method": "normal"}, "method", "there are student_t, bootstrap, empirical_bernstein"),
        ({"level": float("nan")}, "level", "between 0 and 1"),
        ({"level": ".95"}, "level", "found '.95'"),
        ({"level": 1 - 1e-16}, "level", "between 0 and 1"),
        ({"reward_range": (0, 1, 2)}, "reward_range", "two numbers"),
        ({"reward_range": ("0", "1")}, "reward_range", "two numbers"),
        ({"weight_bound": "5"}, "weight_bound", "found '5'"),
        ({"method": "bootstrap", "level": 0.9999, "n_resamples": 100}, "n_resamples", "100000 resamples or more"),
        ({"method": "bootstrap", "n_resamples": 199}, "n_resamples", "200 resamples or more; found 199"),
        ({"method": "bootstrap", "n_resamples": 500.5}, "n_resamples", "found 500.5"),
        ({"n_resamples": 0}, "n_resamples", "found 0"),
        ({"reward_range": (1.0, 0.0)}, "reward_range", "found 1.0 and 0.0: exchange them"),
        ({"reward_range": (float("nan"), 0.0)}, "reward_range", "found nan and 0.0"),
        ({"reward_range": (0.0, 1e300)}, "reward_range", "found 0.0 and 1e[+]300"),
        ({"weight_bound": 0.0}, "weight_bound", "above 0"),
        ({"weight_bound": float("inf")}, "weight_bound", "found inf"),
        ({"weight_bound": float("nan")}, "weight_bound", "found nan"),
    ],
)
def test_intervals_that_there_are_not_are_refused(given, field, told):
    with pytest.raises(ConfigError, match=told) as refused:
        IntervalSettings(**given)
    assert refused.value.field == field


def test_the_fewest_resamples_are_enough():
    for level, n_resamples in ((0.95, 200), (0.9, 100), (0.99, 1000)):
        assert IntervalSettings("bootstrap", level=level, n_resamples=n_resamples).n_resamples == n_resamples


@pytest.mark.parametrize("value", [-1.0, float("nan"), "5", None])
def test_a_parameter_is_a_number_of_0_or_more(world, value):
    rounds, rng = world.sample(100, np.random.default_rng(0)), np.random.default_rng(0)
    for name in SHRINKING_ESTIMATORS:
        with pytest.raises(ConfigError, match=f"the parameter of {name} is a number") as refused:
            evaluate(rounds, [name], rng=rng, parameters={name: value})
        assert refused.value.field == "parameters"
        if value is not None:
            with pytest.raises(ConfigError, match=f"the parameter of {name} is a number"):
                evaluate_difference(rounds, rounds, name, rng=rng, parameter=value)


def test_an_endless_parameter_shrinks_nothing(world):
    rounds, rng = world.sample(400, np.random.default_rng(0)), np.random.default_rng(0)
    found = evaluate(rounds, ["dr", "dr_os"], rng=rng, parameters={"dr_os": np.inf})
    assert found["dr_os"].value == pytest.approx(found["dr"].value)


@pytest.mark.parametrize(
    ("estimators", "parameters", "told"),
    [
        (["ips", "snips", "ips"], {}, "ips is asked for twice"),
        ("ips", {}, r"such as \['ips'\]; found a string"),
        ([], {}, "name an estimator at least; there are dm"),
        (["ips"], {"dr_os": 5.0}, r"dr_os is not among the estimators asked for \(ips\)"),
        ({"ips"}, {}, "a list of estimators is required; found set"),
        (np.array(["ips"]), {}, "found ndarray"),
        ([["ips"]], {}, "no estimator"),
        (["ips"], [1], r"a dict by estimator is required; found \[1\]"),
        (["ips"], {"ips": 5.0}, "ips has no parameter; those that have one are clipped_ips"),
    ],
)
def test_what_is_asked_for_has_to_have_an_effect(world, estimators, parameters, told):
    rounds = world.sample(100, np.random.default_rng(0))
    with pytest.raises(ConfigError, match=told):
        evaluate(rounds, estimators, rng=np.random.default_rng(0), parameters=parameters)


def test_rows_of_the_other_kind_are_refused(world):
    rounds, rng = world.sample(100, np.random.default_rng(0)), np.random.default_rng(0)
    slates = LoggedSlates(np.ones((4, 2)), np.full((4, 2), 0.5), np.full((4, 2), 0.5))
    for use in (lambda: evaluate(slates, rng=rng), lambda: evaluate_difference(rounds, slates, rng=rng)):
        with pytest.raises(DataError, match="LoggedActions are required; found LoggedSlates"):
            use()
    with pytest.raises(DataError, match="LoggedSlates are required; found LoggedActions"):
        evaluate_slates(rounds, rng=rng)


@pytest.mark.parametrize("min_ess", [float("nan"), "100", None])
def test_the_least_effective_sample_size_is_a_number(world, min_ess):
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError) as refused:
        evaluate(world.sample(100, rng), ["ips"], rng=rng, min_ess=min_ess)
    assert refused.value.field == "min_ess"


def test_by_default_there_is_every_estimator_that_can_be(world):
    rounds, rng = world.sample(400, np.random.default_rng(0)), np.random.default_rng(0)
    assert set(evaluate(rounds, rng=rng)) == {*ESTIMATORS, *SHRINKING_ESTIMATORS}
    bounded = IntervalSettings("empirical_bernstein", reward_range=(0, 1), weight_bound=20.0)
    assert set(evaluate(rounds, rng=rng, interval=bounded)) == {"dm", "ips", "dr"}
    without = replace(rounds, q_logged=None)
    assert set(evaluate(without, rng=rng)) == {"ips", "clipped_ips", "snips"}
    slates = LoggedSlates(np.ones((400, 2)), np.full((400, 2), 0.5), np.full((400, 2), 0.5))
    assert list(evaluate_slates(slates, rng=rng)) == ["cascade", "sn_cascade"]
    predicted = replace(slates, q_logged=np.ones((400, 2)), q_target=np.ones((400, 2)))
    assert list(evaluate_slates(predicted, rng=rng)) == ["cascade", "sn_cascade", "cascade_dr"]


@pytest.mark.parametrize("estimators", ["cascade", [], ["cascade", "cascade"]])
def test_what_is_asked_of_slates_has_to_have_an_effect(estimators):
    slates = LoggedSlates(np.ones((4, 2)), np.full((4, 2), 0.5), np.full((4, 2), 0.5))
    with pytest.raises(ConfigError) as refused:
        evaluate_slates(slates, estimators, rng=np.random.default_rng(0))
    assert refused.value.field == "estimators"


def test_one_user_gives_a_value_without_an_error():
    rounds = LoggedActions(np.ones(5), np.full(5, 0.5), np.full(5, 0.5), clusters=np.zeros(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate(rounds, ["ips"], rng=np.random.default_rng(0))["ips"]
    assert found.value == 1
    assert found.std_error is None
    assert found.interval is None


def test_names_that_are_none_and_weights_that_are_all_zero_are_refused(world):
    rounds = world.sample(100, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="no estimator 'sips' here; there are dm"):
        evaluate(rounds, ["sips"], rng=np.random.default_rng(0))
    never = LoggedActions(np.ones(5), np.full(5, 0.5), np.zeros(5))
    with pytest.warns(UserWarning), pytest.raises(DataError, match="snips divides by the sum of weights"):
        evaluate(never, ["snips"], rng=np.random.default_rng(0))


def test_slates_report_the_overlap_of_whole_slates():
    rng = np.random.default_rng(0)
    propensities, target_p = rng.uniform(0.2, 0.8, (2, 400, 3))
    slates = LoggedSlates(rng.normal(size=(400, 3)), propensities, target_p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = evaluate_slates(slates, ["cascade", "sn_cascade"], rng=rng)
    whole = (target_p / propensities).prod(axis=1)
    assert found["cascade"].max_weight == whole.max()
    assert found["cascade"].ess == pytest.approx(whole.sum() ** 2 / (whole**2).sum())
    assert found["sn_cascade"].n == 400


def test_position_wise_forms_report_the_worst_of_each_position():
    """The fewest rows count at the second position, and the largest weight stands at the last."""
    weights = np.ones((400, 3))
    weights[:, 1] = np.tile([0.0, 2.0], 200)
    weights[7, 2] = 5.0
    p = np.full((400, 3), 0.1)
    slates = LoggedSlates(np.ones((400, 3)), p, p, marginal_propensities=p, marginal_target_p=weights / 10)
    found = evaluate_slates(slates, ["position_wise"], rng=np.random.default_rng(0))["position_wise"]
    assert (found.ess, found.max_weight) == (pytest.approx(200), pytest.approx(5))


def test_each_end_of_the_interval_is_of_the_bracket_at_its_side():
    """Of rewards that are nearly all 0, the greatest value that agrees with the log is as uncertain as the weights."""
    rng = np.random.default_rng(0)
    p = rng.choice([0.2, 0.8], 2_000, p=[0.2, 0.8])
    rewards = (rng.random(2_000) < 0.02).astype(float)
    capped = LoggedActions(rewards, p, np.minimum(0.5 / p, 2) * p)
    with pytest.warns(OverlapWarning):
        least = evaluate(capped, ["ips"], rng=rng)["ips"].interval.low
    assert least > 0
    settings = IntervalSettings(reward_range=(0, 1))
    for earned, end in [(rewards, "low"), (1 - rewards, "high")]:
        given = {"parameters": {"clipped_ips": 2.0}, "interval": settings, "rng": rng}
        interval = evaluate(LoggedActions(earned, p, np.full(2_000, 0.5)), ["clipped_ips"], **given)[
            "clipped_ips"
        ].interval
        assert getattr(interval, end) == pytest.approx(least if end == "low" else 1 - least)


@pytest.mark.parametrize("predicted", [0.0, 1.0])
def test_an_estimate_lies_in_its_own_interval_however_wrong_the_model(predicted):
    """All rows say the opposite of what is predicted of the target policy, and of what was shown too much is expected.

    What the log alone says lies far from there, and so does an interval around it.
    """
    p = np.full(400, 0.5)
    rewards, q_target = np.full(400, 1 - predicted), np.full(400, predicted)
    rounds = LoggedActions(rewards, p, p, q_logged=rewards, q_target=q_target)
    found = evaluate(rounds, ["dr_os"], rng=np.random.default_rng(0), parameters={"dr_os": 1e4})["dr_os"]
    assert found.value == predicted
    assert (found.interval.low if predicted == 0 else found.interval.high) == predicted
    assert found.interval.high - found.interval.low > 0.99
