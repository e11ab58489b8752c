"""Golden queries: what a bundle answered when it was published, and has to answer wherever it is loaded.

Checksums say that the files are the same. These say that libraries, processor and code make the same of them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Self, final

import numpy as np
from pydantic import Field, FiniteFloat, ValidationError

from rec.config import Config
from rec.errors import BundleError

if TYPE_CHECKING:
    from rec.recommender import Recommender

GOLDEN_FILE: Final = "golden.json"
N_USERS: Final = 15
N_ITEMS: Final = 10
# Of the recommended items, that have to come back with their scores: one digit in a feature may take a tree elsewhere.
AGREEMENT: Final = 0.95
# How far a score may be off, of itself and of the range of all scores; float32 on another processor stays far below.
TOLERANCE: Final = 1e-3
# No user has this id: whoever asks for it gets what is popular.
NOBODY: Final = ""


class GoldenAnswer(Config):
    """What one user was recommended, best first, and with which scores."""

    user_id: str
    item_ids: tuple[str, ...]
    scores: tuple[FiniteFloat, ...]


@final
class GoldenQueries(Config):
    """The answers to a few users: whom most is known of, some others, and nobody."""

    answers: Annotated[tuple[GoldenAnswer, ...], Field(min_length=1)]

    @classmethod
    def of(cls, recommender: "Recommender") -> Self:
        """What a recommender answers now."""
        user_ids = recommender.snapshot.user_ids
        evenly = np.linspace(0, len(user_ids) - 1, min(N_USERS, len(user_ids))).astype(int)
        rows = dict.fromkeys([recommender.snapshot.best_known_user, *evenly.tolist()])
        asked = [*(str(user_ids[row]) for row in rows), NOBODY]
        return cls(answers=tuple(_answer(recommender, user_id) for user_id in asked))

    def save(self, folder: Path) -> None:
        """Writes golden.json."""
        (folder / GOLDEN_FILE).write_text(json.dumps(self.model_dump(), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads golden.json.

        Raises: BundleError: naming the file, when it holds no golden queries.
        """
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise BundleError(f"no golden queries can be read from it: {error}", file=str(file)) from error

    def agreement(self, recommender: "Recommender") -> float:
        """The share of the recommended items that a recommender recommends to the same user with the same score."""
        scores = [score for answer in self.answers for score in answer.scores]
        slack = TOLERANCE * (max(scores, default=0.0) - min(scores, default=0.0))
        same = 0
        for answer in self.answers:
            now = _answer(recommender, answer.user_id)
            found = dict(zip(now.item_ids, now.scores, strict=True))
            same += sum(
                item_id in found and abs(found[item_id] - score) <= slack + TOLERANCE * abs(score)
                for item_id, score in zip(answer.item_ids, answer.scores, strict=True)
            )
        return same / len(scores) if scores else 1.0


def refuse_other_answers(recommender: "Recommender", file: Path) -> None:
    """Refuses a recommender that answers otherwise than its golden queries say.

    Raises: BundleError: naming the file.
    """
    agreement = GoldenQueries.load(file).agreement(recommender)
    if agreement < AGREEMENT:
        raise BundleError(
            f"the loaded models answer otherwise than when they were published: {agreement:.0%} of the golden answers "
            f"come back, {AGREEMENT:.0%} are required; load them with the versions of the libraries that trained them, "
            "or train again",
            file=str(file),
        )


def _answer(recommender: "Recommender", user_id: str) -> GoldenAnswer:
    items = recommender.recommend(user_id, N_ITEMS).items
    return GoldenAnswer(
        user_id=user_id,
        item_ids=tuple(item.item_id for item in items),
        scores=tuple(item.score for item in items),
    )
