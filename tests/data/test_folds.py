import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pref_dist.data.folds import draw_uniform, group_of, split_hold_out
from pref_dist.data.splits import (
    SplitRequest,
    assign_folds,
    check_no_shared_group,
    list_share_deviations,
    measure_share_deviations,
    split_rows,
)
from pref_dist.errors import DataError

SEEDS = st.integers(0, 2**63 - 1)


def random_groups(num_groups: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, num_groups, dtype=np.uint64)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["Hello, World!"], ["hello world"]),
        (["Straße 5"], ["STRASSE-5"]),
        (["a\n b"], ["a", "b"]),
        (["snake_case"], ["snake case"]),
        (["日本、語"], ["日本語"]),
    ],
)
def test_prompts_that_differ_in_case_space_and_punctuation_are_one_group(one, other):
    assert group_of(one) == group_of(other)


def test_other_prompts_are_other_groups():
    prompts = ["", " ", "?", "!", "a", "b", "日", "日本", "1", "2"]
    assert len({group_of([prompt]) for prompt in prompts}) == len(prompts)


def test_a_group_is_the_same_for_ever():
    assert group_of(["Hello, World!"]) == group_of(["helloworld"]) == 6801638793323236970


@given(SEEDS, st.integers(2, 40), st.floats(0.05, 0.95))
def test_every_row_is_on_one_side_and_no_group_on_both(seed, num_groups, fraction):
    groups = np.repeat(random_groups(num_groups), 3)
    try:
        train, valid = split_hold_out(groups, seed, fraction)
    except DataError:
        return
    assert sorted([*train, *valid]) == list(range(len(groups)))
    assert not set(groups[train]) & set(groups[valid])


@given(SEEDS, st.integers(0, 200))
def test_adding_rows_moves_no_old_row(seed, num_added):
    old, added = random_groups(200), random_groups(num_added, seed=1)
    _, before = split_hold_out(old, seed, 0.3)
    _, after = split_hold_out(np.concatenate([old, added]), seed, 0.3)
    assert after[after < 200].tolist() == before.tolist()


def test_shares_are_as_wished_and_seeds_differ():
    groups = random_groups(100_000)
    held_out = [set(split_hold_out(groups, seed, 0.1)[1].tolist()) for seed in (0, 1, 2)]
    assert all(abs(len(rows) - 10_000) < 4 * 95 for rows in held_out)
    # Two independent tenths share a hundredth of the rows.
    assert abs(len(held_out[0] & held_out[1]) - 1_000) < 4 * 32


def test_draws_are_uniform_even_for_neighbouring_groups():
    draws = draw_uniform(np.arange(100_000, dtype=np.uint64), seed=42)
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert np.abs(counts - 5_000).max() < 4.5 * 69


@pytest.mark.parametrize(("fraction", "side", "remedy"), [(0.0001, "valid", "Raise"), (0.9999, "train", "Lower")])
def test_an_empty_side_is_an_error_with_a_remedy(fraction, side, remedy):
    with pytest.raises(DataError, match=f"no {side} rows: 3 rows with 1 different prompts. {remedy} data.valid"):
        split_hold_out(np.array([7, 7, 7], dtype=np.uint64), 42, fraction)


METHODS = ["grouped_hash", "grouped_stratified", "random_stratified"]
GROUPED = METHODS[:2]


