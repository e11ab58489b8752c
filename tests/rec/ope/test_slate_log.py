"""Our own log as slates: InstaTok's, where the truth is known."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from rec.crossfit import user_folds
from rec.data.rounds import join_rounds
from rec.errors import DataError, SupportError
from rec.ope import evaluate_slate_difference, evaluate_slates
from rec.ope import slate_log as slate_logs
from rec.ope.slate_log import shown_probabilities, slate_log
from rec.ope.slate_policy import columns_of
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.slate_log import REWARD_OF, by_category, log_slates

K = 3
NOW = 2**50


@pytest.fixture(scope="module")
def world():
    return InstaTok(InstaTokConfig(n_users=200, n_videos=60, seed=4))


def tables(world, *, epsilon=0.3, temperature=0.2, seed=0, **more):
    rng = np.random.default_rng(seed)
    given = {"n_sessions": 600, "k": K, "epsilon": epsilon, "temperature": temperature, "max_requests": 1}
    return log_slates(world, by_category(world.watch_p, 12), rng=rng, **(given | more))


def read(found):
    rounds = join_rounds(found.requests, found.impressions, found.feedback, rewards=REWARD_OF, now_ms=NOW)
    return slate_log(rounds)


@pytest.fixture(scope="module")
def log(world):
    return read(tables(world))


def logged_slates(log, target, **more):
    return slate_logs.logged_slates(log, target, rng=np.random.default_rng(0), **more)


def with_(policy, *, epsilon, temperature):
    n = len(policy.epsilon)
    return replace(policy, epsilon=np.full(n, epsilon), temperature=np.full(n, temperature))


def test_the_logging_policy_itself_is_worth_what_was_earned(log):
    earned = np.nansum(log.rewards, axis=1)
    for name, found in evaluate_slates(
        logged_slates(log, log.logging), ["cascade", "sn_cascade"], rng=np.random.default_rng(0)
    ).items():
        assert found.value == pytest.approx(earned.mean()), name
        assert found.ess == pytest.approx(len(log))
        assert found.n_clusters == len(set(log.user_id)) < len(log), "rows of a user depend on each other"
        assert found.support == 1.0


def test_the_reward_model_adds_nothing_on_average(world):
    """Given what stands above, the mean of w q_logged is q_target: what cascade_dr subtracts it adds again."""
    log = read(tables(world, n_sessions=4000))
    slates = logged_slates(log, with_(log.logging, epsilon=0.1, temperature=0.15))
    above = np.concatenate([np.ones((len(slates), 1)), slates.weights.cumprod(axis=1)[:, :-1]], axis=1)
    added = above * (slates.weights * slates.q_logged - slates.q_target)
    assert (np.abs(added.mean(axis=0)) < 4 * added.std(axis=0) / np.sqrt(len(added))).all()
    assert slates.q_logged.std() > 0.1


def test_what_the_reward_model_expects_counts_items_that_are_no_candidates(world):
    """Where most draws are of such items, and these earn much more: q_target is the mean of w q_logged all the same."""
    log = read(tables(world, n_sessions=4000, epsilon=0.9))
    elsewhere = columns_of(log.logging.candidates, log.slate) < 0
    log = replace(log, rewards=np.where(elsewhere, log.rewards + 5, log.rewards))
    slates = logged_slates(log, with_(log.logging, epsilon=0.8, temperature=0.2))
    above = np.concatenate([np.ones((len(slates), 1)), slates.weights.cumprod(axis=1)[:, :-1]], axis=1)
    added = above * (slates.weights * slates.q_logged - slates.q_target)
    assert (np.abs(added.mean(axis=0)) < 4 * added.std(axis=0) / np.sqrt(len(added))).all()
    assert slates.q_logged[elsewhere].mean() > slates.q_logged[~elsewhere].mean() + 4


def test_estimates_from_another_policys_log_hold_what_the_target_earns(world, log):
    target = with_(log.logging, epsilon=0.1, temperature=0.1)
    played = np.nansum(read(tables(world, epsilon=0.1, temperature=0.1, seed=9, n_sessions=20_000)).rewards, axis=1)
    found = evaluate_slates(
        logged_slates(log, target), ["cascade", "sn_cascade", "cascade_dr"], rng=np.random.default_rng(0)
    )
    for name, estimate in found.items():
        assert abs(estimate.value - played.mean()) < 3 * estimate.std_error, name
    assert found["cascade_dr"].std_error < found["cascade"].std_error


def test_a_challenger_is_compared_request_by_request(log):
    champion = with_(log.logging, epsilon=0.3, temperature=0.2)
    challenger = with_(log.logging, epsilon=0.3, temperature=0.15)
    sides = [logged_slates(log, policy) for policy in (challenger, champion)]
    difference = evaluate_slate_difference(*sides, rng=np.random.default_rng(0))
    alone = evaluate_slates(sides[0], ["cascade_dr"], rng=np.random.default_rng(0))["cascade_dr"]
    own = evaluate_slates(sides[1], ["cascade_dr"], rng=np.random.default_rng(0))["cascade_dr"]
    assert difference.value == pytest.approx(alone.value - own.value)
    assert difference.std_error < 0.7 * alone.std_error
    assert difference.estimator == "cascade_dr difference"


def test_without_epsilon_only_what_could_be_logged_is_estimated(world):
    log = read(tables(world, epsilon=0.0))
    sharper = logged_slates(log, with_(log.logging, epsilon=0.0, temperature=0.1))
    assert sharper.support == pytest.approx(1.0)
    with pytest.raises(SupportError, match="Log with epsilon > 0"):
        logged_slates(log, with_(log.logging, epsilon=0.3, temperature=0.2))


def test_what_has_no_support_is_named_by_request_or_for_position_wise_forms_by_position_too(world):
    log = read(tables(world, epsilon=0.0))
    target = with_(log.logging, epsilon=0.3, temperature=0.2)
    for marginals, first in ((None, ", "), ((log.propensities, log.propensities), " position 0, ")):
        with pytest.raises(SupportError) as refused:
            logged_slates(log, target, marginals=marginals)
        assert f"First: request {log.request_id[0]!r}{first}" in refused.value.message
        assert refused.value.file == "impressions"


def test_positions_that_lose_a_little_lose_many_slates(world):
    """One of the 12 candidates is new: of single choices 9% go, of slates of three 25%. Position-wise forms lose 9%."""
    log = read(tables(world, epsilon=0.0, temperature=1e9, n_sessions=4000))
    candidates = log.logging.candidates.copy()
    candidates[:, 0] = len(log.item_ids)
    target = replace(log.logging, candidates=candidates)
    lost_slates = 1 - (11 / 12) * (10 / 11) * (9 / 10)
    with pytest.raises(SupportError, match=r"2[45]\.\d% of the target's slates, in 4000 of 4000 rows") as refused:
        logged_slates(log, target)
    assert f"{log.request_id[0]!r}" in refused.value.message
    assert shown_probabilities(target, log).prod(axis=1).mean() / log.propensities.prod(axis=1).mean() == pytest.approx(
        1 - lost_slates, abs=0.02
    )


def test_position_wise_forms_are_given_where_single_choices_have_support_and_cascade_forms_refuse_for_themselves(world):
    log = read(tables(world, epsilon=0.0, temperature=1e9))
    few = 25  # Of these requests one candidate is new, so slates lose 25% there, single choices 9%.
    rows = np.arange(len(log)) < len(log) * few // 100
    candidates = log.logging.candidates.copy()
    candidates[rows, 0] = len(log.item_ids)
    target = replace(log.logging, candidates=candidates)
    p = np.full(log.slate.shape, 0.1)
    slates = logged_slates(log, target, marginals=(p, p))
    assert slates.support == pytest.approx(1 - 0.25 * few / 100, abs=0.01)
    assert slates.marginal_support == pytest.approx(1 - few / 100 / 11, abs=0.01)
    rng = np.random.default_rng(0)
    found = evaluate_slates(slates, ["position_wise"], rng=rng)["position_wise"]
    assert found.support == slates.marginal_support > 0.95
    with pytest.raises(SupportError, match=r"could have shown 93\.\d% of what the target policy shows"):
        evaluate_slates(slates, ["cascade_dr"], rng=rng)


def test_an_item_that_the_target_does_not_know_is_shown_by_epsilon_over_the_items_of_the_log(log):
    """However many items the target's own catalogue has: the log says what was eligible."""
    stranger = log.codes([[f"new-{n}" for n in range(9)]])[:1].repeat(len(log), axis=0)
    target = replace(
        with_(log.logging, epsilon=0.2, temperature=0.2), candidates=stranger, scores=np.zeros((len(log), 9))
    )
    p = shown_probabilities(target, log)
    np.testing.assert_allclose(p, 0.2 / log.n_eligible)
    without = shown_probabilities(replace(target, epsilon=np.zeros(len(log))), log)
    assert (without == 0).all()


