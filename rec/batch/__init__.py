"""Candidates for many users at once, as a table: overnight, on Ray, restartable."""

from rec.batch.run import write_candidates

__all__ = ["write_candidates"]
