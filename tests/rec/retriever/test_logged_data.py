"""Bandit rounds as arrays: what could not be shown, also where the catalogue has changed since."""

from pathlib import Path

import pytest

from rec.config import DataConfig, QueriesConfig
from rec.data.events import open_events
from rec.data.logged import read_logged
from rec.features.encoders import Encoders
from rec.retriever.logged_data import LoggedData, build_logged_data, something_left_out

DAY_MS = 86_400_000
# Requests of a day each: user, policy version, eligible items at the top, what was shown from the top.
REQUESTS = [
    ("u", "small", 4, "ab"),
    ("v", "small", 4, "ba"),
    ("u", "small", 4, "cd"),
    ("v", "large", 6, "ef"),
    ("u", "large", 4, "fe"),
    ("v", "large", 6, "ab"),
    ("u", "large", 4, "ba"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoggedData, list[str]]:
    """Everybody likes what is on top; the catalogue grows from four items to six."""
    folder: Path = tmp_path_factory.mktemp("grown")
    events = open_events(str(folder))
    policy = {"arm": "b", "epsilon": 1.0, "temperature": 1.0, "k": 2, "degraded": False, "context": "{}", "history": []}
    for day, (user_id, version, n_eligible, slate) in enumerate(REQUESTS, start=1):
        request_id, at = f"r{day}", {"timestamp": day * DAY_MS}
        events.append(
            "requests", [{"request_id": request_id, "user_id": user_id, "policy_version": version, **policy, **at}]
        )
        shown = [
            {"request_id": request_id, "position": position, "item_id": item, "source": "x", "propensity": 0.25,
             "n_eligible": n_eligible - position}
            for position, item in enumerate(slate)
        ]  # fmt: skip
        events.append("impressions", shown)
        liked = {"event_id": f"e{day}", "request_id": request_id, "item_id": slate[0], "action": "liked"}
        events.append("feedback", [liked | at | {"received_at": day * DAY_MS}])
    dataset = read_logged(DataConfig(name="events", path=str(folder), now_ms=10**12, positive_actions=("liked",)))
    assert dataset.rounds is not None
    assert something_left_out(dataset.rounds).tolist() == [False] * 8 + [True] * 2 + [False] * 2 + [True] * 2
    liked = dataset.interactions.positives(min_rating=0, positive_actions=("liked",))
    encoders = Encoders.fit(dataset, liked)
    built = build_logged_data(dataset, encoders, liked, QueriesConfig(snapshots=1), end_ms=99 * DAY_MS)
    return built, [str(item) for item in dataset.interactions.item_ids]


def test_a_catalogue_that_has_grown_closes_nothing_for_earlier_requests(data):
    """But below r5 and r7, where two fewer were eligible than the same policy could show; there what u had liked is."""
    logged, names = data
    banned = [
        {names[item] for item in logged.banned[logged.banned_start[row] : logged.banned_start[row + 1]]}
        for row in range(len(logged.item))
    ]
    assert banned[:8] == [set(), {"a"}, set(), {"b"}, set(), {"c"}, set(), {"e"}]
    assert banned[8:12] == [{"a", "c"}, {"a", "c", "f"}, set(), {"a"}]
    # What u had liked was shown below r7 all the same, so there it cannot have been closed.
    assert banned[12:] == [{"a", "c", "f"}, {"b", "c", "f"}]


def test_propensities_are_those_of_the_log(data):
    assert (data[0].propensity == 0.25).all()
