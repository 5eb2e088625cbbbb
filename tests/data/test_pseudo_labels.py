"""Pseudo-labels: what a teacher says of new rows is a source of training, unless it would carry labels over."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pref_dist.config.load import load_config
from pref_dist.data.leaks import TrainedRows
from pref_dist.data.prepare import prepare
from pref_dist.data.pseudo_labels import read_teacher
from pref_dist.errors import DataError
from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import run_verb

pytestmark = pytest.mark.ranks


def run_one(*arguments):
    check_ranks_succeeded(run_verb("single", 1, [str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """A teacher of fold 0 of 3, what it says of new rows and, wrongly, of its own, and a function that writes runs."""
    from tests.tiny_runs import TinyRuns

    folder = tmp_path_factory.mktemp("teachers")
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)
    run_yaml, run_dir = runs.write("teacher", train={"max_steps": 2}, data={"num_folds": 3, "fold": 0})
    run_one("train", run_yaml)
    for name, rows in (("new", "test.csv"), ("own", "train.csv")):
        out = folder / f"{name}.csv"
        run_one(
            "predict", run_dir, "--data", sample_dir / rows, "--out", out, "--soft-labels", folder / f"{name}.parquet"
        )
    return folder, run_dir, runs


def prepare_student(runs, tiny_model, source, fold=0, **data):
    train = runs.train
    sources = [{"path": str(train)}, {"path": str(source), "weight": 0.5}]
    run_yaml, _ = runs.write("student", data={"train": None, "sources": sources, "num_folds": 3, "fold": fold, **data})
    return prepare(load_config(run_yaml), tiny_model)


def test_the_file_holds_the_rows_and_the_probabilities_of_the_submission(labelled, sample_dir):
    folder, _, _ = labelled
    given = pd.read_csv(sample_dir / "test.csv", dtype={"id": str})
    submission = pd.read_csv(folder / "new.csv", dtype={"id": str})
    soft = pq.read_table(folder / "new.parquet").to_pandas()
    assert soft["id"].tolist() == given["id"].tolist()
    for column in ("prompt", "response_a", "response_b"):
        texts = [[text or "" for text in json.loads(cell)] for cell in given[column]]  # a null reads as an empty text
        assert [list(cell) for cell in soft[column]] == texts
    chances = soft[["prob_model_a", "prob_model_b", "prob_tie"]].to_numpy()
    expected = submission[["winner_model_a", "winner_model_b", "winner_tie"]].to_numpy()
    np.testing.assert_allclose(chances, expected, atol=1e-12)


def test_the_file_knows_what_its_teacher_has_learnt_from(labelled):
    folder, run_dir, _ = labelled
    kept, found = TrainedRows.read(run_dir / "trained_rows.parquet"), read_teacher(folder / "new.parquet")
    assert np.array_equal(kept.pairs, found.pairs)
    assert np.array_equal(kept.groups, found.groups)
    assert kept.split == found.split


def test_a_student_of_the_same_fold_trains_on_them_and_is_never_scored_on_them(labelled, tiny_model):
    folder, _, runs = labelled
    prepared = prepare_student(runs, tiny_model, folder / "new.parquet")
    alone = prepare(load_config(runs.write("alone", data={"num_folds": 3, "fold": 0})[0]), tiny_model)
    num_labelled = len(alone.train_table)
    assert prepared.valid_rows.tolist() == alone.valid_rows.tolist()
    pseudo = prepared.train_rows[prepared.train_rows >= num_labelled]
    assert len(pseudo) > 10
    assert len(pseudo) + prepared.num_not_scored == 60
    assert prepared.num_not_scored == 0 or any("pseudo-labels are left out" in text for text in prepared.warnings)
    assert set(prepared.train_table.weights[pseudo]) == {0.5}
    targets = prepared.train_table.training_targets[pseudo]
    assert ((targets > 0) & (targets < 1)).all()


def test_a_student_that_holds_out_what_the_teacher_was_trained_on_is_refused(labelled, tiny_model):
    folder, _, runs = labelled
    with pytest.raises(DataError, match=r"new.parquet has learnt from \d+ .* of the \d+ held-out rows.*data.fold"):
        prepare_student(runs, tiny_model, folder / "new.parquet", fold=1)


def test_labels_of_rows_that_the_teacher_was_trained_on_are_refused(labelled, tiny_model, sample_dir):
    folder, _, runs = labelled
    with pytest.raises(DataError, match=r"own.parquet has learnt from \d+ \(first: .* of its own \d+ rows"):
        prepare_student(runs, tiny_model, folder / "own.parquet")


def test_the_student_trains(labelled):
    folder, _, runs = labelled
    sources = [{"path": str(runs.train)}, {"path": str(folder / "new.parquet")}]
    data = {"train": None, "sources": sources, "num_folds": 3, "fold": 0}
    run_yaml, run_dir = runs.write("trained_student", train={"max_steps": 2}, data=data)
    run_one("train", run_yaml)
    run_one("evaluate", run_dir, "--no-baselines")
    assert json.loads((run_dir / "metrics.json").read_text())["num_rows"] < 200


def test_another_kind_of_file_could_not_name_its_teacher_and_is_refused(labelled, sample_dir):
    folder, run_dir, _ = labelled
    arguments = ["predict", str(run_dir), "--data", str(sample_dir / "test.csv"), "--out", str(folder / "x.csv")]
    result = run_verb("single", 1, [*arguments, "--soft-labels", str(folder / "x.csv")])[0]
    assert result.exit_code == 3
    assert "must end in .parquet" in result.stderr
