"""A run tells which rows it has learnt from, and every file of its logits which of them it had not seen."""

import pandas as pd
import pytest

from pref_dist.config.load import load_config
from pref_dist.data.leaks import TrainedRows
from pref_dist.data.prepare import prepare
from pref_dist.evaluate.logits_file import read_logits
from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import run_verb

pytestmark = pytest.mark.ranks
SHORT = {"max_steps": 2}


def run_one(*arguments):
    check_ranks_succeeded(run_verb("single", 1, [str(argument) for argument in arguments]))


@pytest.mark.parametrize("split", ["grouped_hash", "random_stratified"])
def test_logits_say_which_rows_the_run_has_learnt_from(write_run, sample_dir, tiny_model, split):
    run_yaml, run_dir = write_run(split, train=SHORT, data={"split": split})
    run_one("train", run_yaml)
    prepared = prepare(load_config(run_yaml), tiny_model)
    trained = TrainedRows.read(run_dir / "trained_rows.parquet")
    assert trained.split == split
    assert set(trained.pairs.tolist()) == set(prepared.train_table.pairs[prepared.train_rows].tolist())

    validated = read_logits(run_dir / "valid_logits.parquet")
    assert validated.check_held_out().pairs.tolist() == prepared.valid_table.pairs[prepared.valid_rows].tolist()
    assert validated.notes == {"step": "2"}
    (run_dir / "trained_rows.parquet").rename(run_dir / "kept.parquet")
    run_one("evaluate", run_dir, "--data", sample_dir / "train.csv", "--no-baselines")
    unknown = read_logits(run_dir / "evaluations" / "train" / "logits.parquet")
    assert unknown.origin.held_out is None, "a run from before this was kept cannot know"
    run_one("evaluate", run_dir)
    again = read_logits(run_dir / "valid_logits.parquet")
    assert again.check_held_out().held_out.all(), "its own rows it can tell from its config"

    (run_dir / "kept.parquet").rename(run_dir / "trained_rows.parquet")
    run_one("evaluate", run_dir, "--data", sample_dir / "train.csv", "--no-baselines")
    all_rows = read_logits(run_dir / "evaluations" / "train" / "logits.parquet")
    new = {row_id for row_id, is_new in zip(all_rows.row_ids, all_rows.origin.held_out, strict=True) if is_new}
    assert new == set(validated.row_ids)


def test_a_run_that_goes_on_with_other_rows_has_learnt_from_those_before_too(write_run, sample_dir):
    run_yaml, run_dir = write_run("changed", train=SHORT)
    run_one("train", run_yaml, "--set", "data.valid_fraction=0.5", "--set", "train.max_steps=1")
    before = TrainedRows.read(run_dir / "trained_rows.parquet")
    run_one("train", run_yaml, "--accept-changes", "--set", "run.seed=4", "--set", "data.valid_fraction=0.5")
    both = TrainedRows.read(run_dir / "trained_rows.parquet")
    assert both.were_seen(before.groups, before.pairs).all()
    assert len(both.pairs) > len(before.pairs)
    run_one("evaluate", run_dir, "--checkpoint", "last", "--no-baselines")
    now = read_logits(run_dir / "evaluations" / "valid_last" / "logits.parquet")
    assert not now.origin.held_out.all(), "some of the rows held out now were trained on before"
    run_one("train", run_yaml, "--fresh", "--set", "run.seed=5", "--set", "data.valid_fraction=0.5")
    table = pd.read_parquet(run_dir / "trained_rows.parquet")
    assert not set(before.pairs.tolist()) <= set(table["pair"].tolist()), "a fresh start forgets"
