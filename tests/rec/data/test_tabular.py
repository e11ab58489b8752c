import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rec.config import ColumnsConfig, DataConfig
from rec.data.movielens import read_movielens_1m
from rec.data.source import summary
from rec.data.tabular import read_csv, read_parquet, write_parquet
from rec.errors import DataError

LOG = "user_id,item_id,timestamp,rating\na,x,100,4.5\na,y,101,2\nb,x,102.5,3\n"


def csv_of(folder: Path, log: str, **side: str) -> DataConfig:
    (folder / "interactions.csv").write_text(log)
    for name, text in side.items():
        (folder / f"{name}.csv").write_text(text)
    return DataConfig(name="csv", path=str(folder))


def refused(config: DataConfig) -> DataError:
    with pytest.raises(DataError) as caught:
        (read_csv if config.name == "csv" else read_parquet)(config)
    return caught.value


def test_ids_that_no_request_could_carry_are_refused(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text(f"user_id,item_id,timestamp\na,x,1\n{'b' * 257},x,2\n")
    with pytest.raises(DataError, match="at most 256 characters") as caught:
        read_csv(DataConfig(name="csv", path=str(file)))
    assert caught.value.row == 3 and caught.value.column == "user_id"


def test_csv_reads_times_in_seconds_and_in_milliseconds(tmp_path: Path) -> None:
    config = csv_of(tmp_path, LOG)
    log = read_csv(config).interactions
    assert list(log.timestamp) == [100_000, 101_000, 102_500]
    assert log.rating is not None and list(log.rating) == [4.5, 2, 3]
    in_ms = read_csv(config.model_copy(update={"timestamp_unit": "ms"})).interactions
    assert list(in_ms.timestamp[:2]) == [100, 101]


def test_columns_are_mapped(tmp_path: Path) -> None:
    plain = read_csv(csv_of(tmp_path, LOG))
    path = tmp_path / "mine.csv"
    path.write_text(LOG.replace("user_id,item_id,timestamp,rating", "who,what,when,stars"))
    columns = ColumnsConfig(user_id="who", item_id="what", timestamp="when", rating="stars")
    assert read_csv(DataConfig(name="csv", path=str(path), columns=columns)).sha256 == plain.sha256


def test_actions_are_a_sorted_vocabulary(tmp_path: Path) -> None:
    log = read_csv(csv_of(tmp_path, "user_id,item_id,timestamp,action\na,x,1,watched\na,y,2,liked\n")).interactions
    assert log.actions == ("liked", "watched")
    assert log.action is not None and list(log.action) == [1, 0]
    assert log.rating is None


def test_a_misspelt_mapping_names_the_column_and_those_there_are(tmp_path: Path) -> None:
    config = csv_of(tmp_path, LOG).model_copy(update={"columns": ColumnsConfig(user_id="uesr")})
    error = refused(config)
    assert error.column == "uesr"
    assert "user_id, item_id, timestamp, rating" in error.message


def test_an_unknown_column_is_refused_not_passed_over(tmp_path: Path) -> None:
    error = refused(csv_of(tmp_path, LOG.replace("rating", "ratng")))
    assert error.column == "ratng"
    assert error.file == str(tmp_path / "interactions.csv")


def test_ratings_and_actions_together_need_a_choice(tmp_path: Path) -> None:
    config = csv_of(tmp_path, "user_id,item_id,timestamp,rating,action\na,x,1,5,liked\n")
    assert "map one of the two" in refused(config).message
    chosen = read_csv(config.model_copy(update={"columns": ColumnsConfig(action="action")})).interactions
    assert chosen.rating is None and chosen.actions == ("liked",)


@pytest.mark.parametrize(
    ("log", "row", "column"),
    [
        (LOG + "b,y,103\n", 5, None),
        (LOG + "b,y,103,4,5\n", 5, None),
        (LOG + "b,y,103,good\n", 5, "rating"),
        (LOG + "b,y,-3,4\n", 5, "timestamp"),
        (LOG + "b,y,,4\n", 5, "timestamp"),
        (LOG + ",y,103,4\n", 5, "user_id"),
        (LOG + "a,x,100,1\n", 5, None),
        ("user_id,item_id,timestamp,rating\n", None, None),
        ("user_id,item_id,timestamp,item_id\na,x,1,2\n", 1, "item_id"),
        ("", None, None),
        ("\n" + LOG, 1, None),
        (LOG + '"b,y,103,4\n' + "b,z,104,4\n" * 20_000, 5, None),
    ],
)
def test_a_broken_csv_is_refused_naming_where(tmp_path: Path, log: str, row: int | None, column: str | None) -> None:
    error = refused(csv_of(tmp_path, log))
    assert (error.file, error.row, error.column) == (str(tmp_path / "interactions.csv"), row, column)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text('",\n\r0ax|', min_size=1, max_size=6), st.integers(0, len(LOG)))
