"""`ray job submit -- tandem ...` on a cluster of two nodes that asks for a token, with a home in an object store.

    python -m pytest -m slow tests/clusters/test_jobs.py -s

The jobs run what is in their working directory, on every node, whatever is installed there.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from rec.cli import main
from rec.config import TrainConfig, load_config
from rec.data.events import open_events
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home

ROOT: Final = Path(__file__).parents[2]
HOME: Final = "s3://bucket/jobs"
DAY_MS: Final = 86_400_000
PACKAGES: Final = ("rec", "rl", "serve", "tune")
VERSION: Final = "0.1.0+of.the.job"
SMALL: Final = {
    "data": {"name": "events", "path": HOME, "attribution_s": 3600},
    "split": {"kind": "none"},
    "retriever": {"output_dim": 16, "queries": {"min_batches": 5}},
    "training": {"workers": 2, "epochs": 2},
    "ranker": {"n_candidates": 60, "learn_from": "answers", "min_positives": 1, "lambdamart": {"trees": 20}},
}
WHERE: Final = """
import json, time
import ray
import rec, rl, serve, tune

@ray.remote(num_cpus=1)
def told():
    import rec, rl, serve, tune
    time.sleep(2)
    node = ray.get_runtime_context().get_node_id()
    return node, [module.__file__ for module in (rec, rl, serve, tune)], rec.__version__