def random_rows(num_groups: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Groups of 1 to 5 rows in random order, and labels that depend on the group: its first row's, or any."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 6, num_groups)
    numbers = generator.permutation(np.repeat(np.arange(num_groups), sizes))
    own = generator.choice(3, num_groups, p=[0.5, 0.3, 0.2])
    labels = np.where(generator.random(len(numbers)) < 0.7, own[numbers], generator.integers(0, 3, len(numbers)))
    return random_groups(num_groups, seed)[numbers], labels


@pytest.mark.parametrize("num_folds", [None, 4])
@pytest.mark.parametrize("method", METHODS)
def test_every_row_is_on_one_side_and_grouped_methods_part_no_prompt(method, num_folds):
    groups, labels = random_rows(200)
    train, valid = split_rows(groups, labels, SplitRequest(method, 3, 0.2, num_folds, fold=1 if num_folds else 0))
    assert sorted([*train, *valid]) == list(range(len(groups)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(valid) > 0).all()
    assert 0.1 * len(groups) < len(valid) < 0.4 * len(groups)
    assert bool(set(groups[train]) & set(groups[valid])) == (method not in GROUPED)


def test_hash_splits_are_the_ones_that_old_runs_were_trained_with():
    groups, labels = np.arange(100, dtype=np.uint64), np.zeros(100, np.int64)
    _, valid = split_rows(groups, labels, SplitRequest("grouped_hash", 42, 0.1))
    assert valid.tolist() == [7, 33, 52, 53, 55, 73, 91, 98]
    folds = assign_folds(groups, labels, "grouped_hash", 42, 4)
    assert folds[:12].tolist() == [1, 3, 1, 3, 1, 3, 2, 0, 3, 3, 2, 2]


def test_the_random_hold_out_is_the_one_of_train_test_split():
    from sklearn.model_selection import train_test_split

    _, labels = random_rows(300)
    frame = pd.DataFrame({"label": labels, "row": np.arange(len(labels))})
    for seed, fraction in ((42, 0.1), (7, 0.25), (2**32 - 1, 1 / 3)):
        expected = train_test_split(frame, test_size=fraction, random_state=seed, stratify=frame["label"])
        sides = split_rows(labels.astype(np.uint64), labels, SplitRequest("random_stratified", seed, fraction))
        for side, rows in zip(sides, expected, strict=True):
            assert set(side.tolist()) == set(rows["row"])


def test_stratified_folds_are_those_of_scikit_learn():
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    groups, labels = random_rows(200)
    for method, splitter in (("grouped_stratified", StratifiedGroupKFold), ("random_stratified", StratifiedKFold)):
        folds = assign_folds(groups, labels, method, seed=5, num_folds=4)
        names = groups if method in GROUPED else None
        parts = splitter(4, shuffle=True, random_state=5).split(np.zeros(len(labels)), labels, names)
        for number, (_, valid) in enumerate(parts):
            assert np.array_equal(np.flatnonzero(folds == number), valid)


@given(SEEDS, st.integers(2, 8))
def test_adding_rows_moves_no_old_row_to_another_hash_fold(seed, num_folds):
    old, added = random_groups(200), random_groups(50, seed=1)
    before = assign_folds(old, np.zeros(200, np.int64), "grouped_hash", seed, num_folds)
    both = np.concatenate([old, added])
    after = assign_folds(both, np.zeros(250, np.int64), "grouped_hash", seed, num_folds)
    assert after[:200].tolist() == before.tolist()
    assert sorted(set(before.tolist())) == list(range(num_folds))


@pytest.mark.parametrize(
    ("fraction", "share"), [(0.1, 1 / 10), (0.125, 1 / 8), (0.34, 1 / 3), (0.05, 1 / 20), (0.95, 19 / 20)]
)
def test_a_balanced_hold_out_is_the_nearest_share_of_at_most_20_folds_with_even_classes(fraction, share):
    groups, labels = random_rows(400)
    _, valid = split_rows(groups, labels, SplitRequest("grouped_stratified", 0, fraction))
    assert abs(len(valid) / len(groups) - share) < 0.01
    for label in range(3):
        assert abs((labels[valid] == label).mean() - (labels == label).mean()) < 0.03


@pytest.mark.parametrize("method", METHODS[1:])
def test_balanced_folds_have_even_classes_and_seeds_differ(method):
    groups, labels = random_rows(400)
    folds = [assign_folds(groups, labels, method, seed, 5) for seed in (0, 1)]
    assert (folds[0] != folds[1]).mean() > 0.5
    counts = np.array([np.bincount(labels[folds[0] == number], minlength=3) for number in range(5)])
    assert (np.ptp(counts, axis=0) <= 3).all()


LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
UNIQUE = np.arange(12, dtype=np.uint64)


@pytest.mark.parametrize(
    ("groups", "labels", "wanted", "message"),
    [
        (UNIQUE, LABELS, ("grouped_stratified", 0, 0.2, 5), "num_folds=5 needs at least 5 rows of the class A.* to 4"),
        (UNIQUE, LABELS, ("random_stratified", 0, 0.2, 5), "num_folds=5 needs at least 5 rows of the class A.* to 4"),
        (UNIQUE // 6, LABELS, ("grouped_stratified", 0, 0.2, 3), "3 different prompts, and there are 2. Lower the num"),
        (UNIQUE // 12, LABELS, ("grouped_stratified", 0, 0.5, None), r"\(1 of 2 folds\) .* there are 1. Add rows, or"),
        (UNIQUE // 12, LABELS, ("grouped_hash", 0, 0.2, 3), "leaves 2 folds without a row .*: 12 rows with 1 diff"),
        (UNIQUE, LABELS, ("random_stratified", 0, 0.1, None), "of 12 rows, 2 would be held out"),
        (UNIQUE[:9], LABELS[:9], ("random_stratified", 0, 0.5, None), "the rarest class, tie, has 1"),
        (UNIQUE, LABELS, ("grouped_stratified", 0, 0.01, None), "k of at most 20 folds. Set data.valid_fraction=0.05"),
        (UNIQUE, LABELS, ("random_stratified", 2**32, 0.5, None), "takes seeds below 4294967296"),
        (UNIQUE, LABELS, ("grouped_stratified", 2**32, 0.5, None), "takes seeds below 4294967296"),
    ],
)
def test_what_cannot_be_split_is_an_error_with_values_and_a_remedy(groups, labels, wanted, message):
    with pytest.raises(DataError, match=message) as error:
        split_rows(groups, labels, SplitRequest(*wanted))
    assert "data.split=" in str(error.value)


def test_a_class_that_does_not_occur_is_no_obstacle():
    for method in METHODS:
        assert set(assign_folds(UNIQUE, LABELS % 2, method, 1, 2).tolist()) == {0, 1}


def test_a_prompt_on_both_sides_fails_the_proof():
    groups = np.array([1, 2, 1], dtype=np.uint64)
    check_no_shared_group(groups, np.array([0, 2]), np.array([1]))
    with pytest.raises(AssertionError, match=r"1 train rows stand in valid too \(first: row 0\)"):
        check_no_shared_group(groups, np.array([0]), np.array([1, 2]))


def test_hash_splits_pass_the_share_check_as_often_as_three_standard_errors_say():
    groups, labels = random_rows(600)
    sides = [np.flatnonzero(draw_uniform(groups, seed) < 0.2) for seed in range(2000)]
    zs = np.array([[found.z for found in measure_share_deviations(groups, labels, side)] for side in sides])
    # One class in 370 is off by chance; the bounds are three standard errors of these counts themselves.
    assert abs(zs.std() - 1) < 0.04
    passed = (np.abs(zs) <= 3).mean(axis=0)
    assert (np.abs(passed - 0.9973) < 3 * np.sqrt(0.0027 / 2000)).all()
    # With rows as the sampling unit the errors would be too small, and many a good split would be blamed.
    rows = np.arange(len(groups), dtype=np.uint64)
    blamed = [len(list_share_deviations(rows, labels, side)) for side in sides[:500]]
    assert np.mean(blamed) > 3 * 3 * 0.0027


def test_a_side_that_is_not_random_is_named_with_its_figures():
    groups, labels = random_rows(600)
    of_class_a = np.unique(groups[labels == 0])[:100]
    side = np.flatnonzero(np.isin(groups, of_class_a))
    found = {deviation.label: deviation for deviation in list_share_deviations(groups, labels, side)}
    assert found[0].z > 3
    assert found[0].share == (labels[side] == 0).mean() > found[0].whole_share == (labels == 0).mean()


def test_a_side_of_all_rows_or_of_one_class_deviates_in_nothing():
    groups, labels = random_rows(50)
    assert measure_share_deviations(groups, labels, np.arange(len(groups))) == []
    assert measure_share_deviations(groups, labels * 0, np.arange(10)) == []


def test_scikit_learn_is_imported_only_where_it_is_needed():
    code = "import sys, pref_dist.data.splits; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
