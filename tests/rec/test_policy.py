"""Laws of choosing with a known probability."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rec.eligibility import Eligible, GroupCap
from rec.errors import ScoreError
from rec.policy import position_probabilities, sample_slate, slate_propensities

N_DRAWS = 1_000_000


def one_position(scores, *, n_eligible, epsilon, temperature):
    mask = np.ones((1, len(scores)), dtype=bool)
    p, other = position_probabilities([scores], mask, [n_eligible], epsilon=epsilon, temperature=temperature)
    return p[0], other[0]


def excluding(n_items, *runs, cap=None):
    indptr = np.cumsum([0, *(len(run) for run in runs)])
    return Eligible(n_items, indptr, np.concatenate([np.asarray(run, dtype=np.int32) for run in runs]), cap)


def repeated(n_users, n_items, run, cap=None):
    """The same exclusions for each of many users."""
    indptr = np.arange(n_users + 1) * len(run)
    return Eligible(n_items, indptr, np.tile(np.asarray(run, dtype=np.int32), n_users), cap)


def test_worked_example():
    # softmax of (log 3, 0) at temperature 1 is (3/4, 1/4); epsilon .2 over 10 eligible items adds .02 to each.
    p, other = one_position([np.log(3), 0.0], n_eligible=10, epsilon=0.2, temperature=1.0)
    np.testing.assert_allclose(p, [0.02 + 0.8 * 0.75, 0.02 + 0.8 * 0.25])
    assert other == pytest.approx(0.02)


@st.composite
def rounds(draw):
    n = draw(st.integers(1, 6))
    scores = draw(st.lists(st.floats(-1e308, 1e308), min_size=n, max_size=n))
    mask = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    n_eligible = sum(mask) + draw(st.integers(0, 5))
    epsilon = draw(st.sampled_from([0.0, 1.0]) | st.floats(0, 1))
    temperature = draw(st.sampled_from([0.0, 5e-324, 1e-9, 1e300]) | st.floats(0, 1e6))
    return scores, mask, n_eligible, epsilon, temperature


@settings(max_examples=200, deadline=None)
@given(rounds())
def test_probabilities_sum_to_one_whatever_the_scores_and_also_when_candidates_run_out(case):
    scores, mask, n_eligible, epsilon, temperature = case
    p, other = position_probabilities([scores], [mask], [n_eligible], epsilon=epsilon, temperature=temperature)
    total = p.sum() + (n_eligible - sum(mask)) * other[0]
    assert total == pytest.approx(1.0 if n_eligible else 0.0, abs=1e-12)
    assert (p >= 0).all() and (p[0, ~np.array(mask)] == 0).all()
    if epsilon > 0 and epsilon / max(n_eligible, 1) > 0:
        assert (p[0, mask] > 0).all()


@settings(max_examples=100, deadline=None)
@given(rounds(), st.randoms(use_true_random=False))
def test_order_of_candidates_does_not_matter(case, random):
    scores, mask, n_eligible, epsilon, temperature = case
    order = list(range(len(scores)))
    random.shuffle(order)
    kwargs = {"epsilon": epsilon, "temperature": temperature}
    p, other = position_probabilities([scores], [mask], [n_eligible], **kwargs)
    q, other_q = position_probabilities([np.take(scores, order)], [np.take(mask, order)], [n_eligible], **kwargs)
    np.testing.assert_allclose(q[0], p[0][order], rtol=1e-12)
    assert other == other_q


def test_temperature_zero_is_uniform_over_the_exact_maxima_and_the_limit_of_small_temperatures():
    scores = [2.0, 1.0, 2.0, -5.0]
    p, other = one_position(scores, n_eligible=8, epsilon=0.4, temperature=0.0)
    np.testing.assert_allclose(p, [0.35, 0.05, 0.35, 0.05])
    assert other == pytest.approx(0.05)
    for temperature in (1e-3, 1e-100, 5e-324):
        np.testing.assert_allclose(one_position(scores, n_eligible=8, epsilon=0.4, temperature=temperature)[0], p)


def test_epsilon_one_is_uniform_and_epsilon_zero_the_softmax():
    p, other = one_position([1.0, 2.0], n_eligible=5, epsilon=1.0, temperature=0.1)
    np.testing.assert_allclose([*p, other], 0.2)
    p, other = one_position([1.0, 2.0], n_eligible=5, epsilon=0.0, temperature=1.0)
    np.testing.assert_allclose(p, np.exp([1, 2]) / np.exp([1, 2]).sum())
    assert other == 0


def test_huge_gaps_leave_the_same_ratios_below():
    """A candidate far above the others, once shown, must not take the digits of the rest with it."""
    scores = np.array([[1e6, 0.0, 1.0, 2.0]])
    ids, slate = np.array([[0, 1, 2, 3]]), np.array([[0, 3, 1, 2]])
    count = np.array([[9, 8, 7, 6]])
    p = slate_propensities(scores, ids, slate, count, epsilon=0.0, temperature=1.0)
    e = np.exp([0.0, 1.0, 2.0])
    np.testing.assert_allclose(p[0], [1.0, e[2] / e.sum(), e[0] / e[:2].sum(), 1.0], rtol=1e-14)


def slate_probability_by_enumeration(scores, ids, n_items, excluded, slate, epsilon, temperature, cap):
    """The propensities of one slate, item by item and in plain Python, from the definition."""
    out = []
    for position, item in enumerate(slate):
        above = slate[:position]
        eligible = []
        for a in range(n_items):
            full = cap is not None and sum(cap.groups[b] == cap.groups[a] >= 0 for b in above) >= cap.limit
            if a not in excluded and a not in above and not full:
                eligible.append(a)
        remaining = {a: s for a, s in zip(ids, scores, strict=True) if a in eligible}
        if item not in eligible:
            out.append(0.0)
        elif not remaining:
            out.append(1 / len(eligible))
        else:
            best = max(remaining.values())
            if temperature == 0:
                weight = {a: float(s == best) for a, s in remaining.items()}
            else:
                weight = {a: float(np.exp((s - best) / temperature)) for a, s in remaining.items()}
            out.append(epsilon / len(eligible) + (1 - epsilon) * weight.get(item, 0.0) / sum(weight.values()))
    return out


CAP = GroupCap(np.array([0, 0, 1, 1, 0, -1, -1]), 1)
RULES = [(0.3, 0.7, None), (0.3, 0.7, CAP), (0.5, 0.0, CAP), (0.0, 1.0, None), (1.0, 1.0, CAP)]


@pytest.mark.parametrize(("epsilon", "temperature", "cap"), RULES)
def test_every_slate_of_a_tiny_catalogue_has_its_probability_and_is_drawn_that_often(epsilon, temperature, cap):
    n_items, k, excluded, n_draws = 7, 3, [4], 100_000
    ids, scores = [0, 2, 5], [1.0, 1.0, 0.2]
    slates = np.array(list(itertools.permutations([i for i in range(n_items) if i not in excluded], k)))
    expected = [
        slate_probability_by_enumeration(scores, ids, n_items, excluded, slate.tolist(), epsilon, temperature, cap)
        for slate in slates
    ]
    probability = np.prod(expected, axis=1)
    assert probability.sum() == pytest.approx(1.0)

    eligible = repeated(n_draws, n_items, excluded, cap)
    many_scores, many_ids = np.tile(scores, (n_draws, 1)), np.tile(ids, (n_draws, 1))
    kwargs = {"epsilon": epsilon, "temperature": temperature}
    drawn = sample_slate(many_scores, many_ids, eligible, k, rng=np.random.default_rng(1), **kwargs)
    code = drawn.item_ids @ (n_items ** np.arange(k))
    slate_code = slates @ (n_items ** np.arange(k))
    counts = np.array([(code == c).sum() for c in slate_code])
    assert counts.sum() == n_draws
    std_error = np.sqrt(n_draws * probability * (1 - probability))
    assert (np.abs(counts - n_draws * probability) <= 4 * std_error + 1e-9).all()

    row_of = {int(c): row for row, c in enumerate(slate_code)}
    rows = [row_of[int(c)] for c in code[:2000]]
    np.testing.assert_allclose(drawn.propensity[:2000], np.array(expected)[rows], rtol=1e-12)
    np.testing.assert_array_equal(
        slate_propensities(many_scores, many_ids, drawn.item_ids, drawn.n_eligible, cap=cap, **kwargs),
        drawn.propensity,
    )


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_frequencies_of_a_million_draws_agree_with_the_propensities(temperature):
    n_items, excluded, epsilon = 12, [3, 9], 0.3
    ids, scores = [0, 1, 2, 4], [0.5, 0.5, -0.2, -1.0]
    tiled = (np.tile(scores, (N_DRAWS, 1)), np.tile(np.array(ids, dtype=np.int32), (N_DRAWS, 1)))
    eligible = repeated(N_DRAWS, n_items, excluded)
    rng = np.random.default_rng(7)
    drawn = sample_slate(*tiled, eligible, 1, epsilon=epsilon, temperature=temperature, rng=rng)
    p, other = one_position(scores, n_eligible=10, epsilon=epsilon, temperature=temperature)
    expected = np.full(n_items, other)
    expected[ids] = p
    expected[excluded] = 0
    counts = np.bincount(drawn.item_ids[:, 0], minlength=n_items)
    std_error = np.sqrt(N_DRAWS * expected * (1 - expected))
    assert (np.abs(counts - N_DRAWS * expected) <= 4 * std_error).all()
    possible = expected > 0
    chi_square = ((counts - N_DRAWS * expected)[possible] ** 2 / (N_DRAWS * expected[possible])).sum()
    assert chi_square < 27.88  # the 99.9% point with 9 degrees of freedom
    np.testing.assert_allclose(drawn.propensity[:, 0], expected[drawn.item_ids[:, 0]])
    explored = (drawn.column < 0).mean()
    assert explored == pytest.approx(6 * other, abs=4 * np.sqrt(6 * other / N_DRAWS))


@st.composite
def catalogues(draw):
    n_items = draw(st.integers(1, 14))
    n_users = draw(st.integers(1, 4))
    item_lists = st.lists(st.integers(0, n_items - 1), max_size=n_items)
    runs = [draw(item_lists) for _ in range(n_users)]
    width = draw(st.integers(0, 5))
    ids = np.full((n_users, width), -1, dtype=np.int32)
    for row, run in enumerate(runs):
        free = draw(st.permutations(sorted(set(range(n_items)) - set(run))))[:width]
        ids[row, : len(free)] = free
    cap = None
    if draw(st.booleans()):
        groups = draw(st.lists(st.integers(-1, 2), min_size=n_items, max_size=n_items))
        cap = GroupCap(np.array(groups), draw(st.integers(1, 2)))
    scores = np.array(draw(st.lists(st.floats(-50, 50), min_size=ids.size, max_size=ids.size))).reshape(ids.shape)
    return n_items, runs, ids, scores, cap


@settings(max_examples=150, deadline=None)
@given(catalogues(), st.integers(1, 6), st.sampled_from([0.0, 0.4, 1.0]), st.sampled_from([0.0, 0.01, 3.0]))
def test_slates_keep_every_rule_and_their_propensities_are_those_of_the_definition(case, k, epsilon, temperature):
    n_items, runs, ids, scores, cap = case
    kwargs = {"epsilon": epsilon, "temperature": temperature}
    drawn = sample_slate(scores, ids, excluding(n_items, *runs, cap=cap), k, rng=np.random.default_rng(3), **kwargs)
    again = slate_propensities(scores, ids, drawn.item_ids, drawn.n_eligible, cap=cap, **kwargs)
    np.testing.assert_array_equal(again, drawn.propensity)
    for row, run in enumerate(runs):
        slate = drawn.item_ids[row].tolist()
        shown = [item for item in slate if item >= 0]
        assert slate == shown + [-1] * (k - len(shown))
        assert len(set(shown)) == len(shown) and not set(shown) & set(run)
        known = ids[row] >= 0
        expected = slate_probability_by_enumeration(
            scores[row][known].tolist(), ids[row][known].tolist(), n_items, set(run), shown, epsilon, temperature, cap
        )
        np.testing.assert_allclose(drawn.propensity[row, : len(shown)], expected, rtol=1e-9)
        assert all(p > 0 for p in expected)
        for position in range(k):
            above = shown[:position]
            free = set(range(n_items)) - set(run) - set(above)
            if cap is not None:
                groups = cap.groups[above].tolist()
                free = {a for a in free if cap.groups[a] < 0 or groups.count(cap.groups[a]) < cap.limit}
            expected_count = len(free) if position < len(shown) or not free else -1
            assert drawn.n_eligible[row, position] == expected_count
        assert drawn.short[row] == (len(shown) < k)
        column = drawn.column[row, : len(shown)]
        assert [ids[row, c] for c in column if c >= 0] == [a for a in shown if a in ids[row]]


def test_a_tight_cap_over_a_large_group_still_draws_uniformly():
    """One creator owns all but two items: after its first, rejection gives up and the remaining items are listed."""
    n_items, n_users = 2000, 1000
    groups = np.zeros(n_items, dtype=np.int64)
    groups[[17, 1900]] = -1
    eligible = Eligible.everything(n_users, n_items, GroupCap(groups, 1))
    none = np.zeros((n_users, 0))
    drawn = sample_slate(
        none, none.astype(np.int32), eligible, 4, epsilon=0.0, temperature=1.0, rng=np.random.default_rng(0)
    )
    assert drawn.short.all()
    assert (drawn.item_ids[:, :3] >= 0).all() and (drawn.item_ids[:, 3] == -1).all()
    second = drawn.item_ids[groups[drawn.item_ids[:, 0]] == 0, 1]
    assert set(second) == {17, 1900}
    assert (second == 17).mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(second)))


def test_slates_without_interference_are_those_drawn_position_by_position():
    """A cap that never binds makes every position be drawn on its own; slates and propensities stay what they were."""
    rng = np.random.default_rng(0)
    candidates = np.stack([rng.permutation(40)[:12] for _ in range(50)])
    scores = rng.normal(size=candidates.shape)
    never = GroupCap(np.arange(40), 1)
    for k in (1, 5, 12, 13):
        free, capped = (
            sample_slate(scores, candidates, Eligible.everything(50, 40, cap), k, epsilon=0.0, temperature=0.5,
                         rng=np.random.default_rng(k))
            for cap in (None, never)
        )  # fmt: skip
        np.testing.assert_array_equal(free.item_ids[:, :12], capped.item_ids[:, :12])
        np.testing.assert_array_equal(free.n_eligible, capped.n_eligible)
        np.testing.assert_allclose(free.propensity[:, :12], capped.propensity[:, :12], rtol=1e-12)


def test_the_same_seed_draws_the_same_slates():
    rng = np.random.default_rng(0)
    ids, scores = rng.permuted(np.tile(np.arange(50), (20, 1)), axis=1)[:, :10], rng.normal(size=(20, 10))
    first, second = (
        sample_slate(
            scores, ids, Eligible.everything(20, 50), 5, epsilon=0.3, temperature=0.5, rng=np.random.default_rng(9)
        )
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.item_ids, second.item_ids)


def test_the_cap_of_a_policy_gives_zero_to_slates_it_forbids():
    cap = GroupCap(np.array([0, 0, 1, -1]), 1)
    p = slate_propensities(
        np.array([[1.0, 2.0]]),
        np.array([[0, 1]]),
        np.array([[1, 0, -1]]),
        np.array([[4, 2, 0]]),
        epsilon=0.5,
        temperature=0.0,
        cap=cap,
    )
    np.testing.assert_array_equal(p, [[0.5 / 4 + 0.5, 0.0, np.nan]])


IDS = np.array([[4, 1]])
SCORES = np.array([[0.1, 0.2]])
EVERYTHING = Eligible.everything(1, 6)


def draw(scores=SCORES, ids=IDS, eligible=EVERYTHING, epsilon=0.1, temperature=1.0):
    rng = np.random.default_rng(0)
    return sample_slate(scores, ids, eligible, 2, epsilon=epsilon, temperature=temperature, rng=rng)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_and_named(bad):
    with pytest.raises(ScoreError, match=r"1 of 2 are not.*candidate 1.*row 0"):
        draw(scores=np.array([[0.1, bad]]))
    with pytest.raises(ScoreError):
        position_probabilities([[0.1, bad]], [[True, True]], [2], epsilon=0.1, temperature=1.0)
    position_probabilities([[0.1, bad]], [[True, False]], [2], epsilon=0.1, temperature=1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epsilon", -0.1), ("epsilon", 1.1), ("epsilon", np.nan), ("temperature", -1.0), ("temperature", np.inf)],
)
def test_parameters_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ScoreError, match=name):
        draw(**{name: value})


def test_candidates_must_be_distinct_eligible_and_in_the_catalogue():
    with pytest.raises(ValueError, match="distinct"):
        draw(ids=np.array([[4, 4]]))
    with pytest.raises(ValueError, match="eligible"):
        draw(eligible=excluding(6, [2, 1]))
    with pytest.raises(ValueError, match=r"0\.\.5"):
        draw(ids=np.array([[4, 6]]))
    with pytest.raises(ValueError, match="at least the candidates"):
        position_probabilities(SCORES, [[True, True]], [1], epsilon=0.1, temperature=1.0)


def test_impossible_slates_are_refused():
    kwargs = {"epsilon": 0.1, "temperature": 1.0}
    with pytest.raises(ValueError, match="slate must be distinct"):
        slate_propensities(SCORES, IDS, np.array([[3, 3]]), np.array([[6, 5]]), **kwargs)
    with pytest.raises(ValueError, match="n_eligible"):
        slate_propensities(SCORES, IDS, np.array([[3, 2]]), np.array([[6, 0]]), **kwargs)


@pytest.mark.parametrize(
    ("slate", "n_eligible", "rule"),
    [
        ([4, -1, -1], [1, 0, 0], "at least the candidates that remain"),
        ([4, 1, 3], [2, 1, 0], "at least 1"),
        ([4, 3, -1], [3, 1, 0], "candidates that remain and the item shown"),
        ([3, 4, -1], [3, 1, 0], "at least the candidates that remain"),
        ([4, 1, -1], [3, 3, 0], "fall by at least one"),
        ([4, -1, 1], [3, 0, 2], "without holes"),
        ([4, 1, 3], [3.0, 2.0, 1.5], "whole numbers"),
    ],
)
def test_counts_that_no_catalogue_has_are_refused_naming_the_row(slate, n_eligible, rule):
    """Of too few eligible items the probabilities would sum to more than one."""
    good = ([4, 1, 3], [3, 2, 1])
    with pytest.raises(ValueError, match=rule) as caught:
        slate_propensities(
            SCORES.repeat(2, axis=0),
            IDS.repeat(2, axis=0),
            np.array([good[0], slate]),
            np.array([good[1], n_eligible]),
            epsilon=0.5,
            temperature=1.0,
        )
    assert "whole" in rule or "First: row 1" in str(caught.value)


def test_counts_and_masks_of_another_type_are_refused():
    for mask, n_eligible in (([[True, True]], [2.9]), ([[True, np.nan]], [2])):
        with pytest.raises(ValueError, match="must hold"):
            position_probabilities(SCORES, mask, n_eligible, epsilon=0.5, temperature=1.0)
