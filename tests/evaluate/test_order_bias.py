"""Both orders compared: known biases, what averaging gains, and the curve of how many rows it takes."""

import json

import numpy as np
import pytest

from pref_dist.errors import DataError
from pref_dist.evaluate.order_bias import compare_orders
from pref_dist.metrics import mean_of_orders, probabilities, score_logits, uncertainty
from tests.simulated_rows import draw_rows


def draw_biased(seed, num_rows, bias=1.0):
    """Return both orders' logits of a model that likes what stands first by `bias`, put back to A and B."""
    logits, targets, groups = draw_rows(np.random.default_rng(seed), num_rows)
    return logits + np.array([bias, 0, 0]), logits + np.array([0, bias, 0]), targets, groups


def test_a_model_without_bias_is_consistent_and_gains_nothing():
    first, _, targets, groups = draw_biased(0, 500)
    found = compare_orders(first, first.copy(), targets, groups)
    assert found["consistency"] == 1.0
    assert found["mean_difference"] == 0.0
    assert found["gain"] == pytest.approx(0, abs=1e-15)
    assert found["share"] == 1.0
    assert found["log_loss_ab"] == found["log_loss_ba"] == score_logits(first, targets)["log_loss"]


def test_a_biased_model_gains_by_the_mean_of_both_orders_as_much_as_the_losses_say():
    first, second, targets, groups = draw_biased(1, 3000)
    found = compare_orders(first, second, targets, groups)
    mean = (probabilities(first) + probabilities(second)) / 2
    assert found["log_loss_mean"] == pytest.approx(score_logits(np.log(mean), targets)["log_loss"], abs=1e-12)
    assert found["gain"] == pytest.approx(found["log_loss_ab"] - found["log_loss_mean"], abs=1e-12)
    assert 0 < found["gain_interval"][0] < found["gain"] < found["gain_interval"][1]
    assert found["consistency"] < 0.7
    assert found["mean_difference"] == pytest.approx(np.abs(probabilities(first) - probabilities(second)).mean())


def test_the_curve_goes_from_the_first_order_to_the_mean_and_takes_the_most_uncertain_rows_first():
    first, second, targets, groups = draw_biased(2, 1000)
    found = compare_orders(first, second, targets, groups)
    curve = found["curve"]
    assert [point["share"] for point in curve] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert curve[0]["log_loss"] == pytest.approx(found["log_loss_ab"], abs=1e-12)
    assert curve[-1]["log_loss"] == pytest.approx(found["log_loss_mean"], abs=1e-12)
    selected = np.where((uncertainty(first) >= np.sort(uncertainty(first))[-300])[:, None], second, np.nan)
    assert np.isnan(selected[:, 0]).sum() == 700
    expected = score_logits(mean_of_orders(first, selected), targets)["log_loss"]
    assert curve[3]["log_loss"] == pytest.approx(expected, abs=1e-12)


def test_rows_without_a_second_order_are_left_out_and_there_is_no_curve():
    first, second, targets, groups = draw_biased(3, 400)
    whole = compare_orders(first[:100], second[:100], targets[:100], groups[:100])
    second[100:] = np.nan
    found = compare_orders(first, second, targets, groups)
    assert "curve" not in found
    assert found["num_rows_both"] == 100
    assert found.pop("share") == 0.25
    assert found.items() <= whole.items()
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole
    one = compare_orders(first, second, targets, np.zeros(400, np.uint64))
    assert one["gain_interval"] is None


def test_bad_input_is_refused():
    first, second, targets, groups = draw_biased(4, 10)
    with pytest.raises(DataError, match="None of 10 rows was run in the second order"):
        compare_orders(first, np.full((10, 3), np.nan), targets, groups)
    with pytest.raises(DataError, match="10 of 10 rows have predictions"):
        compare_orders(np.full((10, 3), np.nan), second, targets, groups)
    with pytest.raises(DataError, match="shapes"):
        compare_orders(first, second[:9], targets, groups)
    with pytest.raises(DataError, match="no rows to score"):
        compare_orders(first[:0], second[:0], targets[:0], groups[:0])
