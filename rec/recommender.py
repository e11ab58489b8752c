"""A loaded bundle that answers: hydrate, retrieve, rank."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rec.bundle import Bundle, trained_config
from rec.config import TrainConfig
from rec.eligibility import GroupCap
from rec.errors import ConfigError, DataError
from rec.features.encoders import Encoders
from rec.features.new_users import described_states
from rec.features.ranking import RankingFeatures
from rec.features.recent import recent_states
from rec.features.snapshot import Snapshot
from rec.golden import GOLDEN_FILE, GoldenQueries, refuse_other_answers
from rec.i2i import ItemNeighbors, neighbors_frame, neighbors_from_frame
from rec.models.session_agent import AGENT_FILE, SessionAgent, load_agent
from rec.ranking.data import FeatureLayout
from rec.ranking.rankers import RANKING_MODELS, FeatureRanker
from rec.registry import Registry
from rec.retrieval.arrays import arrays_file
from rec.retrieval.blend import Blend, Retriever
from rec.retrieval.index import INDEX_FILE
from rec.retrieval.popularity import RecentPopularity
from rec.retrieval.two_tower import WEIGHTS_FILE as RETRIEVER_FILE
from rec.retrieval.two_tower import TwoTowerSource
from rec.rules import boosts_of, cap_of
from rec.source_fits import SOURCE_LOADS, as_retriever, load_sources
from rec.state import Candidates, UserStates
from rec.storage import Home

USERS_FILE: Final = "users.parquet"
ITEMS_FILE: Final = "items.parquet"
ENCODERS_FILE: Final = "encoders.json"
NEIGHBORS_FILE: Final = "i2i.parquet"


@dataclass(frozen=True, slots=True)
class Recommended:
    """One recommended item; `source` is what found it, positions start at 0."""

    item_id: str
    title: str | None
    position: int
    score: float
    source: str


@dataclass(frozen=True, slots=True)
class Recommendations:
    """The answer to one user; `short` when fewer items were left than asked for."""

    user_id: str
    version: str
    user_known: bool
    short: bool
    items: tuple[Recommended, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, items as a list."""
        return {**asdict(self), "items": [asdict(item) for item in self.items]}


