"""Every figure against an independent count: pandas, scipy, or a formula written out."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import log_loss

from pref_dist.inspection import statistics

COUNTS = st.integers(1, 400).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))
LENGTHS = st.lists(st.integers(0, 3000), min_size=1, max_size=300).map(np.array)


@pytest.fixture
def rows() -> pd.DataFrame:
    """500 labelled rows with lengths, some of them equal."""
    draw = np.random.default_rng(5)
    frame = pd.DataFrame({"a": draw.integers(0, 60, 500) * 10, "b": draw.integers(0, 60, 500) * 10})
    frame["winner"] = draw.choice(["A", "B", "tie"], 500, p=[0.5, 0.3, 0.2])
    return frame


def targets_of(rows: pd.DataFrame) -> np.ndarray:
    return np.stack([rows.winner == name for name in ("A", "B", "tie")], axis=1).astype(np.float64)


@given(COUNTS)
def test_a_share_has_the_wilson_interval_of_scipy(count_and_total):
    count, total = count_and_total
    found = statistics.build_share(count, total)
    expected = binomtest(count, total).proportion_ci(method="wilson")
    assert found.share == count / total
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.share <= found.high


def test_a_share_of_nothing_is_none():
    assert statistics.build_share(0, 0) == statistics.Share(0.0, 0.0, None, None, None)


def test_outcomes_and_classes_are_those_of_pandas(rows):
    targets, counts = targets_of(rows), rows.winner.value_counts()
    position = statistics.count_outcomes(targets)
    assert (position.wins, position.losses, position.ties) == (counts["A"], counts["B"], counts["tie"])
    assert position.win_rate.share == counts["A"] / (counts["A"] + counts["B"])
    shares = rows.winner.value_counts(normalize=True)
    assert {name: share.share for name, share in statistics.count_classes(targets).items()} == pytest.approx(
        shares.to_dict()
    )


def test_the_prior_log_loss_is_that_of_the_class_shares(rows):
    targets = targets_of(rows)
    prior = np.tile(targets.mean(axis=0), (len(rows), 1))
    assert statistics.prior_log_loss(targets) == pytest.approx(log_loss(targets.argmax(axis=1), prior))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_class_alone_is_known_beforehand(place):
    assert statistics.prior_log_loss(np.tile(np.eye(3)[place], (4, 1))) == 0.0


def test_how_the_longer_response_fares_is_as_pandas_counts_it(rows):
    differing = rows[rows.a != rows.b]
    longer = np.where(differing.a > differing.b, "A", "B")
    found = statistics.compare_longer((rows.a - rows.b).to_numpy(), targets_of(rows))
    assert found.num_rows == len(differing) < len(rows)
    assert found.wins == (differing.winner == longer).sum()
    assert found.ties == (differing.winner == "tie").sum()
    assert found.wins + found.losses + found.ties == len(differing)


def test_the_bins_of_differences_part_the_rows_and_count_as_pandas_does(rows):
    difference = rows.a - rows.b
    bins = statistics.bin_differences(difference.to_numpy(), targets_of(rows))
    assert len(bins) == 10
    for found in bins:
        inside = rows[difference.between(found.low, found.high)]
        assert found.median == difference[inside.index].median()
        assert found.outcomes.num_rows == len(inside)
        assert found.outcomes.wins == (inside.winner == "A").sum()
        assert found.outcomes.ties == (inside.winner == "tie").sum()
    assert sum(found.outcomes.num_rows for found in bins) == len(rows)
    assert all(first.high < second.low for first, second in pairwise(bins))


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=200))
def test_no_row_is_lost_between_bins_and_none_is_empty(differences):
    targets = np.tile([1.0, 0.0, 0.0], (len(differences), 1))
    bins = statistics.bin_differences(np.array(differences), targets)
    assert 1 <= len(bins) <= 10
    assert all(found.outcomes.num_rows > 0 for found in bins)
    assert sum(found.outcomes.num_rows for found in bins) == len(differences)


def test_without_rows_there_are_no_bins():
    assert statistics.bin_differences(np.empty(0, np.int64), np.empty((0, 3))) == []


@given(LENGTHS)
def test_a_histogram_holds_every_length_up_to_the_95_per_cent_quantile(lengths):
    cut = statistics.cut_at(lengths)
    assert (lengths <= cut).mean() >= 0.95 > (lengths < cut).mean()
    found = statistics.build_histogram(lengths, cut)
    expected, _ = np.histogram(lengths[lengths < found.edges[-1]], bins=found.edges)
    assert list(found.counts) == expected.tolist()
    assert sum(found.counts) + found.num_beyond == len(lengths)
    assert found.num_beyond <= 0.05 * len(lengths)
    assert len(found.counts) <= statistics.MAX_BINS
    assert found.edges[-2] <= cut < found.edges[-1]


@given(LENGTHS)
def test_quantiles_are_lengths_that_occur_with_the_share_at_or_below_them(lengths):
    found = statistics.describe_lengths(lengths)
    for level, value in zip(statistics.QUANTILES, found.quantiles, strict=True):
        assert value in lengths
        assert (lengths <= value).mean() >= level > (lengths < value).mean()
    assert found.mean == pytest.approx(lengths.mean())
    assert (found.longest, found.num_empty) == (lengths.max(), (lengths == 0).sum())


def test_what_fits_is_counted_at_the_limit_too():
    found = statistics.count_fitting(np.array([256, 257, 5000]))
    assert {limit: share.count for limit, share in found.items()} == {
        256: 1,
        512: 2,
        1024: 2,
        2048: 2,
        4096: 2,
        8192: 3,
    }


def test_turns_are_counted_by_their_number():
    assert statistics.count_turns(np.array([1, 3, 1, 1])) == {1: 3, 3: 1}


def test_soft_labels_count_by_their_parts():
    found = statistics.count_outcomes(np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]))
    assert (found.wins, found.losses, found.ties) == (0.5, 1.25, 0.25)
    assert found.win_rate.share == 0.5 / 1.75
