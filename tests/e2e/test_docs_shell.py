"""The command lines that pages show run, one after the other, in a folder that holds what the pages say is there.

A line is run as it stands, but for what the reader chooses (a version, a run's name), and with options behind it that
make it small. What asks a service is run in a shell, beside one. docs/guide.md has a test apart, and so have jobs on
clusters; benchmarks and make's targets are not run here.
"""

import re
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pytest
import yaml
from deltalake import DeltaTable

from rec.registry import Registry
from rec.storage import Home
from serve.keys import KeyStore
from tests.e2e.test_guide import free_port, shell
from tests.test_docs_commands import PAGES, ROOT, commands, lines
from tune.search import SEARCH_FILE

Chosen = dict[str, str | Callable[[], str]]

LOG: Final = ("--n-users", "40", "--n-videos", "300", "--n-sessions", "400")
SMALL_WORLD: Final = ("--env.world.n-users", "40", "--env.world.n-videos", "400", "--env.world.max-steps", "12")
SMALL_DQN: Final = ("--sessions", "32", "--batch-size", "32", "--warmup-steps", "100", "--total-steps", "200")
SMALL_DRR: Final = ("--total-steps", "200", "--warmup-steps", "100", "--steps-per-report", "100")
PMF: Final = ("--ratings.pmf.dim", "4", "--ratings.pmf.max-epochs", "3")
SMALL: Final[dict[str, tuple[str, ...]]] = {
    "data generate": LOG,
    "train": ("--config", "small.yaml"),
    "evaluate": ("--baselines.names", "popularity"),
    # A generated log ends after thirty days, of which a model that is to be evaluated knows the first four fifths.
    "cycle": (
        "--attribution-s",
        "600",
        "--held-out-days",
        "3",
        "--now-ms",
        str(1767225600000 + 30 * 86_400_000 + 700_000),
    ),
    "rl train dqn": (*SMALL_WORLD, *SMALL_DQN, "--steps-per-report", "100"),
    "rl evaluate": (*SMALL_WORLD, "--sessions", "100", "--logged-sessions", "100"),
    "rl train drr": (*PMF, *SMALL_DRR),
    "rl evaluate drr": (*PMF, "--sessions", "20"),
}
CONFIG: Final = {
    "retriever": {"output_dim": 16, "queries": {"min_batches": 3}},
    "training": {"workers": 0, "epochs": 1},
    "ranker": {"n_candidates": 60, "min_positives": 1, "lambdamart": {"trees": 10, "min_data_in_leaf": 5}},
    # Lists that so few items fill.
    "index": {"ivf_lists": 8},
}
# What is run elsewhere, or not at all.
ELSEWHERE: Final = {
    "docs/guide.md": "tests/e2e/test_guide.py",
    "docs/clusters.md": "tests/clusters",
}
ON_RAY: Final = {"docs/agents.md", "docs/batch.md", "docs/training.md", "docs/tuning.md"}
BESIDE_A_SERVICE: Final = {"serve", "simulate"}
VERSION: Final = "20260101T120000Z-1a2b3c4d"


def newest_agent() -> str:
    files = Path(".tandem/runs").glob("*/agent.safetensors")
    return max(files, key=lambda file: file.stat().st_mtime).parent.name


def search() -> str:
    (file,) = Path(".tandem/runs").glob(f"*/{SEARCH_FILE}")
    return file.parent.name


def version() -> str:
    return Registry(Home(".tandem")).versions()[0]


def key() -> str:
    return KeyStore(Home(".tandem")).read().keys[0].id


CHOSEN: Final[dict[str, Chosen]] = {
    "README.md": {"./.tandem/demo": "./.tandem", "user-850": "user-3"},
    "docs/agents.md": {
        "--data instatok": "--data instatok --path world.yaml",
        "RUN": newest_agent,
        "NAME": newest_agent,
        VERSION: version,
    },
    "docs/batch.md": {"--workers 8": "--workers 2"},
    # One that begins again every day does not end.
    "docs/cycle.md": {"--every 24h": ""},
    "docs/off-policy.md": {"--rewards ...": "--rewards watched 1 liked 2 skipped -2 other -0.5", VERSION: version},
    "docs/security.md": {"1a2b3c4d": key},
    "docs/serving.md": {"--data instatok": "--data instatok --path world.yaml", VERSION: version},
    "docs/training.md": {"--out HOME": "--out new", "train ...": "train --data events --path HOME --home HOME"},
    "docs/tuning.md": {"--trials 30": "--trials 2", "NAME": search},
}


