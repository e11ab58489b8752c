"""A cluster that has no CPUs until somebody asks for them, as cluster.yaml has it, by the provider of Ray's own tests.

python -m pytest -m slow tests/clusters/test_autoscaling.py -s
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from rec.storage import Home

ROOT: Final = Path(__file__).parents[2]
MOST: Final = 3
IDLE_S: Final = 15.0
# What Ray would fill in for a cluster of machines.
LISTS: Final = (
    *(f"{when}_commands" for when in ("initialization", "setup", "head_setup", "worker_setup")),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
SMALL: Final = {
    "retriever": {"output_dim": 16, "queries": {"min_batches": 5}},
    "ranker": {"n_candidates": 60, "min_positives": 1, "lambdamart": {"trees": 20, "min_data_in_leaf": 5}},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster(clusters: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without CPUs, and up to three nodes of one when they are asked for."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
    from ray.autoscaler._private.util import validate_config

    made = clusters(
        PYTHONPATH=str(ROOT),
        RAY_FAKE_CLUSTER="1",
        RAY_OVERRIDE_NODE_ID_FOR_TESTING=FAKE_HEAD_NODE_ID,
        AUTOSCALER_UPDATE_INTERVAL_S="1",
        # The provider takes no address for its nodes; so Ray gives them that of the loopback interface.
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    )
    config = {
        "cluster_name": "fake",
        "max_workers": MOST,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": IDLE_S / 60,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": made.address,
            # Its nodes are told apart by their ids, as they share an address, and there is nothing to install on them.
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {
                "resources": {"CPU": 1, "object_store_memory": 100 * 2**20},
                "node_config": {},
                "min_workers": 0,
                "max_workers": MOST,
            },
            "gpu": {
                "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 100 * 2**20},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 1,
            },
        },
    }
    config |= {name: [] for name in LISTS}
    validate_config(config)
    file = tmp_path_factory.mktemp("fake") / "fake.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    made.start(0, "--include-dashboard", "false", "--autoscaling-config", str(file), head=True)
    made.wait(0)
    yield made
    made.stop()


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., str]:
    """Writes what is trained, on how many workers, into a file."""
    (tmp_path / "world.yaml").write_text("n_users: 80\nn_videos: 300\nsessions_per_user: 8\n", encoding="utf-8")

    def written(workers: int, **settings: Any) -> str:
        file, data = tmp_path / "config.yaml", {"path": str(tmp_path / "world.yaml")}
        training = {"workers": workers, "epochs": 2, **settings}
        file.write_text(yaml.safe_dump({"data": data, "training": training, **SMALL}), encoding="utf-8")
        return str(file)

    return written


def workers(cluster: Any) -> int:
    """Nodes beside the head."""
    (head,) = cluster.nodes
    return head.n_raylets - 1


def most_workers(cluster: Any, process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """How many nodes there were at most until a program ended, and what it answered."""
    most = 0
    while process.poll() is None:
        most = max(most, workers(cluster))
        time.sleep(0.5)
    assert process.stdout is not None and process.stderr is not None
    out = process.stdout.read()
    assert process.returncode == 0, out + process.stderr.read()[-6000:]
    return most, json.loads([line for line in out.splitlines() if line.startswith("{")][-1])


def test_training_gets_the_cpus_that_it_asks_for_and_gives_them_back(
    cluster: Any, config: Callable[..., str], remote_home: str, wait_until: Callable[..., Any]
) -> None:
    assert workers(cluster) == 0
    most, answer = most_workers(cluster, cluster.tandem("train", "--config", config(2), "--home", remote_home))
    ended = time.monotonic()
    assert 2 <= most <= MOST and answer["workers"] == 2
    assert Home(remote_home).read("models/CURRENT") == f"{answer['version']}\n".encode()
    wait_until(lambda: workers(cluster) == 0, "idle nodes stay")
    seconds = time.monotonic() - ended
    print(f"\ntrain --workers 2: {most} nodes of a CPU in place of none, and none {seconds:.0f} s later")


def test_training_gets_the_gpus_that_it_asks_for(
    cluster: Any, config: Callable[..., str], remote_home: str, wait_until: Callable[..., Any]
) -> None:
    """A machine that is said to have one comes; it has none, so what then trains there fails."""
    wait_until(lambda: workers(cluster) == 0, "idle nodes stay")
    asked = cluster.tandem("train", "--config", config(1, use_gpu=True, max_failures=0), "--home", remote_home)
    try:
        wait_until(lambda: "/1.0 GPU" in cluster.run("ray", "status").stdout, "no machine with a GPU came")
    finally:
        asked.terminate()
        asked.communicate(timeout=120)


def test_a_search_gets_the_cpus_that_it_is_told_of(
    cluster: Any, config: Callable[..., str], remote_home: str, wait_until: Callable[..., Any]
) -> None:
    wait_until(lambda: workers(cluster) == 0, "idle nodes stay")
    search = ("tune", "--base", config(0), "--spaces", "learning", "--trials", "3", "--home", remote_home)
    refused = cluster.run(sys.executable, "-c", "from rec.cli import entry; entry()", *search, "--json")
    assert refused.returncode == 2 and "say with cpus" in json.loads(refused.stdout)["error"]["message"]
    most, answer = most_workers(cluster, cluster.tandem(*search, "--cpus", "2"))
    print(f"\ntune --cpus 2: {most} nodes of a CPU in place of none; {answer['trials']}")
    assert 1 <= most <= MOST and answer["trials"] == {"finished": 3, "stopped": 0, "failed": 0}
