"""`tandem ope` as a user runs it: on the service's log, and on a table."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rec.config import load_config
from rec.data.events import EventTables
from rec.recommender import Recommender
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import ACTIONS, REWARDS, InstaTok
from rl.instatok.slate_log import by_category, log_slates

WORTH = [text for action, reward in zip(ACTIONS, REWARDS, strict=True) for text in (action, str(float(reward)))]


@pytest.fixture(scope="module")
def home(trained: tuple[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home with the bundle and a log of slates from the world it was trained on."""
    folder = tmp_path_factory.mktemp("ope") / "home"
    shutil.copytree(Path(trained[0]) / "models", folder / "models")
    world = InstaTok(load_config(InstaTokConfig, Path(trained[0]).parent / "world.yaml"))
    log = log_slates(
        world,
        by_category(world.watch_p, 30),
        n_sessions=900,
        k=3,
        epsilon=0.5,
        temperature=0.5,
        rng=np.random.default_rng(0),
        max_requests=1,
        policy_version="first",
    )
    log.append_to(EventTables(Home(str(folder))))
    return str(folder)


def estimates_of(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["command"], answer["ok"]) == ("ope", True)
    return answer


def test_the_logged_policy_under_another_temperature(tandem: Any, home: str, tmp_path: Path) -> None:
    plot = tmp_path / "ope.html"
    done = tandem("ope", "--home", home, "--rewards", *WORTH, "--temperature", "0.3", "--plot", str(plot), "--json")
    answer = estimates_of(done)
    assert answer["target"] == "logged" and answer["logging_versions"] == ["first"]
    assert list(answer["estimates"]) == ["cascade", "sn_cascade", "cascade_dr"]
    for estimate in answer["estimates"].values():
        assert list(estimate) == (
            "value std_error interval n n_clusters ess max_weight support estimator".split()
        )  # fmt: skip
        assert estimate["n"] == 900 and estimate["n_clusters"] == 80 and estimate["support"] == 1.0
        assert estimate["value"] > answer["logged_value"]
    page = plot.read_text(encoding="utf-8")
    assert answer["drawn_with"]["temperature"] == {"low": 0.3, "high": 0.3, "as_logged": False}
    assert answer["drawn_with"]["epsilon"]["as_logged"]
    for told in (done.stderr, page):
        assert "(as logged), temperature 0.3" in told
    assert "cascade_dr" in page


def test_nothing_changed_is_what_was_earned(tandem: Any, home: str) -> None:
    done = tandem("ope", "--home", home, "--rewards", *WORTH, "--plot", "None", "--estimators", "cascade", "--json")
    answer = estimates_of(done)
    assert answer["estimates"]["cascade"]["value"] == pytest.approx(answer["logged_value"])
    for name in ("low", "high"):
        assert answer["logged"]["interval"][name] == pytest.approx(answer["estimates"]["cascade"]["interval"][name])
    assert "\nlogged  " in done.stderr
    for difference in answer["differences"].values():
        assert difference["value"] == pytest.approx(0, abs=1e-9)
        assert difference["interval"]["low"] == pytest.approx(0, abs=1e-9)
    assert answer["warnings"] == []
    assert "the target is the policy that logged" in done.stderr


def test_position_wise_takes_marginals(tandem: Any, home: str) -> None:
    events = EventTables(Home(home)).read("requests")
    times = np.sort(events["timestamp"].to_numpy())
    done = tandem("ope", "--home", home, "--rewards", *WORTH, "--estimators", "position_wise", "--plot", "None",
                  "--until-ms", str(times[60]), "--json")  # fmt: skip
    answer = estimates_of(done)
    assert answer["n_requests"] == 60
    # Marginals are averages over sampled slates, so they agree up to their noise.
    assert answer["estimates"]["position_wise"]["value"] == pytest.approx(answer["logged_value"], abs=0.1)


def test_a_bundle_ranks_anew(tandem: Any, home: str, trained: tuple[str, dict[str, Any]]) -> None:
    done = tandem("ope", "--home", home, "--rewards", *WORTH, "--target", "current", "--temperature", "3.0",
                  "--epsilon", "0.8", "--plot", "None", "--json")  # fmt: skip
    answer = estimates_of(done)
    assert answer["target"] == trained[1]["version"]
    found = answer["estimates"]["cascade_dr"]
    assert 0 < found["ess"] < 900 and found["support"] == 1.0
    # Half of what is drawn is uniform in either policy: their values cannot lie far apart.
    assert abs(found["value"] - answer["logged_value"]) < 1.5


