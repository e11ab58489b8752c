"""A seed of the DRR benchmark: its factorisations, its worlds, and what agents and policies earn there."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from quality.drr.table import Metrics
from quality.drr.variants import CORRECTED, LEARNING, MODEL, NEIGHBORS, UNTRAINED, VARIANTS, Simulator, online_in

from rec.config.drr import DRRNetworkConfig
from rec.data.dataset import Interactions
from rl.config import DRRTrainConfig, PMFConfig, RatingEnvConfig
from rl.drr import RatingVectors, training
from rl.drr_module import DRRModule
from rl.pmf import MatrixFactorisation, RatingModel, latest_of_each_user
from rl.pmf_env import RatingRound, RatingWorld, latest_liked
from rl.rating_evaluation import Scorer, by_actor, by_model, judge, play, scorers
from rl.session_learning import play_learning

TRAIN_FRACTION: Final = 0.8
N_ONLINE: Final = 2000
N_LEARNING: Final = 200
RELEVANT_RATING: Final = 4


@final
class Trial:
    """A seed's factorisations, worlds and online sessions, made when they are first asked for.

    Args: known: ratings to learn from. later: of the sessions to rerank. neighbors: makes the other family's model of
        the known ratings. others: simulators besides the one in which agents learn, in which all play the same online
        sessions. steps: that each agent plays in the place of its variant's.
    """

    def __init__(
        self,
        known: Interactions,
        later: Interactions,
        seed: int,
        neighbors: Callable[[], RatingModel],
        others: Sequence[Simulator] = (),
        steps: int | None = None,
    ) -> None:
        self._known, self._later, self._seed, self._steps = known, later, seed, steps
        self._neighbors, self._others = neighbors, others
        self._users = np.random.default_rng(seed).choice(np.unique(known.user).astype(np.int64), N_ONLINE)

    @cached_property
    def reference(self) -> Metrics:
        """Matrix factorisation's metrics."""
        return self._judge(self._scorers[MODEL])

    def of_policy(self, name: str) -> Metrics:
        """Metrics of what agents stand beside."""
        if name == MODEL:
            return self.reference
        if name == CORRECTED:
            return self._judge(corrected(*self._halves, self._earlier, self._model))
        if name == UNTRAINED:
            return self._judge(by_products(RatingVectors.of(self._model)))
        if name == NEIGHBORS:
            return self._judge(by_model(self._neighbors()))
        return self._judge(self._scorers[name])

    def of_agent(self, state: Any, variant: str) -> Metrics:
        """Metrics of an agent after its training."""
        how = VARIANTS[variant]
        network = DRRNetworkConfig(state=state, **how.settings.get("network", {}))
        steps = self._steps or how.steps
        asked: dict[str, Any] = {"steps_per_report": steps} | how.settings | {"network": network, "seed": self._seed}
        config = DRRTrainConfig(**asked, total_steps=steps)
        trained: DRRModule
        if how.logged:
            world = RatingWorld.logged(*self._halves, self._earlier, RatingEnvConfig())
            *_, (_, trained) = training(world, RatingVectors.of(self._earlier), config)
            trained = with_vectors(trained, RatingVectors.of(self._model))
        else:
            model = self._model if how.dim == PMFConfig().dim else self._fitted(how.dim)
            *_, (_, trained) = training(self._online, RatingVectors.of(model), config)
        learning = play_learning(self._online, trained, self._users[:N_LEARNING], self._seed)
        return self._judge(by_actor(trained.actor)) | {LEARNING: learning.reward_per_step}

    @cached_property
    def _halves(self) -> tuple[Interactions, Interactions]:
        latest = latest_of_each_user(self._known, 1 - TRAIN_FRACTION)
        return self._known.take(~latest), self._known.take(latest)

    @cached_property
    def _earlier(self) -> MatrixFactorisation:
        return MatrixFactorisation.fit(self._halves[0], PMFConfig(seed=self._seed))

    @cached_property
    def _model(self) -> MatrixFactorisation:
        return self._fitted(PMFConfig().dim)

    def _fitted(self, dim: int) -> MatrixFactorisation:
        return MatrixFactorisation.fit(self._known, PMFConfig(seed=self._seed, dim=dim))

    @cached_property
    def _scorers(self) -> dict[str, Scorer]:
        return scorers(self._known, self._model, self._seed)

    @cached_property
    def _online(self) -> RatingWorld:
        return RatingWorld.of(self._known, self._model, RatingEnvConfig())

    @cached_property
    def _offline(self) -> RatingWorld:
        return RatingWorld.logged(self._known, self._later, self._model, RatingEnvConfig())

    def _judge(self, scorer: Scorer) -> Metrics:
        found = judge(scorer, self._offline, self._online, self._users, self._seed)
        for family, noise in self._others:
            model = self._model if family == "factorisation" else self._neighbors()
            world = self._online.simulated_by(model, noise)
            found[online_in((family, noise))] = play(world, scorer, self._users, self._seed).reward_per_step
        return found


def with_vectors(trained: DRRModule, vectors: RatingVectors) -> DRRModule:
    """The same weights over other vectors of the same users and items."""
    given = trained.model_config | {"user_vectors": vectors.users, "item_vectors": vectors.items}
    module = DRRModule(model_config=given)
    module.make_target_networks()
    module.load_state_dict(trained.state_dict())
    return module


def by_products(vectors: RatingVectors) -> Scorer:
    """Products of the vectors that networks read: what an actor that starts from the user ranks by, untrained.

    Matrix factorisation's ranking without the bounds of the scale, within which predictions of 5 are equal.
    """
    users, items = vectors.users.numpy(), vectors.items.numpy()
    return lambda sessions: users[sessions.users] @ items.T


def corrected(
    before: Interactions, after: Interactions, earlier: MatrixFactorisation, model: MatrixFactorisation
) -> Scorer:
    """What user and history can add to matrix factorisation's ranking, at best and linearly.

    Scores are w1 p.q + w2 b + w3 h.q with h the mean of the history's factors, which changes within a session. The
    weights are those of least squares for relevance, centred by session, of each user's latest known ratings.

    Args: before, after: the known ratings, parted by time. earlier: fitted to the former. model: fitted to all.
    """
    assert after.rating is not None
    histories = latest_liked(before, RatingEnvConfig().history_length)
    x = np.column_stack(
        [
            (earlier.user_factors[after.user] * earlier.item_factors[after.item]).sum(axis=1),
            earlier.item_bias[after.item],
            (mean_factors(earlier, histories)[after.user] * earlier.item_factors[after.item]).sum(axis=1),
        ]
    )
    y = (after.rating >= RELEVANT_RATING).astype(np.float64)
    counts = np.maximum(np.bincount(after.user, minlength=after.n_users), 1)
    centred = [column - (np.bincount(after.user, column, after.n_users) / counts)[after.user] for column in (*x.T, y)]
    of_user, of_item, of_history = np.linalg.lstsq(np.stack(centred[:-1], axis=1), centred[-1], rcond=None)[0]

    def scores(sessions: RatingRound) -> NDArray[np.float64]:
        wanted = of_user * model.user_factors[sessions.users] + of_history * mean_factors(model, sessions.history)
        return wanted @ model.item_factors.T + of_item * model.item_bias

    return scores


def mean_factors(model: MatrixFactorisation, histories: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the factors of histories' items, zeros for none, (S, n) -> (S, D)."""
    none = np.zeros((1, model.item_factors.shape[1]))
    return np.concatenate([model.item_factors, none])[histories].mean(axis=1)
