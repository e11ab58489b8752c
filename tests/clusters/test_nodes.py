"""Training, a search and a service on several nodes, one of which is killed in the middle.

    python -m pytest -m slow tests/clusters/test_nodes.py -s

The home is in an object store. The nodes are simulated, so they share this machine's disk as well.
"""

import asyncio
import json
import shlex
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from rec.cli.simulate import FEEDBACK, RECOMMEND, HttpService
from rec.data.events import open_events
from rec.recommender import Recommender
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok.people import People, Visit
from rl.instatok.world import InstaTok
from serve.load import Reply
from tune.trials import Trial, Trials

ROOT: Final = Path(__file__).parents[2]
WORLD: Final = {"n_users": 80, "n_videos": 300, "sessions_per_user": 8, "seed": 1}
SMALL: Final = {
    "retriever": {"output_dim": 16, "queries": {"min_batches": 5}},
    "training": {"workers": 0, "epochs": 2},
    "ranker": {"n_candidates": 60, "min_positives": 1, "lambdamart": {"trees": 20, "min_data_in_leaf": 5}},
}
CLIENTS: Final = 4
# Between two visits of a client: what is left of this machine starts what takes the place of the killed.
REST_S: Final = 0.5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def home(remote_home: str) -> Home:
    return Home(remote_home)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., str]:
    """Writes what is trained, and how, into a file."""
    world = tmp_path / "world.yaml"
    world.write_text(yaml.safe_dump(WORLD), encoding="utf-8")

    def written(**changed: Any) -> str:
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump({"data": {"path": str(world)}, **SMALL, **changed}), encoding="utf-8")
        return str(file)

    return written


def serving() -> dict[str, str]:
    """What cluster.yaml says of Serve, and patience."""
    starts = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["worker_start_ray_commands"]
    said = dict(word.split("=", 1) for word in shlex.split(starts[-1]) if word.startswith("RAY_SERVE_"))
    # A busy machine is given time to start a proxy; a stopped replica is gone within seconds.
    patient = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}
    return {**said, **patient}


@pytest.fixture
def cluster(clusters: Callable[..., Any]) -> Iterator[Any]:
    """A head without CPUs, and two nodes with one each."""
    made = clusters(PYTHONPATH=str(ROOT), **serving())
    made.start(0, "--include-dashboard", "false", head=True)
    made.wait(0)
    made.start(1)
    made.start(1)
    made.wait(2)
    yield made
    made.stop()


class Said:
    """What a program has said on stderr so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.text = ""
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.text += line

    def answer(self) -> dict[str, Any]:
        """What it answers in JSON at its end."""
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait(600)
        self._thread.join()
        assert code == 0, out + self.text[-6000:]
        return json.loads([line for line in out.splitlines() if line.startswith("{")][-1])


def test_training_goes_on_when_a_node_dies(
    cluster: Any, home: Home, config: Callable[..., str], wait_until: Callable[..., Any]
) -> None:
    """On two nodes with a worker each; the third takes the place of the one that is killed."""
    cluster.start(1)
    cluster.wait(3)
    long = {"retriever": {"output_dim": 16, "queries": {"min_batches": 400}}, "training": {"workers": 2, "epochs": 3}}
    said = Said(cluster.tandem("train", "--config", config(**long), "--home", home.location))
    wait_until(lambda: "epoch 1 " in said.text, "no epoch ends")

    def training() -> list[Any]:
        return [node for node in cluster.nodes if node.processes("RayTrainWorker")]

    with_workers = training()
    assert len(with_workers) == 2 and cluster.nodes[0] not in with_workers
    epochs = said.text.count("\nepoch ")
    with_workers[0].kill()
    killed = time.monotonic()
    wait_until(lambda: said.text.count("\nepoch ") > epochs + 1, lambda: f"it does not go on: {said.text}", 400)
    again = time.monotonic() - killed
    wait_until(lambda: len(training()) == 2, "two nodes train, also where one fit ends and the next begins")
    answer = said.answer()
    print(f"\ntrain: a node killed after {epochs + 1} epochs, two more epochs {again:.0f} s later; {answer['version']}")
    told = [line.split()[1] for line in said.text.split("fitting retriever-1")[0].splitlines() if line[:6] == "epoch "]
    assert told == sorted(told) and told[-1] == "3", f"it goes on from the last epoch: {told}"
    assert answer["workers"] == 2 and Recommender.load(home.location).version == answer["version"]
    assert answer["valid"]["ndcg@10"] > 0


def test_a_search_goes_on_when_a_node_dies(
    cluster: Any, home: Home, config: Callable[..., str], wait_until: Callable[..., Any]
) -> None:
    """Trials on both nodes; those of the one that is killed are run again on the other."""
    base = config(retriever={"output_dim": 16, "queries": {"min_batches": 200}}, training={"workers": 0, "epochs": 4})
    search = ("--base", base, "--spaces", "learning", "--trials", "4")
    said = Said(cluster.tandem("tune", *search, "--home", home.location))

    def kept() -> list[Trial]:
        return [trial for name in home.children("runs") for trial in Trials(home, f"runs/{name}").all()]

    wait_until(lambda: sum(len(trial.epochs) > 0 for trial in kept()) >= 2, "no two trials run")
    with_trials = [node for node in cluster.nodes if node.processes("ImplicitFunc")]
    assert len(with_trials) == 2
    before = {trial.name: trial.state for trial in kept()}
    with_trials[0].kill()
    answer = said.answer()
    attempts = {trial.name: trial.attempts for trial in kept()}
    print(f"\ntune: a node killed with trials {before}; at the end {answer['trials']}, attempts {attempts}")
    assert answer["trials"] == {"finished": 4, "stopped": 0, "failed": 0}
    assert all(trial.state == "finished" for trial in kept()) and max(attempts.values()) > 1
    assert answer["best"]["score"] == max(trial.measured.score for trial in kept() if trial.measured)


class Traffic:
    """People who use a service, a few at a time, until they are told to stop."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._replies: dict[str, list[Reply | None]] = {RECOMMEND: [], FEEDBACK: []}
        self.over = threading.Event()

    def __call__(self) -> list[Visit]:
        """All visits there were."""

        async def visit() -> list[Visit]:
            services = [HttpService(self._address, self._replies) for _ in range(CLIENTS)]
            world, visits = InstaTok(InstaTokConfig.model_validate(WORLD)), []

            async def rest(_service: HttpService, _number: int) -> None:
                await asyncio.sleep(REST_S)

            while not self.over.is_set():
                visits += await People(world, len(visits)).visit_all(services, CLIENTS, 4, rest)
            for service in services:
                service.close()
            return visits

        return asyncio.run(visit())

    def answers(self, path: str) -> list[Any]:
        """What was answered so far."""
        return [json.loads(reply.body) for reply in self._replies[path] if reply is not None and reply.status < 300]

    def told(self) -> str:
        """How many requests there were, and how many failed at first, and again."""
        parts = []
        for path, replies in self._replies.items():
            again = sum(reply is None or reply.attempts > 1 for reply in replies)
            failed = len(replies) - len(self.answers(path))
            parts.append(f"{path}: {len(replies)}, {again} failed at first, {failed} again")
        return "; ".join(parts)


