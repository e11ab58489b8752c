"""An agent into the bundle that serves."""

import shutil
from pathlib import Path

from rec.bundle import BundleDetails
from rec.models.session_agent import AGENT_FILE, SessionAgent, load_agent
from rec.registry import Registry


def publish_with_agent(registry: Registry, agent: SessionAgent, version: str | None = None) -> str:
    """A new version: the files of a bundle (the current one where None), and the agent's beside them.

    Raises: BundleError: as `Registry.open`, and for an agent that would not load again.
    """
    bundle = registry.open(version)

    def fill(folder: Path) -> None:
        for name in bundle.manifest.files:
            if name != AGENT_FILE:
                shutil.copyfile(bundle.path(name), folder / name)
        agent.save(folder / AGENT_FILE)
        load_agent(folder / AGENT_FILE)

    kept = {name: getattr(bundle.manifest, name) for name in BundleDetails.model_fields}
    return registry.publish(fill, BundleDetails(**kept))
