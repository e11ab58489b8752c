"""Cycles of a small service with all their real steps: one is refused by its coverage alone, the next is not."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from rec.config import CycleConfig, GateConfig, TrainConfig
from rec.cycle.journal import Journal
from rec.cycle.judging import judged
from rec.cycle.run import WAITING, Cycle, judged_before, run_cycle
from rec.cycle.steps import STEPS, estimate, gate, promote, read_log, train_challenger
from rec.data.events import FOLDER, EventTables
from rec.data.logged import read_logged
from rec.data.tabular import write_side_tables
from rec.errors import ConfigError, DataError
from rec.pipeline import train
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home
from rl.config import InstaTokConfig
from rl.instatok import InstaTok
from rl.instatok.slate_log import REWARD_OF
from tests.rec.cycle.days import DAY_MS, log_day

ATTRIBUTION_S = 600
WORLD = InstaTokConfig(n_users=30, n_videos=40, days=1.0, seed=5)
DRAWN: Any = {"k": 2, "epsilon": 0.3, "temperature": 1.0, "max_requests": 1}
TRAIN: Any = {
    "split": {"kind": "none"},
    "retriever": {"output_dim": 8, "queries": {"min_batches": 2}},
    "training": {"workers": 0, "epochs": 1},
    "ranker": {
        "kind": "logistic",
        "n_candidates": 40,
        "learn_from": "answers",
        "min_positives": 1,
        "tasks": [{"name": "watched", "actions": ["watched"]}],
        "logistic": {"bins": 2},
        "logistic_training": {"epochs": 1},
    },
}
# Wide open, so that what a test closes is what decides.
OPEN = GateConfig(
    margin=-100, min_ess=1, min_impressions=1, min_coverage_ratio=0, max_latency_ratio=1e6, max_calibration_rise=1
)
# As of when all that was asked on the third day has been answered.
CONFIG = CycleConfig(
    rewards={str(action): value for action, value in REWARD_OF.items()},
    attribution_s=ATTRIBUTION_S,
    now_ms=WORLD.start_ms + 3 * DAY_MS + ATTRIBUTION_S * 1000,
    gate=OPEN,
)
CLOSED = CONFIG.model_copy(update={"gate": OPEN.model_copy(update={"min_coverage_ratio": 100.0})})


def day(home: str, number: int, recommender: Recommender | None) -> None:
    log_day(home, WORLD, number, recommender, n_requests=200, drawn=DRAWN)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A service that knows nothing on its first day, and that is trained on that; then it served two days."""
    folder = tmp_path_factory.mktemp("service")
    write_side_tables(InstaTok(WORLD).dataset(n_sessions=1), folder / FOLDER)
    day(str(folder), 0, None)
    data = {"name": "events", "path": str(folder), "positive_actions": ["watched"], "attribution_s": ATTRIBUTION_S}
    config = TrainConfig.model_validate({**TRAIN, "data": {**data, "now_ms": WORLD.start_ms + DAY_MS}})
    train(read_logged(config.data), config, str(folder))
    champion = Recommender.load(folder)
    day(str(folder), 1, champion)
    day(str(folder), 2, champion)
    return Home(str(folder))


@pytest.fixture(scope="module")
def refused(home: Home) -> Journal:
    """Of a cycle whose challenger would have to show more than there is."""
    return run_cycle(home.location, CLOSED, STEPS)


@pytest.fixture(scope="module")
def waiting(home: Home, refused: Journal) -> Journal:
    """Of a cycle that is asked for the same a second later."""
    later = CLOSED.model_copy(update={"now_ms": (CLOSED.now_ms or 0) + 1000})
    return run_cycle(home.location, later, STEPS)


@pytest.fixture(scope="module")
def promoted(home: Home, waiting: Journal) -> Journal:
    """Of the next one, of an open gate, as of the time of the first."""
    return run_cycle(home.location, CONFIG, STEPS)


def asked(home: Home, since_ms: int, until_ms: int) -> pd.DataFrame:
    """The requests of a log from one time until another, both included."""
    requests = EventTables(home).read("requests", columns=["request_id", "timestamp"]).to_pandas()
    return requests[(requests["timestamp"] >= since_ms) & (requests["timestamp"] <= until_ms)]


def with_read(journal: Journal, **changed: Any) -> Journal:
    """A journal that has read its log otherwise, and estimated nothing yet."""
    return replace(journal, steps={"read": journal.steps["read"] | changed, "train": journal.steps["train"]})


