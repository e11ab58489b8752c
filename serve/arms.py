"""The arms of an experiment: by whom a user is answered, always the same as long as nothing is changed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, final

from serve.config import CHAMPION, ArmConfig, PolicyConfig, ServeConfig

if TYPE_CHECKING:
    from serve.stages import Stages


@final
@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer: stages of one version of the model, and how slates are drawn from what they rank.

    Attributes: follows: whether it takes every version that becomes CURRENT.
    """

    name: str
    version: str
    stages: "Stages"
    policy: PolicyConfig
    follows: bool = False


@final
class Arms:
    """The arms there are, the champion first; a request keeps the arm it got, whatever is switched meanwhile."""

    def __init__(self, arms: Sequence[Arm], config: ServeConfig) -> None:
        self._arms = {arm.name: arm for arm in arms}
        self._experiment = config.experiment
        self._challengers = config.arms

    @classmethod
    def of_config(cls, config: ServeConfig, version: str, stages: "Mapping[str, Stages]") -> Self:
        """The arms of a config.

        Args: version: of all that have none of their own. stages: by version, `config.versions(version)` of them.
        """
        champion = Arm(CHAMPION, version, stages[version], config.policy, follows=True)
        challengers = [
            Arm(
                arm.name,
                arm.version or version,
                stages[arm.version or version],
                arm.policy or config.policy,
                follows=arm.version is None,
            )
            for arm in config.arms
        ]
        return cls([champion, *challengers], config)

    @property
    def versions(self) -> list[str]:
        """The versions that answer, each once."""
        return list(dict.fromkeys(arm.version for arm in self._arms.values()))

    def versions_with(self, current: str) -> list[str]:
        """The versions that will answer once `switch` was called, each once."""
        return list(dict.fromkeys(current if arm.follows else arm.version for arm in self._arms.values()))

    @property
    def champion(self) -> Arm:
        """The arm of all users that no other has."""
        return self._arms[CHAMPION]

    def of(self, user_id: str) -> Arm:
        """The arm of a user."""
        return self._arms[arm_of(user_id, self._experiment, self._challengers)]

    def all(self) -> list[Arm]:
        """Every arm, the champion first."""
        return list(self._arms.values())

    def switch(self, version: str, stages: "Stages") -> None:
        """Lets the arms that follow CURRENT answer by another version, from the next request on."""
        self._arms = {
            name: replace(arm, version=version, stages=stages) if arm.follows else arm
            for name, arm in self._arms.items()
        }


def arm_of(user_id: str, experiment: str, challengers: Sequence[ArmConfig]) -> str:
    """The name of a user's arm.

    A hash of experiment and user is a place in [0, 1) of which each challenger has a stretch as long as its share, in
    their order, and the champion the rest. So the users of one experiment are divided independently of those of
    another; and when the last share grows, it takes users from the champion, and nobody else changes.
    """
    if not challengers:
        return CHAMPION
    digest = hashlib.blake2b(f"{experiment}\0{user_id}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64
    for challenger in challengers:
        place -= challenger.share
        if place < 0:
            return challenger.name
    return CHAMPION
