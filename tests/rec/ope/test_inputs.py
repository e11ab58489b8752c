"""Tables and Open Bandit Pipeline's dict as rows for the estimators."""

import numpy as np
import pandas as pd
import pytest

from rec.config import OpeColumns
from rec.errors import DataError, SupportError
from rec.ope.estimators import dr, ips
from rec.ope.inputs import from_frame, from_obp

N, ACTIONS, POSITIONS = 40, 5, 3


@pytest.fixture
def feedback():
    rng = np.random.default_rng(0)
    pi_b = rng.dirichlet(np.ones(ACTIONS), (N, POSITIONS)).transpose(0, 2, 1)
    action, position = rng.integers(0, ACTIONS, N), rng.integers(0, POSITIONS, N)
    return {
        "n_rounds": N,
        "n_actions": ACTIONS,
        "context": rng.normal(size=(N, 2)),
        "action": action,
        "position": position,
        "reward": rng.integers(0, 2, N),
        "pscore": pi_b[np.arange(N), action, position],
        "pi_b": pi_b,
    }


@pytest.fixture
def action_dist():
    return np.random.default_rng(1).dirichlet(np.ones(ACTIONS), (N, POSITIONS)).transpose(0, 2, 1)


def test_the_distribution_is_read_at_action_and_position(feedback, action_dist):
    rounds = from_obp(feedback, action_dist)
    for row in range(N):
        a, k = feedback["action"][row], feedback["position"][row]
        assert rounds.weights[row] == action_dist[row, a, k] / feedback["pscore"][row]
    assert rounds.support == pytest.approx(1.0)


def test_predictions_by_action_or_by_action_and_position(feedback, action_dist):
    q_hat = np.random.default_rng(2).random((N, ACTIONS))
    flat = dr(from_obp(feedback, action_dist, q_hat=q_hat))
    deep = dr(from_obp(feedback, action_dist, q_hat=np.repeat(q_hat[:, :, None], POSITIONS, axis=2)))
    assert flat.value == pytest.approx(deep.value)
    row = 7
    a, k = feedback["action"][row], feedback["position"][row]
    weight = action_dist[row, a, k] / feedback["pscore"][row]
    expected = action_dist[row, :, k] @ q_hat[row] + weight * (feedback["reward"][row] - q_hat[row, a])
    assert flat.numerator[row, 0] == pytest.approx(expected)


def test_predictions_are_read_at_the_position(feedback, action_dist):
    q_hat = np.random.default_rng(2).random((N, ACTIONS, POSITIONS))
    rounds = from_obp(feedback, action_dist, q_hat=q_hat)
    rows, position = np.arange(N), feedback["position"]
    np.testing.assert_array_equal(rounds.q_logged, q_hat[rows, feedback["action"], position])
    expected = [action_dist[row, :, k] @ q_hat[row, :, k] for row, k in enumerate(position)]
    np.testing.assert_allclose(rounds.q_target, expected)


def test_support_is_that_of_the_position(feedback, action_dist):
    pi_b, rows = feedback["pi_b"].copy(), np.arange(N)
    pi_b[rows, :, (feedback["position"] + 1) % POSITIONS] = 0
    assert from_obp({**feedback, "pi_b": pi_b}, action_dist).support == pytest.approx(1)


def test_without_positions_there_is_one(feedback, action_dist):
    one = {**feedback, "position": None, "pi_b": None, "pscore": np.full(N, 0.2)}
    rounds = from_obp(one, action_dist[:, :, :1])
    assert rounds.support is None
    np.testing.assert_array_equal(rounds.target_p, action_dist[np.arange(N), feedback["action"], 0])


def test_what_the_logging_distribution_never_shows_is_refused(feedback, action_dist):
    never = feedback["pi_b"].copy()
    shown = feedback["action"]
    rows, position = np.arange(N), feedback["position"]
    kept = never[rows, shown, position]
    never[rows, :, position] = 0
    never[rows, (shown + 1) % ACTIONS, position] = 1 - kept
    never[rows, shown, position] = kept
    with pytest.raises(SupportError, match="Log with epsilon > 0"):
        from_obp({**feedback, "pi_b": never}, action_dist)


