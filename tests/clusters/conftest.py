"""Ray clusters of several nodes on this machine, with a token and an object store, as they are elsewhere.

Every node is started by `ray start --block` and told by a mark in its environment, which all its processes inherit:
so a node can be killed as a whole, and nothing else is.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import psutil
import pytest

MARK: Final = "TANDEM_TEST_NODE"
RAYLET: Final = "raylet/raylet"
HOST: Final = "127.0.0.1"
PATIENCE_S: Final = 240.0
# Of Serve's proxies: as nodes share this machine, each has ports of its own, and people come to the head's HAProxy.
PORTS: Final = (
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
    "RAY_SERVE_WORKER_PROXY_HTTP_PORT",
)
# Where HAProxy keeps its files, each node's in a folder of its own there.
HAPROXY: Final = {
    "CONFIG_FILE_LOC": "haproxy.cfg",
    "SOCKET_PATH": "admin.sock",
    "SERVER_STATE_BASE": "",
    "SERVER_STATE_FILE": "server-state",
    "METRICS_SOCKET_PATH": "metrics.sock",
}


def wait_until(true: Callable[[], Any], what: str | Callable[[], str], patience_s: float = PATIENCE_S) -> Any:
    """What is found, once there is something; else the test fails and says what there is not."""
    deadline = time.monotonic() + patience_s
    while not (found := true()):
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(0.1)
    return found


def free_port() -> int:
    """A port that Ray's workers do not take, whose own are 10002 to 19999."""
    while True:
        with closing(socket.socket()) as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        if port > 20_000:
            return port


@final
@dataclass(frozen=True)
class Node:
    """A node of a cluster: the mark of its processes, the command that started it, and what was asked of `start`.

    Where the cluster grows by itself, the nodes it starts are processes of its head.
    """

    mark: str
    process: subprocess.Popen[bytes]
    asked: tuple[Any, bool]

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Those of its processes, all or whose title has a name in it, such as RayTrainWorker."""
        found = []
        for each in psutil.process_iter():
            try:
                ours = each.environ().get(MARK) == self.mark and each.status() != psutil.STATUS_ZOMBIE
                if ours and name in " ".join(each.cmdline()):
                    found.append(each)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    @property
    def n_raylets(self) -> int:
        """Its own, and one of each node that it started."""
        return len(self.processes(RAYLET))

    @property
    def killed(self) -> bool:
        """Whether it was killed, and did not end by itself."""
        return self.process.returncode == -signal.SIGKILL

    def kill(self) -> None:
        """All its processes: the raylet first, which starts the others, then whatever it had started."""
        while left := self.processes():
            raylets = self.processes(RAYLET)
            for each in sorted(left, key=lambda process: process not in raylets):
                try:
                    each.kill()
                except psutil.NoSuchProcess:
                    continue
        self.process.wait()


@final
class LocalCluster:
    """A cluster whose nodes are on this machine.

    Attributes: environment: of nodes, and of whoever uses the cluster. address: of its head. dashboard: where jobs go.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Nothing is started yet."""
        self._folder = Path(tempfile.mkdtemp(prefix="tc-"))
        self.nodes: list[Node] = []
        self.address, self.dashboard = f"{HOST}:{free_port()}", f"http://{HOST}:{free_port()}"
        # Who is gone is noticed within seconds, and who is slow is not taken for gone.
        soon = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "10000"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        self.environment = {
            **inherited,
            **soon,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            "TANDEM_CACHE": str(self._folder / "cache"),
            "OMP_NUM_THREADS": "1",
            **{f"RAY_SERVE_HAPROXY_{name}": str(self._folder / file) for name, file in HAPROXY.items()},
            **environment,
        }

    def start(self, cpus: int, *more: str, head: bool = False) -> Node:
        """Starts a node."""
        mark = secrets.token_hex(4)
        if head:
            own = ["--head", "--port", self.address.rpartition(":")[2]]
            own += ["--dashboard-host", HOST, "--dashboard-port", self.dashboard.rpartition(":")[2]]
            own += ["--ray-client-server-port", str(free_port())]
        else:
            own = ["--address", self.address]
        # Ports of workers are any that are free, as several nodes share this machine's.
        shared = ["--min-worker-port", "0", "--max-worker-port", "0", "--dashboard-agent-listen-port", "0"]
        size = ["--num-cpus", str(cpus), "--object-store-memory", str(100 * 2**20)]
        # Nodes that shared a folder would overwrite the working directories that the others' processes are in.
        own += ["--temp-dir", str(self._folder / mark)]
        command = ["ray", "start", "--block", "--disable-usage-stats", "--node-ip-address", HOST]
        alone = {MARK: mark, "TANDEM_CACHE": str(self._folder / f"{mark}-cache")}
        alone |= {name: str(free_port()) for name in PORTS}
        with (self._folder / f"{mark}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, *own, *shared, *size, *more],
                env={**self.environment, **alone},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node = Node(mark, process, ((cpus, *more), head))
        self.nodes.append(node)
        return node

    def wait(self, cpus: int) -> None:
        """Waits until the nodes have joined."""
        look = f"while ray.cluster_resources().get('CPU', 0) < {cpus}: time.sleep(0.2)"
        code, said = f"import ray, time\nray.init(log_to_driver=False)\n{look}", ""

        def has_cpus() -> bool:
            nonlocal said
            for node in [*self.nodes]:
                # Ray gives a node 30 seconds to start, which a busy machine does not always have.
                if node.process.poll() is not None and not node.killed:
                    node.kill()
                    self.nodes.remove(node)
                    self.start(*node.asked[0], head=node.asked[1])
            try:
                done = self.run(sys.executable, "-c", code, timeout_s=60)
            except subprocess.TimeoutExpired as error:
                # Whoever joins a head that ends meanwhile waits for it.
                said = str(error.stderr or error)
                return False
            said = done.stderr
            return done.returncode == 0

        wait_until(has_cpus, lambda: f"the cluster did not get {cpus} CPUs: {said[-2000:]}\n{self.logs()}")

    def run(self, *command: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Runs a command that finds the cluster by its environment."""
        return subprocess.run(command, env=self.driver, capture_output=True, text=True, timeout=timeout_s)

    @property
    def driver(self) -> dict[str, str]:
        """The environment of a program that joins the cluster."""
        return {**self.environment, "RAY_ADDRESS": self.address}

    def tandem(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts `tandem ...` as a program that joins the cluster."""
        return subprocess.Popen(
            [sys.executable, "-u", "-c", "from rec.cli import entry; entry()", *arguments, "--json"],
            env=self.driver,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def logs(self) -> str:
        """What the nodes said."""
        return "\n".join(file.read_text(errors="replace")[-2000:] for file in self._folder.glob("*.log"))

    def stop(self) -> None:
        """Ends all nodes, the head last."""
        for node in reversed(self.nodes):
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        for node in reversed(self.nodes):
            try:
                node.process.wait(20)
            except subprocess.TimeoutExpired:
                pass
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="module")
def clusters(store: dict[str, str]) -> Iterator[Callable[..., LocalCluster]]:
    """Makes clusters that have the object store; they are stopped when the module's tests have ended."""
    made: list[LocalCluster] = []

    def make(**environment: str) -> LocalCluster:
        made.append(LocalCluster({**store, **environment}))
        return made[-1]

    yield make
    for cluster in made:
        cluster.stop()


@pytest.fixture(scope="session", name="wait_until")
def _wait_until() -> Callable[..., Any]:
    return wait_until
