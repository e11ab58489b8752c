"""What an agent sees of an InstaTok session."""

from typing import Final

import numpy as np
from gymnasium import spaces

from rl.instatok.world import ACTIONS, CATEGORIES, FATIGUE_WINDOW, GENDERS, REGIONS

NUMBERS: Final = ("videos", "watched", "skipped", "liked", "seconds", "age")
PROFILE: Final = ("gender", "region", "first interest", "second interest")
CANDIDATE_FEATURES: Final = ("score", "is interest", "views", "repeats")


def observation_space(n_candidates: int) -> spaces.Dict:
    """What an agent sees; everything is a category or scaled.

    numbers: see NUMBERS; counts are shares of the longest session, age of the range of ages, in [0, 1].
    profile: see PROFILE. last_action: position in ACTIONS, or their number before the first.
    recent_categories: of the last videos, the latest last; the number of categories stands for none.
    candidates: see CANDIDATE_FEATURES; the score as s / (1 + |s|), the logarithm of the views as a share of the
        largest, how many of the recent categories are the candidate's as a share of all. candidate_categories: of each.
    """
    n_categories = len(CATEGORIES)
    return spaces.Dict(
        {
            "numbers": spaces.Box(0, 1, (len(NUMBERS),), np.float32),
            "profile": spaces.MultiDiscrete([len(GENDERS), len(REGIONS), n_categories, n_categories]),
            "last_action": spaces.Discrete(len(ACTIONS) + 1),
            "recent_categories": spaces.MultiDiscrete([n_categories + 1] * FATIGUE_WINDOW),
            "candidates": spaces.Box(-1, 1, (n_candidates, len(CANDIDATE_FEATURES)), np.float32),
            "candidate_categories": spaces.MultiDiscrete([n_categories] * n_candidates),
        }
    )
