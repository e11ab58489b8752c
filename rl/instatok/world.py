"""Who the users are, what videos there are, and how likely a user watches a video."""

from copy import copy
from typing import TYPE_CHECKING, Final, Self, final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rec.schema import Feature, FeatureSchema
from rl.config import InstaTokConfig

if TYPE_CHECKING:
    from rec.data.dataset import Dataset
    from rl.instatok.policies import SessionPolicy

ACTIONS: Final = ("watched", "skipped", "liked", "other")
REWARDS: Final = np.array([1.0, -2.0, 2.0, -0.5])
ENDS_SESSION: Final = ACTIONS.index("other")
SEEN_TO_THE_END: Final = (ACTIONS.index("watched"), ACTIONS.index("liked"))

CATEGORIES: Final = ("comedy", "educational", "news", "food", "politics", "animals", "tech", "fashion")
REGIONS: Final = ("west", "mid", "east")
GENDERS: Final = ("m", "f")

N_INTERESTS: Final = 2
INTEREST_LIFT: Final = 0.3
REGION_LIFT: Final = 0.1
REGION_DROP: Final = 0.2
REGION_LIKES: Final = {"west": "tech", "mid": "animals", "east": "food"}
REGION_DISLIKES: Final = {"west": "educational", "mid": "news", "east": "tech"}

FATIGUE_WINDOW: Final = 5
FATIGUE_DROP: Final = 0.1

VIDEO_SECONDS: Final = 6.0

SCHEMA: Final = FeatureSchema(
    features=(
        Feature(name="age", kind="numeric", side="user"),
        Feature(name="gender", kind="categorical", side="user"),
        Feature(name="region", kind="categorical", side="user"),
        Feature(name="category", kind="categorical", side="item"),
        Feature(name="creator", kind="categorical", side="item"),
        Feature(name="duration_s", kind="numeric", side="item"),
        Feature(name="initial_views", kind="numeric", side="item"),
    )
)


def watch_probability(mood: ArrayLike, lift: ArrayLike, drop: ArrayLike) -> NDArray[np.float64]:
    """Probability that a video is watched to its end: min(1, mood + lift) - drop, kept in [0, 1]; any shapes.

    Source: the InstaTok notebook, function perf_sim, which lets it fall below 0.
    """
    mood, lift, drop = (np.asarray(value, dtype=np.float64) for value in (mood, lift, drop))
    return np.clip(np.minimum(1.0, mood + lift) - drop, 0.0, 1.0)


def mean_watch_probability(lift: ArrayLike, drop: ArrayLike) -> NDArray[np.float64]:
    """The mean of `watch_probability` over a mood uniform in [0, 1], in closed form; any shapes.

    q = min(1, mood + lift) has density 1 on [lift, 1) and an atom of size lift at 1, so
    E max(0, q - drop) = integral of (q - drop) over q from max(lift, drop) to 1, plus lift (1 - drop).
    """
    lift, drop = np.asarray(lift, dtype=np.float64), np.asarray(drop, dtype=np.float64)
    lower = np.maximum(lift, drop) - drop
    return ((1 - drop) ** 2 - lower**2) / 2 + lift * (1 - drop)


def offsets(interests: NDArray[np.integer], region: NDArray[np.integer]) -> tuple[NDArray, NDArray]:
    """What a user's interests and region add to, and take from, each category.

    Args: interests: categories, (U, 2). region: (U,).
    Returns: lift and drop, both (U, C).
    """
    rows = np.arange(len(region))
    likes = np.array([CATEGORIES.index(REGION_LIKES[name]) for name in REGIONS])
    dislikes = np.array([CATEGORIES.index(REGION_DISLIKES[name]) for name in REGIONS])
    lift = np.zeros((len(region), len(CATEGORIES)))
    lift[rows[:, None], interests] = INTEREST_LIFT
    lift[rows, likes[region]] += REGION_LIFT
    drop = np.zeros_like(lift)
    drop[rows, dislikes[region]] = REGION_DROP
    return lift, drop


def fatigued_watch_probability(lift: ArrayLike, drop: ArrayLike) -> NDArray[np.float64]:
    """The mean watch probability after 0 to FATIGUE_WINDOW repeats, each of which takes FATIGUE_DROP off.

    A repeat is a step among the last FATIGUE_WINDOW that showed the same category. What it takes off is the watch
    probability of a step, in whatever mood, which stays in [0, 1].

    Args: lift, drop: any shapes, the same.
    Returns: with one axis more, of FATIGUE_WINDOW + 1.
    """
    lift, drop = np.asarray(lift, dtype=np.float64)[..., None], np.asarray(drop, dtype=np.float64)[..., None]
    return mean_watch_probability(lift, drop + FATIGUE_DROP * np.arange(FATIGUE_WINDOW + 1))


def action_at(watch_p: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.int8]:
    """The action at a point uniform in [0, 1): watched with this probability < 1, else one of the others, any shape.

    What is left of the point after the watched part falls into three equal parts, one per other action.
    """
    other = 1 + np.minimum((point - watch_p) / (1 - watch_p) * 3, 2)
    return np.where(point < watch_p, 0, other).astype(np.int8)


