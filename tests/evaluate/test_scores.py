"""All metrics of a set of rows: known answers, agreement with scikit-learn, intervals that cover, and bad input."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from pref_dist.bootstrap import bootstrap_mean
from pref_dist.data.synthetic import write_sample
from pref_dist.errors import DataError
from pref_dist.evaluate.scores import describe_scores, find_intervals
from pref_dist.metrics import probabilities, row_log_losses, score_logits
from pref_dist.submission import read_probabilities
from tests.simulated_rows import draw_labels, draw_logits, draw_rows

NAMES = {"log_loss", "accuracy", "macro_f1", "brier", "ece", "auc"}


def describe(logits, targets, groups=None):
    return describe_scores(logits, targets, np.arange(len(logits), dtype=np.uint64) if groups is None else groups)


def trained_like(generator, num_rows):
    """Return what a trained model gives: near the prior, 16-bit numbers, so that many are equal."""
    return generator.normal((0.2, 0.1, -0.4), 0.3, (num_rows, 3)).astype(np.float16).astype(np.float64)


@pytest.mark.parametrize("draw", [lambda g: 4 * draw_logits(g, 600), lambda g: trained_like(g, 3000)])
def test_every_metric_is_scikit_learns_to_1e_12(draw):
    generator = np.random.default_rng(0)
    logits = draw(generator)
    labels = draw_labels(generator, logits)
    chances, predicted, one_hot = probabilities(logits), logits.argmax(axis=1), np.eye(3)[labels]
    scores = describe(logits, one_hot)
    assert abs(scores["log_loss"] - sk.log_loss(labels, chances, labels=[0, 1, 2])) < 1e-12
    assert scores["accuracy"] == sk.accuracy_score(labels, predicted)
    assert abs(scores["macro_f1"] - sk.f1_score(labels, predicted, average="macro")) < 1e-12
    assert abs(scores["auc"] - sk.roc_auc_score(labels, chances, multi_class="ovr", average="macro")) < 1e-12
    assert scores["confusion"] == sk.confusion_matrix(labels, predicted).tolist()
    for place, described in enumerate(scores["classes"].values()):
        is_class = labels == place
        assert abs(described["brier"] - sk.brier_score_loss(is_class, chances[:, place])) < 1e-12
        assert abs(described["auc"] - sk.roc_auc_score(is_class, chances[:, place])) < 1e-12
        own = sk.log_loss(labels[is_class], chances[is_class], labels=[0, 1, 2])
        assert abs(described["log_loss"] - own) < 1e-12
        assert abs(described["f1"] - sk.f1_score(is_class, predicted == place)) < 1e-12
        assert described["num_rows"] == is_class.sum()
    assert abs(scores["brier"] - sum(one["brier"] for one in scores["classes"].values())) < 1e-12
    assert scores.items() >= score_logits(logits, one_hot).items(), "bit by bit"


def test_label_frequencies_as_output_give_their_entropy_and_no_calibration_error():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    shares = np.array([0.5, 0.3, 0.2])
    scores = describe(np.tile(np.log(shares), (100, 1)), np.eye(3)[labels])
    assert abs(scores["log_loss"] + (shares * np.log(shares)).sum()) < 1e-12
    assert scores["ece"] < 1e-12
    assert scores["auc"] == 0.5
    assert scores["accuracy"] == 0.5


def test_calibrated_rows_have_a_calibration_error_near_0_and_twice_too_sure_ones_a_large_one():
    many_logits, many_targets, groups = draw_rows(np.random.default_rng(1), 20_000)
    assert describe(many_logits, many_targets, np.zeros_like(groups))["ece"] < 0.015
    logits, targets, groups = many_logits[:2000], many_targets[:2000], groups[:2000]
    calibrated, too_sure = describe(logits, targets, groups), describe(2 * logits, targets, groups)
    assert calibrated["intervals"]["ece"][0] == 0.0
    assert too_sure["ece"] > 0.1
    assert too_sure["intervals"]["ece"][0] > 0.05


def test_the_calibration_error_is_that_of_a_sum_by_hand():
    # Four rows of confidence .6, three of them right; two of .9, both right. 15 bins part them by confidence.
    confidences, is_right = np.array([0.6, 0.6, 0.6, 0.6, 0.9, 0.9]), np.array([1, 1, 1, 0, 1, 1])
    chances = np.stack([confidences, (1 - confidences) * 0.6, (1 - confidences) * 0.4], axis=1)
    scores = describe(np.log(chances), np.eye(3)[1 - is_right])
    assert abs(scores["ece"] - (4 * 0.15 + 2 * 0.1) / 6) < 1e-12


def test_soft_targets_count_as_they_are_in_losses_and_by_their_most_likely_class_elsewhere():
    logits = draw_logits(np.random.default_rng(2), 300)
    soft = probabilities(logits)
    scores = describe(logits, soft)
    assert abs(scores["log_loss"] + (soft * np.log(soft)).sum(axis=1).mean()) < 1e-12
    assert scores["brier"] < 1e-12
    assert scores["ece"] < 1e-12
    assert scores["accuracy"] == scores["macro_f1"] == 1.0
    assert np.trace(scores["confusion"]) == 300
    assert abs(scores["classes"]["tie"]["share"] - soft[:, 2].mean()) < 1e-12


def test_no_figure_depends_on_the_order_of_the_rows():
    generator = np.random.default_rng(3)
    logits = trained_like(generator, 500).round(1)
    targets, groups = np.eye(3)[draw_labels(generator, logits)], np.arange(500, dtype=np.uint64) // 3
    order = generator.permutation(500)
    one, other = describe(logits, targets, groups), describe(logits[order], targets[order], groups[order])
    for name in NAMES:
        assert abs(one[name] - other[name]) < 1e-12
        assert one["intervals"][name] == pytest.approx(other["intervals"][name], abs=1e-12)


def test_the_intervals_cover_the_truth_in_about_95_of_100_sets_although_rows_of_a_prompt_are_alike(monkeypatch):
    monkeypatch.setattr("pref_dist.bootstrap.NUM_RESAMPLES", 300)
    generator, num_sets = np.random.default_rng(4), 100
    logits, targets, groups = draw_alike(generator, 20_000)
    truth = describe(logits, targets, np.zeros_like(groups))
    covered, covered_by_rows = dict.fromkeys(NAMES, 0), 0
    for trial in range(num_sets):
        logits, targets, groups = draw_alike(generator, 100)
        intervals = find_intervals(logits, targets, groups, trial)
        for name, (low, high) in intervals.items():
            covered[name] += low <= truth[name] <= high
        losses, rows = row_log_losses(logits, targets), np.arange(len(logits), dtype=np.uint64)
        low, high = bootstrap_mean(losses, rows, trial)
        covered_by_rows += low <= truth["log_loss"] <= high
    assert all(0.89 <= times / num_sets <= 0.99 for times in covered.values()), covered
    assert covered_by_rows < covered["log_loss"] - 0.1 * num_sets, "rows drawn one by one would promise too much"


def draw_alike(generator, num_prompts):
    """Return rows of a model twice too sure, 1 to 5 of a prompt that share their logits and mostly their label."""
    groups = np.repeat(np.arange(num_prompts, dtype=np.uint64), generator.integers(1, 6, num_prompts))
    logits = draw_logits(generator, num_prompts)
    labels, own = draw_labels(generator, logits), draw_labels(generator, logits[groups.astype(int)])
    shares_label = generator.random(len(groups)) < 0.8
    chosen = np.where(shares_label, labels[groups.astype(int)], own)
    return 2 * logits[groups.astype(int)], np.eye(3)[chosen], groups


def test_the_bayes_optimal_log_loss_of_the_synthetic_set_is_reproduced(tmp_path):
    import pandas as pd

    summary = write_sample(tmp_path, num_train=1500, num_test=500, seed=5)
    known = read_probabilities(tmp_path / "bayes.csv")
    train = pd.read_csv(tmp_path / "train.csv", dtype={"id": str})
    targets = train[["winner_model_a", "winner_model_b", "winner_tie"]].to_numpy(np.float64)
    scores = describe(np.log(known.loc[train["id"]].to_numpy()), targets)
    assert abs(scores["log_loss"] - summary.train_bayes_log_loss) < 1e-9
    low, high = scores["intervals"]["log_loss"]
    assert low < summary.train_expected_bayes_log_loss < high
    assert scores["intervals"]["ece"][0] == 0.0, "true probabilities are calibrated"


def test_what_cannot_be_told_is_null_and_the_rest_is_json():
    logits, targets, _ = draw_rows(np.random.default_rng(6), 40)
    logits[:, 2], targets[:] = -9.0, np.eye(3)[np.arange(40) % 2]
    scores = describe(logits, targets, np.ones(40, np.uint64))
    assert scores["intervals"] == dict.fromkeys(scores["intervals"])
    assert set(scores["intervals"]) == NAMES
    tie = scores["classes"]["tie"]
    assert [tie[name] for name in ("log_loss", "precision", "recall", "f1", "auc")] == [None] * 5
    assert scores["auc"] == pytest.approx((scores["classes"]["A"]["auc"] + scores["classes"]["B"]["auc"]) / 2)
    assert scores["num_prompts"] == 1
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    only_ties = describe(logits, np.eye(3)[np.full(40, 2)])
    assert only_ties["auc"] is None
    assert only_ties["intervals"]["auc"] is None
    assert only_ties["macro_f1"] == 0.0


@pytest.mark.parametrize(
    ("logits", "targets", "groups", "message"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, np.uint64), "no rows to score"),
        (np.zeros((2, 2)), np.zeros((2, 3)), np.zeros(2, np.uint64), r"predictions of 2 rows have the shape \(2, 2\)"),
        (np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(2, np.uint64), r"targets of 2 rows have the shape \(3, 3\)"),
        (np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(3, np.uint64), r"prompts of 2 rows have the shape \(3,\)"),
        (np.full((2, 3), np.nan), np.zeros((2, 3)), np.zeros(2, np.uint64), "2 of 2 rows have predictions"),
        (np.zeros((2, 3)), np.full((2, 3), np.nan), np.zeros(2, np.uint64), "targets that are .*first: row 0"),
    ],
)
def test_bad_input_is_refused_with_the_first_culprit(logits, targets, groups, message):
    with pytest.raises(DataError, match=message):
        describe_scores(logits, targets, groups)
