import logging
from pathlib import Path

import pandas as pd
import pytest

from rec.data.movielens import read_movielens_100k
from rec.data.recbole import read_recbole, write_recbole
from rec.errors import DataError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\na\tx\t4.5\t100\na\ty\t0.1\t100.25\nb\tx\t3\t7\n"
USER = "user_id:token\tage:float\tjob:token\nb\t30\tcook\na\t\t\n"
ITEM = (
    "item_id:token\ttitle:token_seq\ttags:token_seq\tembedding:float_seq\tabout_text:token_seq\n"
    'x\t"Great" X, The\ta b\t0.5 -1.25\tred shoes\ny\t\t\t\t\n'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for suffix, text in (("inter", INTER), ("user", USER), ("item", ITEM)):
        (tmp_path / f"shop.{suffix}").write_text(text)
    return tmp_path


def refused(folder: Path, inter: str) -> DataError:
    (folder / "shop.inter").write_text(inter)
    with pytest.raises(DataError) as caught:
        read_recbole(folder)
    assert caught.value.file == str(folder / "shop.inter")
    return caught.value


def test_types_become_kinds(folder: Path) -> None:
    dataset = read_recbole(folder)
    assert {feature.name: feature.kind for feature in dataset.schema.features} == {
        "age": "numeric",
        "job": "categorical",
        "tags": "multi_hot",
        "embedding": "vector",
        "about_text": "text",
    }
    assert list(dataset.interactions.user_ids) == ["b", "a"]
    assert list(dataset.interactions.timestamp) == [100_000, 100_250, 7_000]
    assert dataset.items.iloc[0].to_list() == ["x", '"Great" X, The', ["a", "b"], [0.5, -1.25], "red shoes"]
    assert dataset.items.iloc[1].to_list() == ["y", None, [], None, ""]


def test_the_log_alone_is_enough(folder: Path) -> None:
    (folder / "shop.user").unlink()
    (folder / "shop.item").unlink()
    dataset = read_recbole(folder / "shop.inter")
    assert dataset.schema.features == ()
    assert list(dataset.items["item_id"]) == ["x", "y"]


def test_what_was_written_reads_back_exactly(folder: Path) -> None:
    original = read_recbole(folder)
    write_recbole(original, folder / "copy")
    assert {file.name for file in (folder / "copy").iterdir()} == {"copy.inter", "copy.user", "copy.item"}
    again = read_recbole(folder / "copy")
    assert again.sha256 == original.sha256
    pd.testing.assert_frame_equal(again.items, original.items)
    pd.testing.assert_frame_equal(again.interactions.to_frame(), original.interactions.to_frame())


def test_actions_travel(folder: Path) -> None:
    (folder / "shop.inter").write_text("user_id:token\titem_id:token\taction:token\ttimestamp:float\na\tx\tliked\t1\n")
    original = read_recbole(folder)
    write_recbole(original, folder / "copy")
    again = read_recbole(folder / "copy").interactions
    assert (again.actions, again.rating) == (("liked",), None)


def test_columns_that_are_not_read_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = INTER.splitlines()
    (folder / "shop.inter").write_text("\n".join([lines[0] + "\tuseful:float", *(line + "\t1" for line in lines[1:])]))
    with caplog.at_level(logging.WARNING):
        assert len(read_recbole(folder).interactions) == 3
    assert "useful" in caplog.text


@pytest.mark.parametrize(
    ("inter", "row", "column"),
    [
        (INTER + "b\ty\t4\n", 5, None),
        (INTER + "b\ty\tgood\t9\n", 5, "rating"),
        (INTER + "a\tx\t4.5\t100\n", 5, None),
        (INTER.replace("rating:float", "rating"), 1, "rating"),
        (INTER.replace("rating:float", "rating:number"), 1, "rating"),
        (INTER.replace("timestamp:float", "when:float"), None, "timestamp"),
        (INTER.replace("item_id:token", "user_id:float"), 1, "user_id"),
        ("", None, None),
    ],
)
def test_a_broken_log_is_refused_naming_where(folder: Path, inter: str, row: int | None, column: str | None) -> None:
    error = refused(folder, inter)
    assert (error.row, error.column) == (row, column)


def test_two_logs_in_a_folder_need_a_choice(folder: Path) -> None:
    (folder / "other.inter").write_text(INTER)
    with pytest.raises(DataError, match=r"other\.inter, shop\.inter"):
        read_recbole(folder)


def test_a_value_that_the_format_cannot_hold_is_refused(folder: Path) -> None:
    dataset = read_recbole(folder)
    dataset.items["tags"].iloc[0].append("two words")
    with pytest.raises(DataError, match="white space") as caught:
        write_recbole(dataset, folder / "copy")
    assert caught.value.column == "tags"


def test_the_real_100k_travels_there_and_back(tandem_data: Path, tmp_path: Path) -> None:
    original = read_movielens_100k(tandem_data / "ml-100k")
    write_recbole(original, tmp_path / "ml")
    assert read_recbole(tmp_path / "ml").sha256 == original.sha256