def test_a_target_with_more_candidates_than_were_eligible_has_choices_that_the_log_could_not_make(log):
    """The catalogue has shrunk, or more was excluded: of 60 alike of which 15 were eligible a quarter at best."""
    few = replace(log, n_eligible=np.where(log.slate >= 0, 15 - np.arange(K), 0))
    everything = log.codes([[f"new-{n}" for n in range(60)]])[:1].repeat(len(log), axis=0)
    target = replace(few.logging, candidates=everything, scores=np.zeros((len(log), 60)), epsilon=np.zeros(len(log)))
    with pytest.raises(SupportError, match=r"98\.7% of the target's slates"):
        logged_slates(few, target)
    p = np.full(log.slate.shape, 0.1)
    with pytest.raises(SupportError, match=r"7\d\.\d% of the target's choices"):
        logged_slates(few, target, marginals=(p, p))


def test_rewards_weighted_by_position_are_what_the_weighted_log_earns(log):
    """Predictions follow the weights too: the estimate is that of a log whose rewards were weighted beforehand."""
    weights = np.array([1.0, 0.6, 0.3])
    target = with_(log.logging, epsilon=0.1, temperature=0.1)
    estimators = ["cascade", "cascade_dr"]
    given = logged_slates(log, target, position_weights=weights)
    weighted = logged_slates(replace(log, rewards=log.rewards * weights), target)
    found, expected = (evaluate_slates(s, estimators, rng=np.random.default_rng(0)) for s in (given, weighted))
    for name in estimators:
        assert found[name].value == pytest.approx(expected[name].value)
        assert found[name].std_error == pytest.approx(expected[name].std_error)