@pytest.mark.parametrize(
    ("key", "value", "column", "row"),
    [
        ("pscore", None, "pscore", None),
        ("reward", None, "reward", None),
        ("action", np.full(N, ACTIONS), "action", 0),
        ("reward", np.zeros(N - 1), "reward", None),
        ("reward", np.array(["x"] * N), "reward", None),
        ("reward", [[1.0], [1.0, 2.0]], "reward", None),
        ("pi_b", [[1.0], [1.0, 2.0]], "pi_b", None),
    ],
)
def test_a_wrong_dict_names_the_key(feedback, action_dist, key, value, column, row):
    with pytest.raises(DataError) as refused:
        from_obp({**feedback, key: value}, action_dist)
    assert refused.value.column == column
    assert refused.value.row == row


@pytest.mark.parametrize("key", ["action", "position"])
@pytest.mark.parametrize("value", [1.7, float("nan")])
def test_numbers_of_actions_are_not_cut_to_whole_ones(feedback, action_dist, key, value):
    whole = feedback[key].astype(float)
    assert from_obp({**feedback, key: whole}, action_dist).weights == pytest.approx(
        from_obp(feedback, action_dist).weights
    )
    whole[4] = value
    with pytest.raises(DataError, match=f"whole numbers are required.*found {value}") as refused:
        from_obp({**feedback, key: whole}, action_dist)
    assert (refused.value.row, refused.value.column) == (4, key)


@pytest.mark.parametrize("values", [np.full((N, ACTIONS), "0.5"), np.full((N, ACTIONS), 0.5j), [[0.5], [0.5, 0.5]]])
def test_distributions_and_predictions_are_real_numbers(feedback, action_dist, values):
    for column, given in (("action_dist", (values, None)), ("q_hat", (action_dist, values))):
        with pytest.raises(DataError, match="real numbers") as refused:
            from_obp(feedback, given[0], q_hat=given[1])
        assert refused.value.column == column


@pytest.mark.parametrize("given", [None, [1.0], pd.DataFrame().to_numpy(), "log"])
def test_what_is_no_log_is_refused(action_dist, given):
    with pytest.raises(DataError, match="a dict is required"):
        from_obp(given, action_dist)
    with pytest.raises(DataError, match="a DataFrame is required"):
        from_frame(given)


@pytest.mark.parametrize("n_rounds", [N + 0.5, "many", [], [N, N]])
def test_the_number_of_rounds_is_whole(feedback, action_dist, n_rounds):
    with pytest.raises(DataError, match="whole") as refused:
        from_obp({**feedback, "n_rounds": n_rounds}, action_dist)
    assert refused.value.column == "n_rounds"


def test_a_distribution_that_does_not_sum_to_one_names_the_row(feedback, action_dist):
    action_dist[11] *= 0.5
    with pytest.raises(DataError, match=r"first sum 0\.5") as refused:
        from_obp(feedback, action_dist)
    assert (refused.value.row, refused.value.column) == (11, "action_dist")


def test_propensities_that_contradict_the_logging_distribution_are_refused(feedback, action_dist):
    rounded = feedback["pscore"].round(5)
    assert from_obp({**feedback, "pscore": rounded}, action_dist).support == pytest.approx(1)
    wrong = feedback["pscore"].copy()
    wrong[[7, 9]] *= 0.9
    with pytest.raises(DataError, match="contradict each other: 2 of") as refused:
        from_obp({**feedback, "pscore": wrong}, action_dist)
    assert (refused.value.row, refused.value.column) == (7, "pscore")


