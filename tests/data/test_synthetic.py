"""The synthetic set: its schema, its shares, and that its true probabilities are what they claim."""

import csv
import json
import math
from collections import Counter
from pathlib import Path

import pytest

from pref_dist.data.folds import group_of
from pref_dist.data.synthetic import write_sample
from pref_dist.data.synthetic_facts import DOMAINS
from pref_dist.data.synthetic_rows import SyntheticRow, draw_rows, label_probabilities
from pref_dist.errors import DataError

FILES = ("train.csv", "test.csv", "test_labels.csv", "sample_submission.csv", "bayes.csv")
WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def many_rows() -> list[SyntheticRow]:
    return draw_rows("train", 6000, seed=5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        write_sample(tmp_path / name, num_train=50, num_test=20, seed=seed)
    for name in FILES:
        first = (tmp_path / "first" / name).read_bytes()
        assert first == (tmp_path / "again" / name).read_bytes()
        assert name == "sample_submission.csv" or first != (tmp_path / "other" / name).read_bytes()


def test_a_smaller_part_is_the_beginning_of_a_larger_one() -> None:
    assert draw_rows("train", 40, seed=3) == draw_rows("train", 90, seed=3)[:40]
    assert draw_rows("train", 40, seed=3) != draw_rows("test", 40, seed=3)


def test_no_prompt_of_the_test_part_can_have_been_learnt_in_training(tmp_path: Path) -> None:
    write_sample(tmp_path, num_train=3000, num_test=600)
    train, test = (
        {group_of(json.loads(row["prompt"])) for row in read_table(tmp_path / name)}
        for name in ("train.csv", "test.csv")
    )
    assert len(test) > 300
    assert not train & test


def test_the_files_have_the_kaggle_schema(sample_dir: Path) -> None:
    texts = ["id", "prompt", "response_a", "response_b"]
    assert list(read_table(sample_dir / "test.csv")[0]) == texts
    labelled = ["id", "model_a", "model_b", *texts[1:], *WINNERS]
    assert list(read_table(sample_dir / "train.csv")[0]) == labelled
    assert list(read_table(sample_dir / "test_labels.csv")[0]) == labelled
    for name in ("sample_submission.csv", "bayes.csv"):
        assert list(read_table(sample_dir / name)[0]) == ["id", *WINNERS]


def test_all_files_speak_of_the_same_rows_in_the_same_order(sample_dir: Path) -> None:
    ids = {name: [row["id"] for row in read_table(sample_dir / name)] for name in FILES}
    assert ids["test.csv"] == ids["test_labels.csv"] == ids["sample_submission.csv"]
    assert ids["bayes.csv"] == ids["train.csv"] + ids["test.csv"]
    assert len(set(ids["bayes.csv"])) == len(ids["bayes.csv"]) == 360


def test_every_row_has_one_winner_and_as_many_responses_as_prompts(sample_dir: Path) -> None:
    for row in read_table(sample_dir / "train.csv"):
        assert sorted(row[column] for column in WINNERS) == ["0", "0", "1"]
        prompts, side_a, side_b = (json.loads(row[column]) for column in ("prompt", "response_a", "response_b"))
        assert len(prompts) == len(side_a) == len(side_b) > 0
        assert all(isinstance(prompt, str) and prompt for prompt in prompts)
        assert all(text is None or (isinstance(text, str) and text) for text in side_a + side_b)


def test_the_reference_file_holds_the_probabilities_the_labels_were_drawn_from(sample_dir: Path) -> None:
    drawn = [*draw_rows("train", 300, seed=7), *draw_rows("test", 60, seed=7)]
    for row, line in zip(drawn, read_table(sample_dir / "bayes.csv"), strict=True):
        assert [float(line[column]) for column in WINNERS] == pytest.approx(row.probabilities, abs=1e-12)


def test_the_label_model_is_rao_and_kuppers() -> None:
    """With pi = exp(worth) and theta = exp(threshold): P(A) = pi_a / (pi_a + theta pi_b)."""
    worth_a, worth_b, theta = 2.0, 0.5, math.exp(2.5)
    pi_a, pi_b = math.exp(worth_a), math.exp(worth_b)
    prob_a, prob_b, prob_tie = label_probabilities(worth_a - worth_b)
    assert prob_a == pytest.approx(pi_a / (pi_a + theta * pi_b), rel=1e-12)
    assert prob_b == pytest.approx(pi_b / (pi_b + theta * pi_a), rel=1e-12)
    tie = pi_a * pi_b * (theta**2 - 1) / ((pi_a + theta * pi_b) * (pi_b + theta * pi_a))
    assert prob_tie == pytest.approx(tie, rel=1e-12)


def test_the_bayes_log_loss_is_the_entropy_within_sampling_error(tmp_path: Path) -> None:
    summary = write_sample(tmp_path, num_train=6000, num_test=1, seed=11)
    # One row's -log p has a standard deviation below 1; 4 standard errors.
    assert abs(summary.train_bayes_log_loss - summary.train_expected_bayes_log_loss) < 4 / math.sqrt(6000)
    assert 1.0 < summary.train_prior_log_loss < math.log(3) + 0.01


def test_labels_come_as_often_as_their_probabilities_say(many_rows: list[SyntheticRow]) -> None:
    for winner in range(3):
        expected = sum(row.probabilities[winner] for row in many_rows)
        assert abs(sum(row.winner == winner for row in many_rows) - expected) < 4 * math.sqrt(len(many_rows) / 4)


def test_the_shares_of_ties_turns_empty_and_long_rows(many_rows: list[SyntheticRow]) -> None:
    num_rows = len(many_rows)
    texts = [[*row.responses_a, *row.responses_b] for row in many_rows]
    assert 0.22 < sum(row.winner == 2 for row in many_rows) / num_rows < 0.32
    assert 0.12 < sum(len(row.prompts) > 1 for row in many_rows) / num_rows < 0.18
    assert 0.01 < sum(None in row_texts for row_texts in texts) / num_rows < 0.06
    assert 0.003 < sum(any(len(text or "") > 1000 for text in row) for row in texts) / num_rows < 0.03


def test_no_side_is_favoured(many_rows: list[SyntheticRow]) -> None:
    wins = Counter(row.winner for row in many_rows)
    assert abs(wins[0] - wins[1]) < 4 * math.sqrt(wins[0] + wins[1])


def test_every_fact_can_be_told_apart_by_subject() -> None:
    """A response that names another subject must not read like one that names the right one."""
    for domain in DOMAINS:
        subjects = [subject.lower() for subject in domain.facts]
        assert not [(a, b) for a in subjects for b in subjects if a != b and a in b]
        assert all(len(values) == len(domain.questions) == len(domain.answers) for values in domain.facts.values())


def test_an_empty_part_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 1 row"):
        write_sample(tmp_path, num_train=0, num_test=5, seed=1)
