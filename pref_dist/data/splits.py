"""How rows are split into train and valid, or into folds: three methods over groups and labels.

| `data.split` | a prompt on both sides | class shares | when rows are added |
|---|---|---|---|
| grouped_hash | never | right on average | no old row moves |
| grouped_stratified | never | balanced | all is drawn anew |
| random_stratified | may be | balanced | all is drawn anew |

`groups` (N,) are the 64-bit groups of the prompts, `labels` (N,) the most probable class of each
target. Sides are positions in them, in rising order. The stratified methods are scikit-learn's,
so its version is part of what they are a function of.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, sqrt
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pref_dist.data.duplicates import find_shared
from pref_dist.data.folds import Groups, Rows, draw_uniform, split_hold_out
from pref_dist.errors import DataError
from pref_dist.labels import CLASSES

SplitMethod = Literal["grouped_hash", "grouped_stratified", "random_stratified"]
Labels = npt.NDArray[np.int64]

GROUPED: tuple[SplitMethod, ...] = ("grouped_hash", "grouped_stratified")
MOST_FOLDS_OF_A_HOLD_OUT = 20
LARGEST_DEVIATION = 0.1  # of the share that is held out from the one that was asked for
NUM_SKLEARN_SEEDS = 2**32


@dataclass(frozen=True)
class SplitRequest:
    """What the settings ask for: a hold-out of `valid_fraction` where `num_folds` is None, else fold `fold`."""

    method: SplitMethod
    seed: int
    valid_fraction: float
    num_folds: int | None = None
    fold: int = 0


def split_rows(groups: Groups, labels: Labels, request: SplitRequest) -> tuple[Rows, Rows]:
    """Return the positions of (train, valid) rows. Raises DataError if the rows cannot be split as asked."""
    if request.num_folds is not None:
        assert 0 <= request.fold < request.num_folds
        folds = assign_folds(groups, labels, request.method, request.seed, request.num_folds)
        train, valid = take_sides(folds == request.fold)
    elif request.method == "grouped_hash":
        train, valid = split_hold_out(groups, request.seed, request.valid_fraction)
    elif request.method == "grouped_stratified":
        train, valid = hold_out_groups(groups, labels, request.seed, request.valid_fraction)
    else:
        train, valid = hold_out_rows(labels, request.seed, request.valid_fraction)
    if request.method in GROUPED:
        check_no_shared_group(groups, train, valid)
    return train, valid


def assign_folds(groups: Groups, labels: Labels, method: SplitMethod, seed: int, num_folds: int) -> Rows:
    """Return the fold (N,) of each row, from 0 to num_folds - 1; no fold is empty.

    grouped_hash: floor(num_folds * draw), a function of group and seed alone. The others are
    scikit-learn's StratifiedGroupKFold and StratifiedKFold, shuffled. StratifiedGroupKFold takes
    about .15 ms a group for ten folds. Raises DataError.
    """
    assert num_folds >= 2
    setting = f"data.num_folds={num_folds}"
    if method == "grouped_hash":
        folds = (num_folds * draw_uniform(groups, seed)).astype(np.int64)
    elif method == "grouped_stratified":
        folds = draw_group_folds(groups, labels, seed, num_folds, setting)
    else:
        folds = draw_row_folds(labels, seed, num_folds, setting)
    check_no_empty_fold(folds, num_folds, f"data.split={method} with {setting}", groups)
    return folds


def check_no_shared_group(groups: Groups, train: Rows, valid: Rows) -> None:
    """Prove that no group stands on both sides; only a bug could put one there."""
    shared = train[find_shared(groups[train], groups[valid])]
    assert not len(shared), f"The prompts of {len(shared):,} train rows stand in valid too (first: row {shared[0]})."


def hold_out_groups(groups: Groups, labels: Labels, seed: int, valid_fraction: float) -> tuple[Rows, Rows]:
    """Hold out k of n folds of whole groups, where k / n with n <= 20 is nearest to `valid_fraction`.

    StratifiedGroupKFold knows folds only, and its time grows with their number.
    """
    nearest = Fraction(valid_fraction).limit_denominator(MOST_FOLDS_OF_A_HOLD_OUT)
    if not 0 < nearest < 1 or abs(nearest / Fraction(valid_fraction) - 1) > LARGEST_DEVIATION:
        within = min(max(nearest, Fraction(1, MOST_FOLDS_OF_A_HOLD_OUT)), 1 - Fraction(1, MOST_FOLDS_OF_A_HOLD_OUT))
        raise DataError(
            f"data.split=grouped_stratified cannot hold out data.valid_fraction={valid_fraction}: it holds out k of at "
            f"most {MOST_FOLDS_OF_A_HOLD_OUT} folds. Set data.valid_fraction={float(within):.4g}, or use "
            f"data.split=grouped_hash."
        )
    num_valid, num_folds = nearest.numerator, nearest.denominator
    setting = f"data.valid_fraction={valid_fraction} ({num_valid} of {num_folds} folds)"
    folds = draw_group_folds(groups, labels, seed, num_folds, setting)
    check_no_empty_fold(folds, num_folds, f"data.split=grouped_stratified with {setting}", groups)
    return take_sides(folds < num_valid)


def hold_out_rows(labels: Labels, seed: int, valid_fraction: float) -> tuple[Rows, Rows]:
    """Hold out the rows that `train_test_split(rows, test_size, random_state, stratify=labels)` holds out."""
    from sklearn.model_selection import train_test_split

    check_sklearn_seed(seed, "random_stratified")
    counts = count_classes(labels)
    num_valid = ceil(valid_fraction * len(labels))
    rarest = min(counts, key=lambda name: counts[name])
    if counts[rarest] < 2 or min(num_valid, len(labels) - num_valid) < len(counts):
        raise DataError(
            f"data.split=random_stratified with data.valid_fraction={valid_fraction} cannot put each of "
            f"{len(counts)} classes on both sides: of {len(labels):,} rows, {num_valid:,} would be held out, "
            f"and the rarest class, {rarest}, has {counts[rarest]:,}. "
            f"Change data.valid_fraction, add rows, or use data.split=grouped_hash."
        )
    train, valid = train_test_split(
        np.arange(len(labels)), test_size=valid_fraction, random_state=seed, stratify=labels
    )
    return np.sort(train), np.sort(valid)


def draw_group_folds(groups: Groups, labels: Labels, seed: int, num_folds: int, setting: str) -> Rows:
    from sklearn.model_selection import StratifiedGroupKFold

    check_sklearn_seed(seed, "grouped_stratified")
    num_groups = len(np.unique(groups))
    check_enough("grouped_stratified", setting, num_folds, num_groups, "different prompts")
    check_classes_fill_folds("grouped_stratified", setting, num_folds, labels)
    return read_folds(StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed), labels, groups)


def draw_row_folds(labels: Labels, seed: int, num_folds: int, setting: str) -> Rows:
    from sklearn.model_selection import StratifiedKFold

    check_sklearn_seed(seed, "random_stratified")
    check_classes_fill_folds("random_stratified", setting, num_folds, labels)
    return read_folds(StratifiedKFold(num_folds, shuffle=True, random_state=seed), labels, None)


def read_folds(splitter: Any, labels: Labels, groups: Groups | None) -> Rows:
    folds = np.full(len(labels), -1, dtype=np.int64)
    for number, (_, valid) in enumerate(splitter.split(labels, labels, groups)):
        folds[valid] = number
    assert folds.min() >= 0
    return folds


def take_sides(is_valid: npt.NDArray[np.bool_]) -> tuple[Rows, Rows]:
    return np.flatnonzero(~is_valid), np.flatnonzero(is_valid)


def count_classes(labels: Labels) -> dict[str, int]:
    """Return the number of rows of each class that stands in `labels`."""
    present, counts = np.unique(labels, return_counts=True)
    return {CLASSES[label]: count for label, count in zip(present.tolist(), counts.tolist(), strict=True)}


def check_classes_fill_folds(method: SplitMethod, setting: str, num_folds: int, labels: Labels) -> None:
    for name, count in count_classes(labels).items():
        check_enough(method, setting, num_folds, count, f"rows of the class {name}")


def check_enough(method: SplitMethod, setting: str, num_folds: int, count: int, things: str) -> None:
    if count < num_folds:
        remedy = f"Lower the number of folds to {count}, add rows, or use" if count >= 2 else "Add rows, or use"
        raise DataError(
            f"data.split={method} with {setting} needs at least {num_folds} {things}, and there are {count}. "
            f"{remedy} data.split=grouped_hash."
        )


def check_no_empty_fold(folds: Rows, num_folds: int, request: str, groups: Groups) -> None:
    empty = np.flatnonzero(np.bincount(folds, minlength=num_folds) == 0)
    if len(empty):
        raise DataError(
            f"{request} leaves {len(empty)} folds without a row (first: fold {empty[0]}): {len(groups):,} rows with "
            f"{len(np.unique(groups)):,} different prompts. Ask for fewer folds, change run.seed, or add rows."
        )


def check_sklearn_seed(seed: int, method: SplitMethod) -> None:
    if seed >= NUM_SKLEARN_SEEDS:
        raise DataError(
            f"run.seed={seed} is too large for data.split={method}: scikit-learn takes seeds below "
            f"{NUM_SKLEARN_SEEDS}. Lower run.seed, or use data.split=grouped_hash."
        )


@dataclass(frozen=True)
class ShareDeviation:
    """How far the share of a class on one side is from its share in the whole set, in standard errors."""

    label: int
    share: float
    whole_share: float
    standard_error: float

    @property
    def z(self) -> float:
        return (self.share - self.whole_share) / self.standard_error


def list_share_deviations(groups: Groups, labels: Labels, rows_of_side: Rows) -> list[ShareDeviation]:
    """Return the classes whose share on a side is more than 3 standard errors off; chance gives .27 % of them."""
    return [found for found in measure_share_deviations(groups, labels, rows_of_side) if abs(found.z) > 3]


def measure_share_deviations(groups: Groups, labels: Labels, rows_of_side: Rows) -> list[ShareDeviation]:
    """Return the deviation of each class that has one; a side is made of whole groups.

    For a method that splits single rows, each row is a group: pass their numbers.

    Groups are the sampling unit, not rows: a side is n of N groups drawn without replacement. Let
    group g have m_g rows, y_g of them of the class, whose share in the whole set is P. The side's
    share differs from P by sum(y_g - P m_g) / sum(m_g) over its groups. The terms of the upper sum
    have mean 0 over all groups, so its variance is exactly n (1 - n / N) S^2 with
    S^2 = sum((y_g - P m_g)^2) / (N - 1) over all groups (Cochran 1977, Sampling Techniques, theorem
    2.2 with the residuals of the ratio estimator, section 6.3). The lower sum is known.
    """
    _, numbers = np.unique(groups, return_inverse=True)
    sizes = np.bincount(numbers)
    num_drawn, num_groups = np.count_nonzero(np.bincount(numbers[rows_of_side])), len(sizes)
    deviations = []
    for label in np.unique(labels).tolist():
        is_label = labels == label
        whole_share = float(is_label.mean())
        residuals = np.bincount(numbers, weights=is_label) - whole_share * sizes
        squares = float(np.square(residuals).sum()) / max(1, num_groups - 1)
        error = sqrt(num_drawn * (1 - num_drawn / num_groups) * squares) / max(1, len(rows_of_side))
        if error > 0:  # else the side holds every group, or all groups have the same shares
            deviations.append(ShareDeviation(label, float(is_label[rows_of_side].mean()), whole_share, error))
    return deviations
