"""MovieLens in its original files.

Source: Harper and Konstan (2015), doi:10.1145/2827872; https://grouplens.org/datasets/movielens/.
"""

import re
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rec.data.assembly import LogColumns, assemble
from rec.data.columns import RawTable, categories, numbers, value_lists
from rec.data.dataset import Dataset
from rec.data.delimited import read_delimited
from rec.data.side_tables import SideTable, side_ids
from rec.schema import Feature, Kind, Side

RATINGS: Final = LogColumns(rating="rating", timestamp_unit="s", id_pattern="^[0-9]+$")
RATING_NAMES: Final = ("user_id", "item_id", "rating", "timestamp")
# The files are ISO-8859-1; copies in UTF-8 are about, and accented ISO-8859-1 text is never valid UTF-8 by chance.
TITLE_ENCODINGS: Final = ("utf-8", "iso-8859-1")
YEAR: Final = re.compile(r"\((\d{4})\)\s*$")


def read_movielens_1m(path: str | Path) -> Dataset:
    """MovieLens-1M from the folder with `ratings.dat`, `users.dat` and `movies.dat`.

    Users: gender, age (a bracket), occupation and zip (its first character), categorical. Items: title, year (numeric),
    genres (multi_hot), title_text (text, the title without its year).

    Raises: DataError: naming file, row and column.
    """
    folder = Path(path)
    log = _read_ratings(folder / "ratings.dat", delimiter="::")
    people = read_delimited(
        folder / "users.dat", delimiter="::", names=("user_id", "gender", "age", "occupation", "zip")
    )
    movies = read_delimited(
        folder / "movies.dat", delimiter="::", names=("item_id", "title", "genres"), encodings=TITLE_ENCODINGS
    )
    users = SideTable(
        ids=side_ids(people, "user_id", pattern=RATINGS.id_pattern),
        columns={
            "gender": categories(people, "gender"),
            "age": categories(people, "age"),
            "occupation": categories(people, "occupation"),
            "zip": _zip_areas(people),
        },
        features=_features(
            "user", gender="categorical", age="categorical", occupation="categorical", zip="categorical"
        ),
    )
    return assemble(
        "movielens-1m",
        log,
        RATINGS,
        users=users,
        items=_items(movies, value_lists(movies, "genres", separator="|")),
        repeats=False,
    )


def read_movielens_100k(path: str | Path) -> Dataset:
    """MovieLens-100K from the folder with `u.data`, `u.user`, `u.item` and `u.genre`.

    As MovieLens-1M, but for age, which is a number here.

    Raises: DataError: naming file, row and column.
    """
    folder = Path(path)
    log = _read_ratings(folder / "u.data", delimiter="\t")
    people = read_delimited(folder / "u.user", delimiter="|", names=("user_id", "age", "gender", "occupation", "zip"))
    genre_table = read_delimited(folder / "u.genre", delimiter="|", names=("genre", "position"))
    genre_names = [str(genre) for genre in categories(genre_table, "genre")]
    movies = read_delimited(
        folder / "u.item",
        delimiter="|",
        names=("item_id", "title", "release_date", "video_release_date", "imdb_url", *genre_names),
        encodings=TITLE_ENCODINGS,
    )
    has_genre = np.stack([_flag(movies, genre) for genre in genre_names], axis=1)
    users = SideTable(
        ids=side_ids(people, "user_id", pattern=RATINGS.id_pattern),
        columns={
            "gender": categories(people, "gender"),
            "age": numbers(people, "age", required=False),
            "occupation": categories(people, "occupation"),
            "zip": _zip_areas(people),
        },
        features=_features("user", gender="categorical", age="numeric", occupation="categorical", zip="categorical"),
    )
    genres = [[genre_names[place] for place in np.flatnonzero(row)] for row in has_genre]
    return assemble("movielens-100k", log, RATINGS, users=users, items=_items(movies, genres), repeats=False)


def _read_ratings(path: Path, *, delimiter: str) -> RawTable:
    log = read_delimited(path, delimiter=delimiter, names=RATING_NAMES)
    rating = numbers(log, "rating")
    log.refuse((rating < 1) | (rating > 5), "rating", "a rating from 1 to 5 is required; fix or remove the row")
    return log


def _items(movies: RawTable, genres: list[list[str]]) -> SideTable:
    titles = [title or "" for title in categories(movies, "title")]
    years = [YEAR.search(title) for title in titles]
    return SideTable(
        ids=side_ids(movies, "item_id", pattern=RATINGS.id_pattern),
        columns={
            "title": titles,
            "year": np.array([float(year.group(1)) if year else np.nan for year in years]),
            "genres": genres,
            "title_text": [YEAR.sub("", title).strip() for title in titles],
        },
        features=_features("item", year="numeric", genres="multi_hot", title_text="text"),
    )


def _features(side: Side, **kinds: Kind) -> tuple[Feature, ...]:
    return tuple(Feature(name=name, kind=kind, side=side) for name, kind in kinds.items())


def _zip_areas(people: RawTable) -> list[str | None]:
    """The first character of each postal code: a region of the United States, or of Canada."""
    return [code[0] if code else None for code in categories(people, "zip")]


def _flag(movies: RawTable, genre: str) -> NDArray[np.bool_]:
    values = numbers(movies, genre)
    movies.refuse((values != 0) & (values != 1), genre, "0 or 1 is required")
    return values == 1