@example('"', 40)
def test_whatever_stands_in_a_csv_it_is_read_or_refused_by_name(tmp_path: Path, noise: str, place: int) -> None:
    config = csv_of(tmp_path, LOG[:place] + noise + LOG[place:])
    try:
        read_csv(config)
    except DataError as error:
        assert error.file == str(tmp_path / "interactions.csv")


def test_the_same_item_at_another_time_is_no_duplicate(tmp_path: Path) -> None:
    assert len(read_csv(csv_of(tmp_path, LOG + "a,x,200,1\n")).interactions) == 4


def test_rows_are_named_by_their_line_after_a_quoted_line_break(tmp_path: Path) -> None:
    items = 'item_id,title,price\nx,"one\ntwo, three",3\ny,four,1e999\n'
    error = refused(csv_of(tmp_path, LOG, items=items))
    assert (error.row, error.column) == (4, "price")
    good = read_csv(csv_of(tmp_path, LOG, items=items.replace("1e999", "4")))
    assert list(good.items["title"]) == ["one\ntwo, three", "four"]


def test_kinds_of_csv_columns_are_inferred(tmp_path: Path) -> None:
    items = "item_id,title,price,tags,shop,about_text\nx,X,3.5,a|b|a,north,red shoes\nz,Z,,,,\n"
    dataset = read_csv(csv_of(tmp_path, LOG, items=items))
    kinds = {feature.name: feature.kind for feature in dataset.schema.features}
    assert kinds == {"price": "numeric", "tags": "multi_hot", "shop": "categorical", "about_text": "text"}
    assert list(dataset.items["item_id"]) == ["x", "z", "y"]
    assert list(dataset.items["tags"]) == [["a", "b"], [], []]
    assert list(dataset.items["shop"]) == ["north", None, None]
    assert list(dataset.items["about_text"]) == ["red shoes", "", ""]
    np.testing.assert_array_equal(dataset.items["price"], [3.5, np.nan, np.nan])


def test_a_feature_name_of_both_sides_is_refused(tmp_path: Path) -> None:
    config = csv_of(tmp_path, LOG, users="user_id,region\na,n\n", items="item_id,region\nx,s\n")
    assert refused(config).column == "region"


def test_a_reserved_feature_name_is_refused(tmp_path: Path) -> None:
    error = refused(csv_of(tmp_path, LOG, users="user_id,history\na,n\n"))
    assert (error.column, error.file) == ("history", str(tmp_path / "users.csv"))


