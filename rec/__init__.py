"""Tandem's learning core: data, models, losses, retrieval, evaluation, training."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rec.recommender import Recommender

__version__: Final = "0.1.0"


def load(home: str | None = None, version: str | None = None) -> "Recommender":
    """A recommender from a registry: the CURRENT bundle, or a version by name.

    Args: home: a folder or an object-store URL; by default TANDEM_HOME, else ./.tandem. version: of a published bundle.
    Raises: BundleError: naming the file that is missing, damaged, or of another format or schema.
    """
    from rec.recommender import Recommender

    return Recommender.load(home, version)