@final
class InstaTok:
    """A world of users and videos, made from the seed of its config.

    A step of a session is one video shown: the user is in a fresh mood, uniform in [0, 1], watches the video with
    `watch_probability`, and otherwise skips it, likes it, or leaves the session, equally likely. Moods are not seen and
    do not last, so what matters is their mean, `watch_p`, which is exact. With the dynamics `fatigue` users tire of a
    category, see `fatigued_watch_probability`; otherwise steps know nothing of each other.

    Attributes:
        age, gender, region: of the users, (U,).
        interests: two different categories a user, hidden from recommenders, (U, 2).
        category, creator, initial_views: of the videos, (N,).
        watch_p: probability that a user watches a video of a category, hidden from recommenders, (U, C).
        fatigued_p: the same after 0 to FATIGUE_WINDOW repeats, (U, C, W + 1); None where users do not tire.
    """

    def __init__(self, config: InstaTokConfig) -> None:
        rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(0,)))
        self.config = config
        self.age = rng.integers(18, 30, config.n_users)
        self.gender = rng.integers(0, len(GENDERS), config.n_users)
        self.region = rng.integers(0, len(REGIONS), config.n_users)
        self.interests = rng.random((config.n_users, len(CATEGORIES))).argsort(axis=1)[:, :N_INTERESTS]
        self.category = rng.integers(0, len(CATEGORIES), config.n_videos)
        self.creator = rng.integers(0, config.n_creators, config.n_videos)
        self.initial_views = np.maximum(0, np.rint(rng.normal(50, 10, config.n_videos))).astype(np.int64)
        self._take_interests()
        self._by_category = np.argsort(self.category, kind="stable")
        self._category_start = np.searchsorted(self.category[self._by_category], np.arange(len(CATEGORIES) + 1))

    def drifted(self, steps: int) -> Self:
        """The same people and videos after a change of fashion: who wanted a category wants one so far behind it."""
        other = copy(self)
        other.interests = (self.interests + steps) % len(CATEGORIES)
        other._take_interests()
        return other

    def _take_interests(self) -> None:
        """What follows from interests and region."""
        lift, drop = offsets(self.interests, self.region)
        self.watch_p = mean_watch_probability(lift, drop)
        self.fatigued_p = fatigued_watch_probability(lift, drop) if self.config.dynamics == "fatigue" else None

    @property
    def n_users(self) -> int:
        """Number of users, U."""
        return self.config.n_users

    @property
    def n_items(self) -> int:
        """Number of videos, N."""
        return self.config.n_videos

    @property
    def user_ids(self) -> NDArray[np.object_]:
        """Ids of the users as strings, (U,)."""
        return np.array([f"user-{i}" for i in range(self.n_users)], dtype=object)

    @property
    def item_ids(self) -> NDArray[np.object_]:
        """Ids of the videos as strings, (N,)."""
        return np.array([f"video-{i}" for i in range(self.n_items)], dtype=object)

    def category_share(self) -> NDArray[np.float64]:
        """Share of each category in the catalogue, (C,)."""
        return np.diff(self._category_start) / self.n_items

    def random_video_of(self, category: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int64]:
        """A video drawn uniformly from each of these categories; any shape.

        Raises: ValueError: when there is no video of a category, which happens in very small worlds.
        """
        start, end = self._category_start[category], self._category_start[category + 1]
        if (end <= start).any():
            raise ValueError("some category has no video; make n_videos larger")
        return self._by_category[rng.integers(start, end)]

    def watch_p_of(
        self, users: NDArray[np.integer], categories: NDArray[np.integer], repeats: NDArray[np.integer] | int = 0
    ) -> NDArray[np.float64]:
        """How likely users watch a video of a category they saw so often lately; shapes broadcast."""
        if self.fatigued_p is None:
            return self.watch_p[users, categories]
        return self.fatigued_p[users, categories, repeats]

    def answer(
        self, users: NDArray[np.integer], items: NDArray[np.integer], rng: np.random.Generator
    ) -> NDArray[np.int8]:
        """What users who are not tired do when shown videos: positions in ACTIONS; shapes broadcast."""
        p = self.watch_p_of(users, self.category[items])
        return action_at(p, rng.random(p.shape))

    def users_frame(self) -> pd.DataFrame:
        """What recommenders may know about users, row by row as `user_ids`."""
        return pd.DataFrame(
            {
                "user_id": self.user_ids,
                "age": self.age.astype(np.float64),
                "gender": np.array(GENDERS, dtype=object)[self.gender],
                "region": np.array(REGIONS, dtype=object)[self.region],
            }
        )

    def items_frame(self) -> pd.DataFrame:
        """What is known about videos, row by row as `item_ids`."""
        category = np.array(CATEGORIES, dtype=object)[self.category]
        creator = np.array([f"creator-{i}" for i in range(self.config.n_creators)], dtype=object)[self.creator]
        titles = [f"{c.capitalize()} {i} by {by}" for i, (c, by) in enumerate(zip(category, creator, strict=True))]
        return pd.DataFrame(
            {
                "item_id": self.item_ids,
                "title": np.array(titles, dtype=object),
                "category": category,
                "creator": creator,
                "duration_s": np.full(self.n_items, VIDEO_SECONDS),
                "initial_views": self.initial_views.astype(np.float64),
            }
        )

    def dataset(self, n_sessions: int | None = None, policy: "SessionPolicy | None" = None) -> "Dataset":
        """The log of sessions as a data set; see `rl.instatok.log.log_sessions`."""
        from rl.instatok.log import log_sessions

        return log_sessions(self, n_sessions, policy)
