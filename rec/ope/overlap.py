"""How much a log says about a target policy."""

import math
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rec.errors import ConfigError
from rec.ope.estimate import Floats
from rec.ope.logged import LoggedActions, LoggedSlates, is_real
from rec.ope.slates import cascade_weights
from rec.ope.support import refuse_low_support, warn_of_overlap
from rec.weights import diagnose

# What to look at where few rows carry the weight: of one item a time, and of slates by cascade forms.
_OF_ACTIONS: Final = "look at the intervals of clipped_ips, switch_dr and dr_os, which allow for what was not drawn"
_OF_CASCADES: Final = (
    "look at position_wise (tandem ope --estimators), where what an item earns does not depend on those above it"
)


@final
@dataclass(frozen=True, slots=True)
class Overlap:
    """How much the log says about the target policy, and whose rows they are."""

    codes: NDArray[np.int64]
    n_clusters: int
    ess: float
    max_weight: float
    support: float | None

    @classmethod
    def of_actions(cls, rounds: LoggedActions, min_ess: float) -> "Overlap":
        """Of rounds; warns."""
        return cls._of(rounds.weights[:, None], rounds, rounds.support, min_ess, _OF_ACTIONS)

    @classmethod
    def of_slates(cls, slates: LoggedSlates, estimator: str, min_ess: float) -> "Overlap":
        """Of whole slates, or for the position-wise forms of the position that counts least; warns."""
        if "position_wise" in estimator:
            return cls._of(slates.marginal_weights, slates, slates.marginal_support, min_ess, None)
        return cls._of(cascade_weights(slates)[:, -1:], slates, slates.support, min_ess, _OF_CASCADES)

    @classmethod
    def _of(
        cls,
        weights: Floats,
        logged: LoggedActions | LoggedSlates,
        support: float | None,
        min_ess: float,
        instead: str | None,
    ) -> "Overlap":
        """Of weights (n, J), of which the worst column counts."""
        if not is_real(min_ess) or math.isnan(min_ess):
            raise ConfigError(f"a number is required, below which it warns; found {min_ess!r}", field="min_ess")
        refuse_low_support(support)
        columns = weights.T
        sizes = [diagnose(column).ess for column in columns]
        worst = int(np.argmin(sizes))
        codes, n_clusters = logged.codes()
        warn_of_overlap(
            columns[worst],
            codes,
            n_clusters,
            ess=sizes[worst],
            support=support,
            reproduced=isinstance(logged, LoggedSlates) and logged.reproduced,
            instead=instead,
            min_ess=min_ess,
        )
        return cls(codes, n_clusters, sizes[worst], float(weights.max()), support)

    def worse_of(self, other: "Overlap") -> "Overlap":
        """The lesser of what two say of the same rows."""
        known = [overlap.support for overlap in (self, other) if overlap.support is not None]
        return Overlap(
            self.codes,
            self.n_clusters,
            min(self.ess, other.ess),
            max(self.max_weight, other.max_weight),
            min(known) if len(known) == 2 else None,
        )
