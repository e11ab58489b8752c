"""The weighted score as a source: each part by itself, and whose interests count."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rec.config import CosineConfig, TrainConfig, WeightedScoreConfig, parse_config
from rec.errors import ConfigError
from rec.item_groups import ItemGroups
from rec.retrieval.item_neighbors import CosineSource
from rec.retrieval.weighted import WeightedScoreSource

SCORES = CosineConfig(scores={"liked": 2.0, "skipped": -2.0})
GROUPS = ItemGroups.of(pd.DataFrame({"kind": ["cat", "cat", "cat", "dog", "dog", "dog", None]}), "kind", field="kind")


@pytest.fixture
def log(make_interactions):
    """Three users of seven items: user 0 likes cats 0 and 1 and skips a dog, user 1 likes dogs, user 2 did nothing."""
    pairs = [(0, 0), (0, 1), (0, 3), (1, 0), (1, 3), (1, 4), (1, 4)]
    action = np.array([0, 0, 1, 1, 0, 0, 0], np.int16)
    return replace(make_interactions(pairs, 3, 7), action=action, actions=("liked", "skipped"))


def _found(log, states, **weights: float) -> dict[int, list[tuple[int, float]]]:
    config = WeightedScoreConfig(**{"similarity_weight": 0, "views_weight": 0, "interest_weight": 0, **weights})
    source = WeightedScoreSource.fit(log, GROUPS, config, cosine=SCORES, n_interests=1)
    found = source.candidates(states, 7)
    return {
        row: [
            (int(item), float(score))
            for item, score in zip(found.items[row], found.scores[row], strict=True)
            if item >= 0
        ]
        for row in range(len(states))
    }


def test_interests_are_of_the_users_who_showed_them(log, make_states):
    found = _found(log, make_states([0, 1, 2, -1]), interest_weight=3.0)
    assert found == {0: [(0, 3.0), (1, 3.0), (2, 3.0)], 1: [(3, 3.0), (4, 3.0), (5, 3.0)], 2: [], 3: []}


def test_views_are_all_that_was_done_and_the_same_for_everybody(log, make_states):
    found = _found(log, make_states([0, -1]), views_weight=1.0)
    assert [item for item, _ in found[0]] == [0, 3, 4, 1] and found[0] == found[1]
    np.testing.assert_allclose([score for _, score in found[0]], np.log1p([2, 2, 2, 1]))


def test_similarity_is_that_of_the_cosine_source(log, make_states):
    states = make_states([0, 1, -1], [[], [], [4]])
    near = CosineSource.fit(log, SCORES).candidates(states, 7)
    found = _found(log, states, similarity_weight=2.0)
    for row in range(3):
        n = (near.items[row] >= 0).sum()
        assert found[row] == [(int(near.items[row, place]), 2 * near.scores[row, place]) for place in range(n)]


def test_ratings_tell_interests_too_and_a_log_of_neither_is_refused(log, make_states):
    rated = replace(log, action=None, actions=(), rating=np.array([5, 5, 1, 1, 5, 5, 5], np.float32))
    config = WeightedScoreConfig(similarity_weight=0, views_weight=0)
    source = WeightedScoreSource.fit(rated, GROUPS, config, n_interests=1)
    assert source.candidates(make_states([0, 1]), 3).items.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ConfigError, match="a score of each action"):
        WeightedScoreSource.fit(replace(rated, rating=None), GROUPS)


@pytest.mark.parametrize("sources", [{"quotas": {"weighted_score": 5}}, {"interest_column": "kind"}])
def test_the_source_and_its_column_need_each_other(sources):
    with pytest.raises(ConfigError, match="need each other"):
        parse_config(TrainConfig, {"sources": sources})
