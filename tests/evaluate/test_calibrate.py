"""Calibration: known temperatures, a gain that owes nothing to the rows it is judged on, reliability."""

import json

import numpy as np
import pytest

from pref_dist.cross_fit import part_of
from pref_dist.errors import DataError
from pref_dist.evaluate.calibrate import apply_temperature, calibrate, cross_fit_temperature
from pref_dist.metrics import probabilities, score_logits
from pref_dist.temperature import fit_temperature
from tests.simulated_rows import draw_logits, draw_rows


def test_calibrated_rows_have_temperature_1_and_nothing_to_gain():
    found = calibrate(*draw_rows(np.random.default_rng(0), 20_000))
    assert abs(found["temperature"] - 1) < 0.05
    assert abs(found["gain"]) < 1e-3
    assert not found["applies"]


@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_scaled_logits_have_that_temperature_exactly_by_their_probabilities_and_nearly_by_drawn_labels(scale):
    logits, targets, groups = draw_rows(np.random.default_rng(1), 8000)
    assert abs(fit_temperature(scale * logits, probabilities(logits))[0] - scale) < 1e-6
    found = calibrate(scale * logits, targets, groups)
    assert abs(found["temperature"] - scale) < 0.1 * scale
    assert found["applies"]
    assert found["interval"][0] < found["gain"] < found["interval"][1]
    assert found["log_loss_before"] == score_logits(scale * logits, targets)["log_loss"]
    assert found["gain"] == pytest.approx(found["log_loss_before"] - found["log_loss_after"], abs=1e-12)


def test_a_row_is_judged_by_a_temperature_of_other_prompts():
    logits, targets, groups = draw_rows(np.random.default_rng(2), 600)
    cooled, is_first = cross_fit_temperature(3 * logits, targets, groups), part_of(groups) == 0
    changed = np.where(is_first[:, None], np.roll(targets, 1, axis=1), targets)
    again = cross_fit_temperature(3 * logits, changed, groups)
    assert np.array_equal(again[is_first], cooled[is_first])
    assert not np.array_equal(again[~is_first], cooled[~is_first])


def test_a_useless_temperature_of_few_rows_is_seldom_applied():
    generator = np.random.default_rng(3)
    applied = sum(calibrate(*draw_rows(generator, 200), seed=trial)["applies"] for trial in range(40))
    assert applied <= 3


def test_one_prompt_has_no_interval_and_its_temperature_is_not_applied():
    logits, targets, _ = draw_rows(np.random.default_rng(4), 300)
    found = calibrate(4 * logits, targets, np.full(300, 7, np.uint64))
    assert found["interval"] is None
    assert found["applies"] is False
    assert found["gain"] == 0.0


def test_logits_that_no_temperature_changes_keep_1():
    groups = np.arange(30, dtype=np.uint64)
    assert calibrate(np.zeros((30, 3)), np.eye(3)[groups % 3], groups)["temperature"] == 1


def test_reliability_holds_every_row_once_in_equal_bins_and_covers_calibrated_shares():
    logits, targets, groups = draw_rows(np.random.default_rng(5), 5000)
    found = calibrate(logits, targets, groups)["reliability"]
    assert list(found) == ["A", "B", "tie"]
    bins = [one for curve in found.values() for one in curve]
    assert [one["num_rows"] for one in bins] == [500] * 30
    assert all(one["low"] <= one["share"] <= one["high"] for one in bins)
    assert sum(one["low"] <= one["mean_probability"] <= one["high"] for one in bins) >= 26
    for place, curve in enumerate(found.values()):
        assert sum(one["share"] * one["num_rows"] for one in curve) == pytest.approx(targets[:, place].sum())
        chances = [one["mean_probability"] for one in curve]
        assert chances == sorted(chances)


def test_equal_probabilities_stay_in_one_bin_and_the_section_is_json():
    logits = np.log(np.tile([0.5, 0.3, 0.2], (90, 1)))
    found = calibrate(logits, np.eye(3)[np.arange(90) % 3], np.arange(90, dtype=np.uint64))
    (only,) = found["reliability"]["A"]
    assert only["num_rows"] == 90
    assert only["share"] == pytest.approx(1 / 3)
    assert only["mean_probability"] == pytest.approx(0.5)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_temperature_keeps_the_most_likely_class_and_must_be_above_0():
    logits = draw_logits(np.random.default_rng(6), 100)
    cooled = apply_temperature(logits, 2.5)
    assert np.abs(cooled * 2.5 - logits).max() < 1e-15
    assert np.array_equal(cooled.argmax(axis=1), logits.argmax(axis=1))
    assert np.array_equal(apply_temperature(logits, 1), logits)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="must be a number above 0"):
            apply_temperature(logits, wrong)


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="no rows to score"):
        calibrate(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, np.uint64))
    with pytest.raises(DataError, match="1 of 2 rows have predictions"):
        calibrate(np.array([[0, 0, np.inf], [0, 0, 0]]), np.eye(3)[:2], np.arange(2, dtype=np.uint64))
