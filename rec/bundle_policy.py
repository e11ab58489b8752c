"""What a bundle would rank for the requests of a log."""

import warnings
from collections.abc import Iterable
from functools import reduce

import numpy as np
import pandas as pd

from rec.bundle import trained_config
from rec.errors import ConfigError
from rec.item_groups import ItemCap
from rec.ope.estimate import Floats
from rec.ope.slate_log import SlateLog
from rec.ope.slate_policy import SlatePolicy
from rec.ope.support import OverlapWarning
from rec.recommender import ITEMS_FILE, Recommender
from rec.registry import Registry
from rec.storage import Home

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


def warn_of_other_catalogue(recommender: Recommender, log: SlateLog) -> dict[str, int]:
    """How many of the logged impressions are of items that the bundle does not know, or that were withdrawn from it.

    The estimate takes eligible items from the log: such an item is no candidate of the bundle, which is taken to show
    it as it does any other eligible item, with probability epsilon / |E|, or not at all without epsilon. Of items
    withdrawn that is too much, and of all others as much too little: the log counts what was eligible, and does not
    name it.

    Warns: OverlapWarning: where there are such items; where the bundle has more items than were ever eligible, so that
        it may rank some that the log could not show.
    """
    shown, snapshot = log.slate >= 0, recommender.snapshot
    positions = snapshot.item_positions(log.item_ids.tolist())
    unknown = positions < 0
    counts = {}
    for name, away, which, told in (
        ("n_unknown_items", unknown, f"that bundle {recommender.version} does not know", "shows them"),
        (
            "n_withdrawn_items",
            ~unknown & snapshot.withdrawn[positions],
            f"withdrawn from bundle {recommender.version}",
            "is taken to show them",
        ),
    ):
        counts[name] = int(away[log.slate[shown]].sum())
        if counts[name]:
            row, position = np.argwhere(shown & away[log.slate])[0]
            warnings.warn(
                f"{counts[name]} of {int(shown.sum())} logged impressions are of items {which}, the first "
                f"{str(log.item_ids[log.slate[row, position]])!r} in request {str(log.request_id[row])!r}: it ranks "
                f"none of them, and {told} by its share epsilon of uniform draws alone",
                OverlapWarning,
                stacklevel=2,
            )
    away = [len({*past, *excluded}) for past, excluded in zip(log.history, log.excluded, strict=True)]
    most = int((log.n_eligible[:, 0] + away).max())
    n_items = int((~snapshot.withdrawn).sum())
    if n_items > most:
        warnings.warn(
            f"bundle {recommender.version} has {n_items} items, of which at most {most} were in the catalogue of any "
            "logged request: what it would show of the others is judged as if they could have been logged",
            OverlapWarning,
            stacklevel=2,
        )
    return counts


def bundle_policy(recommender: Recommender, log: SlateLog, *, epsilon: Floats, temperature: Floats) -> SlatePolicy:
    """The candidates and scores of a bundle for each logged request, to be drawn from as given for each, (Q,).

    What the bundle knows of a user is what it knew when it was trained, or what the request said of somebody it has no
    row for, and the logged history of the request, which as far as it is new to it counts as just taken. Neither is
    shown, nor what the request or the session excluded.
    Requests from before `first_fair_ms` would flatter or wrong it.

    A cap is that of the log, too: below the items that were shown, the log then counts what is eligible for both.

    Raises: ConfigError: for a bundle of another cap than the log's.
    """
    cap = _common_cap(recommender, log)
    history = [list(map(str, items)) for items in log.history]
    excluded = [[*past, *map(str, items)] for past, items in zip(history, log.excluded, strict=True)]
    asked = {feature.name for feature in recommender.snapshot.encoders.schema.of_side("user")}
    features = [{name: told[name] for name in told.keys() & asked} for told in log.user_features]
    # Those of whom nothing is known are answered from another source, and so apart.
    known = np.array(
        [
            bool(told) or recommender.user_known(str(user_id)) or any(recommender.snapshot.item_positions(past) >= 0)
            for user_id, past, told in zip(log.user_id, history, features, strict=True)
        ]
    )
    scores = np.zeros((len(log), recommender.config.ranker.n_candidates))
    positions = np.full(scores.shape, -1)
    for group in (np.flatnonzero(known), np.flatnonzero(~known)):
        for start in range(0, len(group), _BLOCK):
            rows: list[int] = group[start : start + _BLOCK].tolist()
            users = [str(log.user_id[row]) for row in rows]
            recent, away = ([lists[row] for row in rows] for lists in (history, excluded))
            states = recommender.hydrate(users, exclude=away, recent=recent, features=[features[row] for row in rows])
            candidates = recommender.retrieve(states)
            ranked = recommender.rank(states, candidates)
            for place, row in enumerate(rows):
                found = candidates.items[place] >= 0
                positions[row, : found.sum()] = candidates.items[place][found]
                scores[row, : found.sum()] = ranked[place][found]
    # Each item is looked up by its name once, not once a request.
    ranked_at = np.unique(positions[positions >= 0])
    own, items = log.coded([recommender.item_ids[ranked_at].tolist()])
    code = np.full(len(recommender.item_ids), -1)
    code[ranked_at] = own[0, : len(ranked_at)]
    width = max(int((positions >= 0).sum(axis=1).max(initial=0)), 1)
    codes = np.where(positions >= 0, code[positions], -1)[:, :width]
    by_code = None if cap is None else cap.of_items(items)
    return SlatePolicy(codes, scores[:, :width], epsilon, temperature, by_code)


def logged_cap(home: Home, versions: Iterable[str]) -> ItemCap | None:
    """The cap under which a log was drawn, by the bundles that drew it; None where they have none, or are gone.

    A cap that is not that of the log shows: propensities do not follow from it.

    Raises: ConfigError: when bundles have different caps.
    """
    registry = Registry(home)
    published = sorted(set(versions) & set(registry.versions()))
    rules = {version: trained_config(registry.show(version)).rules for version in published}
    capped = [version for version in published if rules[version].cap_column is not None]
    if 0 < len(capped) < len(published):
        without = next(version for version in published if version not in capped)
        raise ConfigError(
            f"bundle {without} drew slates of the log without a cap, and bundle {capped[0]} with one; judge the "
            "requests of one of them, by since_ms and until_ms",
            field="since_ms",
        )
    items = {version: pd.read_parquet(registry.open(version).path(ITEMS_FILE)) for version in capped}
    caps = [ItemCap.of(rules[version], table) for version, table in items.items()]
    return reduce(ItemCap.joined, [cap for cap in caps if cap is not None]) if caps else None


def _common_cap(recommender: Recommender, log: SlateLog) -> ItemCap | None:
    own = ItemCap.of(recommender.config.rules, recommender.snapshot.item_table)
    if own is not None and log.cap is not None:
        return own.joined(log.cap)
    if own is not None or log.cap is not None:
        one, other = (f"bundle {recommender.version}", "the log") if own is not None else ("the log", "the bundle")
        cap = own or log.cap
        assert cap is not None
        raise ConfigError(
            f"{one} caps {cap.column} at {cap.limit} a slate, and {other} does not: how many items would have been "
            "eligible is in the log for the rule it was drawn under, and for no other; judge a bundle of the same rule",
            field="rules.cap_column",
        )
    return None
