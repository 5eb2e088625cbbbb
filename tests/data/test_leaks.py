"""Which rows a model has learnt from: by pair of answers, and by prompt where a prompt stands on one side only."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pref_dist.data.leaks import TrainedRows
from pref_dist.errors import CheckpointError, DataError
from pref_dist.evaluate.logits_file import Origin, RowLogits, read_logits, render_logits, write_logits

GROUPS = np.array([2**63 + 1, 5, 5, 2**64 - 1], dtype=np.uint64)
PAIRS = np.array([9, 2**63 + 7, 9, 1], dtype=np.uint64)


def words(*values):
    return np.array(values, dtype=np.uint64)


def some_logits(**changes):
    targets = np.eye(3)[[0, 2]]
    origin = Origin(words(1, 2), words(2**63, 4), np.array([True, False]), np.array([True, True]))
    values = {"row_ids": ["a", "b"], "logits": np.float32([[0.1, 0, 0], [1, 2, 3]]), "targets": targets}
    return RowLogits(**{**values, "origin": origin, "notes": {"step": "7", "fold": "1"}, **changes})


def test_a_pair_or_a_prompt_that_was_trained_on_counts_as_seen():
    trained = TrainedRows.of(GROUPS, PAIRS, "grouped_hash")
    seen = trained.were_seen(words(7, 5, 7, 2**64 - 1), words(9, 3, 3, 3))
    assert seen.tolist() == [True, True, False, True]


def test_under_random_stratified_only_the_pair_counts():
    trained = TrainedRows.of(GROUPS, PAIRS, "random_stratified")
    assert trained.were_seen(words(7, 5, 7, 5), words(9, 3, 3, 2**63 + 7)).tolist() == [True, False, False, True]


def test_what_is_read_is_what_was_written_with_every_bit_of_the_hashes(tmp_path):
    trained = TrainedRows.of(GROUPS, PAIRS, "grouped_stratified")
    trained.write(tmp_path / "trained_rows.parquet")
    found = TrainedRows.read(tmp_path / "trained_rows.parquet")
    assert found.split == "grouped_stratified"
    assert found.pairs.tolist() == [1, 9, 2**63 + 7]
    assert np.array_equal(found.groups, trained.groups)
    assert found.groups.dtype == np.uint64


@pytest.mark.parametrize("splits", [("grouped_hash", "random_stratified"), ("random_stratified", "grouped_hash")])
def test_a_model_that_started_from_another_run_has_learnt_from_the_rows_of_both(splits):
    first = TrainedRows.of(words(1), words(10), splits[0])
    both = first.joined_with(TrainedRows.of(words(2, 1), words(20, 10), splits[1]))
    assert both.were_seen(words(1, 8, 2, 8), words(30, 20, 30, 30)).tolist() == [True, True, True, False]
    assert len(both.pairs) == 2


def test_no_training_rows_make_nothing_seen():
    assert not TrainedRows.of(words(), words(), "grouped_hash").were_seen(words(1), words(1)).any()


@pytest.mark.parametrize("damage", ["missing", "cut short", "no split"])
def test_a_file_that_does_not_tell_the_trained_rows_is_refused(tmp_path, damage):
    path = tmp_path / "trained_rows.parquet"
    if damage == "cut short":
        TrainedRows.of(GROUPS, PAIRS, "grouped_hash").write(path)
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "no split":
        pq.write_table(pa.table({"group": GROUPS, "pair": PAIRS}), path)
    with pytest.raises(CheckpointError, match=r"does not tell which rows .*--fresh"):
        TrainedRows.read(path)


def test_logits_come_back_with_their_rows_and_notes(tmp_path):
    rows = some_logits(folds=np.array([0, 1], dtype=np.int32))
    write_logits(tmp_path / "logits.parquet", rows)
    found = read_logits(tmp_path / "logits.parquet")
    origin = found.check_held_out()
    assert found.row_ids == rows.row_ids
    assert np.array_equal(found.logits, rows.logits.astype(np.float64))
    assert np.array_equal(found.targets, rows.targets)
    assert found.notes == rows.notes
    assert found.folds.tolist() == [0, 1]
    for name in ("groups", "pairs", "is_mirrored", "held_out"):
        assert np.array_equal(getattr(origin, name), getattr(rows.origin, name))
    assert render_logits(rows) == render_logits(rows)


def test_rows_without_labels_have_no_targets(tmp_path):
    write_logits(tmp_path / "logits.parquet", some_logits(targets=None))
    assert read_logits(tmp_path / "logits.parquet").targets is None


def test_rows_that_the_model_has_learnt_from_are_counted_and_the_first_is_named(tmp_path):
    origin = Origin(words(1, 2), words(3, 4), np.array([True, False]), np.array([True, False]))
    write_logits(tmp_path / "logits.parquet", some_logits(origin=origin))
    with pytest.raises(DataError, match=r"learnt from 1 of these 2 rows.*first: row b.*--folds"):
        read_logits(tmp_path / "logits.parquet").check_held_out()


@pytest.mark.parametrize(
    ("known", "named"), [(False, "group, pair, is_mirrored, held_out"), (True, "columns held_out")]
)
def test_a_file_from_elsewhere_that_does_not_tell_its_rows_is_refused_where_that_matters(tmp_path, known, named):
    origin = Origin(words(1, 2), words(3, 4), np.array([True, False]), None) if known else None
    write_logits(tmp_path / "logits.parquet", some_logits(origin=origin))
    found = read_logits(tmp_path / "logits.parquet")
    assert found.row_ids == ["a", "b"]
    with pytest.raises(DataError, match=rf"{named} .*pref-dist evaluate"):
        found.known_origin()


def test_a_file_that_holds_no_logits_is_refused(tmp_path):
    pq.write_table(pa.table({"row_id": ["a"]}), tmp_path / "logits.parquet")
    with pytest.raises(DataError, match="cannot be read as a file of logits"):
        read_logits(tmp_path / "logits.parquet")
