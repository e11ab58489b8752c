"""The conversion of labels to a bandit log: draws without replacement, and what each probability means."""

import itertools

import numpy as np
import pytest
from scipy.sparse import csr_array

from rec.data.bandit import bandit_log, inclusion_probabilities, propensities, softmax
from rec.errors import ConfigError, DataError

N_ACTIONS, K, N_DRAWS = 5, 3, 40_000


def slate_probabilities(p, k):
    """Probability of every ordered slate of k different actions, by enumeration."""
    slates = {}
    for slate in itertools.permutations(range(len(p)), k):
        above = np.cumsum([0.0, *p[list(slate[:-1])]])
        slates[slate] = float(np.prod(p[list(slate)] / (1 - above)))
    return slates


@pytest.fixture(scope="module")
def log():
    logits = np.tile(np.array([2.0, 1.0, 0.0, -0.5, -2.0]), (N_DRAWS, 1))
    labels = np.tile([1.0, 0.0, 1.0, 0.0, 1.0], (N_DRAWS, 1))
    return logits, labels, bandit_log(logits, labels, k=K, rng=np.random.default_rng(0))


def test_slates_have_the_probabilities_of_drawing_one_by_one(log):
    logits, _, drawn = log
    exact = slate_probabilities(softmax(logits[0]), K)
    found, counts = np.unique(drawn.action.reshape(-1, K), axis=0, return_counts=True)
    share = dict(zip(map(tuple, found.tolist()), counts / N_DRAWS, strict=True))
    for slate, p in exact.items():
        assert share.get(slate, 0.0) == pytest.approx(p, abs=4.5 * np.sqrt(p * (1 - p) / N_DRAWS))


def test_recorded_probabilities_are_those_of_the_draws(log):
    logits, labels, drawn = log
    p = softmax(logits[0])
    np.testing.assert_allclose(drawn.draw_p, p[drawn.action])
    slate, conditional = drawn.action.reshape(-1, K), drawn.conditional_p.reshape(-1, K)
    exact = slate_probabilities(p, K)
    np.testing.assert_allclose(conditional.prod(axis=1), [exact[tuple(row)] for row in slate.tolist()])
    np.testing.assert_array_equal(drawn.reward, labels[drawn.context, drawn.action])
    assert (np.diff(drawn.context) >= 0).all() and len(drawn) == N_DRAWS * K


@pytest.mark.parametrize("scale", [0.3, 2.0, 8.0])
@pytest.mark.parametrize(("n", "k"), [(5, 1), (6, 3), (5, 5), (30, 2)])
def test_inclusion_probabilities_against_enumeration(scale, n, k):
    logits = np.random.default_rng(1).normal(size=(2, n)) * scale
    exact = np.zeros((2, n))
    for context in range(2):
        for slate, p in slate_probabilities(softmax(logits[context]), k).items():
            exact[context, list(slate)] += p
    context, action = np.repeat([0, 1], n), np.tile(np.arange(n), 2)
    found = inclusion_probabilities(logits, context, action, k)[0].reshape(2, n)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-7)
    assert (found <= 1).all()


def test_inclusion_probabilities_sum_to_k_in_a_large_catalogue():
    logits = np.random.default_rng(2).normal(size=(1, 2000)) * 3
    found, drawn = inclusion_probabilities(logits, np.zeros(2000, np.int64), np.arange(2000), 5)
    np.testing.assert_allclose(drawn, softmax(logits)[0])
    assert found.sum() == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize(("k", "n_alike", "n"), [(30, 300, 300), (40, 43, 47)])
def test_of_actions_that_are_alike_each_is_among_many_draws_as_often(k, n_alike, n):
    """k of n_alike, the others as good as never: late arrivals, a sharp k-th one, and likely actions beyond k count."""
    logits = np.full((1, n), -60.0)
    logits[0, :n_alike] = 0
    found, _ = inclusion_probabilities(logits, np.zeros(1, np.int64), np.zeros(1, np.int64), k)
    assert found[0] == pytest.approx(k / n_alike, rel=1e-7)


