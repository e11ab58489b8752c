"""What the benchmark of the loop says of days that went as given."""

from typing import Any

from benchmarks.quality.loop_http import DRIFTED, POISONED, rows_of, summarised


def judged(status: str, estimate: float, true_value: float, *, poisoned: bool = False) -> dict[str, Any]:
    """A cycle whose challenger was estimated to gain so much, give or take a tenth."""
    ends = {"low": estimate - 0.1, "high": estimate + 0.1}
    difference = {"value": estimate, "interval": ends, "ess": 1500.0}
    found = {"status": status, "challenger": "v", "reasons": [], "poisoned": poisoned, "true_value": true_value}
    return {**found, "comparison": {"difference": difference}, "gain": {"difference": estimate, **ends}}


def day(number: int, value: float, *cycles: dict[str, Any]) -> dict[str, Any]:
    reward = {"value": value, "std_error": 0.02}
    return {"day": number, "version": "v", "reward": reward, "true_value": value, "cycles": list(cycles)}


def test_what_serves_rises_falls_with_the_drift_and_rises_again() -> None:
    values = {1: 0.9, 2: 1.0, POISONED: 1.05, DRIFTED - 1: 1.1, DRIFTED: 0.7, DRIFTED + 1: 0.8}
    cycles = {
        1: [judged("promoted", 0.12, 1.0)],
        POISONED: [judged("refused", -0.4, 0.7, poisoned=True), judged("refused", 0.3, 1.1)],
    }
    days = [day(number, value, *cycles.get(number, [])) for number, value in values.items()]
    found = {(row["model"], row["metric"]): row for row in summarised(days)}
    # Of the three intervals [.02, .22], [-.5, -.3] and [.2, .4] the first two hold the true gains .1, -.35 and .05.
    assert (found["estimates", "held"]["n"], found["estimates", "held"]["mean"]) == (3, 2 / 3)
    assert not found["estimates", "held"]["reached"]
    assert abs(found["promotions", "true_gain"]["mean"] - 0.1) < 1e-12 and found["promotions", "true_gain"]["reached"]
    assert found["poisoned", "promoted"]["mean"] == 0 and found["poisoned", "promoted"]["reached"]
    assert abs(found["poisoned", "gain_high"]["mean"] + 0.3) < 1e-12
    for name, change in (("before drift", 0.2), ("after drift", 0.1)):
        assert abs(found[name, "rise"]["mean"] - change) < 1e-12 and found[name, "rise"]["reached"]
    rows = list(rows_of(days[2], 0))
    assert [row["model"] for row in rows] == ["served", "poisoned", "challenger"]
    assert rows[1]["metrics"]["difference_high"] == -0.4 + 0.1


def test_a_loop_that_promotes_nothing_reaches_no_goal_of_rising() -> None:
    days = [day(number, 0.9 if number < DRIFTED else 0.7) for number in range(1, DRIFTED + 2)]
    found = {(row["model"], row["metric"]): row for row in summarised(days)}
    for name in (("before drift", "rise"), ("after drift", "rise"), ("promotions", "true_gain")):
        assert found[name]["goal"] == 0 and found[name]["reached"] is False
    assert found["promotions", "true_gain"]["mean"] is None and found["drift", "change"]["reached"] is None
