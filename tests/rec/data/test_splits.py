import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rec.config import SplitConfig
from rec.data.dataset import Interactions
from rec.data.splits import SPLITS, Split, split
from rec.errors import DataError


def interactions_of(rows: list[tuple[int, int, int]]) -> Interactions:
    """Rows of (user, item, time); the rating is the row's own number, by which tests know it again."""
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    return Interactions(
        user_ids=np.array([f"u{i}" for i in range(user.max() + 1)], dtype=object),
        item_ids=np.array([f"i{i}" for i in range(item.max() + 1)], dtype=object),
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        timestamp=time.astype(np.int64),
        rating=np.arange(len(rows), dtype=np.float32),
    )


def rows_of(interactions: Interactions) -> list[int]:
    assert interactions.rating is not None
    return interactions.rating.astype(int).tolist()


# Few users and items, so that most logs leave warm test rows; ties in time, and cold users and items, stay common.
LOGS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 20)), min_size=20, max_size=60).map(
    interactions_of
)
CONFIGS = st.builds(
    SplitConfig,
    kind=st.sampled_from(sorted(SPLITS)),
    train_fraction=st.floats(0.2, 0.9),
)

# The machine may be busy: how long drawing an example takes is no law.
law = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def split_or_skip(log: Interactions, config: SplitConfig) -> Split:
    try:
        return split(log, config)
    except DataError as error:
        assert "leaves no" in error.message
        assume(False)
        raise


@law
@given(LOGS, CONFIGS)
def test_every_row_is_in_train_or_in_test_or_counted_as_dropped(log: Interactions, config: SplitConfig) -> None:
    parts = split_or_skip(log, config)
    train, test = set(rows_of(parts.train)), set(rows_of(parts.test))
    assert not train & test
    assert len(train) == len(parts.train) and len(test) == len(parts.test)
    assert len(train) + len(test) + sum(parts.dropped.values()) == len(log)


@law
@given(LOGS, CONFIGS)
def test_each_user_and_item_of_test_occurs_in_train(log: Interactions, config: SplitConfig) -> None:
    parts = split_or_skip(log, config)
    assert set(parts.test.user) <= set(parts.train.user)
    assert set(parts.test.item) <= set(parts.train.item)


@law
@given(LOGS, CONFIGS)
def test_cold_rows_are_counted_once_by_user_before_item(log: Interactions, config: SplitConfig) -> None:
    parts = split_or_skip(log, config)
    rest = log.take(np.setdiff1d(np.arange(len(log)), rows_of(parts.train) + rows_of(parts.test)))
    cold_user = ~np.isin(rest.user, parts.train.user)
    cold_item = ~np.isin(rest.item, parts.train.item) & ~cold_user
    assert parts.dropped.get("test_cold_user", 0) == cold_user.sum()
    assert parts.dropped.get("test_cold_item", 0) == cold_item.sum()


@law
@given(LOGS, st.floats(0.2, 0.9))
def test_global_temporal_puts_nothing_from_the_cut_on_into_train(log: Interactions, fraction: float) -> None:
    parts = split_or_skip(log, SplitConfig(train_fraction=fraction))
    assert parts.cut_ms is not None
    assert parts.cut_ms == np.sort(log.timestamp)[int(fraction * len(log))]
    assert parts.train.timestamp.max() < parts.cut_ms <= parts.test.timestamp.min()
    assert rows_of(parts.train) == rows_of(log.before(parts.cut_ms))


@law
@given(LOGS, st.sampled_from(["per_user_temporal", "leave_last_out"]), st.floats(0.2, 0.9))
def test_splits_by_user_put_no_row_of_a_user_after_their_test_rows_into_train(
    log: Interactions, kind: str, fraction: float
) -> None:
    parts = split_or_skip(log, SplitConfig.model_validate({"kind": kind, "train_fraction": fraction}))
    assert parts.cut_ms is None
    for user in np.unique(parts.test.user):
        train, test = (part.take(part.user == user) for part in (parts.train, parts.test))
        latest = max(zip(train.timestamp, rows_of(train), strict=True))
        assert latest < min(zip(test.timestamp, rows_of(test), strict=True))


@law
@given(LOGS)
def test_leave_last_out_holds_out_at_most_one_row_a_user_and_none_of_a_single_row(log: Interactions) -> None:
    parts = split_or_skip(log, SplitConfig(kind="leave_last_out"))
    assert np.bincount(parts.test.user).max() == 1
    alone = np.flatnonzero(np.bincount(log.user) == 1)
    assert not set(alone) & set(parts.test.user)


def test_global_temporal_keeps_rows_at_the_cut_together_in_test() -> None:
    # sorted times 1 2 3 3 4; int(.6 * 5) = 3, so T = 3 and both rows at 3 are test
    log = interactions_of([(0, 0, 1), (1, 1, 2), (0, 1, 3), (1, 0, 3), (0, 0, 4)])
    parts = split(log, SplitConfig(train_fraction=0.6))
    assert (parts.cut_ms, rows_of(parts.train), rows_of(parts.test)) == (3, [0, 1], [2, 3, 4])


def test_a_product_that_rounds_up_does_not_cost_a_test_row() -> None:
    # .07 * 100 is 7.000000000000001 in floating point; 7 rows are train
    log = interactions_of([(0, 0, time) for time in range(100)])
    parts = split(log, SplitConfig(kind="per_user_temporal", train_fraction=0.07))
    assert len(parts.train) == 7


def test_ties_keep_the_order_of_the_file() -> None:
    log = interactions_of([(0, 0, 5), (0, 1, 5), (0, 0, 5), (1, 1, 1), (1, 0, 1)])
    parts = split(log, SplitConfig(kind="leave_last_out"))
    assert rows_of(parts.test) == [2, 4]


@pytest.mark.parametrize("kind", sorted({*SPLITS} - {"none"}))
def test_a_split_that_leaves_nothing_to_judge_by_is_refused(kind: str) -> None:
    config = SplitConfig.model_validate({"kind": kind})
    with pytest.raises(DataError, match="leaves no"):
        split(interactions_of([(0, 0, 1), (1, 1, 1), (2, 0, 1)]), config)
    with pytest.raises(DataError, match="no interactions"):
        split(interactions_of([(0, 0, 1)]).before(0), config)


def test_without_a_test_everything_is_train_and_before_the_cut():
    log = interactions_of([(0, 0, 3), (1, 1, 9), (0, 1, 9)])
    parts = split(log, SplitConfig(kind="none"))
    assert (rows_of(parts.train), rows_of(parts.test), parts.cut_ms, parts.dropped) == ([0, 1, 2], [], 10, {})
