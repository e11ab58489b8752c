"""Files of the extreme classification repository."""

import numpy as np
import pytest

from rec.data.extreme import read_extreme
from rec.errors import DataError


def write(tmp_path, text):
    file = tmp_path / "points.txt"
    file.write_text(text)
    return file


def test_a_worked_example(tmp_path):
    data = read_extreme(write(tmp_path, "4 3 5\n0,4 0:1.5 2:-2e-1\n 1:1\n3\n2 \n"))
    assert len(data) == 4
    np.testing.assert_allclose(data.features.toarray(), [[1.5, 0, -0.2], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(data.labels.toarray(), [[1, 0, 0, 0, 1], [0] * 5, [0, 0, 0, 1, 0], [0, 0, 1, 0, 0]])


def test_any_blank_separates(tmp_path):
    data = read_extreme(write(tmp_path, "3 3 5\n0,4\t0:1.5\t2:2\n\t1:1\n3 \x0b 0:1  1:2\n"))
    np.testing.assert_allclose(data.features.toarray(), [[1.5, 0, 2], [0, 1, 0], [1, 2, 0]])
    np.testing.assert_array_equal(data.labels.toarray(), [[1, 0, 0, 0, 1], [0] * 5, [0, 0, 0, 1, 0]])


def test_labels_are_told_apart_however_many_there_may_be(tmp_path):
    text = "33 1 576460752303423488\n" + "3 0:1\n" * 32 + "3,4 0:1e-60\n"
    data = read_extreme(write(tmp_path, text))
    assert data.labels.indices.tolist() == [3] * 33 + [4]
    assert data.features.sum() == 32, "rounded to float32"


WRONG = [
    ("2 3\n0 0:1\n", 1),
    ("2 3 5\n0 0:1\n", 1),
    ("1 3 5\n0 0:1:2\n", 2),
    ("1 3 5\n0 0\n", 2),
    ("1 3 5\n0,,1 0:1\n", 2),
    ("2 3 5\n0 0:1\n0 0:nan\n", 3),
    ("2 3 5\n0 0:1\n5 0:1\n", 3),
    ("2 3 5\n0 0:1\n4 3:1\n", 3),
    ("2 3 5\n0 0:1\n4,4 2:1\n", 3),
    ("2 3 5\n0 0:1\n4 2:1 2:1\n", 3),
    ("2 3 5\n0 0:1\n0 99999999999999999999:1\n", 3),
    ("2 3 5\n0 0:1\n99999999999999999999 0:1\n", 3),
    ("2 3 5\n0 0:1\n0,99999999999999999999 0:1\n", 3),
    ("2 3 5\n0 0:1\n0 9007199254740993:1\n", 3),
    ("2 3 5\n0 0:1\n0 0:1e999\n", 3),
    ("2 3 5\n0 0:1\n0 1:1 0:-1e39\n", 3),
    ("2 3 5\n0 0:1\n0 0:\u0661\n", 3),
    ("2 3 5\n0 0:1\n\u0661 0:1\n", 3),
    ("2 3 99999999999999999999\n0 0:1\n0 0:1\n", 1),
    ("\u0661 3 5\n0 0:1\n", 1),
    ("2 3 5\n0 0:1\x1c\n1 0:1\n", 2),
    ("2 3 5\n0 0:1\x0b\n9 0:1\n", 3),
]


@pytest.mark.parametrize(("text", "row"), WRONG)
def test_what_cannot_be_read_is_named_by_its_line(tmp_path, text, row):
    file = write(tmp_path, text)
    with pytest.raises(DataError) as refused:
        read_extreme(file)
    assert (refused.value.file, refused.value.row) == (str(file), row)


def test_delicious(tandem_data):
    train = read_extreme(tandem_data / "delicious" / "delicious_train.xmlrepo.txt")
    test = read_extreme(tandem_data / "delicious" / "delicious_test.xmlrepo.txt")
    assert (train.features.shape, train.labels.shape) == ((12_920, 500), (12_920, 983))
    assert (test.features.shape, test.labels.shape) == ((3_185, 500), (3_185, 983))
    assert train.labels[[0]].nonzero()[1].tolist() == [77, 91, 315, 544, 575, 621, 718, 818, 819, 834, 908]
    assert train.features[[0]].nonzero()[1].tolist() == [60, 248, 279, 316, 490]
    assert train.labels.sum() / len(train) == pytest.approx(19.04706, abs=1e-5)
