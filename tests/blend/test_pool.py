"""The fit of a pool: known weights and temperatures are found, and nothing on a grid is better."""

import itertools

import numpy as np
import pytest

from pref_dist.blend.gain import judge_blend
from pref_dist.blend.pool import Pool, cross_fit, fit_pool, loss_and_gradient
from pref_dist.bootstrap import bootstrap_mean
from pref_dist.cross_fit import part_of
from pref_dist.metrics import probabilities, score_logits


def draw_chances(seed, num_members=1, num_rows=2000, spread=1.5):
    return probabilities(np.random.default_rng(seed).normal(0, spread, (num_members * num_rows, 3))).reshape(
        num_members, num_rows, 3
    )


def draw_labels(chances, seed=0):
    draws = np.random.default_rng(seed).random(len(chances))
    return np.eye(3)[(draws[:, None] > np.cumsum(chances, axis=1)).sum(axis=1).clip(max=2)]


def loss_of(pool, chances, targets):
    return score_logits(pool.log_chances(chances), targets)["log_loss"]


def test_of_a_good_and_a_useless_member_the_good_one_gets_the_weight():
    (truth,), (noise,) = draw_chances(1), draw_chances(2)
    pool = fit_pool(np.stack([noise, truth]), draw_labels(truth))
    assert pool.weights[1] > 0.95
    assert abs(pool.temperature - 1) < 0.1


def test_the_weights_and_the_temperature_that_made_the_targets_are_found():
    chances = draw_chances(3, num_members=3)
    made_by = Pool(np.array([0.5, 0.0, 0.5]), 0.8)
    pool = fit_pool(chances, np.exp(made_by.log_chances(chances)))
    assert np.abs(pool.weights - made_by.weights).max() < 1e-4
    assert abs(pool.temperature - made_by.temperature) < 1e-4


def test_a_member_that_is_twice_too_sure_gets_temperature_2():
    (truth,) = draw_chances(4, num_rows=5000, spread=1.0)
    too_sure = probabilities(2 * np.log(truth))
    assert abs(fit_pool(too_sure[None], truth).temperature - 2) < 1e-6
    assert abs(fit_pool(too_sure[None], draw_labels(truth)).temperature - 2) < 0.15


@pytest.mark.parametrize("seed", range(4))
def test_nothing_on_a_grid_is_better_and_no_member_nor_their_mean(seed):
    chances = draw_chances(seed, num_members=3, num_rows=300)
    targets = draw_labels(np.tensordot([0.6, 0.3, 0.1], chances, axes=1) ** (1 + seed / 2) * 0.999 + 0.001 / 3, seed)
    pool = fit_pool(chances, targets)
    grid = np.linspace(0, 1, 21)
    pools = [
        Pool(np.array([one, other, 1 - one - other]), temperature)
        for one, other in itertools.product(grid, grid)
        if one + other <= 1 + 1e-9
        for temperature in np.geomspace(0.25, 8, 16)
    ]
    best = min(loss_of(candidate, chances, targets) for candidate in pools)
    found = loss_of(pool, chances, targets)
    assert found <= best + 1e-9
    assert found > best - 0.01, "a grid this fine comes near the optimum"
    assert abs(pool.weights.sum() - 1) < 1e-12
    assert (pool.weights >= 0).all()


def test_the_gradient_is_that_of_finite_differences():
    chances = draw_chances(5, num_members=3, num_rows=50)
    targets, values = draw_labels(chances[0]), np.array([0.5, 0.2, 0.3, 1.3])
    _, gradient = loss_and_gradient(values, chances, targets)
    for place in range(4):
        step = 1e-6 * np.eye(4)[place]
        losses = [loss_and_gradient(values + sign * step, chances, targets)[0] for sign in (1, -1)]
        assert abs((losses[0] - losses[1]) / 2e-6 - gradient[place]) < 1e-7


def test_certain_and_wrong_members_give_finite_numbers():
    chances = np.stack([np.tile([1.0, 0.0, 0.0], (20, 1)), np.tile([0.0, 1.0, 0.0], (20, 1))])
    targets = np.eye(3)[np.arange(20) % 3]
    assert np.isfinite(loss_of(fit_pool(chances, targets), chances, targets))


def test_the_same_rows_give_the_same_bits():
    chances = draw_chances(6, num_members=4, num_rows=400)
    targets = draw_labels(chances[0])
    one, other = fit_pool(chances, targets), fit_pool(chances.copy(), targets.copy())
    assert one.weights.tobytes() == other.weights.tobytes()
    assert one.temperature == other.temperature


