"""`pref-dist sample`: a synthetic preference set in the Kaggle schema, and what can be reached on it.

How a row is drawn, and why its true probabilities are known, stands in `synthetic_rows`.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean as mean

from pref_dist.data.synthetic_rows import SyntheticRow, draw_rows
from pref_dist.errors import DataError
from pref_dist.files import StrPath, write_text
from pref_dist.labels import ID_COLUMN, SUBMISSION_COLUMNS, TEXT_COLUMNS, WINNER_COLUMNS


@dataclass(frozen=True)
class SampleSummary:
    """Log losses of the two parts, in nats a row.

    `bayes`: of the true probabilities on the drawn labels; no model can be expected to beat it.
    `expected_bayes`: the mean of that over redrawn labels, which is the mean entropy.
    `prior`: of the class shares of the train part (one row a class added, so that it is finite).
    """

    num_train: int
    num_test: int
    train_bayes_log_loss: float
    train_expected_bayes_log_loss: float
    train_prior_log_loss: float
    test_bayes_log_loss: float
    test_expected_bayes_log_loss: float
    test_prior_log_loss: float


def write_sample(out_dir: StrPath, num_train: int = 3000, num_test: int = 600, seed: int = 42) -> SampleSummary:
    """Write a synthetic preference set in the Kaggle schema, byte for byte a function of the arguments.

    Files: `train.csv` and `test_labels.csv` (with winners), `test.csv` and `sample_submission.csv`
    (without), and `bayes.csv`: the true probabilities of every row of both parts, as a submission.
    The rows of a part don't depend on the size of the other part, and a smaller part is the
    beginning of a larger one.

    Raises DataError if a part would be empty.
    """
    if num_train < 1 or num_test < 1:
        raise DataError(f"A sample needs at least 1 row in each part, not {num_train} to train and {num_test} to test.")
    train = draw_rows("train", num_train, seed)
    test = draw_rows("test", num_test, seed)
    tables = {
        "train.csv": labelled_table(train),
        "test.csv": unlabelled_table(test),
        "test_labels.csv": labelled_table(test),
        "sample_submission.csv": submission_table(test, uniform=True),
        "bayes.csv": submission_table([*train, *test], uniform=False),
    }
    for name, table in tables.items():
        write_text(Path(out_dir) / name, render_csv(table))
    return summarise(train, test)


def class_prior(rows: Sequence[SyntheticRow]) -> list[float]:
    counts = [1 + sum(row.winner == winner for row in rows) for winner in range(len(WINNER_COLUMNS))]
    return [count / sum(counts) for count in counts]


def summarise(train: Sequence[SyntheticRow], test: Sequence[SyntheticRow]) -> SampleSummary:
    prior = class_prior(train)
    losses = {}
    for part, rows in (("train", train), ("test", test)):
        losses[f"{part}_bayes_log_loss"] = mean(-math.log(row.probabilities[row.winner]) for row in rows)
        losses[f"{part}_expected_bayes_log_loss"] = mean(entropy(row.probabilities) for row in rows)
        losses[f"{part}_prior_log_loss"] = mean(-math.log(prior[row.winner]) for row in rows)
    return SampleSummary(num_train=len(train), num_test=len(test), **losses)


def entropy(probabilities: Sequence[float]) -> float:
    return -sum(probability * math.log(probability) for probability in probabilities)


Table = list[list[str]]


def labelled_table(rows: Sequence[SyntheticRow]) -> Table:
    header = [ID_COLUMN, "model_a", "model_b", *TEXT_COLUMNS, *WINNER_COLUMNS]
    one_hot = [["1" if row.winner == index else "0" for index in range(len(WINNER_COLUMNS))] for row in rows]
    return [header, *([row.id, *row.models, *text_cells(row), *hot] for row, hot in zip(rows, one_hot, strict=True))]


def unlabelled_table(rows: Sequence[SyntheticRow]) -> Table:
    return [[ID_COLUMN, *TEXT_COLUMNS], *([row.id, *text_cells(row)] for row in rows)]


def submission_table(rows: Sequence[SyntheticRow], uniform: bool) -> Table:
    third = (1 / 3, 1 / 3, 1 / 3)
    # 12 digits: more than a log loss needs, and none that the C library's exp() could change.
    cells = [[f"{p:.12f}" for p in (third if uniform else row.probabilities)] for row in rows]
    return [list(SUBMISSION_COLUMNS), *([row.id, *cell] for row, cell in zip(rows, cells, strict=True))]


def text_cells(row: SyntheticRow) -> list[str]:
    turns = (row.prompts, row.responses_a, row.responses_b)
    return [json.dumps(texts, ensure_ascii=False) for texts in turns]


def render_csv(table: Table) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(table)
    return buffer.getvalue()
