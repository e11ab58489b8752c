"""InstaTok: users with hidden interests who watch short videos until they have had enough."""

from rl.instatok.log import generate_dataset
from rl.instatok.policies import SessionPolicy, always, best_category, best_of_random, first_interest, uniform
from rl.instatok.sessions import Answers, Sessions, play
from rl.instatok.values import SessionValue, best_of_random_share, only, session_value, slate_value, true_value
from rl.instatok.world import ACTIONS, CATEGORIES, REGIONS, REWARDS, InstaTok

__all__ = [
    "ACTIONS",
    "CATEGORIES",
    "REGIONS",
    "REWARDS",
    "Answers",
    "InstaTok",
    "SessionPolicy",
    "SessionValue",
    "Sessions",
    "always",
    "best_category",
    "best_of_random",
    "best_of_random_share",
    "first_interest",
    "generate_dataset",
    "only",
    "play",
    "session_value",
    "slate_value",
    "true_value",
    "uniform",
]
