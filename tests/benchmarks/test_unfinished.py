"""A benchmark that was cut off goes on from the rows it kept, and from no others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.quality.drr_movielens import (
    POLICIES,
    Trial,
    Unfinished,
    finished,
    paired,
    row_of,
    summaries,
    with_policies_of,
)
from rec.data.dataset import Interactions
from rl.config import RatingNeighborsConfig
from rl.rating_neighbors import RatingNeighbors

N_USERS, N_ITEMS = 12, 40
PROTOCOL = {"steps": 200, "variants": {"paper": {}}}
MODEL, ONLINE, LEARNING = "matrix factorisation", "online_reward", "online_reward_learning"
AGENTS = {"DRR-p, user": ("p", "user"), "DRR-ave, logged": ("ave", "logged")}


@pytest.fixture(scope="module")
def ratings() -> tuple[Interactions, Interactions]:
    """Thirty of each user, the latest ten of them to rerank."""
    rng = np.random.default_rng(0)
    whole = Interactions(
        user_ids=np.array([f"u{i}" for i in range(N_USERS)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(N_ITEMS)], dtype=object),
        user=np.repeat(np.arange(N_USERS), 30).astype(np.int32),
        item=np.concatenate([rng.permutation(N_ITEMS)[:30] for _ in range(N_USERS)]).astype(np.int32),
        timestamp=np.arange(30 * N_USERS),
        rating=rng.integers(1, 6, 30 * N_USERS).astype(np.float32),
    )
    late = np.tile(np.arange(30) >= 20, N_USERS)
    return whole.take(~late), whole.take(late)


def trial(known: Interactions, later: Interactions, seed: int, steps: int) -> Trial:
    """A small one that also plays in the simulator of neighbours."""
    neighbors = RatingNeighbors.fit(known, RatingNeighborsConfig(n_neighbors=5))
    return Trial(known, later, seed, lambda: neighbors, [("neighbors", 0.5)], steps)


@pytest.fixture(autouse=True)
def sha(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets the commit that the code is of."""
    module = Unfinished.__init__.__globals__
    monkeypatch.setitem(module, "FOLDER", tmp_path)

    def be(commit: str | None) -> None:
        monkeypatch.setitem(module, "git_sha", lambda: commit)

    be("abc")
    yield be


def test_a_run_that_was_cut_off_makes_only_the_rows_that_are_missing(ratings: Any, tmp_path: Path):
    known, later = ratings
    trials: dict[int, Trial] = {}

    def trial_of(seed: int) -> Trial:
        return trials.setdefault(seed, trial(known, later, seed, 200))

    at_once = finished(Unfinished("whole", PROTOCOL), range(2), POLICIES, {}, trial_of)
    assert [(row["model"], row["seed"]) for row in at_once] == [(name, seed) for name in POLICIES for seed in (0, 1)]
    cut_off = Unfinished("cut", PROTOCOL)
    kept = [row for row in at_once if row["seed"] == 0 or row["model"] == "random"]
    for row in kept:
        cut_off.keep(row)
    trials.clear()
    going_on = Unfinished("cut", PROTOCOL)
    assert finished(going_on, range(2), POLICIES, {}, trial_of) == at_once
    assert "_model" not in vars(trials[0]) and "_model" in vars(trials[1])
    there = json.loads((tmp_path / "cut.unfinished.json").read_text())["rows"]
    assert there == kept + [row for row in at_once if row not in kept]
    going_on.end(at_once)
    assert [file.name for file in tmp_path.iterdir()] == ["whole.unfinished.json"]


def test_a_run_that_asked_for_fewer_rows_leaves_those_that_others_kept(tmp_path: Path):
    whole = [{"model": name, "seed": seed} for name in (MODEL, "DRR-ave, paper", "DRR-ave, user") for seed in (0, 1)]
    cut_off = Unfinished("x", PROTOCOL)
    for row in whole[:-1]:
        cut_off.keep(row)
    fewer = Unfinished("x", PROTOCOL)
    fewer.keep(whole[-1])
    fewer.end([row for row in whole if row["model"] != "DRR-ave, paper"])
    again = Unfinished("x", PROTOCOL)
    assert [again.row(row["model"], row["seed"]) for row in whole] == whole
    again.end(whole)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_agents_are_trained_again_to_the_same_rows(ratings: Any, monkeypatch: pytest.MonkeyPatch):
    known, later = ratings
    module = Trial.__init__.__globals__
    monkeypatch.setitem(module, "N_ONLINE", 20)
    monkeypatch.setitem(module, "N_LEARNING", 3)
    first, second = (
        finished(Unfinished(name, PROTOCOL), range(1), [MODEL], AGENTS, lambda seed: trial(known, later, seed, 1200))
        for name in ("first", "second")
    )
    assert first == second and [row["model"] for row in first] == [MODEL, *AGENTS]
    assert all({LEARNING, f"{ONLINE} in neighbors, noise 0.5"} <= row["metrics"].keys() for row in first[1:])
    assert all("learning_above_as_trained" in row for row in first[1:])


