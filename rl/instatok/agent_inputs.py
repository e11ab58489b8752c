"""What session agents are told of InstaTok's observations."""

from typing import Final

from rec.config import AgentField, AgentInputs
from rl.instatok.observation import CANDIDATE_FEATURES, NUMBERS
from rl.instatok.world import ACTIONS, CATEGORIES, FATIGUE_WINDOW, GENDERS, REGIONS

INPUTS: Final = AgentInputs(
    session=(
        AgentField(name="numbers", numbers=len(NUMBERS)),
        AgentField(name="profile", categories=(len(GENDERS), len(REGIONS), len(CATEGORIES), len(CATEGORIES))),
        AgentField(name="last_action", categories=(len(ACTIONS) + 1,)),
        AgentField(name="recent_categories", categories=(len(CATEGORIES) + 1,) * FATIGUE_WINDOW),
    ),
    candidate=(
        AgentField(name="candidates", numbers=len(CANDIDATE_FEATURES)),
        AgentField(name="candidate_categories", categories=(len(CATEGORIES),)),
    ),
)
