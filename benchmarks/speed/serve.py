"""Serving speed: ours on Ray Serve, and plain FastAPI on uvicorn doing identical work, taking turns.

    python benchmarks/speed/serve.py --home .tandem     a quarter of an hour; writes benchmarks/results/serve.json

All servers answer POST /v1/recommend from the same bundle with the same stage classes, and no log but where it says
so. The clients are in this process and share the machine with the servers (serve.load: one connection each, about 0.1
ms of processor time a request). `ours` is one replica behind HAProxy in throughput mode, as `tandem serve` starts it;
`peer` is one uvicorn process with an ordinary FastAPI route (serve_peers.py). Among the rows: our own ASGI
application on uvicorn, which is what a peer could be at best; ours with the log on; two replicas; the distributed
layout; Serve's default proxy. All compute with one thread, as Ray's replicas do: more of them slow such small models
down.
"""

import argparse
import asyncio
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any, Final
from urllib.request import urlopen

import numpy as np

ROOT: Final = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # the folder of this script, in which `serve` would be this script

from benchmarks.results import command, machine, write_result  # noqa: E402
from rec.bundle import git_sha  # noqa: E402
from serve.load import Reply, post_all  # noqa: E402
from serve.ports import free_port  # noqa: E402

CLIENTS: Final = (1, 32)
DEFAULT_PROXY: Final = {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"}
TANDEM: Final = "import json, sys; from serve.app import *; run(ServeConfig.model_validate(json.loads(sys.argv[1])))"
OURS: Final = "ours"
PEER: Final = "fastapi"
UVICORN: Final = {PEER: "plain_fastapi", "asgi": "our_asgi"}
# Every group of servers is measured beside the peer; the servers of one group take turns.
GROUPS: Final = (
    (OURS, "asgi"),
    ("ours, log on",),
    ("ours, 2 replicas",),
    ("ours, distributed",),
    ("ours, default proxy",),
    ("ours, distributed, default proxy",),
)


def main() -> None:
    options = arguments()
    home = str(Path(options.home).absolute())
    user_ids = known_users(home)
    rows = []
    for place, servers in enumerate(GROUPS):
        repeats = options.repeats if place == 0 else max(2, options.repeats // 4)
        with ExitStack() as running:
            addresses = {name: running.enter_context(server(name, home)) for name in (*servers, PEER)}
            measured = measure(addresses, user_ids, repeats, options.requests)
        rows += measured
        for row in measured:
            print(line(row), flush=True)
    report = summary(rows)
    write_result(report)
    for what, part in (("p50 at 1 client", report), ("throughput at 32 clients", report["throughput"])):
        print(f"{what}: {part['ratio']:.2f} x the peer's [{part['ratio_low']:.2f}, {part['ratio_high']:.2f}]")
    print("where it goes, in ms at the median:", ", ".join(f"{hop} {ms:.2f}" for hop, ms in report["hops_ms"].items()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", default=os.environ.get("TANDEM_HOME", "./.tandem"), help="where the bundle is")
    parser.add_argument(
        "--repeats", type=int, default=20, help="turns of the first group; a quarter of it for the others"
    )
    parser.add_argument("--requests", type=int, default=1_000, help="of each turn")
    return parser.parse_args()


def known_users(home: str) -> list[str]:
    import rec

    return [str(user_id) for user_id in rec.load(home).snapshot.user_ids]


@contextmanager
def server(name: str, home: str) -> Iterator[str]:
    """Starts a server in a process of its own and yields its address when it answers."""
    port = free_port("127.0.0.1", 0)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TANDEM_HOME": home,
        **(DEFAULT_PROXY if "default proxy" in name else {}),
    }
    process = subprocess.Popen(server_command(name, home, port), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, process)
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def server_command(name: str, home: str, port: int) -> list[str]:
    """What starts a server; from the root, where `serve` is the package."""
    if name in UVICORN:
        app = f"benchmarks.speed.serve_peers:{UVICORN[name]}"
        quiet = ["--log-level", "warning", "--no-access-log"]
        return [sys.executable, "-m", "uvicorn", "--factory", app, "--host", "127.0.0.1", "--port", str(port), *quiet]
    config = {
        "home": home,
        "port": port,
        "layout": "distributed" if "distributed" in name else "single",
        "replicas": 2 if "2 replicas" in name else 1,
        "log": {"enabled": "log on" in name},
    }
    return [sys.executable, "-c", TANDEM, json.dumps(config)]


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + 180
    while process.poll() is None and monotonic() < deadline:
        try:
            with urlopen(f"{address}/health/ready", timeout=5):
                return
        except OSError:
            sleep(0.1)
    raise RuntimeError(f"{process.args} did not get ready")


def measure(addresses: dict[str, str], user_ids: Sequence[str], repeats: int, requests: int) -> list[dict[str, Any]]:
    """Turns of every server, with one client and with many; rows of milliseconds and ratios to the peer by turn."""
    rows = []
    for clients in CLIENTS:
        turns: dict[str, list[list[Reply]]] = {name: [] for name in addresses}
        for turn in range(-1, repeats):
            bodies = [json.dumps({"user_id": user_id}).encode() for user_id in users_of_turn(user_ids, turn, requests)]
            for name, address in addresses.items():
                replies = asyncio.run(post_all(f"{address}/v1/recommend", bodies, clients=clients))
                failed = [reply for reply in replies if reply.status != 200]
                if failed:
                    raise RuntimeError(f"{name} answered {failed[0].status}: {failed[0].body[:500]!r}")
                if turn >= 0:
                    turns[name].append(replies)
        for name in addresses:
            rows.append(row(name, clients, turns[name], turns[PEER]))
    for name, address in addresses.items():
        if name != PEER:
            rows[list(addresses).index(name)]["stages_ms"] = stage_times(address, user_ids[:500])
    return rows


def users_of_turn(user_ids: Sequence[str], turn: int, requests: int) -> list[str]:
    return [user_ids[(turn * requests + place) % len(user_ids)] for place in range(requests)]


def stage_times(address: str, user_ids: Sequence[str]) -> dict[str, float]:
    """Median milliseconds of each stage, as `explain` tells them, with one client."""
    bodies = [json.dumps({"user_id": user_id, "explain": True}).encode() for user_id in user_ids]
    replies = asyncio.run(post_all(f"{address}/v1/recommend", bodies, clients=1))
    reports = [json.loads(reply.body)["stages"] for reply in replies]
    names = [stage["name"] for stage in reports[0]]
    return {name: median(report[place]["ms"] for report in reports) for place, name in enumerate(names)}


def line(row: dict[str, Any]) -> str:
    times = (
        f"p50 {row['median']:7.2f} ms ({row['ratio']:.2f} x the peer's)  p10 {row['p10']:7.2f}  p90 {row['p90']:7.2f}"
    )
    rates = f"{row['requests_per_s']:6.0f} requests/s ({row['rate_ratio']:.2f} x)"
    return f"{row['server']:<32} {row['clients']:>2} clients  {times}  {rates}"


def row(name: str, clients: int, turns: list[list[Reply]], peer: list[list[Reply]]) -> dict[str, Any]:
    times = np.array([milliseconds(turn) for turn in turns])
    rates = np.array([rate(turn) for turn in turns])
    by_time = np.median(times, axis=1) / [np.median(milliseconds(turn)) for turn in peer]
    by_rate = rates / [rate(turn) for turn in peer]
    return {
        "server": name,
        "clients": clients,
        "repeats": len(turns),
        **quantiles(times),
        **dict(zip(("ratio", "ratio_low", "ratio_high"), geometric_mean(by_time), strict=True)),
        "requests_per_s": float(np.median(rates)),
        "requests_per_s_p10": float(np.quantile(rates, 0.1)),
        "requests_per_s_p90": float(np.quantile(rates, 0.9)),
        **dict(zip(("rate_ratio", "rate_ratio_low", "rate_ratio_high"), geometric_mean(by_rate), strict=True)),
    }


def milliseconds(turn: Sequence[Reply]) -> np.ndarray:
    return np.array([(reply.ended - reply.started) * 1000 for reply in turn])


def rate(turn: Sequence[Reply]) -> float:
    return len(turn) / (max(reply.ended for reply in turn) - min(reply.started for reply in turn))


def quantiles(values: np.ndarray) -> dict[str, float]:
    return {name: float(np.quantile(values, q)) for name, q in (("median", 0.5), ("p10", 0.1), ("p90", 0.9))}


def geometric_mean(ratios: np.ndarray) -> tuple[float, float, float]:
    """Of paired ratios, with two standard errors to either side."""
    logs = np.log(ratios)
    error = 2 * logs.std(ddof=1) / math.sqrt(len(logs))
    return math.exp(logs.mean()), math.exp(logs.mean() - error), math.exp(logs.mean() + error)


def hops(ours: dict[str, Any], asgi: dict[str, Any]) -> dict[str, float]:
    """Where the milliseconds of one client go: each stage, HTTP and JSON around them, Serve and HAProxy around that."""
    stages: dict[str, float] = ours["stages_ms"]
    outside = {
        "http and json": asgi["median"] - sum(stages.values()),
        "serve and haproxy": ours["median"] - asgi["median"],
    }
    return stages | outside


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The file of results: p50 at one client on top, throughput at 32, then everything measured."""

    def find(name: str, clients: int) -> dict[str, Any]:
        return next(row for row in rows if (row["server"], row["clients"]) == (name, clients))

    def rates(row: dict[str, Any]) -> dict[str, float]:
        return {
            "median": row["requests_per_s"],
            "p10": row["requests_per_s_p10"],
            "p90": row["requests_per_s_p90"],
        }

    def times(row: dict[str, Any]) -> dict[str, float]:
        return {name: row[name] for name in ("median", "p10", "p90")}

    ours, peer = find(OURS, 1), find(PEER, 1)
    many, peer_many = find(OURS, 32), find(PEER, 32)
    about = peer_version()
    return {
        "name": "serve",
        "command": command(),
        "git_sha": git_sha(),
        "machine": {**machine(), "load_average": os.getloadavg()[0]},
        "unit": "ms",
        "repeats": ours["repeats"],
        "ours": times(ours),
        "peer": {**about, **times(peer)},
        **{name: ours[name] for name in ("ratio", "ratio_low", "ratio_high")},
        "hops_ms": hops(ours, find("asgi", 1)),
        "throughput": {
            "unit": "requests/s",
            "clients": 32,
            "ours": rates(many),
            "peer": {**about, **rates(peer_many)},
            "ratio": many["rate_ratio"],
            "ratio_low": many["rate_ratio_low"],
            "ratio_high": many["rate_ratio_high"],
        },
        "rows": rows,
    }


def peer_version() -> dict[str, str]:
    import fastapi
    import uvicorn

    return {"name": "FastAPI on uvicorn, one process", "version": f"{fastapi.__version__}, {uvicorn.__version__}"}


if __name__ == "__main__":
    main()
