"""How the benchmark on synthetic bandit data chooses settings: the log decides, not a liking for the model."""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "quality"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "synthetic_bandit"]:
        del sys.modules[name]


def test_the_estimate_of_a_policy_lies_near_its_value_though_the_model_is_wrong():
    from synthetic_bandit.generator import generate
    from synthetic_bandit.selection import as_logged

    from rec.ope import evaluate

    log, _ = generate(3000, 10)
    q_hat = np.clip(log.q + np.random.default_rng(0).normal(0, 0.3, log.q.shape), 0, 1)
    policy = np.eye(10)[q_hat.argmax(axis=1)]
    found = evaluate(as_logged(log, policy, q_hat), ["dr"], rng=np.random.default_rng(0))["dr"]
    assert found.std_error is not None
    assert abs(found.value - log.value(policy)) < 4 * found.std_error
    assert (policy * q_hat).sum(axis=1).mean() - log.value(policy) > 0.1


@pytest.mark.parametrize(("right", "capped"), [(True, True), (False, False)])
def test_weights_are_capped_where_the_reward_model_is_right_and_not_where_it_is_wrong(right, capped, monkeypatch):
    """Predictions of the opposite of every reward: following them, as a small cap does, earns the least there is."""
    from synthetic_bandit import selection
    from synthetic_bandit.generator import generate
    from synthetic_bandit.learning import Settings

    log, _ = generate(3000, 10)
    true = {tuple(context): q for context, q in zip(log.context, log.q, strict=True)}

    def predicted(part, *_):
        q = np.stack([true[tuple(context)] for context in part.context])
        return (q if right else 1 - q).astype(np.float32)

    monkeypatch.setattr(selection, "cross_fitted_rewards", predicted)
    grid = [Settings(20, 0.1, 1e-3, cap) for cap in (0.1, None)]
    chosen, told = selection.choose_policies(log, {"dr": grid}, Settings(2, 0.1, 0.01), 2, seed=0)
    assert (chosen["dr"].max_weight == 0.1) is capped
    assert [row["chosen"] for row in told] == [capped, not capped]


def test_the_regression_that_predicts_what_was_held_out_is_chosen():
    from synthetic_bandit.generator import generate
    from synthetic_bandit.learning import Settings
    from synthetic_bandit.selection import choose_regression

    log, _ = generate(3000, 10)
    untrained, trained = Settings(1, 1e-6, 0.0), Settings(20, 0.1, 0.01)
    chosen, told = choose_regression(log, [untrained, trained], 2, seed=0)
    assert chosen == trained
    assert told[0]["cross_entropy"] == pytest.approx(np.log(2), abs=0.05)


def test_the_steadiest_of_policies_that_rows_cannot_tell_apart_is_taken():
    """Worked by hand: the gaps 1, 0, 1 and 0 of four rows are 1/2 on average, with error sqrt(1/3 / 4) = .2887."""
    from synthetic_bandit.comparison import steadiest_of_the_best

    best = np.array([1.0, 1, 1, 1])
    found = steadiest_of_the_best(np.stack([best - [1, 0, 1, 0], best], axis=1), np.arange(4))
    assert (found.chosen, found.best) == (1, 1)
    assert found.gaps == pytest.approx([0.5, 0]) and found.errors == pytest.approx([1 / 12**0.5, 0])
    level = steadiest_of_the_best(np.stack([best - [1, 0, -1, 0.5], best], axis=1), np.arange(4))
    assert (level.chosen, level.best) == (0, 1)


def test_what_policies_share_tells_nothing_of_their_difference():
    """Noise of one row in common is far larger than the gap, and cancels."""
    from synthetic_bandit.comparison import steadiest_of_the_best

    rng = np.random.default_rng(0)
    shared, users = rng.normal(0, 100, 500), np.arange(500)
    worse = shared - rng.normal(0.1, 0.2, 500)
    found = steadiest_of_the_best(np.stack([worse, shared], axis=1), users)
    assert found.chosen == 1
    assert found.errors[0] == pytest.approx(0.2 / 500**0.5, rel=0.1)


def test_rows_of_one_user_are_one_voice_in_the_comparison():
    from synthetic_bandit.comparison import steadiest_of_the_best

    gaps = np.array([0.3, 0.1, -0.1, 0.0])
    rows = np.stack([-gaps, np.zeros(4)], axis=1)
    once = steadiest_of_the_best(rows, np.arange(4))
    often = steadiest_of_the_best(np.repeat(rows, 50, axis=0), np.repeat(np.arange(4), 50))
    assert often.errors == pytest.approx(once.errors)
    with pytest.raises(ValueError, match="two users"):
        steadiest_of_the_best(rows, np.zeros(4, int))


def test_doubly_robust_learning_without_its_correction_is_the_direct_method():
    """A cap that leaves no weight leaves the gradient of the predictions alone, so every step is the same."""
    from synthetic_bandit.generator import generate
    from synthetic_bandit.learning import Settings, fit_policy, probabilities, weight_kept

    log, _ = generate(2000, 10)
    q_hat = np.random.default_rng(0).random(log.q.shape, dtype=np.float32)
    capped, full = Settings(3, 0.1, 1e-3, 1e-9), Settings(3, 0.1, 1e-3)
    direct, switched_off, corrected = (
        probabilities(fit_policy(log, objective, settings, 0, q_hat), log.context, kind="softmax")
        for objective, settings in (("direct method", full), ("dr", capped), ("dr", full))
    )
    np.testing.assert_allclose(switched_off, direct, atol=1e-4)
    assert np.abs(corrected - direct).max() > 0.1
    assert weight_kept(log, direct, 1e-9) < 1e-6


def test_the_share_of_weight_that_a_cap_leaves_is_counted_over_all_rows():
    """Worked by hand: weights .5 / .25 = 2 and .25 / .5 = .5, capped at 1, are 1.5 of 2.5."""
    from synthetic_bandit.generator import Bandit
    from synthetic_bandit.learning import weight_kept

    log = Bandit(np.zeros((2, 1)), *np.full((2, 2, 2), 0.5), np.array([0, 1]), np.ones(2), np.array([0.25, 0.5]))
    policy = np.array([[0.5, 0.5], [0.75, 0.25]])
    assert weight_kept(log, policy, 1.0) == pytest.approx(1.5 / 2.5)
    assert weight_kept(log, policy, None) == 1