def test_parquet_takes_integer_ids_and_arrow_times(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    times = pa.array([1_500_000, 2_000_000], pa.timestamp("us", tz="Europe/Paris"))
    pq.write_table(
        pa.table({"user_id": [7, 8], "item_id": pa.array(["x", "x"]).dictionary_encode(), "timestamp": times}), path
    )
    log = read_parquet(DataConfig(name="parquet", path=str(path))).interactions
    assert list(log.user_ids[log.user]) == ["7", "8"]
    assert list(log.timestamp) == [1500, 2000]


def test_kinds_of_parquet_columns_are_inferred_from_their_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": ["a"], "item_id": ["x"], "timestamp": [1]}), tmp_path / "interactions.parquet")
    columns = {
        "item_id": ["x"],
        "n": [3],
        "tags": [["a"]],
        "codes": [[1, 2]],
        "emb": [[0.5, 1.0]],
        "new": [True],
        "a_text": ["b"],
    }
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    config = DataConfig(name="parquet", path=str(tmp_path))
    dataset = read_parquet(config)
    assert [feature.kind for feature in dataset.schema.features] == [
        "numeric",
        "multi_hot",
        "multi_hot",
        "vector",
        "categorical",
        "text",
    ]
    assert dataset.items.iloc[0].to_list() == ["x", 3.0, ["a"], ["1", "2"], [0.5, 1.0], "true", "b"]
    pq.write_table(pa.table({"item_id": ["x"], "day": pa.array([1], pa.date32())}), tmp_path / "items.parquet")
    assert refused(config).column == "day"


@pytest.mark.parametrize(
    ("emb", "row"),
    [([[1.0, 2.0], [1.0]], 1), ([[1.0, 2.0], [1.0, float("nan")]], 1), ([None, [1.0, float("inf")]], 1)],
)
def test_a_broken_vector_is_refused_naming_its_row(tmp_path: Path, emb: list, row: int) -> None:
    pq.write_table(pa.table({"user_id": ["a"], "item_id": ["x"], "timestamp": [1]}), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item_id": ["x", "y"], "emb": emb}), tmp_path / "items.parquet")
    error = refused(DataConfig(name="parquet", path=str(tmp_path)))
    assert (error.row, error.column) == (row, "emb")


@pytest.mark.parametrize(
    ("change", "row", "column"),
    [
        ({"timestamp": [1.0, float("nan")]}, 1, "timestamp"),
        ({"timestamp": ["2020-01-01", "2020-01-02"]}, 0, "timestamp"),
        ({"user_id": ["a", None]}, 1, "user_id"),
        ({"user_id": [1.0, 2.0]}, None, "user_id"),
        ({"rating": [True, False]}, None, "rating"),
        ({"rating": [1.0, None]}, 1, "rating"),
        ({"user_id": ["a", "a"], "timestamp": [1, 1]}, 1, None),
    ],
)
def test_a_broken_parquet_is_refused_naming_where(
    tmp_path: Path, change: dict, row: int | None, column: str | None
) -> None:
    path = tmp_path / "log.parquet"
    good = {"user_id": ["a", "b"], "item_id": ["x", "x"], "timestamp": [1, 2], "rating": [1.0, 2.0]}
    pq.write_table(pa.table(good | change), path)
    error = refused(DataConfig(name="parquet", path=str(path)))
    assert (error.file, error.row, error.column) == (str(path), row, column)


INVALID = pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())


@pytest.mark.parametrize(
    ("change", "row", "column", "message"),
    [
        ({"timestamp": [5, 1_700_000_000_000_000_001]}, 1, "timestamp", "check `timestamp_unit`"),
        ({"timestamp": pa.array([5, 2**64 - 1], pa.uint64())}, 1, "timestamp", "check `timestamp_unit`"),
        ({"timestamp": pa.array([5, 316_516_000_000_000], pa.timestamp("ms"))}, 1, "timestamp", "year 10000"),
        ({"timestamp": pa.array([5, -1], pa.timestamp("us"))}, 1, "timestamp", "since 1970"),
        ({"rating": [3, 2**60 + 1]}, 1, "rating", r"within 2\*\*53"),
        ({"user_id": INVALID}, 1, "user_id", "not in UTF-8"),
    ],
)
def test_values_that_do_not_fit_are_refused_naming_their_row(
    tmp_path: Path, change: dict, row: int, column: str, message: str
) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user_id": ["a", "b"], "item_id": ["x", "x"], "timestamp": [1, 2]} | change), path)
    error = refused(DataConfig(name="parquet", path=str(path)))
    assert (error.file, error.row, error.column) == (str(path), row, column)
    assert re.search(message, error.message)


@pytest.mark.parametrize(
    ("column", "kind", "row"),
    [
        ({"size": [1, 2**53 + 1]}, None, 1),
        ({"title": [b"one", b"\xff"]}, None, 1),
        ({"title": [["one"], ["two"]]}, None, None),
        ({"size": [1, 2]}, "multi_hot", None),
        ({"size": ["a", "b"]}, "vector", 0),
        ({"tags": [["a"], ["b"]]}, "categorical", None),
    ],
)
def test_an_items_column_of_the_wrong_type_is_refused(
    tmp_path: Path, column: dict, kind: str | None, row: int | None
) -> None:
    pq.write_table(pa.table({"user_id": ["a"], "item_id": ["x"], "timestamp": [1]}), tmp_path / "interactions.parquet")
    name = next(iter(column))
    metadata = {b"tandem": f'{{"kinds": {{"{name}": "{kind}"}}}}'.encode()} if kind else None
    items = pa.table({"item_id": ["x", "y"], **column}).replace_schema_metadata(metadata)
    pq.write_table(items, tmp_path / "items.parquet")
    error = refused(DataConfig(name="parquet", path=str(tmp_path)))
    assert (error.file, error.row, error.column) == (str(tmp_path / "items.parquet"), row, name)


@pytest.mark.parametrize("noted", [b"{", b"[]", b"\xff", b'{"actions": 5}', b'{"name": 7}', b'{"kinds": {"c": "zzz"}}'])
def test_metadata_that_tandem_never_wrote_are_refused(tmp_path: Path, noted: bytes) -> None:
    path = tmp_path / "log.parquet"
    table = pa.table({"user_id": ["a"], "item_id": ["x"], "timestamp": [1]})
    pq.write_table(table.replace_schema_metadata({b"tandem": noted}), path)
    error = refused(DataConfig(name="parquet", path=str(path)))
    assert error.file == str(path)
    assert error.field is not None and error.field.startswith("metadata.tandem")


def test_missing_values_in_lists_are_left_out_as_empty_ones_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": ["a"], "item_id": ["x"], "timestamp": [1]}), tmp_path / "interactions.parquet")
    items = {"item_id": ["x", "y"], "tags": [["a", None, ""], None], "codes": [[1, None], [None]]}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    read = read_parquet(DataConfig(name="parquet", path=str(tmp_path))).items
    assert list(read["tags"]) == [["a"], []]
    assert list(read["codes"]) == [["1"], []]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_whatever_bit_of_a_parquet_flips_it_is_read_or_refused_by_name(tmp_path: Path, place: float, bit: int) -> None:
    path = tmp_path / "log.parquet"
    good = {"user_id": ["a", "b"], "item_id": ["x", "x"], "timestamp": [1, 2], "rating": [1.0, 2.0]}
    pq.write_table(pa.table(good), path, compression="none")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        summary(read_parquet(DataConfig(name="parquet", path=str(path))))
    except DataError as error:
        assert error.file == str(path)


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    arrays = [pa.array(["a"]), pa.array(["x"]), pa.array([1]), pa.array(["y"])]
    pq.write_table(pa.table(arrays, names=["user_id", "item_id", "timestamp", "item_id"]), path)
    assert refused(DataConfig(name="parquet", path=str(path))).file == str(path)


@pytest.mark.parametrize("content", [b"", b"no parquet at all"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(content)
    assert refused(DataConfig(name="parquet", path=str(path))).file == str(path)


def test_what_was_written_reads_back_exactly(tmp_path: Path) -> None:
    items = "item_id,title,price,tags,zip,about_text\nz,Z,3.5,a|b c,,red\nx,,,,n,\n"
    original = read_csv(csv_of(tmp_path, LOG, items=items, users="user_id,age\nb,3\nc,\n"))
    write_parquet(original, tmp_path / "out")
    again = read_parquet(DataConfig(name="parquet", path=str(tmp_path / "out")))
    assert again.sha256 == original.sha256
    assert (again.name, again.schema, again.dropped) == (original.name, original.schema, original.dropped)
    pd.testing.assert_frame_equal(again.users, original.users)
    pd.testing.assert_frame_equal(again.items, original.items)
    pd.testing.assert_frame_equal(again.interactions.to_frame(), original.interactions.to_frame())


def test_actions_that_never_occur_survive_writing(tmp_path: Path) -> None:
    original = read_csv(csv_of(tmp_path, "user_id,item_id,timestamp,action\na,x,1,b\na,y,2,a\na,y,3,c\n"))
    part = original.interactions.take(np.array([0, 2]))
    dataset = type(original)("part", part, original.users, original.items, original.schema, "")
    write_parquet(dataset, tmp_path / "out")
    again = read_parquet(DataConfig(name="parquet", path=str(tmp_path / "out"))).interactions
    assert again.actions == ("a", "b", "c")
    assert list(again.to_frame()["action"]) == ["b", "c"]


def test_the_real_1m_reads_back_exactly(tandem_data: Path, tmp_path: Path) -> None:
    original = read_movielens_1m(tandem_data / "ml-1m")
    write_parquet(original, tmp_path)
    again = read_parquet(DataConfig(name="parquet", path=str(tmp_path)))
    assert (again.sha256, again.name) == (original.sha256, "movielens-1m")
