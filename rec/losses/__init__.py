"""Training objectives: pure functions of embeddings or logits, without Ray and without state."""

from rec.losses.off_policy import dr, ips, regression, top_k_reinforce, weighted_log_likelihood
from rec.losses.sampled import sampled_ips, sampled_two_stage_ips
from rec.losses.softmax import cross_entropy, logq_softmax, mixed_log_q, mixed_negative, pooled_log_q
from rec.losses.two_stage import two_stage_ips

__all__ = [
    "cross_entropy",
    "dr",
    "ips",
    "logq_softmax",
    "mixed_log_q",
    "mixed_negative",
    "pooled_log_q",
    "regression",
    "sampled_ips",
    "sampled_two_stage_ips",
    "top_k_reinforce",
    "two_stage_ips",
    "weighted_log_likelihood",
]
