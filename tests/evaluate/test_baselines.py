"""The baselines: known answers, odd inputs, and their distance from the synthetic optimum."""

import math

import numpy as np
import pytest

from pref_dist.data.rows import Row, Turn
from pref_dist.data.synthetic_rows import SyntheticRow, draw_rows
from pref_dist.errors import DataError
from pref_dist.evaluate.baselines import fit_baselines

A, B, TIE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
NAMES = ["class_prior", "length_tree", "tfidf_logistic"]


def build_row(response_a: str, response_b: str, target: tuple[float, float, float] | None) -> Row:
    return Row(1, "x", (Turn("Which one?", response_a, response_b),), target)


def as_row(drawn: SyntheticRow) -> Row:
    turns = zip(drawn.prompts, drawn.responses_a, drawn.responses_b, strict=True)
    winner = (A, B, TIE)[drawn.winner]
    return Row(1, drawn.id, tuple(Turn(p, a or "", b or "") for p, a, b in turns), winner)


def test_the_class_prior_is_the_shares_with_one_row_a_class_added() -> None:
    train = [build_row("a", "b", target) for target in (A, A, A, B, TIE, TIE, TIE)]
    prior = fit_baselines(train, seed=1).predict(train[:2])["class_prior"]
    assert prior == pytest.approx(np.array([[0.4, 0.2, 0.4]] * 2), abs=1e-12)
    score = fit_baselines(train, seed=1).score([train[0], train[3]])["class_prior"]
    assert score["log_loss"] == pytest.approx(-(math.log(0.4) + math.log(0.2)) / 2, abs=1e-12)
    assert score["accuracy"] == 0.5


def test_the_length_tree_learns_that_the_longer_response_wins() -> None:
    short, long = "few words", "a good many more words than the other one has"
    train = [build_row(long, short, A), build_row(short, long, B), build_row(short, short, TIE)] * 50
    scores = fit_baselines(train, seed=1).score(train)
    assert scores["length_tree"]["accuracy"] == 1.0
    # A certain tree is right with (150 + 1) / (150 + 3) after smoothing.
    assert scores["length_tree"]["log_loss"] == pytest.approx(math.log(153 / 151), abs=1e-12)


def test_tfidf_learns_that_a_word_wins_and_not_what_follows_from_length() -> None:
    train = [build_row("red car", "old car", A), build_row("old car", "red car", B)] * 100
    scores = fit_baselines(train, seed=1).score(train)
    assert scores["tfidf_logistic"]["accuracy"] == 1.0
    assert scores["tfidf_logistic"]["log_loss"] < 0.2
    assert scores["length_tree"]["log_loss"] > 0.6


def test_where_words_say_nothing_tfidf_stays_near_the_prior() -> None:
    rows = [as_row(drawn) for drawn in draw_rows("train", 1500, seed=3)]
    scores = fit_baselines(rows[:1000], seed=1).score(rows[1000:])
    assert scores["tfidf_logistic"]["log_loss"] < scores["class_prior"]["log_loss"] + 0.03


def test_all_turns_of_a_row_are_read() -> None:
    first = Turn("p", "same", "same")
    won = Row(1, "x", (first, Turn("q", "red car", "old car")), A)
    lost = Row(2, "y", (first, Turn("q", "old car", "red car")), B)
    assert fit_baselines([won, lost] * 50, seed=1).score([won, lost])["tfidf_logistic"]["accuracy"] == 1.0


@pytest.mark.parametrize("targets", [(A, B), (TIE,), (A, TIE)])
def test_a_class_without_rows_costs_a_finite_loss(targets: tuple[tuple[float, float, float], ...]) -> None:
    train = [build_row("red car", "old car", target) for target in targets] * 30
    scores = fit_baselines(train, seed=1).score([build_row("red", "old", target) for target in (A, B, TIE)])
    assert list(scores) == NAMES
    assert all(math.isfinite(score["log_loss"]) for score in scores.values())


def test_rows_without_any_word_fall_back_to_the_prior() -> None:
    train = [build_row("", "", TIE), build_row("!", "?", A)] * 10
    predicted = fit_baselines(train, seed=1).predict(train)
    assert np.array_equal(predicted["tfidf_logistic"], predicted["class_prior"])


def test_probabilities_are_float64_positive_and_sum_to_one() -> None:
    rows = [as_row(drawn) for drawn in draw_rows("train", 200, seed=1)]
    for probabilities in fit_baselines(rows, seed=1).predict(rows).values():
        assert probabilities.shape == (200, 3)
        assert probabilities.dtype == np.float64
        assert probabilities.min() > 0
        assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-12)


def test_the_same_rows_and_seed_give_the_same_scores() -> None:
    rows = [as_row(drawn) for drawn in draw_rows("train", 300, seed=1)]
    assert fit_baselines(rows, seed=4).score(rows) == fit_baselines(rows, seed=4).score(rows)


def test_unlabelled_rows_are_an_error() -> None:
    rows = [build_row("a", "b", A), build_row("a", "b", None)]
    with pytest.raises(DataError, match="1 of 2 rows have no winner"):
        fit_baselines(rows, seed=1)
    with pytest.raises(DataError, match="0 of 0"):
        fit_baselines([], seed=1)


@pytest.mark.parametrize("seed", [1, 2])
def test_without_the_prompt_the_synthetic_optimum_stays_far_away(seed: int) -> None:
    train, test = draw_rows("train", 3000, seed), draw_rows("test", 1000, seed)
    bayes = sum(-math.log(row.probabilities[row.winner]) for row in test) / len(test)
    scores = fit_baselines([as_row(row) for row in train], seed=seed).score([as_row(row) for row in test])
    assert min(score["log_loss"] for score in scores.values()) > bayes + 0.05


def test_soft_labels_and_weights_are_what_the_baselines_learn():
    soft = (0.34, 0.33, 0.33)
    rows = [Row(number, str(number), (Turn("p", "a" * number, "b"),), A, soft_target=soft) for number in range(1, 60)]
    prior = fit_baselines(rows, seed=0).predict(rows)["class_prior"][0]
    assert prior == pytest.approx((np.array(soft) * 59 + 1) / 62)
    hard = [row._replace(soft_target=None, target=A if row.row <= 20 else B) for row in rows]
    weights = np.where(np.arange(1, 60) <= 20, 3.0, 1.0)
    prior = fit_baselines(hard, seed=0, weights=weights).predict(hard)["class_prior"][0]
    assert prior == pytest.approx((np.array([60, 39, 0]) / 99 * 59 + 1) / 62)