@pytest.mark.parametrize(
    ("commit", "protocol", "said"),
    [
        ("abc", PROTOCOL | {"steps": 20}, "steps 200 there, 20 here"),
        ("abd", PROTOCOL, "git_sha 'abc' there, 'abd' here"),
        ("abc-dirty", PROTOCOL, "not that of a commit"),
        (None, PROTOCOL, "not that of a commit"),
    ],
)
def test_rows_of_another_run_are_refused(sha: Any, commit: str | None, protocol: dict[str, Any], said: str):
    Unfinished("x", PROTOCOL).keep({"model": MODEL, "seed": 0})
    sha(commit)
    with pytest.raises(SystemExit, match=said):
        Unfinished("x", protocol)


def test_rows_of_code_with_changes_are_never_gone_on_from(sha: Any):
    sha("abc-dirty")
    Unfinished("x", PROTOCOL).keep({"model": MODEL, "seed": 0})
    with pytest.raises(SystemExit, match="not that of a commit"):
        Unfinished("x", PROTOCOL)


def test_a_row_has_means_and_differences_and_learning_is_compared_with_the_same_sessions():
    reference = {"ndcg@10": np.array([0.5, 0.25]), ONLINE: np.array([1.0, 0.5, 0.0])}
    found = {"ndcg@10": np.array([0.5, 0.75]), ONLINE: np.array([1.0, 0.5, 0.3]), LEARNING: np.array([0.5, 0.0])}
    row = json.loads(json.dumps(row_of("a", 1, found, reference)))
    assert row["metrics"] == pytest.approx({"ndcg@10": 0.625, ONLINE: 0.6, LEARNING: 0.25})
    above = {name: told["difference"] for name, told in row["above_matrix_factorisation"].items()}
    assert above == pytest.approx({"ndcg@10": 0.25, ONLINE: 0.1, LEARNING: -0.5})
    assert row["learning_above_as_trained"]["difference"] == pytest.approx(-0.5)


def test_agents_are_compared_seed_by_seed_with_those_who_have_all_of_their_seeds():
    """Differences of .2 and .4 have a mean of .3 and a standard error of .1, of which it is three times above 0."""
    agent = [told("DRR-p, user", 0, 0.9, 0.02), told("DRR-p, user", 1, 0.95, 0.04)]
    others = [told(MODEL, 0, 0.7, 0), told(MODEL, 1, 0.55, 0), told("item mean", 0, 0.5, 0)]
    line, of_policy = reversed(paired([*others, *agent]))
    assert (of_policy["a"], of_policy["b"], of_policy["n"]) == ("item mean", MODEL, 1)
    assert (line["a"], line["b"], line["n"], line["above"]) == ("DRR-p, user", MODEL, 2, True)
    assert [line["difference"], line["std_error"], *line["by_seed"]] == pytest.approx([0.3, 0.1, 0.2, 0.4])
    reached = {line["model"]: line["reached"] for line in summaries([*others, *agent])}
    assert reached == {"DRR-p, user": True, MODEL: None, "item mean": None}


def test_seeds_that_agree_do_not_hide_how_far_their_users_are_apart():
    """All seeds say .1; users differ: beside matrix factorisation by .04 and .08, beside another by .1 more at most.

    .1 is less than two of the mean error .06, and seeds that agree are no reason to call it above 0.
    """
    agent = [told("DRR-p, user", seed, 0.6, error) for seed, error in enumerate((0.04, 0.08))]
    others = [told(name, seed, 0.5, error) for name, error in ((MODEL, 0), ("item mean", 0.1)) for seed in (0, 1)]
    lines = {line["b"]: line for line in paired([*others, *agent]) if line["a"] == "DRR-p, user"}
    assert {name: line["difference"] for name, line in lines.items()} == pytest.approx({"item mean": 0.1, MODEL: 0.1})
    assert {name: line["std_error"] for name, line in lines.items()} == pytest.approx({"item mean": 0.16, MODEL: 0.06})
    assert not any(line["above"] for line in lines.values())


def told(model: str, seed: int, value: float, error: float) -> dict[str, Any]:
    """A row of one metric, with its error over users beside matrix factorisation."""
    interval = {"low": -1.96 * error, "high": 1.96 * error}
    above = {"ndcg@10": interval | {"difference": 0.0}}
    return {"model": model, "seed": seed, "metrics": {"ndcg@10": value}, "above_matrix_factorisation": above}


def test_policies_of_another_result_join_where_the_factorisations_are_the_same():
    def row(model: str, seed: int, value: float = 0.5) -> dict[str, Any]:
        return {"model": model, "seed": seed, "metrics": {"ndcg@10": value}}

    ours = [row(MODEL, 0), row(MODEL, 1), row("DRR-p, user", 0), row("DRR-p, user", 1)]
    theirs = [row("popularity", 0), row("popularity", 2), row(MODEL, 0), row(MODEL, 1), row("DRR-u, user", 0)]
    assert with_policies_of(theirs, ours) == [row("popularity", 0), *ours]
    with pytest.raises(SystemExit, match="not of the same factorisations"):
        with_policies_of([*theirs[:2], row(MODEL, 0), row(MODEL, 1, 0.6)], ours)
