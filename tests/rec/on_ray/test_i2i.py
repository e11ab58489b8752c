import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rec.config import SwingConfig
from rec.data.dataset import Interactions
from rec.i2i import SwingSums
from rec.on_ray.i2i import add_up_in_tasks


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_tasks_add_up_to_the_same_bit_for_bit_in_builds_and_updates(ray_session, n_tasks):
    rng = np.random.default_rng(0)
    log = Interactions(
        user_ids=np.array([f"u{i}" for i in range(60)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(40)], dtype=object),
        user=rng.integers(60, size=900).astype(np.int32),
        item=rng.integers(40, size=900).astype(np.int32),
        timestamp=np.arange(900),
    )
    config = SwingConfig(max_items_per_user=10, max_users_per_item=25)
    yesterday, today = log.before(800), log.between(800, 900)
    here = SwingSums.build(yesterday, config, rng=np.random.default_rng(1)).update(today)
    add_up = add_up_in_tasks(n_tasks)
    there = SwingSums.build(yesterday, config, rng=np.random.default_rng(1), add_up=add_up).update(today, add_up=add_up)
    for name in ("indptr", "indices", "scores"):
        assert_array_equal(getattr(there.neighbors(), name), getattr(here.neighbors(), name))
    assert there.additions == here.additions > 0
    empty = log.take(np.zeros(len(log), np.bool_))
    assert len(SwingSums.build(empty, config, rng=np.random.default_rng(1), add_up=add_up).pairs) == 0
