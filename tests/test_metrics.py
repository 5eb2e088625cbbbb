import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from pref_dist.errors import DataError
from pref_dist.metrics import mean_of_orders, probabilities, score_logits, score_probabilities, uncertainty


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_loss_and_accuracy_equal_scikit_learns_to_1e_12(dtype):
    generator = np.random.default_rng(0)
    logits = (generator.normal(size=(500, 3)) * 4).astype(dtype)
    labels = generator.integers(0, 3, 500)
    scores = score_logits(logits.astype(np.float64), np.eye(3)[labels])
    exact = probabilities(logits.astype(np.float64))
    assert abs(scores["log_loss"] - log_loss(labels, exact, labels=[0, 1, 2])) < 1e-12
    assert scores["accuracy"] == accuracy_score(labels, exact.argmax(1))
    assert scores["num_rows"] == 500


def test_a_uniform_guess_costs_log_3():
    assert score_logits(np.zeros((4, 3)), np.eye(3)[[0, 1, 2, 0]])["log_loss"] == pytest.approx(np.log(3), abs=1e-15)


def test_soft_targets_give_the_cross_entropy():
    target = np.array([[0.5, 0.25, 0.25]])
    assert score_probabilities(target, target)["log_loss"] == pytest.approx(1.5 * np.log(2), abs=1e-12)


def test_huge_logits_do_not_overflow():
    assert score_logits(np.array([[1e4, 0.0, -1e4]]), np.array([[1.0, 0.0, 0.0]]))["log_loss"] == 0.0


def test_the_mean_of_two_orders_is_that_of_their_probabilities_and_the_first_where_the_second_was_not_run():
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(2, 50, 3)) * 5
    second[::4] = np.nan
    mean, is_run = mean_of_orders(first, second), np.arange(50) % 4 > 0
    assert mean[~is_run].tobytes() == first[~is_run].tobytes()
    expected = (probabilities(first[is_run]) + probabilities(second[is_run])) / 2
    assert np.abs(probabilities(mean[is_run]) - expected).max() < 1e-15
    assert np.isfinite(mean_of_orders(np.array([[2e3, 0.0, 0.0]]), np.array([[2e3, 0.0, 0.0]]))).all()


def test_orders_that_do_not_fit_together_are_refused():
    with pytest.raises(DataError, match=r"shapes \(2, 3\) and \(1, 3\)"):
        mean_of_orders(np.zeros((2, 3)), np.zeros((1, 3)))
    with pytest.raises(DataError, match=r"1 of 2 rows have some .* \(first: row 1,"):
        mean_of_orders(np.zeros((2, 3)), np.array([[np.nan] * 3, [0.0, np.nan, 0.0]]))


def test_uncertainty_is_the_entropy_in_nats():
    logits = np.log([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.25, 0.25], [1.0, 1e-300, 1e-300]])
    assert uncertainty(logits) == pytest.approx([np.log(3), 1.5 * np.log(2), 0.0], abs=1e-14)
    assert uncertainty(np.array([[0.0, -np.inf, 0.0]])) == pytest.approx([np.log(2)], abs=1e-15)
