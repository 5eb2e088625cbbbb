import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pref_dist.data.folds import draw_uniform, group_of, split_hold_out
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