def test_a_day_is_held_out_and_what_was_asked_before_it_is_learned_from(home: Home, refused: Journal) -> None:
    read = refused.steps["read"]
    champion = Recommender.load(home.location, read["champion"])
    held_out = WORLD.start_ms + 2 * DAY_MS
    assert (read["since_ms"], read["until_ms"]) == (held_out, held_out + DAY_MS)
    assert read["champion_knows_until_ms"] == champion.snapshot.at_ms
    assert read["n_held_out"] == len(asked(home, held_out, held_out + DAY_MS)) > 150
    assert read["n_new"] == len(asked(home, champion.snapshot.at_ms, held_out - 1)) > 150
    assert read["versions"] == EventTables(home).versions()


def test_a_challenger_knows_what_was_before_the_held_out_requests_and_nothing_of_them(
    home: Home, refused: Journal
) -> None:
    read, version = refused.steps["read"], refused.steps["train"]["challenger"]
    manifest, challenger = Registry(home).show(version), Recommender.load(home.location, version)
    assert read["champion_knows_until_ms"] < challenger.snapshot.at_ms <= read["since_ms"]
    assert manifest.trained_until_ms == challenger.snapshot.at_ms
    assert challenger.config.data.now_ms == read["since_ms"] - 1
    assert manifest.parent == read["champion"] == Registry(home).versions()[0]
    tables = {f"{FOLDER}/{table}": str(version) for table, version in read["versions"].items()}
    assert manifest.tables.items() >= tables.items()


def test_the_estimate_is_of_the_held_out_requests_alone(home: Home, refused: Journal) -> None:
    read, found = refused.steps["read"], refused.steps["estimate"]
    requests = asked(home, read["since_ms"], read["until_ms"])
    assert found["n_requests"] == read["n_held_out"] and found["n_impressions"] == 2 * len(requests)
    assert {found["comparison"][side]["n"] for side in ("champion", "challenger", "difference")} == {len(requests)}
    feedback = EventTables(home).read("feedback").to_pandas()
    earned = feedback.loc[feedback["request_id"].isin(requests["request_id"]), "action"].map(REWARD_OF).sum()
    assert found["logged_value"] == pytest.approx(earned / len(requests))


def test_no_request_judges_a_bundle_that_was_trained_on_it(home: Home, refused: Journal) -> None:
    read = refused.steps["read"]
    journal = with_read(refused, since_ms=0)
    journal = journal.done("train", {"challenger": read["champion"]})
    found = estimate(Cycle(home.location, home, journal))
    requests = asked(home, read["champion_knows_until_ms"], read["until_ms"])
    assert found["n_requests"] == len(requests) > read["n_held_out"]


def test_the_champion_is_worth_what_its_own_log_says_and_is_told_as_the_champion(refused: Journal) -> None:
    found = refused.steps["estimate"]
    champion, challenger = (found["comparison"][side] for side in ("champion", "challenger"))
    assert found["reproduced"] == 1
    assert champion["ess"] == pytest.approx(champion["n"]) and champion["max_weight"] == pytest.approx(1)
    assert abs(champion["value"] - found["logged_value"]) < champion["std_error"]
    assert challenger["ess"] < 0.9 * challenger["n"], "it ranks otherwise"
    difference = found["comparison"]["difference"]
    assert difference["value"] == pytest.approx(challenger["value"] - champion["value"])


@pytest.mark.parametrize("side", ["champion", "challenger"])
def test_each_is_like_what_it_is_like_beside_itself(home: Home, refused: Journal, side: str) -> None:
    read, found = refused.steps["read"], refused.steps["estimate"]
    version = read["champion"] if side == "champion" else refused.steps["train"]["challenger"]
    recommender = Recommender.load(home.location, version)
    options: Any = {"since_ms": read["since_ms"], "versions": read["versions"]}
    alone = judged(home, recommender, recommender, CONFIG, **options).to_json()
    other = found["challenger" if side == "champion" else "champion"]
    assert alone["comparison"]["difference"]["value"] == 0
    for place in ("champion", "challenger"):
        assert alone["comparison"][place]["value"] == pytest.approx(found["comparison"][side]["value"])
        for name in ("coverage", "calibration_error"):
            assert alone[place][name] == pytest.approx(found[side][name])
        assert alone[place]["calibration_error"] != pytest.approx(other["calibration_error"]), "so they can be told"
    shown = {
        item.item_id
        for user_id in set(EventTables(home).read("requests", since_ms=read["since_ms"])["user_id"].to_pylist())
        for item in recommender.recommend(user_id, 2).items
    }
    assert found[side]["coverage"] == len(shown) / recommender.n_items