def test_what_a_user_earned_changes_no_prediction_of_their_rewards(log):
    """Not in any of their requests: cascade_dr would subtract from a reward what it learned from it."""
    users, n_requests = np.unique(log.user_id, return_counts=True)
    own = log.user_id == users[n_requests.argmax()]
    assert own.sum() > 2
    changed = replace(log, rewards=np.where(own[:, None], log.rewards + 9, log.rewards))
    before, after = (logged_slates(rewarded, log.logging) for rewarded in (log, changed))
    for name in ("q_logged", "q_target"):
        found, expected = getattr(after, name), getattr(before, name)
        np.testing.assert_array_equal(found[own], expected[own])
        assert not np.array_equal(found[~own], expected[~own], equal_nan=True)


def test_of_two_users_each_is_predicted_by_the_other(log):
    """Also where both would be of one fold."""
    users = np.array([f"u{n}" for n in range(50)], dtype=object)
    folds = user_folds(users, slate_logs.N_FOLDS)
    two = users[folds == folds[0]][:2]
    given = replace(log, user_id=two[np.arange(len(log)) % 2])
    own = given.user_id == two[0]
    changed = replace(given, rewards=np.where(own[:, None], given.rewards + 9, given.rewards))
    before, after = (logged_slates(rewarded, log.logging).q_logged for rewarded in (given, changed))
    np.testing.assert_array_equal(after[own], before[own])
    assert not np.array_equal(after[~own], before[~own])


