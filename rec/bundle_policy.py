"""What a bundle would rank for the requests of a log."""

import warnings

import numpy as np

from rec.errors import ConfigError
from rec.ope.estimate import Floats
from rec.ope.slate_log import SlateLog
from rec.ope.slate_policy import SlatePolicy
from rec.ope.support import OverlapWarning
from rec.recommender import Recommender

# Requests ranked at once.
_BLOCK = 256


def first_fair_ms(recommender: Recommender, since_ms: int | None) -> int:
    """From when on requests can tell what a bundle is worth: those it was trained before, or later ones if asked.

    Of earlier requests it knows the answers: it does not rank what was taken then, and its models learned the rewards.

    Raises: ConfigError: when since_ms is before the bundle's snapshot.
    """
    known_until = recommender.snapshot.at_ms
    if since_ms is not None and since_ms < known_until:
        raise ConfigError(
            f"bundle {recommender.version} knows what happened before {known_until} ms, so only later requests can "
            f"judge it; found {since_ms}: leave since_ms out, or give {known_until} or more",
            field="since_ms",
        )
    return known_until if since_ms is None else since_ms


def warn_of_other_catalogue(recommender: Recommender, log: SlateLog) -> int:
    """How many of the logged impressions are of items that the bundle does not know.

    The estimate takes eligible items from the log: such an item is no candidate of the bundle, which shows it as it
    does any other eligible item, with probability epsilon / |E|, or not at all without epsilon.

    Warns: OverlapWarning: where there are such items; where the bundle has more items than were ever eligible, so that
        it may rank some that the log could not show.
    """
    shown = log.slate >= 0
    known = recommender.snapshot.item_positions(log.item_ids.tolist()) >= 0
    n_unknown = int((~known[log.slate[shown]]).sum())
    if n_unknown:
        row, position = np.argwhere(shown & ~known[log.slate])[0]
        warnings.warn(
            f"{n_unknown} of {int(shown.sum())} logged impressions are of items that bundle {recommender.version} does "
            f"not know, the first {str(log.item_ids[log.slate[row, position]])!r} in request "
            f"{str(log.request_id[row])!r}: it ranks none of them, and shows them by its share epsilon of uniform "
            "draws alone",
            OverlapWarning,
            stacklevel=2,
        )
    most = int((log.n_eligible[:, 0] + [len(items) for items in log.history]).max())
    if recommender.n_items > most:
        warnings.warn(
            f"bundle {recommender.version} has {recommender.n_items} items, of which at most {most} were in the "
            "catalogue of any logged request: what it would show of the others is judged as if they could have been "
            "logged",
            OverlapWarning,
            stacklevel=2,
        )
    return n_unknown


def bundle_policy(recommender: Recommender, log: SlateLog, *, epsilon: Floats, temperature: Floats) -> SlatePolicy:
    """The candidates and scores of a bundle for each logged request, to be drawn from as given for each, (Q,).

    What the bundle knows of a user is what it knew when it was trained; of the request it takes the logged history,
    which is not shown again. Requests from before `first_fair_ms` would flatter or wrong it.

    Raises: ConfigError: for a bundle with a cap, under which what may be drawn depends on the items above; boosts are
        part of the scores.
    """
    if recommender.cap is not None:
        raise ConfigError(
            f"bundle {recommender.version} caps {recommender.config.rules.cap_column}, and estimates of slates under a "
            "cap are not to be had yet; judge the same bundle trained without the cap",
            field="rules.cap_column",
        )
    known = np.array([recommender.user_known(str(user_id)) for user_id in log.user_id])
    item_ids: list[list[str]] = [[] for _ in range(len(log))]
    scores = np.zeros((len(log), recommender.config.ranker.n_candidates))
    for group in (np.flatnonzero(known), np.flatnonzero(~known)):
        for start in range(0, len(group), _BLOCK):
            rows: list[int] = group[start : start + _BLOCK].tolist()
            users = [str(log.user_id[row]) for row in rows]
            states = recommender.hydrate(users, exclude=[[str(item) for item in log.history[row]] for row in rows])
            candidates = recommender.retrieve(states)
            ranked = recommender.rank(states, candidates)
            for place, row in enumerate(rows):
                found = candidates.items[place] >= 0
                item_ids[row] = recommender.item_ids[candidates.items[place][found]].tolist()
                scores[row, : found.sum()] = ranked[place][found]
    codes = log.codes(item_ids)
    return SlatePolicy(codes, scores[:, : codes.shape[1]], epsilon, temperature)
