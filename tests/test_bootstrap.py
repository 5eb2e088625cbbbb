"""The bootstrap by prompts: what it draws, that it covers the truth, and where there is no interval."""

import numpy as np
import pytest

from pref_dist.bootstrap import (
    bootstrap_mean,
    count_resamples,
    draw_counts,
    draw_means,
    draw_statistics,
    number_prompts,
    percentile_interval,
)


def draw_clustered(generator, num_prompts=60):
    """Return values of mean 0.3, prompts of 1 to 5 rows that are alike."""
    groups = np.repeat(np.arange(num_prompts, dtype=np.uint64), generator.integers(1, 6, num_prompts))
    effects = generator.normal(0, 1, num_prompts)[groups.astype(int)]
    return 0.3 + effects + generator.normal(0, 0.3, len(groups)), groups


def test_a_resample_draws_as_many_prompts_as_there_are_and_each_as_often_as_any_other():
    counts = np.concatenate(list(draw_counts(7, seed=1, num_resamples=5000)))
    assert counts.shape == (5000, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert np.abs(counts.mean(axis=0) - 1).max() < 0.06
    assert abs((counts == 0).mean() - (6 / 7) ** 7) < 0.01


def test_whole_prompts_are_drawn_and_the_order_of_rows_does_not_matter():
    generator = np.random.default_rng(2)
    values, groups = draw_clustered(generator)
    weights = []
    draw_statistics(lambda drawn: weights.append(drawn) or drawn[:1], groups, seed=3)
    for drawn in weights[:50]:
        assert all(len(set(drawn[groups == group])) == 1 for group in range(60))
    shuffled = generator.permutation(len(values))
    assert bootstrap_mean(values[shuffled], groups[shuffled], 3) == pytest.approx(bootstrap_mean(values, groups, 3))


def test_a_mean_by_sums_of_prompts_is_the_mean_by_weights_of_rows():
    values, groups = draw_clustered(np.random.default_rng(4))
    by_sums = draw_means([values, values**2], groups, seed=5)
    by_rows = draw_statistics(
        lambda drawn: np.array([np.average(values, weights=drawn), np.average(values**2, weights=drawn)]), groups, 5
    )
    assert by_sums.shape == (1000, 2)
    assert np.abs(by_sums - by_rows).max() < 1e-12


def test_columns_drawn_one_after_the_other_see_the_same_draws(monkeypatch):
    values, groups = draw_clustered(np.random.default_rng(6))
    together = draw_means([values, -values], groups, seed=7)
    monkeypatch.setattr("pref_dist.bootstrap.MAX_SUMS_HELD", 1)
    monkeypatch.setattr("pref_dist.bootstrap.DRAWS_AT_ONCE", 1)
    assert np.abs(draw_means([values, -values], groups, seed=7) - together).max() < 1e-12


def test_the_same_seed_gives_the_same_bits_and_another_one_others():
    values, groups = draw_clustered(np.random.default_rng(8))
    assert bootstrap_mean(values, groups, 9) == bootstrap_mean(values.copy(), groups.copy(), 9)
    assert bootstrap_mean(values, groups, 9) != bootstrap_mean(values, groups, 10)


def test_the_interval_is_as_wide_as_the_normal_one_where_rows_are_independent():
    values = np.random.default_rng(11).normal(size=4000)
    low, high = bootstrap_mean(values, np.arange(4000, dtype=np.uint64), 0)
    assert abs((high - low) / (2 * 1.96 * values.std() / np.sqrt(4000)) - 1) < 0.08


def test_one_prompt_has_no_interval():
    one = np.ones(5, dtype=np.uint64)
    assert bootstrap_mean(np.arange(5.0), one, 0) is None
    assert draw_means([np.arange(5.0)], one, 0) is None
    assert draw_statistics(lambda drawn: drawn, one, 0) is None
    assert number_prompts(one).number == 1


def test_undefined_resamples_are_left_out_of_an_interval():
    assert percentile_interval(np.array([np.nan, 1.0, 1.0])) == (1.0, 1.0)
    assert percentile_interval(np.array([np.nan])) is None


@pytest.mark.parametrize(("size", "expected"), [(1, 1000), (200_000, 1000), (400_000, 500), (10**8, 100)])
def test_large_tables_are_drawn_less_often(size, expected):
    assert count_resamples(size, 2e8) == expected
