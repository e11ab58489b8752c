"""A behaviour policy fitted to a log whose propensities are known."""

import numpy as np
import pytest

from rec.crossfit import user_folds
from rec.errors import ConfigError, DataError
from rec.ope import LoggedActions
from rec.ope.estimators import snips
from rec.propensity import PropensityWarning, calibrate, estimate_propensities

N, ITEMS = 6000, 8


@pytest.fixture(scope="module")
def log():
    """Users of two rows each; the logging policy is a softmax of the context; rewards follow the context too."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(N // 2), 2)
    context = rng.normal(size=(N, 3))
    logits = 0.5 * (context @ rng.normal(size=(3, ITEMS)) + rng.normal(size=ITEMS))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    items = (p.cumsum(axis=1) > rng.random((N, 1))).argmax(axis=1)
    return users, context, p, items


def estimate(log, **more):
    users, context, _, items = log
    with pytest.warns(PropensityWarning, match="not logged") as told:
        read = {} if more.get("kind") == "popularity" else {"context": context}
        found = estimate_propensities(items, users, ITEMS, **(read | more))
    message, calibration = str(told[0].message), found.calibration
    assert "knew more than the model reads" in message
    losses = f"log loss {calibration.log_loss:.3f} (popularity alone {calibration.popularity_log_loss:.3f})"
    assert f"{losses}, calibration error {calibration.ece:.3f}" in message
    assert f"number of items {calibration.mean_inverse:.2f} (1" in message
    return found


def test_the_right_family_finds_the_propensities(log):
    _, _, p, items = log
    found = estimate(log)
    truth = p[np.arange(N), items]
    assert np.corrcoef(np.log(found.propensities), np.log(truth))[0, 1] > 0.95
    best = -np.log(truth).mean()
    assert best - 0.01 < found.calibration.log_loss < best + 0.02
    assert found.calibration.log_loss < found.calibration.popularity_log_loss - 0.05
    assert found.calibration.ece < 0.05
    assert found.calibration.mean_inverse == pytest.approx(1, abs=0.2)


def test_what_a_model_cannot_see_biases_the_estimate(log):
    """Popularity is calibrated on average and yet wrong, where policy and reward both follow the context."""
    _, _, p, items = log
    reward, uniform, truth = p[np.arange(N), items], np.full(N, 1 / ITEMS), 1 / ITEMS
    errors = {}
    for name, propensities in (
        ("logged", p[np.arange(N), items]),
        ("softmax", estimate(log).propensities),
        ("popularity", estimate(log, kind="popularity").propensities),
    ):
        errors[name] = abs(snips(LoggedActions(reward, propensities, uniform)).value - truth)
    assert errors["logged"] < 0.01 and errors["softmax"] < 0.02
    assert errors["popularity"] > 0.03
    assert estimate(log, kind="popularity").calibration.ece < 0.05


@pytest.mark.parametrize("kind", ["softmax", "popularity"])
def test_a_users_fold_does_not_predict_itself(log, kind):
    users, context, _, items = log
    folds = user_folds(users, 5)
    others_of_fold = (folds == folds[users == 12][0]) & (users != 12)
    changed = np.where(others_of_fold, (items + 1) % ITEMS, items)
    before, after = (estimate((users, context, None, shown), kind=kind).propensities for shown in (items, changed))
    np.testing.assert_array_equal(before[users == 12], after[users == 12])
    elsewhere = folds != folds[users == 12][0]
    assert (before[elsewhere] != after[elsewhere]).all()


def test_positions_have_shares_of_their_own():
    rng = np.random.default_rng(1)
    positions = rng.integers(0, 2, 4000)
    items = np.where(positions == 0, rng.integers(0, 2, 4000), rng.integers(2, 4, 4000))
    with pytest.warns(PropensityWarning):
        found = estimate_propensities(items, np.arange(4000), 4, positions=positions, kind="popularity")
    np.testing.assert_allclose(found.propensities, 0.5, atol=0.04)


WORTH = np.array([0.5, 0.25, 0.15, 0.07, 0.03])


def slates_of(worth, n, k, rng):
    """Slates of k items drawn by worth without replacement, and the probabilities given those above; (n, k) both."""
    worth = np.broadcast_to(worth, (n, worth.shape[-1])).copy()
    items, p = np.empty((n, k), int), np.empty((n, k))
    for position in range(k):
        share = worth / worth.sum(axis=1, keepdims=True)
        items[:, position] = (share.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
        p[:, position] = share[np.arange(n), items[:, position]]
        worth[np.arange(n), items[:, position]] = 0
    return items, p


def estimate_slates(items, n_items, **more):
    n, k = items.shape
    rows = {"positions": np.tile(np.arange(k), n), "slates": np.repeat(np.arange(n), k)}
    with pytest.warns(PropensityWarning):
        found = estimate_propensities(items.reshape(-1), rows["slates"], n_items, **(rows | more))
    return found, found.propensities.reshape(n, k)


def test_of_slates_the_items_above_are_not_drawn_again():
    items, p = slates_of(WORTH, 4000, 3, np.random.default_rng(0))
    found, estimated = estimate_slates(items, 5, kind="popularity")
    assert np.abs(np.log(estimated / p)).mean() < 0.06
    assert found.calibration.mean_inverse == pytest.approx(1, abs=0.05) and found.calibration.ece < 0.03
    assert found.calibration.popularity_log_loss == pytest.approx(-np.log(p).mean(), abs=0.01)
    # Whatever stands above, the popular item is rarer at position 1 than its worth: it is often gone.
    _, marginal = estimate_slates(items, 5, kind="popularity", slates=None)
    assert np.abs(np.log(marginal / p)[:, 1:]).mean() > 0.3


def test_probabilities_of_all_slates_sum_to_one():
    """By enumeration: within a fold, where one model predicts, over the 60 slates of 3 out of 5."""
    items, _ = slates_of(np.full(5, 0.5) + WORTH, 3000, 3, np.random.default_rng(1))
    context = np.repeat(np.random.default_rng(2).normal(size=(1, 2)), 9000, axis=0)
    for more in ({"kind": "popularity"}, {"context": context}):
        _, estimated = estimate_slates(items, 5, **more)
        folds = user_folds(np.arange(3000), 5)
        for fold in range(5):
            own = folds == fold
            different, first = np.unique(items[own], axis=0, return_index=True)
            assert len(different) == 60
            assert estimated[own][first].prod(axis=1).sum() == pytest.approx(1)


def test_of_slates_the_softmax_finds_what_the_context_does():
    rng = np.random.default_rng(3)
    context = rng.normal(size=(3000, 2))
    worth = np.exp(0.7 * context @ rng.normal(size=(2, 6)) + rng.normal(size=6))
    items, p = slates_of(worth, 3000, 3, rng)
    _, estimated = estimate_slates(items, 6, context=np.repeat(context, 3, axis=0))
    assert np.abs(np.log(estimated / p)).mean() < 0.1
    _, marginal = estimate_slates(items, 6, context=np.repeat(context, 3, axis=0), slates=None)
    assert np.abs(np.log(marginal / p)[:, 1:]).mean() > 0.2


def test_the_order_of_rows_does_not_matter():
    items, _ = slates_of(WORTH, 300, 3, np.random.default_rng(4))
    _, expected = estimate_slates(items, 5, kind="popularity")
    order = np.random.default_rng(5).permutation(900)
    slate, position = np.repeat(np.arange(300), 3)[order], np.tile(np.arange(3), 300)[order]
    with pytest.warns(PropensityWarning):
        found = estimate_propensities(
            items.reshape(-1)[order], slate, 5, positions=position, slates=slate, kind="popularity"
        )
    np.testing.assert_allclose(found.propensities, expected.reshape(-1)[order])


def test_slates_whose_items_above_are_not_known_are_refused():
    users, slates = np.arange(6), np.array([0, 0, 1, 1, 2, 2])
    items, positions = np.array([0, 1, 1, 2, 0, 2]), np.array([0, 1, 0, 2, 0, 1])
    with pytest.raises(DataError, match="each position of a slate once") as refused:
        estimate_propensities(items, users, 3, positions=positions, slates=slates, kind="popularity")
    assert (refused.value.row, refused.value.column) == (3, "position")
    positions, items = np.array([0, 1, 0, 1, 0, 1]), np.array([0, 1, 1, 2, 2, 2])
    with pytest.raises(DataError, match="an item once in a slate") as refused:
        estimate_propensities(items, users, 3, positions=positions, slates=slates, kind="popularity")
    assert (refused.value.row, refused.value.column) == (5, "item")


def test_calibration_worked_example():
    # Two rows of two items: p .25 and .75; the first row shows the unlikely one, the second the likely one.
    p = np.array([[0.25, 0.75], [0.25, 0.75]])
    found = calibrate(p, np.array([0, 1]), np.array([0.5, 0.5]), n_bins=2)
    assert found.log_loss == pytest.approx(-(np.log(0.25) + np.log(0.75)) / 2)
    assert found.popularity_log_loss == pytest.approx(np.log(2))
    assert found.mean_inverse == pytest.approx((4 + 4 / 3) / 2 / 2)
    assert sum(one.n for one in found.bins) == 4
    # Expected of the bins: .25 + .25 = .5 and .75 (the first of two), then .75; seen: 1, 0 or 1.
    assert sum(one.predicted * one.n for one in found.bins) == pytest.approx(2)
    assert sum(one.observed * one.n for one in found.bins) == pytest.approx(2)


def test_bins_expect_equally_many_shows_and_the_error_is_what_they_miss_a_row():
    # Sorted .05 .1 .15 .3 | .6 .8, of which .6 and 1.4 shows are expected; one is seen in each half.
    p = np.array([[0.05, 0.15, 0.8], [0.1, 0.3, 0.6]])
    found = calibrate(p, np.array([2, 1]), np.array([0.5, 0.5]), n_bins=2)
    rare, likely = found.bins
    assert (rare.predicted, rare.observed, rare.n) == (pytest.approx(0.15), 1 / 4, 4)
    assert (likely.predicted, likely.observed, likely.n) == (pytest.approx(0.7), 1 / 2, 2)
    assert found.ece == pytest.approx((0.4 + 0.4) / 2)


def test_shares_of_few_rows_are_shrunk_towards_equal_ones():
    """Half a show of each item more; and at a position, half as many shows as items by the shares of all positions."""
    items, positions, users = np.array([0, 0, 1, 2] * 5), np.array([0, 0, 0, 1] * 5), np.arange(20)
    with pytest.warns(PropensityWarning):
        found = estimate_propensities(items, users, 4, positions=positions, kind="popularity").propensities
    folds = user_folds(users, 5)
    for row in range(20):
        others = folds != folds[row]
        overall = ((items[others] == items[row]).sum() + 1 / 2) / (others.sum() + 4 / 2)
        there = others & (positions == positions[row])
        assert found[row] == pytest.approx(((items[there] == items[row]).sum() + 2 * overall) / (there.sum() + 2))


def test_right_probabilities_have_no_calibration_error_but_noise(log):
    _, _, p, items = log
    found = calibrate(p, items, p[np.arange(N), items])
    assert found.ece < 0.04
    wrong = calibrate(p**2 / (p**2).sum(axis=1, keepdims=True), items, p[np.arange(N), items])
    assert wrong.ece > 0.2
    assert wrong.log_loss > found.log_loss


def test_what_is_no_item_or_has_no_context_is_refused():
    users = np.arange(10)
    with pytest.raises(DataError, match=r"0\.\.3") as refused:
        estimate_propensities(np.array([0, 1, 2, 9, 0, 0, 0, 0, 0, 0]), users, 4, kind="popularity")
    assert (refused.value.row, refused.value.column) == (3, "item")
    with pytest.raises(DataError, match="popularity"):
        estimate_propensities(np.zeros(10, int), users, 4)


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"kind": "softmx"}, ConfigError, "expected softmax or popularity; found 'softmx'"),
        ({"kind": "popularity"}, ConfigError, "popularity reads no context"),
        ({"context": np.full((10, 2), np.nan)}, DataError, "expected numbers between"),
        ({"context": np.full((10, 2), 1e200)}, DataError, "expected numbers between"),
        ({"context": np.zeros((9, 2))}, DataError, "expected 10 rows, as there are items; found 9"),
        ({"users": np.zeros(10)}, DataError, "rows of two users or more"),
        ({"users": np.arange(9)}, DataError, "expected 10 rows"),
        ({"items": np.zeros(10)}, DataError, "expected whole numbers from 0; found float64"),
        ({"items": np.arange(10) % 4 - 1}, DataError, "expected items in 0..3"),
        ({"positions": np.arange(10) - 1}, DataError, "expected positions of 0 or more"),
        ({"positions": np.arange(10) / 2}, DataError, "expected whole numbers from 0; found float64"),
        ({"items": np.zeros(0, int), "users": np.zeros(0), "context": np.zeros((0, 2))}, DataError, "no rows"),
    ],
)
def test_arguments_that_cannot_be_are_refused(changed, error, text):
    arguments = {"items": np.arange(10) % 4, "users": np.arange(10), "n_items": 4, "context": np.zeros((10, 2))}
    with pytest.raises(error, match=text):
        estimate_propensities(**(arguments | changed))


def test_what_the_context_decides_without_fail_is_not_certain():
    """Worked by hand: of two items the sign of the context decides, and every user saw both.

    With w and -w as the weights of the items, p = 1 / (1 + exp(-2 w)). The loss of m rows and half the squares of both
    weights is least where w = m (1 - p): the penalty alone keeps p from 1.
    """
    users, sign = np.repeat(np.arange(100), 2), np.tile([1.0, -1.0], 100)
    with pytest.warns(PropensityWarning):
        found = estimate_propensities((sign > 0).astype(int), users, 2, context=sign[:, None])
    p, folds = found.propensities, user_folds(users, 5)
    m = np.array([(folds != fold).sum() for fold in folds])
    np.testing.assert_allclose(np.log(p / (1 - p)), 2 * m * (1 - p), rtol=0.02)