ray.init(log_to_driver=False)
print(json.dumps({"driver": rec.__version__, "workers": ray.get([told.remote(), told.remote()])}))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Jobs:
    """A cluster that jobs are sent to, and the folder they come from."""

    cluster: Any
    folder: Path

    def submit(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Sends a job and waits for its end."""
        done = subprocess.run(
            ["ray", "job", "submit", "--address", self.cluster.dashboard, "--working-dir", ".", "--", *command],
            cwd=self.folder,
            env={**self.cluster.environment, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )
        return done

    def answer(self, *command: str) -> dict[str, Any]:
        """What a job printed last in JSON."""
        done = self.submit(*command)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
        return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


@pytest.fixture(scope="module")
def jobs(clusters: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """The four packages in a folder of their own, and what the jobs are told in files."""
    folder = tmp_path_factory.mktemp("working")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    init = folder / "rec" / "__init__.py"
    changed, n = re.subn(r'__version__(.*) = ".*"', rf'__version__\1 = "{VERSION}"', init.read_text(encoding="utf-8"))
    assert n == 1
    init.write_text(changed, encoding="utf-8")
    (folder / "where.py").write_text(WHERE, encoding="utf-8")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    cluster = clusters()
    cluster.start(1, head=True)
    cluster.wait(1)
    cluster.start(1)
    cluster.wait(2)
    yield Jobs(cluster, folder)


@pytest.fixture(scope="module")
def home(store: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """The object store, with the log of a service in it."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.items():
            patch.setenv(name, value)
        patch.setenv("TANDEM_CACHE", str(folder / "cache"))
        log = ("--n-users", "40", "--n-videos", "100", "--n-sessions", "300")
        assert main(["data", "generate", "--kind", "events", "--out", str(folder), *log]) == 0
        home = Home(HOME)
        for file in (folder / "events").rglob("*"):
            if file.is_file():
                home.upload(file, str(file.relative_to(folder)))
        yield home


@pytest.fixture(scope="module")
def end_ms(home: Home) -> int:
    """When everything that was logged has been answered."""
    return int(open_events(home).read("requests")["timestamp"].to_numpy().max()) + 3_601_000


def test_the_four_packages_of_the_working_directory_reach_every_node(jobs: Jobs) -> None:
    told = jobs.answer("python", "where.py")
    print(f"\nthe driver and {len(told['workers'])} tasks have {told['driver']}")
    assert told["driver"] == VERSION and len({node for node, _, _ in told["workers"]}) == 2
    for _, files, version in told["workers"]:
        assert version == VERSION
        assert all("working_dir_files" in file for file in files), files


def test_whoever_has_no_token_or_another_is_refused(jobs: Jobs) -> None:
    for token in ({"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}):
        done = jobs.submit("python", "where.py", **token)
        print(f"\n{(done.stdout + done.stderr).strip().splitlines()[-1]}")
        assert done.returncode != 0 and "uthenticat" in done.stdout + done.stderr
        assert "driver" not in done.stdout


@pytest.fixture(scope="module")
def trained(jobs: Jobs, home: Home, end_ms: int) -> dict[str, Any]:
    """What a job that trained said."""
    options = ("--config", "small.yaml", "--home", HOME, "--now-ms", str(end_ms - 2 * DAY_MS))
    return jobs.answer("tandem", "train", *options, "--json")


def test_training_as_a_job(home: Home, trained: dict[str, Any]) -> None:
    print(f"\ntrain: {trained['version']}, {trained['workers']} workers, {trained['seconds']} s")
    champion = Recommender.load(HOME, trained["version"])
    assert champion.config.data.path == HOME and trained["workers"] == 2
    assert champion.snapshot.encoders.schema.features, "users and items are described in the object store, too"
    run = f"runs/{Path(trained['run_dir']).name}"
    for fit in ("retriever-0", "retriever-1", "retriever-2"):
        assert any(name.startswith("checkpoint_") for name in home.children(f"{run}/{fit}")), home.children(run)
    record = Path(trained["run_dir"]) / "run.json"
    assert json.loads(record.read_text(encoding="utf-8"))["versions"]["tandem-rec"] == VERSION


def test_a_cycle_as_a_job(jobs: Jobs, home: Home, trained: dict[str, Any], end_ms: int) -> None:
    rewards = ("--rewards", "watched", "1", "skipped", "-2", "liked", "2", "other", "-0.5")
    times = ("--attribution-s", "3600", "--now-ms", str(end_ms))
    cycled = jobs.answer("tandem", "cycle", "--home", HOME, *rewards, *times, "--json")
    print(f"\ncycle: {cycled['status']}, {cycled['reasons']}")
    assert cycled["status"] in ("promoted", "refused") and cycled["champion"] == trained["version"]
    assert Recommender.load(HOME, cycled["challenger"]).config.incremental.parent == trained["version"]
    assert Registry(home).current() == cycled["current"]
    (folder,) = [name for name in home.children("cycles") if not name.startswith(".")]
    assert {"journal.json", "report.html", "report.md"} <= set(home.children(f"cycles/{folder}"))


def test_a_search_as_a_job(jobs: Jobs, home: Home) -> None:
    base = {**SMALL, "training": {"workers": 0, "epochs": 1}}
    (jobs.folder / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    search = ("--base", "base.yaml", "--spaces", "learning", "--trials", "2")
    tuned = jobs.answer("tandem", "tune", *search, "--home", HOME, "--json")
    print(f"\ntune: {tuned['trials']}, the best {tuned['best']['value']:.4f}")
    assert tuned["trials"] == {"finished": 2, "stopped": 0, "failed": 0}
    kept = home.children(f"runs/{Path(tuned['run_dir']).name}/trials")
    assert len(kept) == 2 and tuned["best"]["trial"] in kept
    assert load_config(TrainConfig, tuned["config"]).data.path == HOME


def test_an_agent_as_a_job(jobs: Jobs, home: Home, trained: dict[str, Any]) -> None:
    """Sessions are played by a process that the cluster gives it, beside the one that learns."""
    world = ("--env.world.n-users", "40", "--env.world.n-videos", "400", "--env.world.max-steps", "12")
    short = ("--total-steps", "400", "--sessions", "32", "--batch-size", "32", "--warmup-steps", "100")
    options = (*world, *short, "--steps-per-report", "200", "--env-runners", "1", "--export", "--json")
    learned = jobs.answer("tandem", "rl", "train", "dqn", "--home", HOME, *options)
    print(f"\nrl train: {learned['steps']} steps, published {learned['version']}")
    assert learned["steps"] >= 400 and Recommender.load(HOME, learned["version"]).agent is not None