def test_what_nobody_answered_is_refused_and_not_promoted(home: Home, refused: Journal) -> None:
    # The first version of the feedback is that of the first day.
    journal = with_read(refused, versions=refused.steps["read"]["versions"] | {"feedback": 1})
    for name, step in (("estimate", estimate), ("gate", gate), ("promote", promote)):
        journal = journal.done(name, step(Cycle(home.location, home, replace(journal, config=CONFIG))))
    assert list(journal.steps["estimate"]) == ["refusal"]
    assert journal.steps["gate"]["promote"] is False and not journal.steps["promote"]["promoted"]
    (why,) = journal.steps["gate"]["reasons"]
    assert why.startswith(f"none of the {refused.steps['estimate']['n_impressions']} held-out impressions was answered")


def test_a_challenger_that_one_guard_refuses_does_not_serve(refused: Journal) -> None:
    assert refused.status == "refused"
    (why,) = refused.steps["gate"]["reasons"]
    assert why.startswith("coverage, times the champion's")
    assert refused.steps["promote"] == {
        "promoted": False,
        "current": refused.steps["read"]["champion"],
        "seconds": refused.steps["promote"]["seconds"],
    }


def test_a_cycle_that_is_asked_for_the_same_of_the_same_log_decides_nothing_again(
    refused: Journal, waiting: Journal
) -> None:
    read = waiting.steps["read"]
    assert waiting.status == "waiting" and list(waiting.steps) == ["read"]
    assert read["n_held_out"] == refused.steps["read"]["n_held_out"] and read["n_new"] == refused.steps["read"]["n_new"]
    assert refused.cycle in read[WAITING] and refused.steps["train"]["challenger"] in read[WAITING]


def test_the_next_cycle_finds_the_challenger_again_and_judges_it_by_the_same_log(
    home: Home, refused: Journal, promoted: Journal
) -> None:
    champion, challenger = refused.steps["read"]["champion"], refused.steps["train"]["challenger"]
    assert Registry(home).versions() == [champion, challenger]
    assert refused.steps["train"]["run"] is not None and promoted.steps["train"]["run"] is None
    assert promoted.steps["train"]["challenger"] == challenger
    assert promoted.steps["train"]["valid"] == refused.steps["train"]["valid"]
    assert promoted.steps["estimate"]["comparison"] == refused.steps["estimate"]["comparison"]
    read = promoted.steps["read"]
    assert read["champion"] == champion, "what was refused has not served"
    assert (refused.steps["read"]["judged_before"], read["judged_before"]) == ([], [challenger])
    assert judged_before(promoted) == 0, "it is the same challenger"
    assert read["versions_before"] == refused.steps["read"]["versions"]
    assert promoted.status == "promoted" and not promoted.steps["gate"]["reasons"]
    assert Registry(home).current() == challenger


def test_it_waits_for_what_is_new_to_learn_from_and_for_what_could_judge(home: Home, promoted: Journal) -> None:
    # The challenger serves by now, and knows all of the second day.
    two_days = CONFIG.model_copy(update={"held_out_days": 2.0})
    found = read_log(Cycle(home.location, home, Journal.begin(two_days)))
    assert found["champion"] == promoted.steps["train"]["challenger"]
    assert found["n_new"] == 0 and found[WAITING].startswith("nothing new to learn from")
    later = CONFIG.model_copy(update={"now_ms": (CONFIG.now_ms or 0) + 2 * DAY_MS})
    found = read_log(Cycle(home.location, home, Journal.begin(later)))
    assert found["n_held_out"] == 0 and found[WAITING].startswith("no request from")


def test_a_given_challenger_is_judged_from_when_neither_knows_the_answers(home: Home, promoted: Journal) -> None:
    before, serves = promoted.steps["read"]["champion"], promoted.steps["train"]["challenger"]
    config = CONFIG.model_copy(update={"held_out_days": 3.0, "challenger": before})
    journal = Journal.begin(config)
    journal = journal.done("read", read_log(Cycle(home.location, home, journal)))
    assert WAITING not in journal.steps["read"]
    assert journal.steps["read"]["since_ms"] == Recommender.load(home.location, serves).snapshot.at_ms
    assert train_challenger(Cycle(home.location, home, journal)) == {"challenger": before, "run": None}


def test_without_rewards_or_without_a_log_there_is_no_cycle(home: Home, tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="say what each action is worth"):
        read_log(Cycle(home.location, home, Journal.begin(CONFIG.model_copy(update={"rewards": {}}))))
    with pytest.raises(DataError, match="the log is empty"):
        read_log(Cycle(str(tmp_path), Home(str(tmp_path)), Journal.begin(CONFIG)))
