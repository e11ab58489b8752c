"""Golden queries: a bundle that answers as it did is loaded, and one that answers otherwise is not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rec.bundle import BundleDetails
from rec.errors import BundleError
from rec.golden import GOLDEN_FILE, N_ITEMS, NOBODY, TOLERANCE, GoldenQueries
from rec.recommender import Recommender
from rec.registry import Registry
from rec.storage import Home


def golden_file(home: str) -> Path:
    return Registry(Home(home)).open().path(GOLDEN_FILE)


def published_anew(home: str, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A home with the same bundle, whose golden answers were changed before it was published."""
    bundle = Registry(Home(home)).open()

    def fill(folder: Path) -> None:
        for name in bundle.manifest.files:
            shutil.copy(bundle.path(name), folder)
        content = json.loads((folder / GOLDEN_FILE).read_text())
        change(content)
        (folder / GOLDEN_FILE).write_text(json.dumps(content))

    registry = Registry(Home(to))
    details = bundle.manifest.model_dump(include=set(BundleDetails.model_fields))
    registry.promote(registry.publish(fill, BundleDetails(**details)))
    return to


def test_a_loaded_bundle_gives_its_golden_answers(home: str):
    golden = GoldenQueries.load(golden_file(home))
    recommender = Recommender.load(home)
    assert golden.agreement(recommender) == 1.0
    assert golden.answers[-1].user_id == NOBODY
    best_known = str(recommender.snapshot.user_ids[recommender.snapshot.best_known_user])
    assert golden.answers[0].user_id == best_known
    assert all(len(answer.item_ids) == len(answer.scores) == N_ITEMS for answer in golden.answers)


@pytest.mark.parametrize(("share", "expected"), [(0.9, 1.0), (-0.9, 1.0), (1.1, 0.0), (-1.1, 0.0)])
def test_scores_may_move_by_a_thousandth(home: str, recommender: Recommender, share: float, expected: float):
    """Of themselves, and of the range of all scores."""
    golden = GoldenQueries.load(golden_file(home))
    scores = np.concatenate([answer.scores for answer in golden.answers])

    def moved(score: float) -> float:
        return score + share * TOLERANCE * (abs(score) + float(np.ptp(scores)))

    answers = tuple(answer.model_copy(update={"scores": tuple(map(moved, answer.scores))}) for answer in golden.answers)
    # The recorded scores decide what may be off; moving them changes that by a thousandth of it.
    assert golden.model_copy(update={"answers": answers}).agreement(recommender) == expected


def test_another_ranker_behind_the_same_files_is_refused(home: str, monkeypatch: pytest.MonkeyPatch):
    """As if a library had changed what a file means."""
    rank = Recommender.rank
    monkeypatch.setattr(Recommender, "rank", lambda self, *given: -rank(self, *given))
    with pytest.raises(BundleError, match=r"answer otherwise .*golden\.json"):
        Recommender.load(home)


def test_a_few_answers_may_differ_and_many_may_not(home: str, tmp_path: Path):
    n = len(GoldenQueries.load(golden_file(home)).answers) * N_ITEMS

    def wrong(count: int) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            for number in range(count):
                answer = content["answers"][number // N_ITEMS]
                answer["item_ids"][number % N_ITEMS] = f"no such item {number}"

        return change

    few, many = int(0.04 * n), int(0.06 * n) + 1
    assert Recommender.load(published_anew(home, tmp_path / "few", wrong(few))).n_items > 0
    with pytest.raises(BundleError, match="answer otherwise"):
        Recommender.load(published_anew(home, tmp_path / "many", wrong(many)))


@pytest.mark.parametrize("content", [{}, {"answers": []}, {"answers": [{"user_id": "u0"}]}])
def test_golden_queries_that_are_none_are_refused(home: str, tmp_path: Path, content: dict[str, Any]):
    def change(found: dict[str, Any]) -> None:
        found.clear()
        found.update(content)

    with pytest.raises(BundleError, match=r"golden\.json"):
        Recommender.load(published_anew(home, tmp_path / "home", change))


def test_a_catalogue_of_few_items_and_users_has_golden_queries_too(home: str):
    recommender = Recommender.load(home)
    withdrawn = np.ones(recommender.n_items, bool)
    withdrawn[:3] = False
    few = replace(recommender, snapshot=replace(recommender.snapshot, withdrawn=withdrawn))
    golden = GoldenQueries.of(few)
    assert max(len(answer.item_ids) for answer in golden.answers) <= 3
    assert golden.agreement(few) == 1.0
