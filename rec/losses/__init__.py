"""Training objectives: pure functions of embeddings or logits, without Ray and without state."""

from rec.losses.softmax import cross_entropy, logq_softmax, mixed_log_q, mixed_negative

__all__ = ["cross_entropy", "logq_softmax", "mixed_log_q", "mixed_negative"]
