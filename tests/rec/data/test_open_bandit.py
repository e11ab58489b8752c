"""The reader of the Open Bandit Dataset."""

import numpy as np
import pytest

from rec.data.open_bandit import read_open_bandit
from rec.errors import DataError

USERS = ",".join(f"user_feature_{n}" for n in range(4))
LOG = f"""\
,timestamp,item_id,position,click,propensity_score,{USERS},user-item_affinity_0,user-item_affinity_1
0,2019-11-24 00:00:02.5+00:00,1,3,0,0.25,a,x,p,q,0.0,2.0
1,2019-11-24 00:00:01+00:00,0,1,1,0.75,b,x,p,q,1.0,0.0
"""
ITEMS = """\
,item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3
0,1,0.5,m,k,k
1,0,-1.5,n,k,k
"""


def folder(tmp_path, log=LOG, items=ITEMS):
    place = tmp_path / "bts" / "men"
    place.mkdir(parents=True)
    (place / "men.csv").write_text(log)
    (place / "item_context.csv").write_text(items)
    return tmp_path


def test_a_worked_example(tmp_path):
    log = read_open_bandit(folder(tmp_path), "bts", "men")
    assert log.action.tolist() == [0, 1] and log.position.tolist() == [0, 2], "by time"
    assert log.reward.tolist() == [1, 0] and log.propensity.tolist() == [0.75, 0.25]
    assert np.diff(log.timestamp).tolist() == [1500] and log.timestamp[0] == 1_574_553_601_000
    assert log.context.tolist() == [[0, 1, 1, 1, 1], [1, 0, 1, 1, 1]]
    assert log.affinity.tolist() == [[1, 0], [0, 2]]
    assert log.action_context.tolist() == [[-1.5, 1, 0, 0], [0.5, 0, 0, 0]], "item 0 first"
    feedback = log.bandit_feedback()
    assert feedback["n_rounds"] == 2 and feedback["n_actions"] == 2 and feedback["pscore"].tolist() == [0.75, 0.25]


WRONG = [
    ({"log": LOG.replace(",1,3,0,", ",2,3,0,")}, 2, "item_id"),
    ({"log": LOG.replace(",0,1,1,", ",0,4,1,")}, 3, "position"),
    ({"log": LOG.replace(",0,1,1,", ",0,1,2,")}, 3, "click"),
    ({"log": LOG.replace("0.75", "0")}, 3, "propensity_score"),
    ({"log": LOG.replace("0.75", "high")}, 3, "propensity_score"),
    ({"log": LOG.replace("2019-11-24 00:00:01", "Sunday")}, 3, "timestamp"),
    ({"log": LOG.replace("2019-11-24 00:00:01+00:00", "2019")}, 3, "timestamp"),
    ({"log": LOG.replace("1.0,0.0", "1.0,1e300")}, 3, "user-item_affinity_1"),
    ({"log": LOG.replace(",position,", ",click,")}, 1, "click"),
    ({"items": ITEMS.replace("1,0,-1.5", "1,1,-1.5")}, 3, "item_id"),
    ({"items": ITEMS.replace("1,0,-1.5", "1,0.5,-1.5")}, 3, "item_id"),
]


@pytest.mark.parametrize(("files", "row", "column"), WRONG)
def test_what_is_wrong_is_named(tmp_path, files, row, column):
    with pytest.raises(DataError) as refused:
        read_open_bandit(folder(tmp_path, **files), "bts", "men")
    assert (refused.value.row, refused.value.column) == (row, column)


@pytest.mark.parametrize(
    ("policy", "campaign", "n_items", "clicks"), [("random", "women", 46, 46), ("bts", "men", 34, 69)]
)
def test_the_sample(tandem_data, policy, campaign, n_items, clicks):
    log = read_open_bandit(tandem_data / "open-bandit", policy, campaign)
    assert len(log) == 10_000 and log.n_actions == n_items and log.reward.sum() == clicks
    assert (np.diff(log.timestamp) >= 0).all() and set(log.position) == {0, 1, 2}
    if policy == "random":
        np.testing.assert_allclose(log.propensity, 1 / n_items)
    np.testing.assert_array_equal(log.context.sum(axis=1), 4)
