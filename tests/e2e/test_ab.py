"""`tandem ab` as a user runs it."""

import json
from typing import Any

import pytest

from rec.data.events import open_events

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A log of 40 users, the last ten of whom were answered by a challenger that they liked more often."""
    folder = str(tmp_path_factory.mktemp("ab") / "home")
    requests, impressions, feedback = [], [], []
    for user in range(40):
        arm = "challenger" if user >= 30 else "champion"
        request_id, item = f"r{user}", {"source": "x", "propensity": 0.5, "n_eligible": 9}
        requests.append(
            {"request_id": request_id, "timestamp": DAY_MS, "user_id": f"u{user}", "policy_version": arm, "arm": arm}
            | {"epsilon": 0.1, "temperature": 1.0, "k": 1, "degraded": False, "context": "{}", "history": []}
        )
        impressions.append({"request_id": request_id, "position": 0, "item_id": "a", **item})
        if user % (10 if arm == "champion" else 2) == 0:
            event = {"event_id": "e", "request_id": request_id, "item_id": "a", "action": "liked"}
            feedback.append(event | {"timestamp": DAY_MS + 1, "received_at": DAY_MS + 1})
    events = open_events(folder)
    events.append("requests", requests)
    events.append("impressions", impressions)
    events.append("feedback", feedback)
    return folder


def test_arms_are_compared(tandem: Any, home: str):
    done = tandem(
        "ab", "--home", home, "--rewards", "liked", "1", "--shares", "champion", "0.75", "challenger", "0.25", "--json"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["n_users"] == {"champion": 30, "challenger": 10} and answer["mismatch_p"] == pytest.approx(1.0)
    assert answer["arms"]["champion"]["reward_per_request"]["value"] == pytest.approx(0.1)
    (difference,) = [each for each in answer["differences"] if each["metric"] == "reward_per_user"]
    assert difference["difference"] == pytest.approx(0.4)
    assert difference["interval"]["low"] < 0.4 < difference["interval"]["high"]
    assert answer["warnings"] == []
    assert "challenger - champion: reward_per_user" in done.stderr


def test_an_action_without_a_reward_and_an_arm_that_is_none_are_named(tandem: Any, home: str):
    done = tandem("ab", "--home", home, "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["column"] == "action"
    done = tandem("ab", "--home", home, "--rewards", "liked", "1", "--baseline", "control", "--json")
    assert done.returncode == 2 and "'control'" in done.stderr


def test_users_who_are_divided_otherwise_are_warned_of(tandem: Any, home: str):
    done = tandem(
        "ab", "--home", home, "--rewards", "liked", "1", "--shares", "champion", "0.1", "challenger", "0.9", "--json"
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["mismatch_p"] < 0.001 and "not divided as the shares say" in answer["warnings"][0]
