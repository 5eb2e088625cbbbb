"""Pseudo-labels: what a teacher says of new rows is a source of training, unless it would carry labels over."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pref_dist.config.load import load_config, with_values
from pref_dist.data.leaks import TrainedRows
from pref_dist.data.prepare import prepare
from pref_dist.data.pseudo_labels import read_teacher, write_soft_labels
from pref_dist.data.rows import Row, Turn
from pref_dist.errors import CheckpointError, DataError
from pref_dist.evaluate.logits_file import read_logits
from pref_dist.predict import PredictOptions, predict
from pref_dist.train.out_of_fold import plan_folds
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
    assert len(pseudo) + len(prepared.not_scored) == 60
    assert not len(prepared.not_scored) or any("pseudo-labels are left out" in text for text in prepared.warnings)
    assert set(prepared.train_table.weights[pseudo]) == {0.5}
    targets = prepared.train_table.training_targets[pseudo]
    assert ((targets > 0) & (targets < 1)).all()


def test_a_student_that_holds_out_what_the_teacher_was_trained_on_is_refused(labelled, tiny_model):
    folder, _, runs = labelled
    with pytest.raises(DataError, match=r"new.parquet has learnt from \d+ .* of the \d+ held-out rows.*data.fold"):
        prepare_student(runs, tiny_model, folder / "new.parquet", fold=1)


def test_pseudo_labels_are_nothing_to_be_scored_on(labelled, tiny_model):
    folder, _, runs = labelled
    run_yaml, _ = runs.write("scored", data={"valid": str(folder / "new.parquet")})
    with pytest.raises(DataError, match=r"data.valid=.*new.parquet holds pseudo-labels.*data.sources"):
        prepare(load_config(run_yaml), tiny_model)


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


def test_labels_that_could_not_name_their_teacher_are_refused_before_any_work(labelled, sample_dir, tmp_path):
    _, run_dir, _ = labelled
    with pytest.raises(DataError, match=r"must end in \.parquet"):
        predict([run_dir], sample_dir / "test.csv", tmp_path / "x.csv", PredictOptions(soft_labels=tmp_path / "x.csv"))
    shutil.copytree(run_dir, tmp_path / "old")
    (tmp_path / "old" / "trained_rows.parquet").unlink()
    options = PredictOptions(soft_labels=tmp_path / "x.parquet")
    with pytest.raises(CheckpointError, match="does not tell which rows"):
        predict([tmp_path / "old"], sample_dir / "test.csv", tmp_path / "x.csv", options)
    assert not (tmp_path / "x.csv").exists()


@pytest.fixture
def foreign_labels(tmp_path, sample_dir):
    """Labels of a teacher that has learnt from two rows that do not stand here, for rows that do not either."""
    others = np.array([11, 12], dtype=np.uint64)
    rows = [Row(n + 1, f"new{n}", (Turn(f"a new prompt, number {n}", "one", "other"),), None) for n in range(30)]
    chances = np.random.default_rng(0).dirichlet((1.0, 1.0, 1.0), len(rows))
    write_soft_labels(tmp_path / "foreign.parquet", rows, chances, TrainedRows(others, others, "grouped_hash"), "T")
    return tmp_path / "foreign.parquet"


def read_student(runs, *paths, **data):
    sources = [{"path": str(path)} for path in paths]
    run_yaml, _ = runs.write("folds", train={"max_steps": 1}, data={"train": None, "sources": sources, **data})
    return run_yaml


@pytest.mark.parametrize("split", ["grouped_hash", "grouped_stratified", "random_stratified"])
def test_folds_are_planned_as_each_run_cuts_them_and_hold_out_no_pseudo_labels(
    labelled, tiny_model, foreign_labels, split
):
    *_, runs = labelled
    config = load_config(read_student(runs, runs.train, foreign_labels, num_folds=3, split=split))
    plan = plan_folds(config, None)
    for fold in range(3):
        prepared = prepare(with_values(config, data__fold=fold), tiny_model)
        assert len(prepared.not_scored) > 0
        assert plan.held_out_by(fold).tolist() == prepared.valid_rows.tolist()
        assert plan.trained_by(fold).tolist() == prepared.train_rows.tolist()


def test_folds_are_joined_to_logits_of_the_labelled_rows_and_have_learnt_from_their_teachers_rows_too(
    labelled, foreign_labels
):
    _, _, runs = labelled
    run_yaml = read_student(runs, runs.train, foreign_labels, num_folds=2)
    run_one("train", run_yaml, "--folds")
    run_dir = Path(load_config(run_yaml).run.dir)
    joined = read_logits(run_dir / "oof_logits.parquet")
    assert joined.row_ids == pd.read_csv(runs.train, dtype={"id": str})["id"].tolist()
    # Else what it says of its teacher's rows could be a source of a third run that holds them out.
    known = TrainedRows.read(run_dir / "fold_1" / "trained_rows.parquet")
    assert set(read_teacher(foreign_labels).pairs) <= set(known.pairs)


def test_folds_whose_teacher_has_learnt_from_another_fold_are_refused_before_any_training(labelled):
    folder, _, runs = labelled
    run_yaml = read_student(runs, runs.train, folder / "new.parquet", num_folds=3)
    with pytest.raises(DataError, match=r"Fold 1: The teacher of .*new.parquet has learnt from \d+"):
        plan_folds(load_config(run_yaml), None)


def test_nothing_but_pseudo_labels_to_score_on_is_refused(labelled, tiny_model, foreign_labels):
    *_, runs = labelled
    run_yaml = read_student(runs, foreign_labels)
    with pytest.raises(DataError, match=r"All \d+ held-out rows have pseudo-labels.*data.valid"):
        prepare(load_config(run_yaml), tiny_model)


def test_the_shares_that_a_teacher_gives_are_not_held_against_the_split(labelled, tiny_model, foreign_labels):
    *_, runs = labelled
    nothing, rows = np.empty(0, dtype=np.uint64), 600
    many = [Row(n + 1, f"tie{n}", (Turn(f"a tied prompt, number {n}", "one", "other"),), None) for n in range(rows)]
    ties = foreign_labels.with_name("ties.parquet")
    write_soft_labels(
        ties, many, np.tile([0.1, 0.1, 0.8], (rows, 1)), TrainedRows(nothing, nothing, "grouped_hash"), "T"
    )
    alone = prepare(load_config(read_student(runs, runs.train)), tiny_model)
    assert prepare(load_config(read_student(runs, runs.train, ties)), tiny_model).deviations == alone.deviations
