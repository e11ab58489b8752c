"""Names of the files in a run's folder."""

from typing import Final

RUN_FILE: Final = "run.json"
EPOCHS_FILE: Final = "epochs.jsonl"
