import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rec.config import SplitConfig
from rec.data.movielens import read_movielens_1m, read_movielens_100k
from rec.data.splits import split
from rec.errors import DataError

RATINGS = b"1::10::5::978300760\n1::20::3::978300761\n2::10::4::978300762\n"


@pytest.fixture
def small_1m(tmp_path: Path) -> Path:
    (tmp_path / "ratings.dat").write_bytes(RATINGS)
    (tmp_path / "users.dat").write_bytes(b"1::F::1::10::48067\n2::M::56::16::V3N4P\n3::M::25::15::\n")
    movies = "10::Misérables, Les (1995)::Drama|Musical\n30::Star Wars: A New Hope (1977)::Sci-Fi\n"
    (tmp_path / "movies.dat").write_bytes(movies.encode("iso-8859-1"))
    return tmp_path


@pytest.fixture
def small_100k(tmp_path: Path) -> Path:
    (tmp_path / "u.data").write_text("1\t10\t5\t881250949\n2\t20\t3\t881250950\n")
    (tmp_path / "u.user").write_text("1|24|M|technician|85711\n2|53|F|other|94043\n")
    (tmp_path / "u.genre").write_text("unknown|0\nAction|1\nDrama|2\n\n")
    (tmp_path / "u.item").write_text(
        "10|Toy Story (1995)|01-Jan-1995||http://x|0|1|1\n20|unknown||||1|0|0\n", encoding="iso-8859-1"
    )
    return tmp_path


def refused(folder: Path, ratings: bytes) -> DataError:
    (folder / "ratings.dat").write_bytes(ratings)
    with pytest.raises(DataError) as caught:
        read_movielens_1m(folder)
    assert caught.value.file == str(folder / "ratings.dat")
    return caught.value


def test_tables_are_aligned_with_vocabularies_users_and_movies_of_the_tables_first(small_1m: Path) -> None:
    dataset = read_movielens_1m(small_1m)
    log = dataset.interactions
    assert list(log.user_ids) == ["1", "2", "3"]
    assert list(log.item_ids) == ["10", "30", "20"]  # 20 is rated but not described
    assert list(log.item_ids[log.item]) == ["10", "20", "10"]
    assert list(log.timestamp) == [978300760_000, 978300761_000, 978300762_000]
    assert log.rating is not None and list(log.rating) == [5, 3, 4]
    assert list(dataset.users["user_id"]) == list(log.user_ids)
    assert list(dataset.items["item_id"]) == list(log.item_ids)
    assert list(dataset.users["zip"]) == ["4", "V", None]
    assert list(dataset.items["title"]) == ["Misérables, Les (1995)", "Star Wars: A New Hope (1977)", None]
    assert list(dataset.items["title_text"]) == ["Misérables, Les", "Star Wars: A New Hope", ""]
    assert list(dataset.items["genres"]) == [["Drama", "Musical"], ["Sci-Fi"], []]
    np.testing.assert_array_equal(dataset.items["year"], [1995, 1977, np.nan])


def test_titles_in_utf8_read_as_those_in_the_original_encoding(small_1m: Path) -> None:
    original = read_movielens_1m(small_1m)
    movies = small_1m / "movies.dat"
    movies.write_text(movies.read_text("iso-8859-1"), "utf-8")
    assert read_movielens_1m(small_1m).sha256 == original.sha256


def test_line_ends_and_blank_lines_at_the_end_mean_nothing(small_1m: Path) -> None:
    original = read_movielens_1m(small_1m)
    (small_1m / "ratings.dat").write_bytes(RATINGS.replace(b"\n", b"\r\n") + b"\r\n\n")
    assert read_movielens_1m(small_1m).sha256 == original.sha256


@pytest.mark.parametrize(
    ("line", "column"),
    [
        (b"1::30::5", None),
        (b"1::30::5::978300763::7", None),
        (b"1:30:5:978300763", None),
        (b"", "rating"),
        (b"1::30::five::978300763", "rating"),
        (b"1::30::nan::978300763", "rating"),
        (b"1::30::::978300763", "rating"),
        (b"1::30::6::978300763", "rating"),
        (b"1::30::5::yesterday", "timestamp"),
        (b"1::30::5::-1", "timestamp"),
        (b"1::30::5::inf", "timestamp"),
        (b"1::30::5::978300763000", "timestamp"),  # milliseconds where seconds are expected
        (b"::30::5::978300763", "user_id"),
        (b"1::x30::5::978300763", "item_id"),
    ],
)
def test_a_broken_row_is_refused_naming_row_and_column(small_1m: Path, line: bytes, column: str | None) -> None:
    error = refused(small_1m, RATINGS + line + b"\n2::30::4::978300764\n")
    assert (error.row, error.column) == (4, column)