@final
@dataclass(frozen=True)
class Recommender:
    """One bundle in memory; nothing in it changes, so threads may share it.

    The stages (`hydrate`, `retrieve`, `rank`) are what serving runs too, so that both find and score the same.

    Attributes:
        version: of the bundle, empty before it has one.
        config: what it was trained with.
        snapshot: users and items as known when training ended.
        source: finds candidates, and scores any item for the ranker.
        popularity: finds candidates for users of whom nothing is known.
        ranker: orders them.
        neighbors: similar items, which the ranker's features read.
        agent: chooses the next item of a session, None where the bundle holds none.
    """

    version: str
    config: TrainConfig
    snapshot: Snapshot
    source: Retriever
    popularity: RecentPopularity
    ranker: FeatureRanker
    neighbors: ItemNeighbors
    agent: SessionAgent | None = None

    @classmethod
    def load(cls, home: str | Path | None = None, version: str | None = None) -> Self:
        """The CURRENT bundle of a registry, or a version of it, verified before any file is opened.

        It has answered its golden queries: what cannot, or answers otherwise than when it was published, fails here,
        and what is compiled at first use does not wait for a request.

        Raises: BundleError: naming the file that is missing, damaged, or of another format or schema.
        """
        bundle = Registry(Home(home)).open(version)
        recommender = cls.from_bundle(bundle)
        if GOLDEN_FILE in bundle.manifest.files:  # bundles of before have none
            refuse_other_answers(recommender, bundle.path(GOLDEN_FILE))
        else:
            recommender.answer_once()
        return recommender

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Self:
        """The recommender in a verified bundle."""
        config = trained_config(bundle.manifest)
        ranking_model = RANKING_MODELS[config.ranker.kind]
        counted = [arrays_file(name) for name in config.sources.names if name in SOURCE_LOADS]
        for name in (RETRIEVER_FILE, INDEX_FILE, ranking_model.filename, arrays_file(RecentPopularity.name), *counted):
            bundle.path(name)  # is read from the folder below, and must be among the verified files
        encoders = Encoders.from_json(json.loads(bundle.path(ENCODERS_FILE).read_text(encoding="utf-8")))
        snapshot = Snapshot.from_frames(
            pd.read_parquet(bundle.path(USERS_FILE)), pd.read_parquet(bundle.path(ITEMS_FILE)), encoders
        )
        neighbors = neighbors_from_frame(pd.read_parquet(bundle.path(NEIGHBORS_FILE)), snapshot.item_ids)
        features = RankingFeatures(snapshot, neighbors)
        layout = FeatureLayout(tuple(features.names), tuple(features.categorical))
        model = ranking_model.load(bundle.folder, layout)
        return cls(
            version=bundle.version,
            config=config,
            snapshot=snapshot,
            source=as_retriever(
                TwoTowerSource.load(bundle.folder, config, snapshot), load_sources(bundle.folder, config), config
            ),
            popularity=RecentPopularity.load(bundle.folder),
            ranker=FeatureRanker.of(features, model, config),
            neighbors=neighbors,
            agent=load_agent(bundle.path(AGENT_FILE)) if AGENT_FILE in bundle.manifest.files else None,
        )

    def save(self, folder: Path) -> None:
        """Writes every file of the bundle but the manifest."""
        users, items = self.snapshot.to_frames()
        users.to_parquet(folder / USERS_FILE, index=False)
        items.to_parquet(folder / ITEMS_FILE, index=False)
        encoders = json.dumps(self.snapshot.encoders.to_json(), ensure_ascii=False)
        (folder / ENCODERS_FILE).write_text(encoders, encoding="utf-8")
        neighbors_frame(self.neighbors, "cosine").to_parquet(folder / NEIGHBORS_FILE, index=False)
        self.source.save(folder)
        self.popularity.save(folder)
        self.ranker.model.save(folder)
        if self.agent is not None:
            self.agent.save(folder / AGENT_FILE)
        GoldenQueries.of(self).save(folder)

    def answer_once(self) -> None:
        """Goes through all stages for the user of whom most is known; raises whatever they raise."""
        self.top_k(self.hydrate([self.snapshot.user_ids[self.snapshot.best_known_user]]), 1)

    @property
    def n_items(self) -> int:
        """Size of the catalogue, with items withdrawn since."""
        return len(self.snapshot.item_ids)

    @property
    def item_ids(self) -> NDArray[np.object_]:
        """Item ids by catalogue position, (N,)."""
        return self.snapshot.item_ids

    @property
    def two_tower(self) -> TwoTowerSource:
        """The model that embeds users and items; it scores what any source finds."""
        return self.source.scorer if isinstance(self.source, Blend) else self.source

    @cached_property
    def cap(self) -> GroupCap | None:
        """The rule under which slates are drawn, None where there is none."""
        return cap_of(self.config.rules, self.snapshot.item_table)

    @cached_property
    def boosts(self) -> NDArray[np.float64] | None:
        """What the rules add to the score of each item, and 0 for no item, (N + 1,); None where they add nothing."""
        return boosts_of(self.config.rules, self.snapshot)

    @cached_property
    def titles(self) -> list[str | None]:
        """Title of each item, None where it has none, (N,)."""
        table = self.snapshot.item_table
        if "title" not in table:
            return [None] * self.n_items
        return [title if isinstance(title, str) else None for title in table["title"]]

    def user_known(self, user_id: str) -> bool:
        """Whether the bundle has a row for this user."""
        return int(self.snapshot.user_positions([user_id])[0]) >= 0

    def position_of(self, item_id: str) -> int:
        """Catalogue position of an item, -1 for one that is not in the catalogue, or not any more."""
        position = int(self.snapshot.item_positions([item_id])[0])
        return -1 if position >= 0 and self.snapshot.withdrawn[position] else position

    def item(self, item_id: str) -> dict[str, Any]:
        """What is known about an item: its id, title and features as plain values.

        Raises: DataError: when it is not in the catalogue.
        """
        row = self.snapshot.item_table.iloc[self._require(item_id)]
        return {str(name): None if _missing(value) else value for name, value in row.items()}

    def hydrate(
        self,
        user_ids: Sequence[str],
        *,
        exclude: Sequence[Sequence[str]] = (),
        recent: Sequence[Sequence[str]] = (),
        features: Sequence[Mapping[str, Any]] = (),
    ) -> UserStates:
        """What is known about users; items they have seen and items of `exclude` (a list a user) are not shown.

        Items of `recent` (a list a user, oldest first) were taken since the model was trained: they are part of the
        history, and not shown. Ids that are not in the catalogue change nothing. `features` (a mapping a user) are of
        users the bundle has no row for; for the others those of their rows hold.

        Raises: DataError: for ids that are not strings, and features that users do not have, or of another kind.
        """
        for user_id in user_ids:
            _require_string(user_id, "user_id")
        for items in exclude:
            _require_strings(items, "exclude")
        for items in recent:
            _require_strings(items, "recent")
        rows = self.snapshot.user_positions(user_ids)
        excluded = [self.snapshot.item_positions(items) for items in exclude] if any(map(len, exclude)) else None
        if any(map(len, recent)):
            states = recent_states(self.snapshot, rows, recent, excluded or [()] * len(rows))
        else:
            states = self.snapshot.user_states(rows, excluded=excluded)
        return described_states(self.snapshot, states, user_ids, features)

    def top_k(self, states: UserStates, k: int) -> NDArray[np.int32]:
        """The k best items of each user after both stages, best first, -1 where there are fewer, (B, k)."""
        candidates = self.retrieve(states, max(k, self.config.ranker.n_candidates))
        best = self.best_columns(candidates, self.rank(states, candidates), k)
        return np.where(best >= 0, np.take_along_axis(candidates.items, best, axis=1), np.int32(-1))

    def retrieve(self, states: UserStates, k: int | None = None) -> Candidates:
        """Candidates of each user; of a batch in which nothing is known of any user, the popular ones.

        Raises: ConfigError: when the batch mixes users of whom something is known with others.
        """
        k = k or self.config.ranker.n_candidates
        unknown = states.nothing_known
        if unknown.all():
            return self.popularity.candidates(states, k)
        if unknown.any():
            raise ConfigError("users of whom nothing is known are answered from another source; ask for them apart")
        found = self.source.candidates(states, k)
        if isinstance(self.source, Blend):
            return replace(found, scores=self.source.scores(states, found.items))
        return found

    def rank(self, states: UserStates, candidates: Candidates) -> NDArray[np.float64]:
        """Scores of the candidates, (B, M); of popular items the logarithm of their counts. Boosts are added to either.

        At temperature T a softmax draws popular items by popularity to the power 1 / T.
        """
        if candidates.source == self.popularity.name:
            return self.unranked(candidates)
        return self._boosted(candidates, self.ranker.score_many(states, candidates))

    def unranked(self, candidates: Candidates) -> NDArray[np.float64]:
        """What retrieval says of the candidates, in place of `rank`, (B, M): its scores, or the logarithm of counts."""
        scores = candidates.scores
        if candidates.source == self.popularity.name:
            scores = np.log1p(scores, out=scores.copy(), where=candidates.items >= 0)
        return self._boosted(candidates, scores)

    def _boosted(self, candidates: Candidates, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return scores if self.boosts is None else scores + self.boosts[candidates.items]

    def recommend(self, user_id: str, n: int = 10, *, exclude: Sequence[str] = ()) -> Recommendations:
        """The n best items for a user, best first, without what the user had seen when the model was trained.

        A user of whom nothing is known gets what is popular.

        Raises: ConfigError: when n is no positive number. DataError: for ids that are not strings.
        """
        _require_count(n)
        return self._answer(user_id, self.hydrate([user_id], exclude=[exclude]), n)

    def recommend_new(
        self, features: Mapping[str, Any] | None = None, history: Sequence[str] = (), n: int = 10
    ) -> Recommendations:
        """The n best items for somebody the bundle has no row for, from features and what was just taken.

        Args: features: by name, any of those of the users. history: item ids, oldest first, which are not recommended.
        Raises: ConfigError: when n is no positive number. DataError: for ids that are not strings, and features that
            users do not have, or of another kind.
        """
        _require_count(n)
        _require_strings(history, "history")
        return self._answer("", self.hydrate([""], recent=[history], features=[features or {}]), n)

    def _answer(self, user_id: str, states: UserStates, n: int) -> Recommendations:
        candidates = self.retrieve(states, max(min(n, self.n_items), self.config.ranker.n_candidates))
        scores = self.rank(states, candidates)
        best = self.best_columns(candidates, scores, n)
        best = best[0][(best[0] >= 0) & (candidates.items[0][best[0]] >= 0)]
        items = [
            Recommended(
                item_id=str(self.item_ids[position]),
                title=self.titles[position],
                position=place,
                score=float(scores[0, column]),
                source=candidates.sources_of(0, column)[0],
            )
            for place, column in enumerate(best.tolist())
            for position in [int(candidates.items[0, column])]
        ]
        return Recommendations(user_id, self.version, self.user_known(user_id), len(items) < n, tuple(items))

    def similar_items(self, item_id: str, n: int = 10) -> tuple[Recommended, ...]:
        """The n items whose embeddings are nearest to that of an item; score is the cosine.

        Raises: DataError: when the item is not in the catalogue. ConfigError: when n is no positive number.
        """
        _require_count(n)
        items, scores = self.two_tower.similar(self._require(item_id), min(n, self.n_items))
        return tuple(
            Recommended(str(self.item_ids[position]), self.titles[position], place, float(score), self.two_tower.name)
            for place, (position, score) in enumerate(zip(items.tolist(), scores, strict=True))
        )

    def score(self, user_id: str, item_ids: Sequence[str]) -> NDArray[np.float64]:
        """How well items fit a user, as `rank` sees them beside each other, (M,).

        Raises: DataError: when an item is not in the catalogue.
        """
        _require_strings(item_ids, "item_ids")
        positions = np.array([[self._require(item_id) for item_id in item_ids]], np.int32)
        states = self.hydrate([user_id])
        if states.nothing_known.all():
            candidates = Candidates(positions, self.popularity.scores[positions], self.popularity.name)
        else:
            candidates = Candidates(positions, self.source.scores(states, positions), self.source.name)
        return self.rank(states, candidates)[0]

    def best_columns(self, candidates: Candidates, scores: NDArray[np.float64], k: int) -> NDArray[np.intp]:
        """Columns of the k best candidates that the cap lets stand in one slate, -1 for none; ties by item, (B, k)."""
        order = np.lexsort((candidates.items, -scores), axis=1)
        if self.cap is None:
            return order[:, :k]
        order = np.where(self.cap.fits(np.take_along_axis(candidates.items, order, axis=1)), order, -1)
        return np.take_along_axis(order, np.argsort(order < 0, axis=1, kind="stable"), axis=1)[:, :k]

    def _require(self, item_id: str) -> int:
        _require_string(item_id, "item_id")
        position = self.position_of(item_id)
        if position < 0:
            raise DataError(f"item {item_id!r} is not in the catalogue of model {self.version}", field="item_id")
        return position


def _require_string(value: object, field: str) -> None:
    """A number is no id: it would pass for somebody, or something, never seen."""
    if not isinstance(value, str):
        raise DataError(f"ids are strings; found {value!r}: write {str(value)!r}", field=field)


def _require_strings(values: Sequence[object], field: str) -> None:
    """A string is a sequence of strings, too: of its characters."""
    if isinstance(values, str):
        raise DataError(f"must be a list of ids; found {values!r}: write [{values!r}]", field=field)
    for value in values:
        _require_string(value, field)


def _require_count(n: object) -> None:
    if not isinstance(n, int | np.integer) or n < 1:
        raise ConfigError(f"must be a number of items, at least 1; found {n!r}", field="n")


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
