"""Estimating what another policy would earn."""

from typing import Annotated, Final, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rec.config.base import Config, Seed

LOGGED_POLICY: Final = "logged"
# Beyond it double precision does not hold what is left of a distribution's tail.
HIGHEST_LEVEL: Final = 1 - 1e-9


class OpeColumns(Config):
    """What the columns of a table of rounds are called; None for what it does not have.

    `q_logged` is the predicted reward of what was shown, `q_target` its mean under the policy under evaluation.
    """

    reward: str = "reward"
    propensity: str = "propensity"
    target_p: str = "target_p"
    user_id: str | None = "user_id"
    q_logged: str | None = None
    q_target: str | None = None


class OpeConfig(Config):
    """Which log, which policy, and which estimators.

    Without `table` the log is the events of the home, and the policy under evaluation is `target`: `logged` reranks
    nothing and draws from the logged candidates; a bundle's version, or `current`, ranks anew. Both draw with `epsilon`
    and `temperature`, the logged ones unless given. `rewards` says what each action is worth, `position_weights` what a
    reward counts at each position, from the top (1 unless given). Impressions count that are `attribution_s` old at
    `now_ms`, by default now. A log without any feedback is refused, but with `allow_no_feedback`, where silence is the
    answer. A `table` is a Parquet or CSV file of one round a row, with the target's probability in it.

    Estimators of a table are `dm ips clipped_ips snips dr sndr switch_dr dr_os`, by default those it has columns for;
    of the events `position_wise sn_position_wise cascade sn_cascade cascade_dr`, by default the last three.
    The empirical Bernstein interval needs a table, `reward_range` and `weight_bound`, and is given of `dm`, `ips` and
    `dr` alone, as it holds for no other without a parameter. The estimators that shrink weights take the least and the
    greatest reward of the table where no range is given. `plot` is the HTML file to write; without it there is none.
    """

    table: str | None = None
    columns: OpeColumns = OpeColumns()
    target: str = LOGGED_POLICY
    epsilon: Annotated[float, Field(ge=0, le=1)] | None = None
    temperature: NonNegativeFloat | None = None
    rewards: dict[str, float] = Field(default_factory=dict)
    attribution_s: PositiveInt = 86_400
    since_ms: NonNegativeInt | None = None
    until_ms: NonNegativeInt | None = None
    now_ms: NonNegativeInt | None = None
    position_weights: tuple[float, ...] = ()
    allow_no_feedback: bool = False
    estimators: tuple[str, ...] = ()
    interval: Literal["student_t", "bootstrap", "empirical_bernstein"] = "student_t"
    level: Annotated[float, Field(gt=0, le=HIGHEST_LEVEL)] = 0.95
    reward_range: tuple[float, float] | None = None
    weight_bound: PositiveFloat | None = None
    plot: str | None = None
    seed: Seed = 0
