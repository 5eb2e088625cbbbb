import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

from pref_dist.metrics import probabilities, score_logits, score_probabilities


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
