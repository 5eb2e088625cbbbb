"""The figures of an inspection: pure functions of arrays, each with its interval where it is a share.

`targets` are (R, 3) probabilities over A, B, tie, one-hot where somebody decided. Counts are sums of
them, so soft labels count by their parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pref_dist.wilson import wilson_interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CUT_QUANTILE = 0.95
QUANTILES = (0.5, 0.9, 0.95, 0.99)
MAX_BINS = 40  # of a histogram
NUM_DIFFERENCE_BINS = 10
TOKEN_LIMITS = (256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class Share:
    """`count` of `total`, with its Wilson 95 % interval; the shares are None where `total` is 0."""

    count: float
    total: float
    share: float | None
    low: float | None
    high: float | None

    def holds(self, value: float) -> bool:
        return self.low is not None and self.high is not None and self.low <= value <= self.high


@dataclass(frozen=True)
class Outcomes:
    """How one side fared in `num_rows` labelled rows. `win_rate` is of the decided rows: ties are left out of it."""

    num_rows: int
    wins: float
    losses: float
    ties: float
    win_rate: Share


@dataclass(frozen=True)
class Lengths:
    """Of one text, over rows. `quantiles` are (p50, p90, p95, p99), each a length that occurs."""

    mean: float
    quantiles: tuple[int, ...]
    longest: int
    num_empty: int


@dataclass(frozen=True)
class Histogram:
    """Equal bins from 0 up to the 95 % quantile; `edges` is one longer than `counts`, a bin holds its left edge.

    `num_beyond` rows are longer than the last bin.
    """

    edges: tuple[int, ...]
    counts: tuple[int, ...]
    num_beyond: int


@dataclass(frozen=True)
class DifferenceBin:
    """Rows in which A is `low` to `high` characters longer than B (fewer where negative), and how A fared."""

    low: int
    high: int
    median: float
    outcomes: Outcomes


def build_share(count: float, total: float) -> Share:
    if total <= 0:
        return Share(float(count), float(total), None, None, None)
    # Sums of probabilities may miss the total by a rounding.
    low, high = wilson_interval(min(count, total), total)
    return Share(float(count), float(total), min(1.0, float(count / total)), low, high)


def count_outcomes(targets: Floats) -> Outcomes:
    """Return how A fared; see `seen_from` for anybody else."""
    wins, losses, ties = (float(total) for total in targets.sum(axis=0))
    return Outcomes(len(targets), wins, losses, ties, build_share(wins, wins + losses))


def seen_from(targets: Floats, is_b: Bools) -> Floats:
    """Return targets whose first class is the win of the side that is meant: B where `is_b`, else A."""
    return np.where(is_b[:, None], targets[:, [1, 0, 2]], targets)


def count_classes(targets: Floats) -> dict[str, Share]:
    """Return the shares of A, B and tie among labelled rows."""
    totals = targets.sum(axis=0)
    return {
        name: build_share(float(total), len(targets)) for name, total in zip(("A", "B", "tie"), totals, strict=True)
    }


def prior_log_loss(targets: Floats) -> float | None:
    """Return the log loss in nats of always predicting the class shares of these rows."""
    if not len(targets):
        return None
    shares = targets.mean(axis=0)
    shares = shares[shares > 0]
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def describe_lengths(lengths: Ints) -> Lengths:
    """Summarise at least one length."""
    quantiles = np.quantile(lengths, QUANTILES, method="inverted_cdf")
    return Lengths(
        float(lengths.mean()), tuple(int(value) for value in quantiles), int(lengths.max()), int((lengths == 0).sum())
    )


def cut_at(lengths: Ints) -> int:
    """Return the 95 % quantile: at least 95 % of the lengths are not above it."""
    return int(np.quantile(lengths, CUT_QUANTILE, method="inverted_cdf"))


def build_histogram(lengths: Ints, cut: int) -> Histogram:
    """Count lengths in at most MAX_BINS bins of a whole width that reach up to `cut` and hold it."""
    width = math.ceil((cut + 1) / MAX_BINS)
    num_bins = math.ceil((cut + 1) / width)
    edges = width * np.arange(num_bins + 1)
    counts = np.bincount(lengths[lengths < edges[-1]] // width, minlength=num_bins)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), int((lengths >= edges[-1]).sum()))


def count_fitting(lengths: Ints, limits: Sequence[int] = TOKEN_LIMITS) -> dict[int, Share]:
    """Return the share of rows that are not longer than each limit."""
    return {limit: build_share(int((lengths <= limit).sum()), len(lengths)) for limit in limits}


def compare_longer(differences: Ints, targets: Floats) -> Outcomes:
    """Return how the longer response fared, in rows whose responses differ in length (A minus B)."""
    differs = differences != 0
    return count_outcomes(seen_from(targets[differs], differences[differs] < 0))


def bin_differences(differences: Ints, targets: Floats, num_bins: int = NUM_DIFFERENCE_BINS) -> list[DifferenceBin]:
    """Return how A fared by how much longer it is, in bins of about equally many rows; no bin is empty."""
    if not len(differences):
        return []
    levels = np.linspace(0, 1, num_bins + 1)[:-1]
    starts = np.unique(np.quantile(differences, levels, method="inverted_cdf"))
    places = np.searchsorted(starts, differences, side="right") - 1
    return [
        build_difference_bin(differences[places == place], targets[places == place]) for place in range(len(starts))
    ]


def build_difference_bin(differences: Ints, targets: Floats) -> DifferenceBin:
    low, high = int(differences.min()), int(differences.max())
    return DifferenceBin(low, high, float(np.median(differences)), count_outcomes(targets))


def count_turns(turns: Ints) -> dict[int, int]:
    """Return {number of turns: rows}."""
    values, counts = np.unique(turns, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
