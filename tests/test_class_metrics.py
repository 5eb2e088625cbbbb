"""Metrics of classes equal scikit-learn's to 1e-12, also with equal scores and weights; what nobody can tell is NaN."""

import numpy as np
import pytest
from sklearn import metrics as sk

from pref_dist.class_metrics import (
    area_under_curve,
    class_f1,
    class_precision,
    class_recall,
    count_confusion,
    mean_of_known,
)
from pref_dist.ranking import number_bins, rank_rows


def draw(seed, num_rows=400, decimals=None):
    generator = np.random.default_rng(seed)
    chances = generator.dirichlet((2, 2, 1), num_rows)
    if decimals is not None:
        chances = chances.round(decimals)
    real = generator.choice(3, num_rows, p=(0.45, 0.35, 0.2))
    return chances, real, generator.integers(0, 4, num_rows).astype(np.float64)


@pytest.mark.parametrize("seed", range(3))
def test_confusion_precision_recall_and_f1_are_scikit_learns(seed):
    chances, real, weights = draw(seed)
    predicted = chances.argmax(axis=1)
    confusion = count_confusion(real, predicted)
    assert np.array_equal(confusion, sk.confusion_matrix(real, predicted, labels=[0, 1, 2]))
    expected = sk.precision_recall_fscore_support(real, predicted, labels=[0, 1, 2])
    for found, wanted in zip((class_precision, class_recall, class_f1), expected[:3], strict=True):
        assert np.abs(found(confusion) - wanted).max() < 1e-12
    weighted = mean_of_known(class_f1(count_confusion(real, predicted, weights)))
    assert abs(weighted - sk.f1_score(real, predicted, average="macro", sample_weight=weights)) < 1e-12


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
def test_auc_is_scikit_learns_with_equal_scores_and_weights(decimals):
    chances, real, weights = draw(5, decimals=decimals)
    for place in range(3):
        ranking, is_positive = rank_rows(chances[:, place]), real == place
        for given in (np.ones(len(real)), weights):
            expected = sk.roc_auc_score(is_positive, chances[:, place], sample_weight=given)
            assert abs(area_under_curve(ranking, is_positive, given) - expected) < 1e-12


def test_what_no_row_speaks_about_is_nan_and_left_out_of_the_mean():
    real, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    confusion = count_confusion(real, predicted)
    assert class_precision(confusion) == pytest.approx([1, 0.5, np.nan], nan_ok=True)
    assert class_recall(confusion) == pytest.approx([0.5, 1, np.nan], nan_ok=True)
    assert mean_of_known(class_f1(confusion)) == pytest.approx(sk.f1_score(real, predicted, average="macro"))
    assert np.isnan(area_under_curve(rank_rows(np.array([0.2, 0.1, 0.3])), real == 2, np.ones(3)))
    assert np.isnan(mean_of_known(np.array([np.nan, np.nan])))


def test_bins_hold_equally_many_rows_and_equal_scores_stay_together():
    assert np.bincount(number_bins(np.ones(150), 15)).tolist() == [10] * 15
    assert set(np.bincount(number_bins(np.ones(100), 15)).tolist()) == {6, 7}
    assert number_bins(np.array([1.0, 7.0, 1.0, 1.0]), 5).tolist() == [0, 2, 4, 4]
    assert number_bins(np.array([8.0]), 15).tolist() == [7]
