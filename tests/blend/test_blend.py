"""The verb: members of the same rows that are new to them, and one submission, complete and in order."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pref_dist.blend.members import read_members
from pref_dist.blend.pool import Pool, fit_pool
from pref_dist.blend.run import BlendOptions, warn_of_orders
from pref_dist.data.leaks import TrainedRows
from pref_dist.evaluate.logits_file import read_logits
from pref_dist.evaluate.run import EvaluateOptions, evaluate
from pref_dist.labels import WINNER_COLUMNS
from pref_dist.metrics import probabilities, score_logits
from tests.launch.launched import clean_env
from tests.ranks.launch_ranks import REPO_ROOT, check_ranks_succeeded
from tests.ranks.run_verb import run_verb
from tests.tiny_runs import TinyRuns

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]
BAD_ROW = 5
FOLDS = {"num_folds": 2}


def run(*arguments, world_size=1):
    return run_verb("single" if world_size == 1 else "ddp", world_size, [str(argument) for argument in arguments])


def succeed(*arguments, world_size=1):
    results = run(*arguments, world_size=world_size)
    check_ranks_succeeded(results)
    assert not any(result.stdout.strip() for result in results[1:]), "only rank 0 may print"
    return results[0].stdout


def refuse(*arguments):
    (result,) = run(*arguments)
    assert result.exit_code != 0, result.stdout
    return result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """A folder with the runs `folds` (2 folds), `one` and `two` (same rows held out), and test.csv with a bad row."""
    folder = tmp_path_factory.mktemp("blend")
    runs = TinyRuns(folder, sample_dir / "train.csv", tiny_model, cache_dir)
    for name, data, rate, steps in (
        ("folds", FOLDS, 1e-3, 8),
        ("slow", FOLDS, 1e-4, 2),
        ("one", {}, 1e-3, 6),
        ("two", {}, 3e-3, 9),
    ):
        run_yaml, _ = runs.write(name, data=data, train={"learning_rate": rate, "max_steps": steps})
        succeed("train", run_yaml, *(["--folds"] if data else []))
    test = pd.read_csv(sample_dir / "test.csv", dtype=str)
    test.loc[BAD_ROW, "prompt"] = '["no end'
    test.to_csv(folder / "test.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def blended(trained):
    """The folder of a blend of two folds runs that has predicted test.csv, and what was printed."""
    arguments = (
        "blend",
        trained / "folds",
        trained / "slow",
        "--out",
        trained / "blend",
        "--data",
        trained / "test.csv",
    )
    return trained / "blend", json.loads(succeed(*arguments, "--json").splitlines()[-1])


@pytest.fixture
def copied(trained, tmp_path):
    """Copies of the members, to be tampered with."""
    shutil.copytree(trained, tmp_path / "runs", ignore=shutil.ignore_patterns(".lock"))
    return tmp_path / "runs"


def test_the_scores_are_those_of_the_rows_and_the_weights_those_of_the_fit(trained, blended):
    folder, printed = blended
    summary = json.loads((folder / "weights.json").read_text())
    assert {key: printed[key] for key in summary} == summary
    rows = [read_logits(trained / name / "oof_logits.parquet") for name in ("folds", "slow")]
    chances = np.stack([probabilities(part.logits) for part in rows])
    pool = fit_pool(chances, rows[0].targets, summary["temperature_gain"] > 0)
    assert summary["temperature"] == pool.temperature
    assert [member["weight"] for member in summary["members"]] == pool.weights.tolist()
    for member, part in zip(summary["members"], rows, strict=True):
        assert abs(member["log_loss"] - score_logits(part.logits, part.targets)["log_loss"]) < 1e-12
    low, high = summary["gain_interval"]
    assert low < summary["gain"] < high
    assert summary["fitted"]["log_loss"] <= min(member["log_loss"] for member in summary["members"])


def test_a_member_that_predicts_in_other_orders_than_its_logits_are_made_in_is_said(copied):
    runs = [copied / "one", copied / "two"]
    assert warn_of_orders(read_members(runs), BlendOptions()) == []
    evaluate(runs[1], EvaluateOptions(baselines=False), ["evaluate.swap=full"])
    members = read_members(runs)
    (warning,) = warn_of_orders(members, BlendOptions())
    assert "two/valid_logits.parquet holds logits of evaluate.swap=full" in warning
    assert "predicts with evaluate.swap=none" in warning
    assert len(warn_of_orders(members, BlendOptions(overrides=["evaluate.swap=full"]))) == 1


def test_folds_of_which_one_was_evaluated_in_other_orders_are_not_joined(trained, copied):
    evaluate(copied / "folds" / "fold_1", EvaluateOptions(baselines=False), ["evaluate.swap=full"])
    config = yaml.safe_load((trained / "folds.yaml").read_text())
    config["run"]["dir"] = str(copied / "folds")
    (copied / "folds.yaml").write_text(yaml.safe_dump(config))
    assert "fold_1/valid_logits.parquet holds logits of evaluate.swap=full" in refuse(
        "train", copied / "folds.yaml", "--folds"
    )


def test_the_blended_logits_are_the_logs_of_the_blended_probabilities_of_rows_new_to_all(trained, blended):
    folder, summary = blended
    found = read_logits(folder / "oof_logits.parquet")
    members = [read_logits(trained / name / "oof_logits.parquet") for name in ("folds", "slow")]
    pool = Pool(np.array([member["weight"] for member in summary["members"]]), summary["temperature"])
    expected = pool.log_chances(np.stack([probabilities(member.logits) for member in members]))
    assert np.abs(probabilities(found.logits) - np.exp(expected)).max() < 1e-12
    assert found.row_ids == members[0].row_ids
    assert found.is_of_folds, "a student must know that the members have learnt from each other's rows"
    assert found.check_held_out().pairs.tolist() == members[0].origin.pairs.tolist()
    assert abs(score_logits(found.logits, found.targets)["log_loss"] - summary["fitted"]["log_loss"]) < 1e-12


def test_the_submission_is_complete_in_order_and_the_mean_of_folds_pooled_by_the_weights(trained, blended, tmp_path):
    folder, summary = blended
    submission = pd.read_csv(folder / "submission.csv", dtype={"id": str})
    assert submission["id"].tolist() == pd.read_csv(trained / "test.csv", dtype=str)["id"].tolist()
    members = []
    for name in ("folds", "slow"):
        folds = []
        for fold in range(2):
            out = tmp_path / f"{name}_{fold}.csv"
            succeed("predict", trained / name / f"fold_{fold}", "--data", trained / "test.csv", "--out", out)
            folds.append(pd.read_csv(out)[list(WINNER_COLUMNS)].to_numpy())
        members.append(np.mean(folds, axis=0))
    pool = Pool(np.array([member["weight"] for member in summary["members"]]), summary["temperature"])
    expected = np.exp(pool.log_chances(np.stack(members)))
    expected[BAD_ROW] = pool.mix(np.stack(members))[BAD_ROW]
    assert np.abs(submission[list(WINNER_COLUMNS)].to_numpy() - expected).max() < 1e-9


def test_two_ranks_write_the_same_bytes(trained, blended, tmp_path):
    asked = ("--out", tmp_path / "blend", "--data", trained / "test.csv")
    said = succeed("blend", trained / "folds", trained / "slow", *asked, world_size=2)
    for name in ("submission.csv", "oof_logits.parquet"):
        assert (tmp_path / "blend" / name).read_bytes() == (blended[0] / name).read_bytes()
    assert "1 rows failed a check" in said
    assert "60 rows" in said


def test_the_launcher_starts_it_on_several_ranks(trained, tmp_path):
    command = [
        "bash",
        str(REPO_ROOT / "launch" / "node.sh"),
        "ddp",
        "2",
        "blend",
        *(str(trained / name) for name in ("one", "two")),
    ]
    asked = [*command, "--out", str(tmp_path / "blend"), "--data", str(trained / "test.csv")]
    result = subprocess.run(asked, env=clean_env(), capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "gain over" in result.stdout
    assert len(pd.read_csv(tmp_path / "blend" / "submission.csv")) == 60


def test_single_runs_blend_on_the_rows_that_they_all_hold_out(trained, tmp_path):
    (tmp_path / "submission.csv").write_text("of other weights")
    succeed("blend", trained / "one", trained / "two", "--out", tmp_path)
    rows, held_out = read_logits(tmp_path / "oof_logits.parquet"), read_logits(trained / "one" / "valid_logits.parquet")
    assert rows.row_ids == held_out.row_ids
    assert not (tmp_path / "submission.csv").exists()


def test_members_of_other_rows_are_refused_with_counts(trained, tmp_path):
    said = refuse("blend", trained / "folds", trained / "one", "--out", tmp_path)
    num_valid = len(read_logits(trained / "one" / "valid_logits.parquet"))
    assert f"logits of {num_valid} rows and" in said
    assert f"{300 - num_valid} of those are missing in it, 0 are others (first: row train-7-" in said


def test_a_member_in_another_order_is_brought_into_that_of_the_first(copied, tmp_path):
    path = copied / "two" / "valid_logits.parquet"
    before = refuse_nothing(copied, tmp_path / "before")
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(len(table))))), path)
    assert refuse_nothing(copied, tmp_path / "after")["members"] == before["members"]


def refuse_nothing(copied, out):
    return json.loads(succeed("blend", copied / "one", copied / "two", "--out", out, "--json").splitlines()[-1])


def test_a_fold_that_was_replaced_by_a_run_on_all_rows_is_refused_although_the_file_says_held_out(copied, tmp_path):
    folds = [TrainedRows.read(copied / "folds" / f"fold_{fold}" / "trained_rows.parquet") for fold in range(2)]
    folds[0].joined_with(folds[1]).write(copied / "folds" / "fold_1" / "trained_rows.parquet")
    said = refuse("blend", copied / "folds", "--out", tmp_path)
    assert "fold_1 has learnt from" in said
    assert "(first: row train-7-" in said
    assert not (tmp_path / "weights.json").exists()


def test_logits_of_rows_that_the_run_was_trained_on_are_refused(copied, sample_dir, tmp_path):
    succeed("evaluate", copied / "one", "--data", sample_dir / "train.csv", "--no-baselines")
    shutil.copyfile(
        copied / "one" / "evaluations" / "train" / "logits.parquet", copied / "one" / "valid_logits.parquet"
    )
    num_trained = int((~read_logits(copied / "one" / "valid_logits.parquet").origin.held_out).sum())
    assert num_trained > 200
    assert f"learnt from {num_trained} of these 300 rows" in refuse("blend", copied / "one", "--out", tmp_path)


def test_a_file_without_the_columns_is_refused_with_the_remedy(copied, tmp_path):
    path = copied / "one" / "valid_logits.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["held_out"]), path)
    assert "lacks the columns held_out" in refuse("blend", copied / "one", "--out", tmp_path)
    succeed("evaluate", copied / "one", "--no-baselines")
    succeed("blend", copied / "one", "--out", tmp_path)


def test_what_does_not_go_together_is_refused_with_the_remedy(copied, blended, tmp_path):
    assert "is a blend" in refuse("blend", blended[0], "--out", tmp_path)
    assert "stands twice" in refuse("blend", copied / "one", copied / "one", "--out", tmp_path)
    assert "Name a folder of its own" in refuse("blend", copied / "one", "--out", copied / "two")
    assert "weights of a trained run depend on it" in refuse(
        "blend", copied / "one", "--out", tmp_path, "--set", "run.seed=1"
    )
    (copied / "one" / "state.json").write_text(json.dumps({"state": "stopped", "step": 2, "reason": ""}))
    assert "has not finished" in refuse("blend", copied / "one", "--out", tmp_path)
    (copied / "folds" / "oof_logits.parquet").unlink()
    assert "train RUN.yaml --folds" in refuse("blend", copied / "folds", "--out", tmp_path)
    assert "no run folder" in refuse("blend", tmp_path / "nothing", "--out", tmp_path)


def test_other_labels_of_the_same_rows_are_refused(copied, tmp_path):
    path = copied / "two" / "valid_logits.parquet"
    frame = pd.read_parquet(path)
    frame.at[3, "target"] = np.roll(frame.at[3, "target"], 1)
    table = pq.read_table(path)
    place = table.column_names.index("target")
    targets = pa.array(frame["target"].tolist(), table.schema.field("target").type)
    pq.write_table(table.set_column(place, "target", targets), path)
    assert "other labels for 1 of" in refuse("blend", copied / "one", copied / "two", "--out", tmp_path)
