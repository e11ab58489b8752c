"""People of the world use a service over HTTP, and what its log says a policy earns is what they get from it."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

from rec.bundle_policy import bundle_policy
from rec.cli import main
from rec.cli.simulate import API_KEY
from rec.data.events import open_events
from rec.data.rounds import read_rounds
from rec.eligibility import Eligible
from rec.ope.slate_log import slate_log
from rec.policy import sample_slate
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import REWARDS as REWARD_OF
from rl.instatok.sessions import Sessions as Viewing
from rl.instatok.world import ACTIONS, InstaTok
from serve.api import Api
from serve.app import wait_until_ready
from serve.arms import Arms
from serve.arrivals import Arrivals
from serve.committer import Committer
from serve.config import PolicyConfig, ServeConfig, SessionsConfig
from serve.event_log import now_ms
from serve.gateway import Gateway
from serve.guard import Guard
from serve.keys import KeyStore
from serve.request_log import RequestLog, spool_folder
from serve.sessions import MemorySessions, Sessions
from serve.stages import Stages

REWARDS: dict[str, float] = dict(zip(ACTIONS, REWARD_OF.tolist(), strict=True))
# Sessions end at the end of a slate, so that every slate is worth the same to its user.
WORLD: dict[str, Any] = {"n_users": 60, "n_videos": 300, "seed": 1, "max_steps": 48}
N = 3
LOGGING = PolicyConfig(epsilon=0.5, temperature=0.5)
# What all but the last show is in the log often enough: an effective sample size of a tenth of the slates and more. The
# last has half a hundredth, and no interval by standard error is to be believed then, as the command says.
POLICIES = {
    "logging": LOGGING,
    "bolder": PolicyConfig(epsilon=0.1, temperature=0.5),
    "uniform": PolicyConfig(epsilon=1.0, temperature=0.5),
    "far": PolicyConfig(epsilon=0.1, temperature=0.1),
}

Serving = Callable[..., Any]


@pytest.fixture
def own_home(home: str, tmp_path: Path) -> str:
    """The home with a log of its own."""
    return str(shutil.copytree(home, tmp_path / "home", ignore=shutil.ignore_patterns("events", "spool", "runs")))


@contextmanager
def served(recommender: Recommender, home: str, *, sessions: bool, **more: Any) -> Iterator[str]:
    """The address of a service in this process; afterwards its log is in the tables."""
    options = {"rewards": REWARDS, "policy": LOGGING, "seed": 0, "body_timeout_s": 60, "deadline_s": 60, **more}
    config = ServeConfig(home=home, **options)
    arms = Arms.of_config(config, recommender.version, {recommender.version: Stages.here(recommender, config)})
    remembered = Sessions(MemorySessions(SessionsConfig()), 60) if sessions else None
    log = RequestLog.open(config, arms.versions)
    api = Api(Gateway(arms, Registry(Home(home)), log, sessions=remembered), config, Guard(config))
    server = uvicorn.Server(uvicorn.Config(api, log_level="warning", lifespan="off"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            wait_until_ready(address)
            yield address
        finally:
            server.should_exit = True
            thread.join()
            log.close()
    committer = Committer(spool_folder(config), open_events(home))
    committer.commit()
    committer.close()


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def simulate(capsys: pytest.CaptureFixture[str], address: str, visits: int, *more: str) -> dict[str, Any]:
    world = [text for name, value in WORLD.items() for text in (f"--world.{name.replace('_', '-')}", str(value))]
    return command(capsys, "simulate", "--url", address, "--visits", str(visits), "--n", str(N), *world, *more)


def test_people_visit_and_what_they_did_is_logged(
    recommender: Recommender, own_home: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    plot = tmp_path / "curve.html"
    with served(recommender, own_home, sessions=True) as address:
        answer = simulate(capsys, address, 70, "--clients", "8", "--points", "4", "--plot", str(plot))
    events = open_events(own_home)
    requests, feedback = events.read("requests"), events.read("feedback")
    asked = answer["requests"]["/v1/recommend"]
    assert (asked["n"], asked["failed"]) == (len(requests), {}) and asked["p50_ms"] <= asked["p99_ms"]
    assert answer["requests"]["/v1/feedback"]["failed"] == {} and answer["cut_off"] == 0
    assert answer["policy_versions"] == {recommender.version: len(requests)}
    assert set(requests["user_id"].to_pylist()) == {f"user-{number}" for number in range(60)}
    logged = sum(REWARDS[action] for action in feedback["action"].to_pylist())
    assert logged == pytest.approx(answer["reward"]["value"] * 70)
    assert len(feedback) == round(answer["reward"]["items"] * 70)
    assert [point["first"] for point in answer["curve"]] == [0, 18, 35, 52] and answer["curve"][-1]["last"] == 69
    assert sum(point["value"] * point["n"] for point in answer["curve"]) == pytest.approx(
        answer["reward"]["value"] * 70
    )
    assert "plotly" in plot.read_text(encoding="utf-8")

    # Ranked anew, a request has the candidates and scores it had, whatever its user had done meanwhile; up to ties that
    # the rounding of many rows at once breaks otherwise, as for golden queries.
    log = slate_log(read_rounds(events, rewards=REWARDS, now_ms=now_ms() + 2 * 86_400_000))
    anew = bundle_policy(recommender, log, epsilon=log.logging.epsilon, temperature=log.logging.temperature)
    assert len(log) == len(requests) and sum(map(len, log.excluded)) > len(requests)
    assert anew.candidates.shape == log.logging.candidates.shape
    same = (anew.candidates == log.logging.candidates) & np.isclose(anew.scores, log.logging.scores, rtol=1e-5)
    assert same.all(axis=1).mean() >= 0.95


def test_at_a_rate_waiting_counts_and_people_come_by_the_clock(
    recommender: Recommender, own_home: str, capsys: pytest.CaptureFixture[str]
):
    """All but at once with one client, each waits for all before; with gaps that the seed says, nobody comes early."""
    with served(recommender, own_home, sessions=False) as address:
        rushed = simulate(capsys, address, 30, "--clients", "1", "--rate", "10000")
        spread = simulate(capsys, address, 10, "--clients", "10", "--rate", "10")
        closed = simulate(capsys, address, 30, "--clients", "1")
    asked = rushed["requests"]["/v1/recommend"]
    assert asked["p99_ms"] > 500 * rushed["seconds"] and not rushed["rate"]["kept"] and closed["rate"] is None
    assert rushed["rate"]["late"] > 15 and rushed["rate"]["latest_s"] > rushed["seconds"] / 2
    due = Arrivals(10, 10, np.random.default_rng(np.random.SeedSequence(0, spawn_key=(2,))))._due_s
    assert spread["seconds"] > due[-1] and spread["rate"]["asked_per_s"] == 10 and spread["cut_off"] == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nowhere"])
def test_where_nothing_answers_it_says_so(url: str, capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", "--url", url, "--json"]) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert error["field"] == "url" and url in error["message"]


def test_a_service_of_another_world_is_named(
    recommender: Recommender, own_home: str, capsys: pytest.CaptureFixture[str]
):
    with served(recommender, own_home, sessions=False) as address:
        assert main(["simulate", "--url", address, "--visits", "9", "--world.n-videos", "1", "--json"]) == 2
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert error["field"] == "world" and "video-" in error["message"]


def test_a_service_that_ends_every_visit_is_no_success_and_no_kept_rate(
    recommender: Recommender, own_home: str, capsys: pytest.CaptureFixture[str]
):
    asked = ["simulate", "--visits", "6", "--n", str(N), "--rate", "100", "--world.n-users", "60"]
    with served(recommender, own_home, sessions=False, rewards={"bought": 1.0}) as address:
        assert main([*asked, "--url", address, "--world.n-videos", "300", "--world.seed", "1", "--json"]) == 1
    told = capsys.readouterr()
    answer = json.loads(told.out.splitlines()[-1])
    assert answer["ok"] is False and "6 visits" in answer["error"]["message"] and answer["cut_off"] == 6
    assert not answer["rate"]["kept"] and answer["requests"]["/v1/feedback"]["failed"] == {"422": 6}
    assert "as asked" not in told.err and "ended 6 of 6" in told.err


def test_a_service_that_wants_a_key_is_told_one_by_the_environment(
    recommender: Recommender, own_home: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    store = KeyStore(Home(own_home))
    keys = {"open": ("recommend", "feedback"), "half": ("recommend",)}
    texts = {name: store.create(name, roles, now_ms=1)[1] for name, roles in keys.items()}
    with served(recommender, own_home, sessions=False, keys="required") as address:
        for text, status in ((None, 401), ("nonsense", 401), (texts["half"], 403)):
            monkeypatch.delenv(API_KEY, raising=False)
            if text is not None:
                monkeypatch.setenv(API_KEY, text)
            assert main(["simulate", "--url", address, "--visits", "6", "--world.n-users", "60", "--json"]) == 2
            error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
            assert error["type"] == "ConfigError" and API_KEY in error["message"] and str(status) in error["message"]
        monkeypatch.setenv(API_KEY, texts["open"])
        assert simulate(capsys, address, 6)["cut_off"] == 0


def true_values(recommender: Recommender, policy: PolicyConfig, n_slates: int) -> dict[str, float]:
    """What a slate is worth to each user, from many slates drawn and watched without the service or its log."""
    world, rng = InstaTok(InstaTokConfig(**WORLD)), np.random.default_rng(3)
    position_of = {item_id: position for position, item_id in enumerate(world.item_ids)}
    video = np.array([position_of[item_id] for item_id in recommender.item_ids])
    values = {}
    for user, user_id in enumerate(world.user_ids):
        states = recommender.hydrate([user_id])
        candidates = recommender.retrieve(states)
        scores = recommender.rank(states, candidates)
        slate = sample_slate(
            np.repeat(scores, n_slates, axis=0),
            np.repeat(candidates.items, n_slates, axis=0),
            Eligible(
                recommender.n_items, np.arange(n_slates + 1) * len(states.excluded), np.tile(states.excluded, n_slates)
            ),
            N,
            epsilon=policy.epsilon,
            temperature=policy.temperature,
            rng=rng,
        )
        viewing = Viewing(world, np.full(n_slates, user))
        values[user_id] = float(viewing.view_slates(video[slate.item_ids], rng).reward.sum(axis=1).mean())
    return values


@pytest.mark.slow
def test_the_log_tells_the_value_of_its_own_policy_and_of_others(
    recommender: Recommender, own_home: str, capsys: pytest.CaptureFixture[str]
):
    """One client and no memory of sessions, so that a slate's worth follows from its user, and draws from the seed."""
    with served(recommender, own_home, sessions=False) as address:
        answer = simulate(capsys, address, 900, "--clients", "1")
    assert answer["cut_off"] == 0
    requests = open_events(own_home).read("requests")
    users, counts = np.unique(requests["user_id"].to_pylist(), return_counts=True)
    later = str(now_ms() + 2 * 86_400_000)
    asked = ["ope", "--home", own_home, "--now-ms", later, "--rewards"]
    asked += [text for name, value in REWARDS.items() for text in (name, str(value))]
    for name, policy in POLICIES.items():
        values = true_values(recommender, policy, 2_000)
        # People who like what they see ask more often: the log's mean is over requests, and so is this.
        true = float(np.average([values[user] for user in users], weights=counts))
        drawn = ["--epsilon", str(policy.epsilon), "--temperature", str(policy.temperature)]
        told = command(capsys, *asked, *drawn)
        cascade = told["estimates"]["cascade"]
        low, high = cascade["interval"]["low"], cascade["interval"]["high"]
        n, ess = told["weights"]["n"], told["weights"]["ess"]
        with capsys.disabled():
            print(f"\n{name}: true {true:.3f}, told {cascade['value']:.3f} [{low:.3f}, {high:.3f}], ess {ess:.0f}/{n}")
        if name == "far":
            assert any("effective sample size" in warning for warning in told["warnings"])
            continue
        assert low <= true <= high, name
        for estimator, estimate in told["estimates"].items():
            assert abs(estimate["value"] - true) <= 4 * estimate["std_error"], (name, estimator)
