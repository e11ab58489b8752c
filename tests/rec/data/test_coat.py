"""The reader of Coat."""

import numpy as np
import pytest

from rec.data.coat import read_coat
from rec.errors import DataError

FILES = {
    "train.ascii": "0 5 0\n1 0 2\n",
    "test.ascii": "3 0 0\n0 4 0\n",
    "propensities.ascii": "0.1 0.2 0.3\n0.4 0.5 0.6\n",
    "user_item_features/user_features.ascii": "1 0\n0 1\n",
    "user_item_features/item_features.ascii": "1\n0\n1\n",
}


def folder(tmp_path, **changed):
    (tmp_path / "user_item_features").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(changed.get(name.split("/")[-1].split(".")[0], text))
    return tmp_path


def test_a_worked_example(tmp_path):
    coat = read_coat(folder(tmp_path))
    np.testing.assert_array_equal(coat.train, [[0, 5, 0], [1, 0, 2]])
    np.testing.assert_array_equal(coat.test, [[3, 0, 0], [0, 4, 0]])
    assert coat.propensities[1, 2] == 0.6
    assert coat.user_features.shape == (2, 2) and coat.item_features.shape == (3, 1)


WRONG = [
    ("train", "0 5 0\n1 6 2\n", 2, "1"),
    ("train", "0 5 0\n1 0.5 2\n", 2, "1"),
    ("train", "0 5 0\n1 2\n", 2, None),
    ("test", "0 five 0\n1 0 2\n", 1, None),
    ("test", "0 5 0\n", None, None),
    ("propensities", "0.1 0.2 0.3\n0.4 0 0.6\n", 2, "1"),
    ("propensities", "0.1 0.2 nan\n0.4 1 0.6\n", 1, "2"),
    ("item_features", "1\n0\n", None, None),
    ("train", "0 5\x1c0\n1 6 2\n", 2, "1"),
]


@pytest.mark.parametrize(("name", "text", "row", "column"), WRONG)
def test_what_is_wrong_is_named(tmp_path, name, text, row, column):
    with pytest.raises(DataError) as refused:
        read_coat(folder(tmp_path, **{name: text}))
    assert name in (refused.value.file or "") and (refused.value.row, refused.value.column) == (row, column)


def test_coat(tandem_data):
    coat = read_coat(tandem_data / "coat")
    assert coat.train.shape == coat.test.shape == coat.propensities.shape == (290, 300)
    np.testing.assert_array_equal((coat.train > 0).sum(axis=1), 24)
    np.testing.assert_array_equal((coat.test > 0).sum(axis=1), 16)
    assert coat.propensities.sum() == pytest.approx((coat.train > 0).sum(), rel=1e-3)
    assert coat.user_features.shape[0] == 290 and coat.item_features.shape[0] == 300
    assert (coat.item_features[:, :2].sum(axis=1) == 1).all(), "a coat is for men or for women"
