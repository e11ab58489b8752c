"""The log of a running service: what was answered and acknowledged is there once, and can be evaluated."""

import asyncio
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

from rec.cli import main
from rec.data.events import EventTables, open_events
from rec.data.rounds import read_rounds
from rec.recommender import Recommender
from serve.config import LogConfig, PolicyConfig, ServeConfig, SessionsConfig
from serve.event_log import now_ms
from serve.load import Reply, post_all

REWARDS = {"watched": 1.0, "skipped": -2.0}
N_REQUESTS = 200


def post(address: str, bodies: list[dict]) -> list[Reply]:
    return asyncio.run(post_all(address, [json.dumps(body).encode() for body in bodies], clients=8))


def committers() -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "ServeReplica:logged:log" in " ".join(process.info["cmdline"] or []):
            found.append(process.pid)
    return found


def wait_for(events: EventTables, n_feedback: int) -> None:
    deadline = monotonic() + 60
    while len(events.read("feedback")) < n_feedback and monotonic() < deadline:
        sleep(0.2)


@pytest.mark.slow
def test_what_is_served_is_logged_once_and_can_be_evaluated(
    deploy: Callable[[str, ServeConfig], str], home: str, recommender: Recommender, tmp_path: Path, capsys
):
    """Two replicas, of which feedback reaches either; the process that writes the tables is killed half-way.

    What users did anything with is not shown to them again.
    """
    own = str(shutil.copytree(home, tmp_path / "home", ignore=shutil.ignore_patterns("events", "spool", "runs")))
    config = ServeConfig(
        home=own,
        replicas=2,
        replica_cpus=0.05,
        policy=PolicyConfig(epsilon=0.1, temperature=0.5),
        rewards=REWARDS,
        log=LogConfig(commit_s=0.2),
        sessions=SessionsConfig(timeout_s=60),
    )
    address, events = deploy("logged", config), open_events(own)
    users = [str(user_id) for user_id in recommender.snapshot.user_ids[:40]]
    answers, n_sent, answered = {}, 0, set[tuple[str, str]]()
    for part in range(2):
        asked = [{"user_id": users[number % len(users)], "n": 4} for number in range(N_REQUESTS // 2)]
        replies = post(f"{address}/v1/recommend", asked)
        assert {reply.status for reply in replies} == {200}
        given = [json.loads(reply.body) for reply in replies]
        asked_by = {answer["request_id"]: body["user_id"] for body, answer in zip(asked, given, strict=True)}
        assert answered.isdisjoint(
            (asked_by[each["request_id"]], item["item_id"]) for each in given for item in each["items"]
        )
        answers |= {answer["request_id"]: answer for answer in given}
        sent = [
            {
                "request_id": answer["request_id"],
                "item_id": item["item_id"],
                "action": "watched" if int.from_bytes(item["item_id"].encode()[-1:]) % 2 else "skipped",
                "event_id": f"e{item['position']}",
            }
            for answer in given
            for item in answer["items"][:2]
        ]
        accepted = post(f"{address}/v1/feedback", sent)
        again = post(f"{address}/v1/feedback", sent)
        assert {reply.status for reply in accepted + again} == {202}
        assert {reply.body for reply in accepted} == {b'{"accepted":1,"duplicates":0}'}
        assert {reply.body for reply in again} == {b'{"accepted":0,"duplicates":1}'}
        answered |= {(asked_by[event["request_id"]], event["item_id"]) for event in sent}
        n_sent += len(sent)
        if part == 0:
            (committer,) = committers()
            os.kill(committer, signal.SIGKILL)
    wait_for(events, n_sent)

    assert Counter(events.read("requests")["request_id"].to_pylist()) == Counter(list(answers))
    impressions = events.read("impressions").to_pylist()
    logged = {(row["request_id"], row["position"]): (row["item_id"], row["propensity"]) for row in impressions}
    assert len(logged) == len(impressions)
    assert logged == {
        (request_id, item["position"]): (item["item_id"], item["propensity"])
        for request_id, answer in answers.items()
        for item in answer["items"]
    }
    assert len(events.read("feedback")) == n_sent

    later = now_ms() + 2 * 86_400_000
    rounds = read_rounds(events, rewards=REWARDS, now_ms=later)
    assert len(rounds) == len(impressions) and rounds.dropped == {}
    rewards = ["--rewards", *(text for name, value in REWARDS.items() for text in (name, str(value)))]
    arguments = ["ope", "--home", own, *rewards, "--temperature", "0.5", "--now-ms", str(later), "--json"]
    capsys.readouterr()
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["n_requests"] == N_REQUESTS and answer["weights"]["mean"] == 1.0
    earned = sum(rounds.reward) / N_REQUESTS
    assert abs(answer["estimates"]["cascade"]["value"] - earned) < 1e-9, "the logging policy's own value"
