"""Slates under a cap: what both policies may draw depends on the items above, and so do their probabilities."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from rec.data.rounds import join_rounds
from rec.errors import ConfigError, DataError
from rec.item_groups import ItemCap
from rec.ope import evaluate_slates
from rec.ope.marginals import marginal_probabilities
from rec.ope.slate_log import logged_slates, shown_probabilities, slate_log
from rec.ope.slate_policy import SlatePolicy
from rec.ope.slate_support import supported_slates
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.slate_log import REWARD_OF, by_category, log_slates

K = 3


@pytest.fixture(scope="module")
def world():
    return InstaTok(InstaTokConfig(n_users=200, n_videos=60, seed=4))


@pytest.fixture(scope="module")
def cap(world):
    group_of = {str(item): f"c{category}" for item, category in zip(world.item_ids, world.category, strict=True)}
    return ItemCap("category", 1, group_of)


def rounds(world, cap, *, epsilon=0.3, temperature=0.2, seed=0, n_sessions=600):
    found = log_slates(
        world,
        by_category(world.watch_p, 12),
        n_sessions=n_sessions,
        k=K,
        epsilon=epsilon,
        temperature=temperature,
        rng=np.random.default_rng(seed),
        max_requests=1,
        cap=None if cap is None else cap.of_items(np.asarray(world.item_ids, object)),
    )
    return join_rounds(found.requests, found.impressions, found.feedback, rewards=REWARD_OF, now_ms=2**50)


def drawn(policy, *, epsilon, temperature):
    n = len(policy.epsilon)
    return replace(policy, epsilon=np.full(n, epsilon), temperature=np.full(n, temperature))


def slates_of(log, target):
    return logged_slates(log, target, rng=np.random.default_rng(0))


def test_the_logged_policy_is_reproduced_and_worth_what_it_earned(world, cap):
    log = slate_log(rounds(world, cap), cap=cap)
    np.testing.assert_allclose(shown_probabilities(log.logging, log), log.propensities, rtol=1e-9)
    found = evaluate_slates(slates_of(log, log.logging), ["cascade", "sn_cascade"], rng=np.random.default_rng(0))
    for estimate in found.values():
        assert estimate.value == pytest.approx(np.nansum(log.rewards, axis=1).mean())
        assert estimate.support == 1.0


def test_a_log_of_another_rule_is_refused(world, cap):
    with pytest.raises(DataError, match="other propensities than their candidates"):
        slate_log(rounds(world, cap))
    with pytest.raises(DataError, match="under a cap of 1 of one category"):
        slate_log(rounds(world, None), cap=cap)
    with pytest.raises(DataError, match="under a cap of 2 of one category"):
        slate_log(rounds(world, cap), cap=replace(cap, limit=2))


def test_estimates_hold_what_the_target_earns_under_the_cap(world, cap):
    log = slate_log(rounds(world, cap, n_sessions=2000), cap=cap)
    played = slate_log(rounds(world, cap, epsilon=0.1, temperature=0.1, seed=9, n_sessions=20_000), cap=cap)
    earned = np.nansum(played.rewards, axis=1)
    target = drawn(log.logging, epsilon=0.1, temperature=0.1)
    found = evaluate_slates(
        slates_of(log, target), ["cascade", "sn_cascade", "cascade_dr"], rng=np.random.default_rng(0)
    )
    for name, estimate in found.items():
        error = np.hypot(estimate.std_error, earned.std() / np.sqrt(len(earned)))
        assert abs(estimate.value - earned.mean()) < 4 * error, name


def test_what_the_reward_model_expects_is_the_mean_under_the_capped_target(world, cap):
    """Given what stands above, the mean of w q_logged is q_target: what cascade_dr subtracts it adds again."""
    log = slate_log(rounds(world, cap, n_sessions=4000), cap=cap)
    slates = slates_of(log, drawn(log.logging, epsilon=0.1, temperature=0.15))
    above = np.concatenate([np.ones((len(slates), 1)), slates.weights.cumprod(axis=1)[:, :-1]], axis=1)
    added = above * (slates.weights * slates.q_logged - slates.q_target)
    assert (np.abs(added.mean(axis=0)) < 4 * added.std(axis=0) / np.sqrt(len(added))).all()


@pytest.mark.parametrize(("ranked", "epsilon"), [([0, 1, 2, 3], 0.0), ([1, 3], 0.5)])
def test_the_support_of_slates_is_the_targets_mass_on_what_the_log_can_show(ranked, epsilon):
    """By enumeration: of a, b of one group and c, d of none the log ranks all but d, and has no epsilon.

    The target's epsilon is shared by what would be eligible if nothing was closed, whatever the logged slates left.
    """
    cap = ItemCap("creator", 1, {"a": "x", "b": "x"}).of_items(np.array(["a", "b", "c", "d"], object))
    n, k, scores = 4000, 2, np.array([0.3, 0.0, -0.2, 0.5])

    def policy(candidates, epsilon):
        shape = (n, len(candidates))
        table = np.broadcast_to(candidates, shape).copy()
        return SlatePolicy(table, np.broadcast_to(scores[candidates], shape), np.full(n, epsilon), np.ones(n), cap)

    def share(slate, candidates, epsilon):
        """The probability of a slate under the definition; 0 for one that the cap forbids."""
        gone, p = set(), 1.0
        for position, item in enumerate(slate):
            weight = {one: np.exp(scores[one]) for one in candidates if one not in gone}
            chosen = epsilon / (4 - position) + (1 - epsilon) * weight.get(item, 0.0) / sum(weight.values())
            p *= 0.0 if item in gone else chosen
            gone |= {0, 1} if item in (0, 1) else {item}
        return p

    expected = sum(share(s, ranked, epsilon) for s in permutations(range(4), k) if share(s, [0, 1, 2], 0.0) > 0)
    n_eligible = np.broadcast_to([4, 2], (n, k))
    found = supported_slates(policy(ranked, epsilon), policy([0, 1, 2], 0.0), n_eligible, rng=np.random.default_rng(0))
    assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(n)


def test_position_wise_forms_are_refused(world, cap):
    log = slate_log(rounds(world, cap), cap=cap)
    with pytest.raises(ConfigError, match="how many items a cap would leave"):
        marginal_probabilities(log.logging, log, rng=np.random.default_rng(0))


def test_caps_join_where_they_are_the_same(cap):
    more = replace(cap, group_of={"new": "c1"})
    assert cap.joined(more).group_of == cap.group_of | {"new": "c1"}
    with pytest.raises(ConfigError, match="caps differ: at most 1 of one category a slate, and at most 2"):
        cap.joined(replace(cap, limit=2))
    item = next(iter(cap.group_of))
    with pytest.raises(ConfigError, match=f"category of item {item!r} is"):
        cap.joined(replace(cap, group_of={item: "elsewhere"}))
