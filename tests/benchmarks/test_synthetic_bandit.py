"""How the benchmark on synthetic bandit data chooses settings: by a bound that holds."""

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


@pytest.mark.parametrize(("n_actions", "estimator"), [(10, "dr"), (200, "dr_os")])
def test_a_policy_that_few_rows_judge_is_judged_by_what_they_bound(n_actions, estimator):
    """The greedy policy of a model that is wrong at random is worth less than the model says."""
    from synthetic_bandit.generator import generate
    from synthetic_bandit.learning import off_policy_estimate

    log, _ = generate(3000, 10, n_actions=n_actions)
    q_hat = np.clip(log.q + np.random.default_rng(0).normal(0, 0.3, log.q.shape), 0, 1)
    policy = np.eye(n_actions)[q_hat.argmax(axis=1)]
    found = off_policy_estimate(log, policy, q_hat)
    assert found["estimator"] == estimator
    assert found["low"] <= log.value(policy) <= found["high"]
    assert (policy * q_hat).sum(axis=1).mean() - log.value(policy) > 0.1
