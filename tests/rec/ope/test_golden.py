"""The same values as Open Bandit Pipeline 0.5.5 (tests/golden/make_obp_goldens.py), where it is right.

Not compared, on purpose:
- its tuned estimators: they choose the parameter on the very rows they then average over, and the upper bound that they
  put on the bias adds sqrt(2 mean(w^2) log(2 / delta) / n), which holds the unshrunk weights and does not vanish where
  nothing is shrunk; ours choose on other users, by the bias as estimated (`rec.ope.tuning`);
- its intervals: they resample rounds one by one, which is too narrow where a user has several.
"""

from pathlib import Path

import numpy as np
import pytest

from rec.ope.estimators import ESTIMATORS, SHRINKING_ESTIMATORS
from rec.ope.inputs import from_obp
from rec.ope.logged import LoggedSlates
from rec.ope.slates import SLATE_ESTIMATORS

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "obp.npz")


@pytest.fixture(scope="module")
def rounds():
    names = ("action", "reward", "pscore", "pi_b")
    feedback = {"n_rounds": len(GOLDEN["rounds_action"]), "position": None}
    feedback |= {name: GOLDEN[f"rounds_{name}"] for name in names}
    return from_obp(feedback, GOLDEN["rounds_action_dist"], q_hat=GOLDEN["rounds_q_hat"])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rounds(rounds, name):
    assert ESTIMATORS[name](rounds).value == pytest.approx(float(GOLDEN[f"value_{name}"]), rel=1e-12)


@pytest.mark.parametrize("name", SHRINKING_ESTIMATORS)
def test_shrunk_weights(rounds, name):
    parameter = float(GOLDEN[f"parameter_{name}"])
    found = SHRINKING_ESTIMATORS[name](rounds, parameter).value
    assert found == pytest.approx(float(GOLDEN[f"value_{name}"]), rel=1e-12)
    assert found != pytest.approx(SHRINKING_ESTIMATORS[name](rounds, np.inf).value, rel=1e-3)


@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_slates(name):
    slates = LoggedSlates(
        rewards=GOLDEN["slates_reward"],
        propensities=GOLDEN["slates_logging"],
        target_p=GOLDEN["slates_target"],
        marginal_propensities=GOLDEN["slates_marginal_logging"],
        marginal_target_p=GOLDEN["slates_marginal_target"],
        q_logged=GOLDEN["slates_q_logged"],
        q_target=GOLDEN["slates_q_target"],
    )
    assert SLATE_ESTIMATORS[name](slates).value == pytest.approx(float(GOLDEN[f"value_{name}"]), rel=1e-10)