def test_more_draws_than_actions_or_than_can_be_counted_are_refused():
    for k, n in ((0, 4), (5, 4), (201, 300)):
        with pytest.raises(DataError, match=f"found {k} of {n}"):
            inclusion_probabilities(np.zeros((1, n)), np.zeros(1, np.int64), np.zeros(1, np.int64), k)


def test_a_peaked_context_leaves_the_others_of_its_block_alone():
    rng = np.random.default_rng(3)
    peaked = np.full(200, -60.0)
    peaked[:4] = [0, -1, -2, -3]
    logits = np.stack([peaked, rng.normal(size=200) * 2])
    context, action = np.repeat([0, 1], 200), np.tile(np.arange(200), 2)
    found, _ = inclusion_probabilities(logits, context, action, 5)
    np.testing.assert_allclose(found.reshape(2, 200).sum(axis=1), 5, rtol=1e-5)
    np.testing.assert_allclose(found[:4], 1, rtol=1e-5)
    np.testing.assert_allclose(found[4:200], 1 / 196, rtol=1e-5)
    alone, _ = inclusion_probabilities(logits[1:], context[:200], action[:200], 5)
    np.testing.assert_allclose(found[200:], alone, rtol=1e-6)


def test_a_log_is_the_same_however_many_contexts_are_taken_at_once(monkeypatch):
    logits = np.random.default_rng(4).normal(size=(7, 6)) * 2

    def found():
        drawn = bandit_log(logits, np.ones((7, 6)), k=3, rng=np.random.default_rng(5))
        return drawn.action, drawn.draw_p, drawn.conditional_p, propensities(drawn, logits, "inclusion")

    whole = found()
    monkeypatch.setattr("rec.data.bandit._BLOCK_NUMBERS", 2 * 6)
    for one, other in zip(whole, found(), strict=True):
        np.testing.assert_allclose(other, one)


def test_what_remains_below_a_near_certain_action_keeps_its_probability():
    logits = np.array([[0.0, 0.0, *[-50.0] * 28]])
    drawn = bandit_log(logits, np.zeros((1, 30)), k=4, rng=np.random.default_rng(0))
    np.testing.assert_allclose(drawn.conditional_p, [1 / 2, 1, 1 / 28, 1 / 27])
    everything = bandit_log(logits, np.zeros((1, 30)), k=30, rng=np.random.default_rng(0))
    np.testing.assert_allclose(everything.conditional_p[2:], 1 / np.arange(28, 0, -1))


def test_an_inclusion_probability_that_cannot_be_represented_is_refused():
    logits = np.array([[0.0, -800.0, -800.0]])
    with pytest.raises(DataError, match="less peaked") as refused:
        inclusion_probabilities(logits, np.zeros(2, np.int64), np.array([0, 1]), 2)
    assert refused.value.row == 1


def test_actions_that_arrive_after_the_quadrature_ends_are_refused():
    """Those below 1e-300: in context 0 all arrive, in context 1 only the likeliest does."""
    logits = np.array([[689.0, 0, 0, 0], [695.0, 0, 0, 0]])
    with pytest.raises(DataError, match=r"3 actions .* less peaked") as refused:
        inclusion_probabilities(logits, np.repeat([0, 1], 4), np.tile(np.arange(4), 2), 2)
    assert refused.value.row == 5


def test_only_inclusion_makes_the_weighted_mean_unbiased(log):
    """The value of a uniform target: exact 3 / 5. Single draws overrate it here, by far more than the noise."""
    n_contexts, target_p = 4000, 1 / N_ACTIONS
    logits, labels = log[0][:n_contexts], log[1][:n_contexts]
    drawn = bandit_log(logits, labels, k=K, rng=np.random.default_rng(1))
    inclusion, draw = (target_p / propensities(drawn, logits, kind) * drawn.reward for kind in ("inclusion", "draw"))
    per_context = inclusion.reshape(-1, K).mean(axis=1)
    error = per_context.std(ddof=1) / np.sqrt(n_contexts)
    assert abs(per_context.mean() - 0.6) < 4 * error
    assert abs(draw.mean() - 0.6) > 20 * error


