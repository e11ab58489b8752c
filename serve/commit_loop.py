"""The process that takes the log into the tables: it commits and sweeps at intervals, and says how far it is."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, final

from serve.claims import Claims
from serve.committer import Committer
from serve.metrics import WRITE_S, SharedMetrics

# A table takes what it is handed within seconds; what has not moved for this long will not.
HUNG_S: Final = 120.0
# How long is waited after a failure, in times of the usual.
_PATIENCE: Final = 5
_LOG: Final = logging.getLogger(__name__)


@final
class CommitLoop:
    """Two threads: one commits, the other tells while that fails or hangs."""

    def __init__(
        self,
        committer: Committer,
        claims: Claims,
        shared: SharedMetrics,
        every_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Args: clock: that of the committer. now: the time of day, which the metrics tell."""
        self._committer = committer
        self._claims = claims
        self._shared = shared
        self._every_s = every_s
        self._clock = clock
        self._now = now
        self._stopping = threading.Event()
        # Of the last commit that took all there was; 0, which is long ago for every alarm, before the first.
        self._committed_at = 0.0
        self._committing = threading.Thread(target=self._commit_for_ever, name="tandem-log-commit", daemon=True)
        self._telling = threading.Thread(target=self._tell_for_ever, name="tandem-log-metrics", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._committing.start()
        self._telling.start()

    def check(self) -> None:
        """Says nothing while tables that fail are tried again, which another process would do no better.

        Raises: RuntimeError: when a thread has ended, or what is done has not moved for `HUNG_S`.
        """
        for thread in (self._committing, self._telling):
            if not thread.is_alive():
                raise RuntimeError(f"the thread {thread.name} has ended")
        since = self._committer.working_since
        if since is not None and self._clock() - since > HUNG_S:
            raise RuntimeError(f"the log has not got on into the tables for {HUNG_S:g} s")

    def stop(self, timeout_s: float) -> None:
        """Commits what there is for the last time, unless that takes too long."""
        self._stopping.set()
        self._committing.join(timeout_s)

    def commit(self) -> bool:
        """Commits and sweeps once, the idempotency keys whether or not that succeeds; failures are logged."""
        done = True
        for step, what in (
            (self._commit, "the log was not taken into the tables; it stays in the spool"),
            (self._claims.sweep, "old idempotency keys were not deleted"),
        ):
            try:
                step()
            except Exception:
                done = False
                _LOG.exception(what)
        return done

    def tell(self) -> None:
        """Writes the numbers.

        Raises: OSError: when the disk is full or fails.
        """
        self._shared.own.set("tandem_log_records_total", value=self._committer.n_records)
        self._shared.own.set("tandem_log_refused_total", value=self._committer.n_refused)
        self._shared.own.set("tandem_log_commit_timestamp_seconds", value=self._committed_at)
        self._shared.write(self._shared.own.to_json())

    def _commit(self) -> None:
        began = self._now()
        self._committer.commit()
        if self._committer.leads():
            self._committed_at = began
        self._committer.sweep()

    def _commit_for_ever(self) -> None:
        while not self._stopping.is_set():
            done = self.commit()
            self._stopping.wait(self._every_s * (1 if done else _PATIENCE))
        try:
            self._committer.commit()
        except Exception:
            _LOG.exception("the last of the log stays in the spool until the next start")
        finally:
            self._committer.close()

    def _tell_for_ever(self) -> None:
        failed = False
        while not self._stopping.wait(WRITE_S):
            try:
                self.tell()
                failed = False
            except OSError:
                if not failed:
                    _LOG.exception("metrics are not written")
                failed = True
