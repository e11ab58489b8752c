"""What is answered is what was drawn, with the probability it was drawn with."""

import numpy as np
import pytest

from rec.policy import slate_propensities
from rec.recommender import Recommender
from serve.config import PolicyConfig
from serve.select import EXPLORE, Selection, SelectStage


def select(recommender: Recommender, user_id: str, n: int, epsilon: float = 0.3, seed: int = 0) -> Selection:
    stage = SelectStage(recommender, np.random.SeedSequence(seed))
    policy = PolicyConfig(epsilon=epsilon, temperature=0.5)
    states = recommender.hydrate([user_id], exclude=[[]])
    candidates = recommender.retrieve(states)
    return stage(states, candidates, recommender.rank(states, candidates), n, policy)[0]


def test_propensities_are_those_of_the_policy(recommender: Recommender, user_id: str):
    states = recommender.hydrate([user_id], exclude=[[]])
    candidates = recommender.retrieve(states)
    scores = recommender.rank(states, candidates)
    selection = select(recommender, user_id, 40)
    slate = np.array([[recommender.position_of(item.item_id) for item in selection.items]])
    n_eligible = np.array([[item.n_eligible for item in selection.items]])
    expected = slate_propensities(scores, candidates.items, slate, n_eligible, epsilon=0.3, temperature=0.5)
    np.testing.assert_allclose([[item.propensity for item in selection.items]], expected, rtol=1e-12)
    assert n_eligible[0].tolist() == list(range(selection.n_eligible, selection.n_eligible - 40, -1))


def test_items_carry_their_score_and_source(recommender: Recommender, user_id: str):
    states = recommender.hydrate([user_id], exclude=[[]])
    candidates = recommender.retrieve(states)
    scores = dict(zip(candidates.items[0].tolist(), recommender.rank(states, candidates)[0].tolist(), strict=True))
    shown = select(recommender, user_id, 40).items
    assert {item.sources for item in shown} == {(candidates.source,), (EXPLORE,)}
    for place, item in enumerate(shown):
        position = recommender.position_of(item.item_id)
        assert item.position == place
        assert item.title == recommender.titles[position]
        assert item.score == scores.get(position)
        assert (item.sources == (EXPLORE,)) == (position not in scores)


def test_a_seed_repeats_the_draws_and_each_call_draws_anew(recommender: Recommender, user_id: str):
    assert select(recommender, user_id, 10, seed=1) == select(recommender, user_id, 10, seed=1)
    assert select(recommender, user_id, 10, seed=1) != select(recommender, user_id, 10, seed=2)
    stage, policy = SelectStage(recommender, np.random.SeedSequence(1)), PolicyConfig(epsilon=1)
    states = recommender.hydrate([user_id], exclude=[[]])
    candidates = recommender.retrieve(states)
    scores = recommender.rank(states, candidates)
    assert stage(states, candidates, scores, 10, policy) != stage(states, candidates, scores, 10, policy)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_a_slate_is_short_when_nothing_is_left(recommender: Recommender, user_id: str, epsilon: float):
    left = 3
    keep = {recommender.item_ids[p] for p in recommender.retrieve(recommender.hydrate([user_id])).items[0, :left]}
    states = recommender.hydrate([user_id], exclude=[[i for i in recommender.item_ids if i not in keep]])
    candidates = recommender.retrieve(states)
    stage, policy = SelectStage(recommender, np.random.SeedSequence(0)), PolicyConfig(epsilon=epsilon)
    (selection,) = stage(states, candidates, recommender.rank(states, candidates), 10, policy)
    assert selection.short
    assert {item.item_id for item in selection.items} == keep
    assert selection.n_eligible == left