def test_a_logit_that_is_not_finite_is_named():
    logits = np.zeros((3, 4))
    logits[2, 1] = np.nan
    with pytest.raises(DataError) as refused:
        bandit_log(logits, np.zeros((3, 4)), k=2, rng=np.random.default_rng(0))
    assert refused.value.row == 2
    with pytest.raises(DataError, match="k must be"):
        bandit_log(np.zeros((3, 4)), np.zeros((3, 4)), k=5, rng=np.random.default_rng(0))


def test_a_label_that_is_not_finite_is_refused_by_its_row():
    labels = np.ones((3, 2))
    labels[1, 0] = np.nan
    with pytest.raises(DataError, match="finite number") as refused:
        bandit_log(np.zeros((3, 2)), labels, k=1, rng=np.random.default_rng(0))
    assert refused.value.row == 1


@pytest.mark.parametrize(
    "logits",
    [np.zeros((1, 4)), np.zeros((5, 9)), np.zeros((2, 3)), np.full((2, 4), np.nan), np.arange(8.0).reshape(2, 4)],
)
def test_inclusion_needs_the_logits_that_the_log_was_drawn_with(logits):
    drawn = bandit_log(np.zeros((2, 4)), np.ones((2, 4)), k=2, rng=np.random.default_rng(0))
    assert propensities(drawn, np.zeros((2, 4)), "inclusion") == pytest.approx(0.25, abs=1e-6)
    with pytest.raises(DataError, match="logits"):
        propensities(drawn, logits, "inclusion")


def test_rows_are_named_as_they_stand_in_the_log_however_many_are_taken_at_once(monkeypatch):
    monkeypatch.setattr("rec.data.bandit._BLOCK_NUMBERS", 2 * 4)
    logits, labels = np.zeros((5, 4)), np.ones((5, 4))
    wrong, others = logits.copy(), logits.copy()
    wrong[4, 1], others[3] = np.nan, np.arange(4)
    with pytest.raises(DataError, match="finite") as refused:
        bandit_log(wrong, labels, k=2, rng=np.random.default_rng(0))
    assert refused.value.row == 4
    drawn = bandit_log(logits, labels, k=2, rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="drawn with") as refused:
        propensities(drawn, others, "inclusion")
    assert refused.value.row == 3 * 2


def test_logits_of_another_order_are_refused_however_rare_each_action_is():
    logits = np.random.default_rng(0).normal(size=(1, 1000))
    drawn = bandit_log(logits, np.ones((1, 1000)), k=2, rng=np.random.default_rng(0))
    assert drawn.draw_p.max() < 0.01
    with pytest.raises(DataError, match="drawn with"):
        propensities(drawn, logits[:, ::-1], "inclusion")


def test_kinds_of_propensities_that_there_are_not_are_refused(log):
    with pytest.raises(ConfigError, match="draw, conditional, inclusion"):
        propensities(log[2], log[0], "incl")


@pytest.mark.parametrize(
    ("logits", "labels", "k", "told"),
    [
        (np.zeros((2, 4)), np.ones((2, 4)), 1.5, "k must be a whole number"),
        (np.zeros((2, 4)), np.ones((2, 4)), True, "k must be a whole number"),
        (np.zeros((2, 4)), np.full((2, 4), "1"), 2, "labels must be numbers"),
        (np.zeros((2, 4)), np.ones((2, 4), complex), 2, "labels must be numbers"),
        (np.zeros((2, 4)), np.ones((2, 4), "m8[s]"), 2, "labels must be numbers"),
        (np.zeros((2, 4)), csr_array(np.ones((2, 4))), 2, "labels must be numbers in a NumPy array; found csr_array"),
        (np.zeros((2, 4), complex), np.ones((2, 4)), 2, "logits must be numbers"),
        ([[0.0, 1.0]], np.ones((1, 2)), 1, "logits must be numbers in a NumPy array; found list"),
        (np.array([[0.0, -2000.0, -3000.0]]), np.ones((1, 3)), 2, "less peaked"),
    ],
)
def test_what_cannot_be_logged_is_refused(logits, labels, k, told):
    with pytest.raises(DataError, match=told):
        bandit_log(logits, labels, k=k, rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="rng must be"):
        bandit_log(np.zeros((2, 4)), np.ones((2, 4)), k=1, rng=0)
