import numpy as np
import pytest

from rec.config import RulesConfig
from rec.data.dataset import Interactions
from rec.features.snapshot import Snapshot
from rec.rules import boosts_of

DAY_MS = 86_400_000


def _snapshot(checkerboard) -> Snapshot:
    """Item i had its first event i days before the cut, and the last ten none at all."""
    ids = checkerboard.dataset.interactions
    n = ids.n_items - 10
    times = checkerboard.cut_ms - DAY_MS * np.arange(n).clip(1)
    log = Interactions(ids.user_ids, ids.item_ids, np.zeros(n, np.int32), np.arange(n, dtype=np.int32), times)
    return Snapshot.build(checkerboard.dataset, checkerboard.encoders, log, checkerboard.cut_ms, 5)


def test_the_fresh_boost_halves_with_every_half_life(checkerboard):
    boosts = boosts_of(RulesConfig(fresh_boost=0.8, fresh_half_life_days=10), _snapshot(checkerboard))
    assert boosts is not None
    np.testing.assert_allclose(boosts[[10, 20, 30]], [0.4, 0.2, 0.1], rtol=1e-4)
    np.testing.assert_array_equal(boosts[-11:], [*[0.8] * 10, 0.0])


def test_without_a_boost_nothing_is_added(checkerboard):
    assert boosts_of(RulesConfig(), _snapshot(checkerboard)) is None
    with pytest.raises(ValueError, match="fresh_half_life_days has no effect"):
        RulesConfig(fresh_half_life_days=3)