def test_rewards_of_one_user_cannot_be_predicted_from_others(log):
    with pytest.raises(DataError, match="two at least") as refused:
        logged_slates(replace(log, user_id=np.full(len(log), "me", dtype=object)), log.logging)
    assert refused.value.column == "user_id"


def test_greedy_logs_support_no_softmax(world):
    log = read(tables(world, epsilon=0.0, temperature=0.0))
    with pytest.raises(SupportError):
        logged_slates(log, with_(log.logging, epsilon=0.0, temperature=0.2))


@pytest.mark.parametrize("n_candidates", [12, 2])
def test_a_greedy_log_supports_its_own_policy_at_every_position(world, n_candidates):
    """Below the best the second best is drawn; below all candidates, anything eligible."""
    found = log_slates(
        world,
        by_category(world.watch_p, n_candidates),
        rng=np.random.default_rng(0),
        n_sessions=600,
        k=K,
        epsilon=0.0,
        temperature=0.0,
        max_requests=1,
    )
    log = read(found)
    own = logged_slates(log, log.logging)
    assert own.support == 1.0
    np.testing.assert_allclose(own.target_p, log.propensities)


def test_candidates_that_were_not_logged_leave_nothing_to_estimate(world):
    with pytest.raises(DataError, match="600 have no candidates logged"):
        read(tables(world, log_candidates=False))


def test_requests_without_candidates_are_left_out_and_counted(world):
    found, bare = tables(world), tables(world, log_candidates=False, seed=1)
    both = [pa.concat_tables([getattr(found, name), getattr(bare, name)]) for name in ("requests", "impressions")]
    rounds = join_rounds(*both, pa.concat_tables([found.feedback, bare.feedback]), rewards=REWARD_OF, now_ms=NOW)
    log = slate_log(rounds)
    assert len(log) == found.requests.num_rows
    assert log.n_without == bare.requests.num_rows


def without(rows, lost):
    """A table without some of its rows, positions."""
    return rows.take(np.setdiff1d(np.arange(len(rows)), lost))


@pytest.mark.parametrize("position", range(K))
def test_a_slate_that_lost_an_impression_is_left_out_wherever_it_stood(world, position):
    """Also at the end: as a shorter slate it would have earned less than it did, and been likelier."""
    found = tables(world)
    lost = np.flatnonzero(found.impressions["position"].to_numpy() == position)[:100]
    rounds = join_rounds(
        found.requests, without(found.impressions, lost), found.feedback, rewards=REWARD_OF, now_ms=NOW
    )
    log = slate_log(rounds)
    assert (len(log), log.n_incomplete, log.n_without) == (500, 100, 0)
    assert (log.slate >= 0).all()
    named = set(found.impressions["request_id"].take(lost).to_pylist())
    assert named.isdisjoint(log.request_id)


def test_requests_of_which_every_impression_is_lost_are_counted(world):
    found = tables(world)
    shown = without(found.impressions, np.arange(2 * K))
    rounds = join_rounds(found.requests, shown, found.feedback, rewards=REWARD_OF, now_ms=NOW)
    assert rounds.dropped["requests_without_impressions"] == 2
    assert len(slate_log(rounds)) == 598


def test_rewards_too_large_to_compute_with_are_refused_before_any_model_learns_them(log):
    for huge in (1e200, 1e300):
        with pytest.raises(DataError, match="another unit") as refused:
            logged_slates(replace(log, rewards=np.where(log.slate >= 0, huge, np.nan)), log.logging)
        assert refused.value.column == "rewards"
    with pytest.raises(DataError, match=r"-1\.0 at position 2"):
        logged_slates(log, log.logging, position_weights=np.array([1.0, 1.0, -1.0]))


