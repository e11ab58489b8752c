"""What a retriever can learn from."""

from typing import Final, Literal

LikesObjective = Literal["logq", "mixed_negative", "cross_entropy"]
LoggedObjective = Literal["regression", "ips", "dr", "weighted_log_likelihood", "top_k_reinforce", "two_stage_ips"]
Objective = LikesObjective | LoggedObjective
SAMPLED_OBJECTIVES: Final[tuple[LoggedObjective, ...]] = ("ips", "two_stage_ips")