def test_items_that_a_bundle_does_not_know_are_said(tandem: Any, home: str, tmp_path: Path) -> None:
    """The catalogue has grown since: a new item is no candidate of the bundle, and reached by epsilon alone."""
    grown = tmp_path / "home"
    shutil.copytree(Path(home) / "models", grown / "models")
    old, new = EventTables(Home(home)), EventTables(Home(str(grown)))
    at_ms = Recommender.load(home).snapshot.at_ms
    requests = [row for row in old.read("requests").to_pylist() if row["timestamp"] >= at_ms]
    shown = [row for row in old.read("impressions", since_ms=at_ms).to_pylist()]
    answers = old.read("feedback").to_pylist()
    replaced = next(row["item_id"] for row in shown if row["position"] == 0)

    def renamed(item_id: str) -> str:
        return "brand-new" if item_id == replaced else item_id

    for row in requests:
        row |= {name: [renamed(item) for item in row[name]] for name in ("candidates", "history")}
    for row in (*shown, *answers):
        row["item_id"] = renamed(row["item_id"])
    for table, rows in (("requests", requests), ("impressions", shown), ("feedback", answers)):
        new.append(table, rows)  # pyright: ignore[reportArgumentType]
    asked = ("ope", "--home", str(grown), "--rewards", *WORTH, "--target", "current", "--temperature", "3.0",
             "--plot", "None", "--json")  # fmt: skip
    answer = estimates_of(tandem(*asked, "--epsilon", "0.8"))
    assert answer["n_unknown_items"] == sum(row["item_id"] == "brand-new" for row in shown) > 0
    assert any("'brand-new'" in text for text in answer["warnings"])
    assert answer["dropped"]["feedback_without_request"] > 0
    assert 0 < answer["estimates"]["cascade_dr"]["ess"] < answer["n_requests"]


def test_a_bundle_is_judged_by_later_requests_only(tandem: Any, home: str) -> None:
    at_ms = Recommender.load(home).snapshot.at_ms
    times = EventTables(Home(home)).read("requests")["timestamp"].to_numpy()
    later, last = int((times >= at_ms).sum()), int(times.max())
    assert 0 < later < len(times)
    asked = ("ope", "--rewards", *WORTH, "--target", "current", "--temperature", "3.0", "--epsilon", "0.8",
             "--plot", "None", "--json")  # fmt: skip
    assert estimates_of(tandem(*asked, "--home", home))["n_requests"] == later
    since = int(np.sort(times[times >= at_ms])[later // 2])
    assert (
        estimates_of(tandem(*asked, "--home", home, "--since-ms", str(since)))["n_requests"] == (times >= since).sum()
    )

    done = tandem(*asked, "--home", home, "--since-ms", str(at_ms - 1))
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2
    assert (error["type"], error["field"]) == ("ConfigError", "since_ms") and str(at_ms) in error["message"]
    done = tandem(*asked, "--home", home, "--since-ms", str(last + 1))
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2
    assert error["type"] == "DataError" and f"at or after {last + 1} ms" in error["message"]
    assert f"to {last} ms" in error["message"]


def test_what_is_missing_is_said(tandem: Any, home: str, tmp_path: Path) -> None:
    done = tandem("ope", "--home", home, "--json")
    assert done.returncode == 2 and "--rewards watched 1" in done.stderr
    done = tandem("ope", "--home", home, "--rewards", "watched", "1", "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["column"] == "action"
    done = tandem("ope", "--home", str(tmp_path / "nowhere"), "--rewards", *WORTH, "--json")
    assert done.returncode == 2 and json.loads(done.stdout)["error"]["type"] == "DataError"
    done = tandem("ope", "--home", home, "--rewards", *WORTH, "--estimators", "ips", "--json")
    assert done.returncode == 2 and "there are position_wise" in done.stderr


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_rounds(tandem: Any, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    p, target_p = rng.uniform(0.2, 0.8, (2, 400))
    frame = pd.DataFrame(
        {"who": rng.integers(0, 90, 400), "earned": rng.integers(0, 2, 400), "propensity": p, "target_p": target_p}
    )
    file = tmp_path / f"rounds.{kind}"
    frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file)
    names = ("--columns.user-id", "who", "--columns.reward", "earned")
    answer = estimates_of(tandem("ope", "--table", str(file), *names, "--plot", "None", "--json"))
    assert list(answer["estimates"]) == ["ips", "snips", "clipped_ips"]
    assert answer["estimates"]["ips"]["value"] == pytest.approx((target_p / p * frame.earned).mean())
    assert answer["estimates"]["ips"]["n_clusters"] == frame.who.nunique()
    assert answer["logged"]["value"] == answer["logged_value"] == pytest.approx(frame.earned.mean())
    around = answer["logged"]["interval"]
    assert around["method"] == "student_t" and around["low"] < frame.earned.mean() < around["high"]
    more = answer["differences"]["ips"]
    assert more["value"] == pytest.approx(((target_p / p - 1) * frame.earned).mean())
    assert more["interval"]["low"] < more["value"] < more["interval"]["high"]
    bounded = ("--interval", "empirical_bernstein", "--reward-range", "0", "1", "--weight-bound", "4")
    wide = estimates_of(
        tandem("ope", "--table", str(file), *names, *bounded, "--estimators", "ips", "--plot", "None", "--json")
    )
    assert wide["estimates"]["ips"]["interval"]["method"] == "empirical_bernstein"
    assert wide["differences"]["ips"]["interval"]["method"] == "empirical_bernstein"

    frame.loc[7, "propensity"] = 0
    frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file)
    done = tandem("ope", "--table", str(file), *names, "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 2
    row = 9 if kind == "csv" else 7  # a line of the text, a row of the table
    assert (error["type"], error["row"], error["column"]) == ("SupportError", row, "propensity")