@pytest.mark.parametrize("factor", [0.5, 1.0001])
def test_propensities_that_the_log_does_not_explain_are_refused(world, factor):
    found = tables(world)
    propensity = found.impressions["propensity"].to_numpy().copy()
    propensity[7] *= factor
    column = found.impressions.column_names.index("propensity")
    changed = found.impressions.set_column(column, found.impressions.schema.field("propensity"), pa.array(propensity))
    rounds = join_rounds(found.requests, changed, found.feedback, rewards=REWARD_OF, now_ms=NOW)
    with pytest.raises(DataError, match="1 of 600 requests have other propensities") as refused:
        slate_log(rounds)
    assert refused.value.column == "propensity"


def test_a_wrong_propensity_is_refused_however_small(world):
    """One of 1e-8, as an injected item has among a million eligible ones, matters as much as one of .1."""
    found = tables(world)
    rounds = join_rounds(found.requests, found.impressions, found.feedback, rewards=REWARD_OF, now_ms=NOW)
    requests = replace(rounds.requests, epsilon=np.full(len(rounds.requests), 0.01))
    rounds = replace(rounds, requests=requests, n_eligible=1_000_000 - rounds.position.astype(np.int64))
    log = read(found)
    again = replace(log, n_eligible=np.where(log.slate >= 0, 1_000_000 - np.arange(K), 0))
    right = shown_probabilities(with_(log.logging, epsilon=0.01, temperature=0.2), again)[log.slate >= 0]
    assert right.min() < 1.1e-8
    slate_log(replace(rounds, propensity=right))
    wrong = right.copy()
    wrong[right.argmin()] *= 2
    with pytest.raises(DataError, match="1 of 600 requests have other propensities"):
        slate_log(replace(rounds, propensity=wrong))


def test_items_elsewhere_get_codes_of_their_own(log):
    known = str(log.item_ids[3])
    codes = log.codes([[known, "new-b"], ["new-a", "new-b", known]])
    assert codes[0, 0] == codes[1, 2] == 3
    assert codes[0, 1] == codes[1, 1] >= len(log.item_ids)
    assert codes[1, 0] not in (codes[0, 1], -1)
    assert codes[0, 2] == -1


def test_columns_of_an_item_in_its_own_row():
    table = np.array([[5, 2, -1], [2, 7, 5]])
    np.testing.assert_array_equal(
        columns_of(table, np.array([[2, 5, 7, -1], [2, 5, 7, 0]])), [[1, 0, -1, -1], [0, 2, 1, -1]]
    )


def test_probabilities_are_those_that_were_logged(log):
    np.testing.assert_allclose(shown_probabilities(log.logging, log), log.propensities)


def test_a_position_is_expected_to_earn_what_it_and_all_below_it_do(log):
    """Where every position always earns the same: 1, 2 and 4."""
    earned = replace(log, rewards=np.where(log.slate >= 0, [1.0, 2.0, 4.0], np.nan))
    slates = logged_slates(earned, log.logging)
    for predicted in (slates.q_logged, slates.q_target):
        np.testing.assert_allclose(predicted, np.tile([7.0, 6.0, 4.0], (len(log), 1)))


def test_a_reward_is_not_explained_by_itself(log):
    """Of noise there is nothing to learn, also where items are rare: an item's mean would hold each reward it explains.

    Taken for knowledge, means of the noise would differ from item to item by a fifth of its spread.
    """
    noise = np.random.default_rng(0).normal(size=log.rewards.shape)
    slates = logged_slates(replace(log, rewards=np.where(log.slate >= 0, noise, np.nan)), log.logging)
    assert (slates.q_logged - slates.q_logged.mean(axis=0)).std() < 0.1
