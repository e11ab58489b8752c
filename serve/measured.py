"""What recommendations say in numbers: how long, how likely, how good, how varied."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from serve.metrics import Metrics
from serve.request_log import Answered


@final
@dataclass(slots=True)
class _Shown:
    """The items that an arm has shown with one version of the model."""

    version: str
    items: set[str] = field(default_factory=set)
    n_eligible: int = 0


@final
class Measured:
    """Counts recommendations; belongs to the thread that answers them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._shown: dict[str, _Shown] = {}

    def recommendation(self, answered: Answered, seconds: Mapping[str, float]) -> None:
        """Takes one answer, and the time of each of its stages."""
        metrics, response, arm = self._metrics, answered.response, answered.arm.name
        for stage, took in seconds.items():
            metrics.observe("tandem_stage_seconds", stage, values=[took])
        metrics.add("tandem_recommendations_total", arm)
        for name, counted in (
            ("tandem_degraded_total", response.degraded),
            ("tandem_short_total", response.short),
            ("tandem_unknown_users_total", not response.user_known),
        ):
            metrics.add(name, arm, amount=float(counted))
        for item in response.items:
            metrics.add("tandem_items_total", arm, item.source)
        metrics.observe("tandem_propensity", arm, values=[item.propensity for item in response.items])
        scores = [item.score for item in response.items if item.score is not None]
        metrics.observe("tandem_score", arm, values=scores)
        metrics.observe("tandem_score_squares", arm, values=[score * score for score in scores])
        self._coverage(answered)

    def _coverage(self, answered: Answered) -> None:
        arm, selection = answered.arm.name, answered.selection
        shown = self._shown.get(arm)
        if shown is None or shown.version != selection.version:
            shown = self._shown[arm] = _Shown(selection.version)
        shown.items.update(item.item_id for item in selection.items)
        shown.n_eligible = max(shown.n_eligible, selection.n_eligible)
        self._metrics.set("tandem_distinct_items", arm, value=len(shown.items))
        self._metrics.set("tandem_eligible_items", arm, value=shown.n_eligible)
