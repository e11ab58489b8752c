"""The gate lets through what is better by more than chance, and nothing that cannot be told from worse."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rec.config import GateConfig
from rec.data.rounds import join_rounds
from rec.errors import ConfigError, SupportError
from rec.gate import LEVEL, Check, Comparison, Health, Verdict, compare, decide, guard, judge
from rec.ope import Estimate, Interval
from rec.ope.slate_log import SlateLog, logged_slates, slate_log
from rec.ope.slate_policy import SlatePolicy
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.slate_log import REWARD_OF, by_category, log_slates

CONFIG = GateConfig()
CHAMPION = Health(coverage=0.4, latency_ms=2.0, calibration_error=0.03)


def estimate(*, low: float = 0.1, ess: float = 5000.0, support: float | None = 1.0, level: float = LEVEL) -> Estimate:
    interval = Interval(low, low + 0.2, level, "student_t")
    return Estimate(low + 0.1, 0.05, interval, 6000, 900, ess, 3.0, support, "cascade_dr difference")


def comparison(difference: Estimate | None = None) -> Comparison:
    found = difference or estimate()
    return Comparison(found, found, found)


def verdict(
    found: Comparison | None = None, challenger: Health = CHAMPION, n: int = 50_000, config: GateConfig = CONFIG
) -> Verdict:
    return decide(judge(found or comparison(), n, config), guard(challenger, CHAMPION, config))


def test_who_is_better_and_no_worse_otherwise_is_promoted() -> None:
    found = verdict()
    assert found.promote and not found.reasons


@pytest.mark.parametrize(
    ("found", "challenger", "reason"),
    [
        (comparison(estimate(low=0.0)), CHAMPION, "lower bound"),
        (comparison(estimate(low=-0.01)), CHAMPION, "lower bound"),
        (comparison(replace(estimate(), interval=None)), CHAMPION, "lower bound"),
        (comparison(estimate(low=float("nan"))), CHAMPION, "lower bound"),
        (comparison(estimate(ess=999.9)), CHAMPION, "effective sample size"),
        (comparison(estimate(support=0.949)), CHAMPION, "support"),
        (comparison(estimate(support=None)), CHAMPION, "support"),
        (comparison(), replace(CHAMPION, coverage=0.19), "coverage"),
        (comparison(), replace(CHAMPION, latency_ms=4.1), "latency"),
        (comparison(), replace(CHAMPION, calibration_error=0.051), "calibration"),
    ],
)
def test_one_condition_that_fails_is_enough_and_is_named(found: Comparison, challenger: Health, reason: str) -> None:
    refused = verdict(found, challenger)
    assert not refused.promote
    assert len(refused.reasons) == 1 and reason in refused.reasons[0]
    assert refused.to_json()["reasons"] == refused.reasons


def test_too_few_impressions_are_refused() -> None:
    assert verdict(n=999).reasons == ["impressions 999, required >= 1000"]


def test_what_just_holds_passes_but_the_bound_must_be_above_the_margin() -> None:
    at_the_limits = comparison(estimate(ess=1000.0, support=0.95))
    assert verdict(at_the_limits, Health(0.2, 4.0, 0.03), 1000).promote
    assert not verdict(config=GateConfig(margin=0.1)).promote
    assert verdict(config=GateConfig(margin=0.0999)).promote


def test_nothing_is_promoted_without_a_condition_or_after_a_refusal() -> None:
    assert not decide().promote
    assert Verdict.refused("no log").reasons == ["no log"] and not Verdict.refused("no log").promote


def test_rankers_without_probabilities_are_not_held_to_their_calibration() -> None:
    assert len(guard(CHAMPION, CHAMPION, CONFIG)) == 3
    assert len(guard(replace(CHAMPION, calibration_error=None), CHAMPION, CONFIG)) == 2


def test_a_bound_of_another_level_is_no_bound_of_the_gate() -> None:
    with pytest.raises(ConfigError, match=r"95% interval; found one of level 0\.5"):
        judge(comparison(estimate(level=0.5)), 50_000, CONFIG)


@given(
    found=st.one_of(st.none(), st.floats(allow_nan=True)),
    required=st.floats(allow_nan=False, allow_infinity=False),
    lower=st.floats(min_value=0, max_value=1e6),
)
def test_asking_for_more_never_lets_more_through(found: float | None, required: float, lower: float) -> None:
    if Check("gain", found, required, ">").passed:
        assert Check("gain", found, required - lower, ">").passed


@pytest.fixture(scope="module")
def log() -> SlateLog:
    """Slates of two, drawn from what users watch, but without much conviction."""
    world = InstaTok(InstaTokConfig(n_users=400, n_videos=60, seed=4))
    drawn: Any = {"k": 2, "epsilon": 0.3, "temperature": 0.5, "max_requests": 1, "rng": np.random.default_rng(0)}
    found = log_slates(world, by_category(world.watch_p, 12), n_sessions=4000, **drawn)
    rewards: Any = REWARD_OF
    return slate_log(join_rounds(found.requests, found.impressions, found.feedback, rewards=rewards, now_ms=2**50))


def drawn_at(policy: SlatePolicy, temperature: float) -> SlatePolicy:
    return replace(policy, temperature=np.full(len(policy.temperature), temperature))


def compared(log: SlateLog, challenger: SlatePolicy, champion: SlatePolicy) -> Comparison:
    rng = np.random.default_rng(0)
    return compare(logged_slates(log, challenger, rng=rng), logged_slates(log, champion, rng=rng), rng=rng)


def test_the_champion_is_no_better_than_itself(log: SlateLog) -> None:
    found = compared(log, log.logging, log.logging)
    assert found.difference.value == 0 and found.difference.std_error == 0
    assert found.champion.ess == pytest.approx(len(log))
    assert judge(found, 2 * len(log), CONFIG)[0].passed is False


def test_the_gain_is_the_difference_of_the_values_and_changes_its_sign_with_the_sides(log: SlateLog) -> None:
    sharper = drawn_at(log.logging, 0.15)
    one, other = compared(log, sharper, log.logging), compared(log, log.logging, sharper)
    assert one.difference.value == pytest.approx(one.challenger.value - one.champion.value)
    assert one.difference.interval is not None and other.difference.interval is not None
    assert one.difference.interval.low == pytest.approx(-other.difference.interval.high)
    assert one.difference.std_error < one.challenger.std_error  # what both share has cancelled


def test_who_ranks_better_passes_and_who_ranks_upside_down_does_not(log: SlateLog) -> None:
    better = drawn_at(log.logging, 0.2)
    worse = replace(better, scores=-better.scores)
    assert decide(judge(compared(log, better, log.logging), 8000, CONFIG)).promote
    refused = decide(judge(compared(log, worse, log.logging), 8000, CONFIG))
    assert not refused.promote and "lower bound" in refused.reasons[0]


def test_what_the_log_could_not_have_shown_is_not_estimated(log: SlateLog) -> None:
    greedy = replace(log, logging=replace(log.logging, epsilon=np.zeros(len(log))))
    elsewhere = replace(
        log.logging, candidates=np.where(log.logging.candidates >= 0, len(log.item_ids) + np.arange(12), -1)
    )
    with pytest.raises(SupportError):
        compared(greedy, elsewhere, log.logging)
