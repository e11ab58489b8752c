"""A small trained bundle, and everything its users should be answered."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from rec.config import (
    LambdaMARTConfig,
    QueriesConfig,
    RankerConfig,
    RetrieverConfig,
    SourcesConfig,
    TrainConfig,
    TrainingConfig,
)
from rec.recommender import Recommender


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A home with one published bundle, trained for a moment on a small world."""
    return _trained(str(tmp_path_factory.mktemp("batch") / "home"), SourcesConfig())


@pytest.fixture(scope="session")
def counted_home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same, with sources that count."""
    return _trained(str(tmp_path_factory.mktemp("counted") / "home"), SourcesConfig(quotas={"ease": 5, "swing": 5}))


def _trained(folder: str, sources: SourcesConfig) -> str:
    from rec.pipeline import train
    from rl.config import InstaTokConfig
    from rl.instatok import InstaTok
    from rl.instatok.log import log_sessions

    config = TrainConfig(
        sources=sources,
        retriever=RetrieverConfig(output_dim=16, queries=QueriesConfig(min_batches=2)),
        ranker=RankerConfig(n_candidates=40, lambdamart=LambdaMARTConfig(trees=5, min_trees=5, min_data_in_leaf=5)),
        training=TrainingConfig(workers=0, epochs=1),
    )
    train(log_sessions(InstaTok(InstaTokConfig(n_users=50, n_videos=120, seed=1))), config, folder)
    return folder


@dataclass(frozen=True)
class Asked:
    """One user at a time, asked of the recommender itself."""

    recommender: Recommender

    def found(self, k: int) -> dict[str, list[tuple[str, float]]]:
        """Items and scores of retrieval."""
        answers = {}
        for user_id in self.recommender.snapshot.user_ids:
            found = self.recommender.retrieve(self.recommender.hydrate([user_id]), k)
            items = found.items[0][found.items[0] >= 0]
            answers[user_id] = list(zip(self.recommender.item_ids[items], found.scores[0], strict=False))
        return answers

    def ranked(self, k: int) -> dict[str, list[str]]:
        """Items of both stages."""
        answers = {}
        for user_id in self.recommender.snapshot.user_ids:
            items = self.recommender.top_k(self.recommender.hydrate([user_id]), k)[0]
            answers[user_id] = list(self.recommender.item_ids[items[items >= 0]])
        return answers


@pytest.fixture(scope="session")
def asked(home: str) -> Asked:
    return Asked(Recommender.load(Path(home)))
