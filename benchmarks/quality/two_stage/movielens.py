"""MovieLens-1M as the experiment reads it: categories as codes in the order they are first seen, times in [0, 1]."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.data.columns import RawTable, numbers
from rec.data.delimited import read_delimited
from rec.data.movielens import RATING_NAMES, TITLE_ENCODINGS
from rec.errors import DataError

USER_FEATURES: Final = ("gender", "age", "occupation", "zip")
GENRES: Final = (
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


@dataclass(frozen=True, slots=True)
class MovieLens:
    """Users and items by their row in users.dat and movies.dat, ratings in the order of ratings.dat.

    Attributes:
        user_codes: of USER_FEATURES, int64, (U, 4).
        year_code: of the release year, int64, (N,).
        genres: equal shares of the movie's genres, float32, (N, 18).
        user, item: of each rating, int64, (n,).
        liked: whether the rating is above 3, (n,).
        time: of each rating, 0 for the first of all and 1 for the last, float64, (n,).
    """

    user_codes: NDArray[np.int64]
    year_code: NDArray[np.int64]
    genres: NDArray[np.float32]
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    liked: NDArray[np.bool_]
    time: NDArray[np.float64]

    @property
    def n_users(self) -> int:
        """Number of users, U."""
        return len(self.user_codes)

    @property
    def n_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.year_code)

    def user_times(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each user's rating times, (U,) each."""
        n = np.bincount(self.user, minlength=self.n_users)
        mean = np.bincount(self.user, self.time, self.n_users) / n
        deviation = np.bincount(self.user, (self.time - mean[self.user]) ** 2, self.n_users)
        return mean, np.sqrt(deviation / n)


def read_movielens(folder: Path) -> MovieLens:
    """The three files of MovieLens-1M.

    Raises: DataError: naming file, row and column.
    """
    people = read_delimited(folder / "users.dat", delimiter="::", names=("user_id", *USER_FEATURES))
    names = ("item_id", "title", "genres")
    movies = read_delimited(folder / "movies.dat", delimiter="::", names=names, encodings=TITLE_ENCODINGS)
    ratings = read_delimited(folder / "ratings.dat", delimiter="::", names=RATING_NAMES)
    genres = [set(str(listed).split("|")) for listed in _column(movies, "genres")]
    has = np.array([[genre in listed for genre in GENRES] for listed in genres], dtype=np.float32)
    time = numbers(ratings, "timestamp").astype(np.float64)
    return MovieLens(
        user_codes=np.stack([_codes(_column(people, name)) for name in USER_FEATURES], axis=1),
        year_code=_codes(_column(movies, "title").str.slice(-5, -1)),
        genres=has / has.sum(axis=1, keepdims=True),
        user=_places(ratings, "user_id", people),
        item=_places(ratings, "item_id", movies),
        liked=np.asarray(numbers(ratings, "rating") > 3),
        time=(time - time.min()) / (time.max() - time.min()),
    )


def _column(table: RawTable, name: str) -> pd.Series:
    return table.table[name].to_pandas()


def _codes(values: pd.Series) -> NDArray[np.int64]:
    return pd.factorize(values)[0].astype(np.int64)


def _places(ratings: RawTable, name: str, side: RawTable) -> NDArray[np.int64]:
    """Row of each rating's user or item in its own file."""
    places = pd.Index(_column(side, name)).get_indexer(_column(ratings, name))
    if (places < 0).any():
        row = int(np.flatnonzero(places < 0)[0])
        raise DataError(f"unknown {name}; it must stand in {side.file}", file=ratings.file, row=row + 1, column=name)
    return places.astype(np.int64)