def test_a_service_goes_on_when_a_node_dies(
    cluster: Any, home: Home, config: Callable[..., str], tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """Two replicas on two nodes; of the requests while one is killed none fails twice, and the log has each once."""
    Said(cluster.tandem("train", "--config", config(), "--home", home.location)).answer()
    options = ("--replicas", "2", "--replica-cpus", "1", "--port", "0", "--log.spool", str(tmp_path / "spool"))
    server = cluster.tandem("serve", "--home", home.location, *options, "--deadline-s", "30")
    said = Said(server)
    wait_until(lambda: "Serving model" in said.text or server.poll() is not None, lambda: f"it is not up: {said.text}")
    assert server.poll() is None, said.text

    def serving_nodes() -> list[Any]:
        return [node for node in cluster.nodes if node.processes("ServeReplica:tandem:gateway")]

    first, second = serving_nodes()
    traffic = Traffic(said.text.split("Serving model ")[1].split(" at ")[1].split()[0])
    with ThreadPoolExecutor(1) as beside:
        visits = beside.submit(traffic)

        def more(n: int) -> None:
            least = len(traffic.answers(RECOMMEND)) + n
            wait_until(lambda: visits.done() or len(traffic.answers(RECOMMEND)) >= least, "nobody is answered")

        try:
            more(100)
            first.kill()
            killed, before = time.monotonic(), len(traffic.answers(RECOMMEND))
            third = cluster.start(1)
            wait_until(lambda: serving_nodes() == [second, third], lambda: f"it has no successor: {said.text}")
            seconds, meanwhile = time.monotonic() - killed, len(traffic.answers(RECOMMEND)) - before
            more(100)
        finally:
            traffic.over.set()
        cut_off = sum(visit.cut_off for visit in visits.result())
    print(f"\nserve: a node killed; {seconds:.0f} s later a replica on another, {meanwhile} slates meanwhile")
    print(traffic.told())
    server.send_signal(signal.SIGTERM)
    assert server.wait(120) == 0, said.text
    assert meanwhile > 0 and not cut_off
    events = open_events(home)
    shown, taken = (traffic.answers(path) for path in (RECOMMEND, FEEDBACK))
    logged = Counter(events.read("requests")["request_id"].to_pylist())
    assert logged == Counter(answer["request_id"] for answer in shown)
    feedback = [(row["request_id"], row["event_id"]) for row in events.read("feedback").to_pylist()]
    assert len(set(feedback)) == len(feedback) == sum(answer["accepted"] + answer["duplicates"] for answer in taken)