@pytest.mark.parametrize("share", [0.5, np.nan])
def test_a_logging_distribution_is_one(feedback, action_dist, share):
    pi_b = feedback["pi_b"].copy()
    pi_b[11] *= share
    with pytest.raises(DataError, match="sum to 1; 1 of") as refused:
        from_obp({**feedback, "pi_b": pi_b}, action_dist)
    assert (refused.value.row, refused.value.column) == (11, "pi_b")


@pytest.fixture
def frame():
    rng = np.random.default_rng(3)
    p, target_p = rng.uniform(0.1, 1, (2, 30))
    return pd.DataFrame(
        {"who": rng.integers(0, 9, 30), "r": rng.integers(0, 2, 30), "p": p, "t": target_p, "q": p, "qt": target_p}
    )


COLUMNS = OpeColumns(reward="r", propensity="p", target_p="t", user_id="who", q_logged="q", q_target="qt")


def test_a_tables_rows(frame):
    rounds = from_frame(frame, COLUMNS)
    assert ips(rounds).value == pytest.approx((frame.t / frame.p * frame.r).mean())
    assert dr(rounds).value == pytest.approx((frame.qt + frame.t / frame.p * (frame.r - frame.q)).mean())
    assert rounds.codes()[1] == frame.who.nunique()


@pytest.mark.parametrize(
    ("column", "row", "value", "told"),
    [
        ("r", 4, None, "a number is required"),
        ("p", 5, "often", "'often'"),
        ("who", 6, None, "needs an id"),
        ("r", 4, 1j, "found '1j'"),
        ("who", 3, "a\ud800", "UTF-8"),
    ],
)
def test_a_wrong_value_names_row_and_column(frame, column, row, value, told):
    frame = frame.astype({column: object})
    frame.loc[row, column] = value
    with pytest.raises(DataError, match=told) as refused:
        from_frame(frame, COLUMNS)
    assert (refused.value.row, refused.value.column) == (row, column)


def test_whole_numbers_of_any_size_are_ids_and_rewards(frame):
    large = frame.astype({"who": object, "r": object})
    large["who"], large["r"] = [2**64 + who for who in frame.who], [r * 2**70 for r in frame.r]
    rounds, small = from_frame(large, COLUMNS), from_frame(frame, COLUMNS)
    assert rounds.codes()[1] == small.codes()[1]
    np.testing.assert_array_equal(rounds.rewards, small.rewards * 2.0**70)


def test_rewards_too_large_to_compute_with_are_named_by_the_tables_column(frame):
    frame["r"] = np.where(np.arange(30) == 4, 1e300, 1.0)
    with pytest.raises(DataError, match="another unit") as refused:
        from_frame(frame, COLUMNS)
    assert (refused.value.file, refused.value.row, refused.value.column) == ("the DataFrame", 4, "r")


def test_a_missing_column_is_named_beside_those_there_are(frame):
    with pytest.raises(DataError, match=r"has who, r, p, t, q, qt") as refused:
        from_frame(frame)
    assert refused.value.column == "reward"


def test_a_column_given_twice_is_refused_where_it_is_used(frame):
    unused = pd.concat(
        [frame, frame[["r"]].rename(columns={"r": "x"}), frame[["r"]].rename(columns={"r": "x"})], axis=1
    )
    assert len(from_frame(unused, COLUMNS)) == len(frame)
    with pytest.raises(DataError, match="more than once") as refused:
        from_frame(pd.concat([frame, frame[["r"]]], axis=1), COLUMNS)
    assert (refused.value.file, refused.value.column) == ("the DataFrame", "r")


@pytest.mark.parametrize("n_positions", [POSITIONS - 1, POSITIONS + 1])
def test_predictions_of_other_positions_are_refused(feedback, action_dist, n_positions):
    with pytest.raises(DataError, match=f"3 positions, or for none; found {n_positions}") as refused:
        from_obp(feedback, action_dist, q_hat=np.zeros((N, ACTIONS, n_positions)))
    assert refused.value.column == "q_hat"
