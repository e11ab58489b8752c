"""Processes that carry a mark in their environment, which whatever they start inherits."""

import psutil

MARK = "TANDEM_TEST_MARK"


def marked(mark: str) -> list[psutil.Process]:
    """Every process that descends from those started with this mark, orphans included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