def test_a_duplicate_is_refused_naming_both_rows(small_1m: Path) -> None:
    error = refused(small_1m, RATINGS + b"1::10::5::978300760\n")
    assert error.row == 4
    assert "row 1" in error.message


def test_a_second_rating_of_a_movie_is_a_duplicate_whenever_it_was_given(small_1m: Path) -> None:
    assert refused(small_1m, RATINGS + b"1::20::1::978309999\n").row == 4


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  \r\n"])
def test_an_empty_file_is_refused(small_1m: Path, content: bytes) -> None:
    assert "empty" in refused(small_1m, content).message


@pytest.mark.parametrize(
    ("content", "row"),
    [(RATINGS + "1::30::5\xa0::9".encode("iso-8859-1"), 4), (RATINGS.decode().encode("utf-16"), 1)],
)
def test_the_wrong_encoding_is_refused_naming_the_row(small_1m: Path, content: bytes, row: int) -> None:
    error = refused(small_1m, content)
    assert "utf-8" in error.message
    assert error.row == row


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["ratings.dat", "users.dat", "movies.dat"]), st.binary(min_size=1, max_size=8), st.integers(0, 80)
)
def test_whatever_bytes_stand_in_a_file_it_is_read_or_refused_by_name(
    small_1m: Path, name: str, noise: bytes, place: int
) -> None:
    file = small_1m / name
    original = file.read_bytes()
    file.write_bytes(original[:place] + noise + original[place:])
    try:
        read_movielens_1m(small_1m)
    except DataError as error:
        assert error.file is not None and error.file.startswith(str(small_1m))
    finally:
        file.write_bytes(original)


@pytest.mark.parametrize("name", ["ratings.dat", "users.dat", "movies.dat"])
def test_a_missing_file_is_named(small_1m: Path, name: str) -> None:
    (small_1m / name).unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        read_movielens_1m(small_1m)
    assert caught.value.file == str(small_1m / name)


def test_a_user_described_twice_is_refused(small_1m: Path) -> None:
    users = small_1m / "users.dat"
    users.write_bytes(users.read_bytes() + b"2::M::56::16::70072\n")
    with pytest.raises(DataError, match="once") as caught:
        read_movielens_1m(small_1m)
    assert (caught.value.file, caught.value.row, caught.value.column) == (str(users), 4, "user_id")


def test_100k_reads_its_own_layout(small_100k: Path) -> None:
    dataset = read_movielens_100k(small_100k)
    assert list(dataset.users["age"]) == [24.0, 53.0]
    assert list(dataset.items["genres"]) == [["Action", "Drama"], ["unknown"]]
    assert dataset.items["year"].iloc[0] == 1995
    assert np.isnan(dataset.items["year"].iloc[1])
    assert list(dataset.interactions.timestamp) == [881250949_000, 881250950_000]


def test_100k_refuses_a_genre_flag_that_is_none(small_100k: Path) -> None:
    (small_100k / "u.item").write_text("10|Toy Story (1995)|01-Jan-1995||http://x|0|2|1\n")
    with pytest.raises(DataError) as caught:
        read_movielens_100k(small_100k)
    assert (caught.value.row, caught.value.column) == (1, "Action")


def test_the_real_1m_has_the_published_size_and_split(tandem_data: Path) -> None:
    dataset = read_movielens_1m(tandem_data / "ml-1m")
    log = dataset.interactions
    assert (len(log), log.n_users, log.n_items) == (1_000_209, 6_040, 3_883)
    assert log.rating is not None
    assert log.rating.mean(dtype=np.float64) == pytest.approx(3.5816, abs=5e-5)
    parts = split(log.positives(min_rating=3, positive_actions=()), SplitConfig())
    assert (len(parts.train), len(parts.test), len(np.unique(parts.test.user))) == (669_181, 86_312, 1_137)
    assert parts.cut_ms == 975737522 * 1000


def test_the_real_1m_is_read_in_about_a_second(tandem_data: Path) -> None:
    read_movielens_1m(tandem_data / "ml-1m")
    start = time.process_time()
    read_movielens_1m(tandem_data / "ml-1m")
    assert time.process_time() - start < 2.0  # processor time: other tests may share the machine


def test_the_real_100k_has_the_published_size(tandem_data: Path) -> None:
    log = read_movielens_100k(tandem_data / "ml-100k").interactions
    assert (len(log), log.n_users, log.n_items) == (100_000, 943, 1_682)