@pytest.fixture(scope="module")
def filled(tandem: Any, tandem_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log of two arms and a model of it in `.tandem`, and in `HOME`; and what files pages name."""
    folder = tmp_path_factory.mktemp("filled")
    (folder / "small.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    home = str(folder / ".tandem")
    data = ("--data", "events", "--path", home, "--home", home)
    for arguments in (
        ("data", "generate", "--kind", "events", "--out", home, *LOG),
        ("train", *data, "--config", str(folder / "small.yaml"), "--ranker.learn-from", "answers"),
    ):
        done = tandem(*arguments)
        assert done.returncode == 0, done.stderr
    requests = DeltaTable(f"{home}/events/requests")
    requests.update(updates={"arm": "'challenger'"}, predicate="user_id LIKE '%7'")
    shutil.copytree(home, folder / "HOME")
    few_movies(tandem_data / "ml-1m", folder / "ml-1m")
    rng = np.random.default_rng(0)
    rows = [(user, item) for user in range(60) for item in rng.choice(100, 20, replace=False)]
    ratings = pd.DataFrame(rows, columns=["user_id", "item_id"])
    ratings.assign(timestamp=np.arange(len(rows)), stars=rng.integers(1, 6, len(rows))).to_csv(
        folder / "ratings.csv", index=False
    )
    base = CONFIG | {"data": {"name": "csv", "path": str(folder / "ratings.csv"), "columns": {"rating": "stars"}}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    (folder / "world.yaml").write_text("n_users: 60\nn_videos: 200\nsessions_per_user: 8\n", encoding="utf-8")
    (folder / "items.csv").write_text("item_id,title\n4001,A film of today\n", encoding="utf-8")
    (folder / "gone.txt").write_text("2355\n", encoding="utf-8")
    rounds = pd.DataFrame({"customer": rng.integers(0, 50, 500).astype(str), "propensity": 0.25})
    rounds.assign(reward=rng.integers(0, 2, 500), target_p=0.5).to_parquet(folder / "rounds.parquet")
    return folder


def few_movies(whole: Path, folder: Path) -> None:
    """The first hundred users of MovieLens-1M."""
    folder.mkdir()
    for name, n_users in (("ratings.dat", 100), ("users.dat", 100), ("movies.dat", None)):
        rows = (whole / name).read_bytes().splitlines(keepends=True)
        kept = rows if n_users is None else [row for row in rows if int(row.split(b"::")[0]) <= n_users]
        (folder / name).write_bytes(b"".join(kept))


def blocks(page: str) -> str:
    """The code of a page, without its prose."""
    code: list[str] = []
    fence = False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fence = not fence
        elif fence or line.startswith("    "):
            code.append(line if line.startswith("    ") else f"    {line}")
    return "\n".join(code)


def own(page: str) -> list[tuple[str, list[str]]]:
    """The commands of a page that are run here in this process, in its order."""
    return [found for found in commands(filled_in(page)) if found[0] not in BESIDE_A_SERVICE]


def filled_in(page: str) -> str:
    """The code of a page, with what the reader chooses; what is known only later stands in it as before."""
    code = blocks(page)
    for written, ours in CHOSEN.get(page, {}).items():
        code = code if callable(ours) else code.replace(written, ours)
    return code


NAMES: Final = [str(page.relative_to(ROOT)) for page in PAGES]
OWN: Final = [page for page in NAMES if page not in ELSEWHERE and own(page)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", OWN)
def test_the_command_lines_of_a_page_run(
    page: str,
    tandem: Any,
    filled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if page in ON_RAY:
        request.getfixturevalue("ray_session")
    shutil.copytree(filled, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("TANDEM_HOME", raising=False)
    for name, arguments in own(page):
        for written, ours in CHOSEN.get(page, {}).items():
            if callable(ours) and any(written in argument for argument in arguments):
                chosen = ours()
                arguments = [argument.replace(written, chosen) for argument in arguments]
        small = () if "--config" in arguments and name == "train" else SMALL.get(name, ())
        began = time.perf_counter()
        done = tandem(*name.split(), *arguments, *small)
        print(f"{time.perf_counter() - began:.1f} s: tandem {name} {shlex.join([*arguments, *small])}")
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]


def line(page: str, begins: str) -> str:
    """The line of a page's code that begins so."""
    (found,) = {code for each in lines(blocks(page)) if (code := each.removeprefix("$ ")).startswith(begins)}
    return found


READY: Final = """> serve.log 2>&1 &
server=$!
until curl -sf localhost:8000/health/ready > ready.json; do kill -0 $server; sleep 0.5; done"""
ENDED: Final = "kill $server\nwait $server || true"
ANSWERED: Final = """request=$(python -c 'import json; print(json.load(open("answer.json"))["request_id"])')
item=$(python -c 'import json; print(json.load(open("answer.json"))["items"][0]["item_id"])')"""


def of_the_readme() -> list[str]:
    serve = line("README.md", "tandem serve --home").removesuffix("&")
    return [f"{serve} {READY}", line("README.md", "curl -s "), ENDED]


def of_serving_and_the_log() -> list[str]:
    """People use a service; one is answered, and says what came of it."""
    serve = line("docs/serving.md", "tandem serve --home .tandem --rewards")
    simulate = line("docs/serving.md", "tandem simulate").replace("2000 --clients 32", "20 --clients 4")
    return [
        f"{serve} {READY}",
        f"{simulate} --world.n-users 40 --world.n-videos 300 --url http://localhost:8000",
        "test -s curve.html",
        line("docs/serving.md", "curl -s ") + " > answer.json",
        ANSWERED,
        line("docs/log.md", "curl -s ").replace("0199…", "'\"$request\"'").replace("260", "'\"$item\"'"),
        ENDED,
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("script", [of_the_readme, of_serving_and_the_log])
def test_what_asks_a_service_is_answered(script: Callable[[], list[str]], filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "here")
    port = str(free_port())
    # A refusal is to end the script.
    asked = [each.replace("curl -s ", "curl -sf ").replace("8000", port) for each in script()]
    asked = [each.replace(" > serve.log", f" --port {port} > serve.log") for each in asked]
    print(shell("\n".join(asked), tmp_path / "here"))


def test_no_page_has_a_command_line_that_nothing_runs() -> None:
    """Those of `own` are run whatever they are; what asks a service is run as named above."""
    others = [page for page in NAMES if page not in ELSEWHERE]
    asks = {page: [name for name, _ in commands(blocks(page)) if name in BESIDE_A_SERVICE] for page in others}
    assert {page: names for page, names in asks.items() if names} == {
        "README.md": ["serve", "serve"],
        "docs/serving.md": ["serve", "serve", "simulate", "serve"],
    }
    curls = [page for page in others for code in lines(blocks(page)) if re.match(r"(\$ )?curl ", code)]
    assert sorted(curls) == ["README.md", "docs/log.md", "docs/serving.md"]
    assert all((ROOT / path).exists() for path in ELSEWHERE.values())