def test_a_cross_fitted_row_owes_nothing_to_labels_of_its_own_part_of_prompts():
    chances = draw_chances(7, num_members=2, num_rows=500)
    targets, groups = draw_labels(chances[0]), np.arange(500, dtype=np.uint64) // 2
    blended, is_first = cross_fit(chances, targets, groups), part_of(groups) == 0
    changed = targets.copy()
    changed[is_first] = np.roll(changed[is_first], 1, axis=1)
    again = cross_fit(chances, changed, groups)
    assert np.array_equal(again[is_first], blended[is_first])
    assert not np.array_equal(again[~is_first], blended[~is_first])
    assert (np.bincount(part_of(groups)) > 50).all()


def test_one_prompt_alone_cannot_be_fitted_on_others_and_gets_the_mean():
    chances = draw_chances(8, num_members=2, num_rows=10)
    blended = cross_fit(chances, draw_labels(chances[0]), np.ones(10, np.uint64))
    assert np.allclose(np.exp(blended), chances.mean(axis=0))


def test_the_interval_covers_the_true_mean_19_times_in_20_although_rows_of_a_prompt_are_alike():
    generator, num_trials = np.random.default_rng(0), 200
    covered, covered_by_rows = 0, 0
    for trial in range(num_trials):
        sizes = generator.integers(1, 6, 80)
        groups = np.repeat(np.arange(80, dtype=np.uint64), sizes)
        values = 0.3 + generator.normal(0, 1, 80)[groups.astype(int)] + generator.normal(0, 0.3, len(groups))
        low, high = bootstrap_mean(values, groups, trial)
        covered += low <= 0.3 <= high
        low, high = bootstrap_mean(values, np.arange(len(groups), dtype=np.uint64), trial)
        covered_by_rows += low <= 0.3 <= high
    assert 0.90 <= covered / num_trials <= 0.99
    assert covered_by_rows < covered - 20, "resampling rows would promise too much"


def test_a_blend_that_helps_has_a_gain_whose_interval_is_above_zero():
    (truth,) = draw_chances(9, num_rows=4000)
    noises = draw_chances(10, num_members=2, num_rows=4000, spread=0.8)
    members = np.stack([probabilities(np.log(truth) + 1.5 * np.log(noise)) for noise in noises])
    judgement = judge_blend(members, draw_labels(truth), np.arange(4000, dtype=np.uint64))
    assert (
        judgement.fitted["log_loss"]
        <= judgement.cross_fitted["log_loss"]
        < judgement.members[judgement.best]["log_loss"]
    )
    assert judgement.interval[0] > 0
    assert judgement.interval[0] < judgement.gain < judgement.interval[1]
    best, crossed = judgement.members[judgement.best], judgement.cross_fitted
    assert abs(judgement.gain - (best["log_loss"] - crossed["log_loss"])) < 1e-12
    again = judge_blend(members, draw_labels(truth), np.arange(4000, dtype=np.uint64))
    assert again.interval == judgement.interval


def test_a_temperature_that_does_not_pay_on_other_rows_is_not_kept_and_one_that_does_is():
    """Few rows of a model that is as sure as it is right: what is fitted is noise. Then of one that is too sure."""
    chances = draw_chances(12, num_rows=60, spread=1.0)
    targets, groups = draw_labels(chances[0], seed=1), np.arange(60, dtype=np.uint64)
    kept = judge_blend(chances, targets, groups)
    assert fit_pool(chances, targets).temperature != 1
    assert kept.temperature_gain < 0
    assert kept.pool.temperature == 1
    assert abs(kept.cross_fitted["log_loss"] - kept.members[0]["log_loss"]) < 1e-12
    too_sure = judge_blend(probabilities(3 * np.log(chances)), targets, groups)
    assert too_sure.temperature_gain > 0
    assert too_sure.pool.temperature == fit_pool(probabilities(3 * np.log(chances)), targets).temperature
    assert too_sure.cross_fitted["log_loss"] < too_sure.members[0]["log_loss"]


def test_without_a_temperature_no_weights_on_a_grid_are_better():
    chances = draw_chances(13, num_members=2, num_rows=300)
    targets = draw_labels(np.tensordot([0.7, 0.3], chances, axes=1), seed=2)
    pool = fit_pool(chances, targets, has_temperature=False)
    assert pool.temperature == 1
    grid = (Pool(np.array([one, 1 - one]), 1.0) for one in np.linspace(0, 1, 101))
    assert loss_of(pool, chances, targets) <= min(loss_of(candidate, chances, targets) for candidate in grid) + 1e-9
