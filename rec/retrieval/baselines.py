"""The baselines that every trained model stands beside, their settings chosen before the period of the test."""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any, Final

from rec.config import BaselinesConfig
from rec.data.dataset import Interactions
from rec.evaluation import EvaluationPeriod, choose
from rec.retrieval.ease import EASE, MAX_ITEMS
from rec.retrieval.ials import IALS
from rec.retrieval.item_neighbors import ItemKNN
from rec.retrieval.popularity import Popularity, RecentPopularity
from rec.retrieval.protocol import CandidateSource

DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Baseline:
    """A fitted baseline and how it came about.

    Attributes:
        source: fitted on everything before the test.
        option: the setting chosen, None where there was nothing to choose.
        scores: each setting with its validation NDCG@10.
    """

    source: CandidateSource
    option: Any = None
    scores: tuple[tuple[Any, float], ...] = ()


def fit_baselines(
    train: Interactions, *, valid_from_ms: int, at_ms: int, config: BaselinesConfig
) -> dict[str, Baseline]:
    """Fits the baselines that the config names.

    Settings are chosen on the interactions with valid_from_ms <= timestamp < at_ms by sources fitted on those before;
    the chosen ones are then fitted on both. A baseline that cannot be had here is left out, with a warning that says
    why.

    Args:
        train: what is known before the test, all of it before at_ms.
        valid_from_ms: where the validation period begins.
        at_ms: where it ends.
        config: which baselines, and the settings to choose from.

    Returns: by name, in the order of the config.
    """
    earlier = train.before(valid_from_ms)

    @cache
    def validation() -> EvaluationPeriod:
        return EvaluationPeriod.build(earlier, train.between(valid_from_ms, at_ms), at_ms=valid_from_ms)

    def chosen(options: tuple[Any, ...], fit: Callable[[Interactions, Any, int], CandidateSource]) -> Baseline:
        choice = choose(options, lambda option: fit(earlier, option, valid_from_ms), validation())
        return Baseline(fit(train, choice.option, at_ms), choice.option, choice.scores)

    def ials(rows: Interactions, option: tuple[float, float], until_ms: int) -> IALS:
        del until_ms
        alpha, regularization = option
        return IALS.fit(
            rows,
            n_factors=config.ials_factors,
            alpha=alpha,
            regularization=regularization,
            n_iterations=config.ials_iterations,
            seed=config.seed,
        )

    fits: dict[str, Callable[[], Baseline]] = {
        "popularity": lambda: Baseline(Popularity.fit(train)),
        "recent_popularity": lambda: chosen(
            config.recent_days,
            lambda rows, days, until_ms: RecentPopularity.fit(rows, window_ms=days * DAY_MS, until_ms=until_ms),
        ),
        "item_knn": lambda: Baseline(ItemKNN.fit(train, n_neighbors=config.item_knn_neighbors)),
        "ease": lambda: chosen(
            config.ease_regularization, lambda rows, weight, until_ms: EASE.fit(rows, regularization=weight)
        ),
        "ials": lambda: chosen(tuple(product(config.ials_alpha, config.ials_regularization)), ials),
    }
    baselines: dict[str, Baseline] = {}
    for name in config.names:
        reason = _why_not(name, train.n_items)
        if reason is None:
            baselines[name] = fits[name]()
        else:
            warnings.warn(f"leaving out the baseline {name}: {reason}", stacklevel=2)
    return baselines


def _why_not(name: str, n_items: int) -> str | None:
    if name == "ials" and importlib.util.find_spec("implicit") is None:
        return "the implicit library is not installed; pip install 'tandem-rec[bench]'"
    if name == "ease" and n_items > MAX_ITEMS:
        return f"it takes at most {MAX_ITEMS} items, and this catalogue has {n_items}"
    return None
