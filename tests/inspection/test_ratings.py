"""Ratings against another algorithm, their intervals against the bootstrap, and what would not converge."""

import numpy as np
import pytest

from pref_dist.inspection.ratings import POINTS, ModelRecord, fit_ratings, rate_models

NAMES = ["weak", "fair", "good", "best"]
STRENGTHS = np.array([-1.0, -0.2, 0.3, 0.9])


def draw_battles(num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return (R, 2) models and (R, 3) targets of rows between models of known strength, a fifth of them ties."""
    draw = np.random.default_rng(seed)
    first = draw.integers(0, 4, num_rows)
    models = np.stack([first, (first + draw.integers(1, 4, num_rows)) % 4], axis=1)
    chance = 1 / (1 + np.exp(STRENGTHS[models[:, 1]] - STRENGTHS[models[:, 0]]))
    outcome = np.where(draw.random(num_rows) < 0.2, 2, np.where(draw.random(num_rows) < chance, 0, 1))
    return models, np.eye(3)[outcome]


def rate_by_iteration(models: np.ndarray, targets: np.ndarray, num_models: int) -> np.ndarray:
    """Zermelo's iteration (1929) for the same model without a prior, with a tie as half a win each way."""
    wins = np.zeros((num_models, num_models))
    for (a, b), (win, loss, tie) in zip(models, targets, strict=True):
        wins[a, b] += win + tie / 2
        wins[b, a] += loss + tie / 2
    skill = np.ones(num_models)
    for _ in range(2000):
        met = (wins + wins.T) / (skill[:, None] + skill)
        skill = wins.sum(axis=1) / met.sum(axis=1)
        skill /= np.exp(np.log(skill).mean())
    return 1000 + 400 * np.log10(skill)


def rate(names: list[str], models: np.ndarray, targets: np.ndarray) -> dict[str, ModelRecord]:
    lengths = np.full(models.shape, 10)
    return {record.name: record for record in rate_models(names, models, targets, lengths)}


def test_ratings_are_those_of_zermelos_iteration():
    models, targets = draw_battles(3000)
    ratings = fit_ratings(4, models, targets)
    expected = rate_by_iteration(models, targets, 4)
    assert [ratings[model][0] for model in range(4)] == pytest.approx(expected, abs=0.5)  # the prior's pull
    assert np.mean([rating for rating, _, _ in ratings.values()]) == pytest.approx(1000)


def test_which_response_is_called_a_changes_no_rating():
    models, targets = draw_battles(500)
    swapped = fit_ratings(4, models[:, ::-1], targets[:, [1, 0, 2]])
    assert swapped == {
        model: pytest.approx(values, abs=1e-6) for model, values in fit_ratings(4, models, targets).items()
    }


def test_four_hundred_points_are_odds_of_ten_to_one():
    models, targets = np.tile([[0, 1]], (1100, 1)), np.eye(3)[[0] * 1000 + [1] * 100]
    ratings = fit_ratings(2, models, targets)
    assert ratings[0][0] - ratings[1][0] == pytest.approx(400, abs=1)
    # Two models: the log odds of 1000 to 100 have variance 1/1000 + 1/100, half of the difference each.
    assert ratings[0][1] == pytest.approx(1.96 * POINTS * np.sqrt(1 / 1000 + 1 / 100) / 2, rel=0.01)


def test_intervals_are_as_wide_as_the_bootstraps_where_nothing_is_a_tie():
    models, targets = draw_battles(1500)
    decided = targets[:, 2] == 0
    models, targets = models[decided], targets[decided]
    draw = np.random.default_rng(1)
    samples = []
    for _ in range(200):
        rows = draw.integers(0, len(models), len(models))
        ratings = fit_ratings(4, models[rows], targets[rows])
        samples.append([ratings[model][0] for model in range(4)])
    reach = [fit_ratings(4, models, targets)[model][1] for model in range(4)]
    assert reach == pytest.approx(1.96 * np.std(samples, axis=0), rel=0.2)


def test_where_all_rows_are_ties_all_models_are_equal():
    models, _ = draw_battles(400)
    records = rate(NAMES, models, np.tile([0.0, 0.0, 1.0], (400, 1)))
    assert [record.rating for record in records.values()] == pytest.approx([1000.0] * 4)
    assert {record.outcomes.win_rate.share for record in records.values()} == {None}


def test_a_model_that_never_lost_has_a_rating_and_a_wide_interval():
    models, targets = np.tile([[0, 1]], (10, 1)), np.tile([1.0, 0.0, 0.0], (10, 1))
    records = rate(["winner", "loser"], models, targets)
    assert 1200 < records["winner"].rating < 2500
    assert records["winner"].high - records["winner"].low > 500
    assert records["winner"].outcomes.win_rate.share == 1.0


def test_models_that_never_meet_are_told_apart_and_each_group_has_its_mean():
    models = np.array([[0, 1], [1, 2], [3, 4]] * 30)
    targets = np.eye(3)[np.random.default_rng(0).integers(0, 3, 90)]
    records = rate(["a", "b", "c", "d", "e"], models, targets)
    assert [records[name].group for name in "abcde"] == [0, 0, 0, 1, 1]
    for group in (0, 1):
        assert np.mean([record.rating for record in records.values() if record.group == group]) == pytest.approx(1000)


def test_rows_of_a_model_against_itself_are_counted_but_tell_nothing():
    models = np.array([[0, 0], [1, 1], [1, 2]])
    records = rate(["alone", "b", "c"], models, np.eye(3)[[0, 0, 0]])
    assert records["alone"].num_rows == 1
    assert (records["alone"].rating, records["alone"].group, records["alone"].outcomes.num_rows) == (None, None, 0)
    assert (records["b"].num_rows, records["b"].outcomes.num_rows, records["b"].outcomes.wins) == (2, 1, 1.0)


def test_each_model_is_seen_from_its_own_side():
    models, targets = draw_battles(300)
    lengths = np.random.default_rng(2).integers(0, 100, (300, 2))
    for record in rate_models(NAMES, models, targets, lengths):
        place = NAMES.index(record.name)
        as_a, as_b = models[:, 0] == place, models[:, 1] == place
        assert record.outcomes.wins == targets[as_a, 0].sum() + targets[as_b, 1].sum()
        assert record.outcomes.ties == targets[as_a | as_b, 2].sum()
        assert record.mean_length == pytest.approx(np.concatenate([lengths[as_a, 0], lengths[as_b, 1]]).mean())


def test_a_chain_of_models_is_one_group():
    models = np.array([[place, place + 1] for place in range(30)])
    records = rate([str(place) for place in range(31)], models[::-1], np.eye(3)[[2] * 30])
    assert {record.group for record in records.values()} == {0}


def test_the_rarest_of_very_many_models_stay_without_a_rating():
    models = np.array([[place, place + 1] for place in range(250)] + [[0, 1]] * 3)
    records = rate([str(place) for place in range(251)], models, np.eye(3)[[0] * 253])
    assert sum(record.rating is not None for record in records.values()) == 200
    assert records["0"].rating is not None
    assert records["250"].rating is None


def test_without_models_there_are_no_ratings():
    assert rate_models([], np.empty((0, 2), np.int64), np.empty((0, 3)), np.empty((0, 2), np.int64)) == []


def test_soft_labels_weigh_by_their_parts():
    models = np.array([[0, 1]])
    hard = np.eye(3)[[0, 0, 0, 1]]
    soft = fit_ratings(2, np.repeat(models, 4, axis=0), np.tile([0.75, 0.25, 0.0], (4, 1)))
    assert soft[0] == pytest.approx(fit_ratings(2, np.repeat(models, 4, axis=0), hard)[0])
