"""Folds: one run each, every row scored once by a model that had not seen it, on any number of ranks."""

import json
import shutil
import time

import numpy as np
import pytest
import yaml

from pref_dist.config.load import load_config
from pref_dist.data.prepare import digest_rows, prepare
from pref_dist.errors import ConfigError, DataError
from pref_dist.evaluate.logits_file import read_logits
from pref_dist.metrics import score_logits
from pref_dist.run_dir import RunDir
from pref_dist.train.out_of_fold import join_folds, plan_folds
from tests.ranks.launch_ranks import check_ranks_succeeded, start_ranks
from tests.ranks.run_verb import run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]
SETTINGS = {"data": {"num_folds": 3}, "train": {"max_steps": 3, "learning_rate": 1e-3}}


def run(*arguments, world_size=1):
    backend = "single" if world_size == 1 else "ddp"
    return run_verb(backend, world_size, [str(argument) for argument in arguments])


def train(*arguments, world_size=1):
    results = run("train", *arguments, world_size=world_size)
    check_ranks_succeeded(results)
    return results[0].stdout


def refuse(*arguments):
    (result,) = run(*arguments)
    assert result.exit_code != 0, result.stdout
    return result.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sample_dir, tiny_model, cache_dir):
    """(RUN.yaml, RUN_DIR) of three folds, trained in one start."""
    from tests.tiny_runs import TinyRuns

    runs = TinyRuns(tmp_path_factory.mktemp("folds"), sample_dir / "train.csv", tiny_model, cache_dir)
    run_yaml, run_dir = runs.write("run", **SETTINGS)
    train(run_yaml, "--folds")
    return run_yaml, run_dir


@pytest.fixture
def copied(finished, tmp_path):
    """(RUN.yaml, RUN_DIR) of a copy of the finished folds, to be tampered with."""
    run_yaml, run_dir = finished
    values = yaml.safe_load(run_yaml.read_text())
    values["run"]["dir"] = str(tmp_path / "run")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(run_dir, tmp_path / "run")
    return tmp_path / "run.yaml", tmp_path / "run"


def join(run_yaml, run_dir):
    return join_folds(RunDir(run_dir), plan_folds(load_config(run_yaml), None))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_row_of_the_table_is_scored_once_in_its_order_by_a_model_that_had_not_seen_it(finished, tiny_model):
    run_yaml, run_dir = finished
    joined = read_logits(run_dir / "oof_logits.parquet")
    table = prepare(load_config(run_yaml), tiny_model).train_table
    assert joined.row_ids == table.ids.to_pylist()
    assert joined.check_held_out().pairs.tolist() == table.pairs.tolist()
    for fold in range(3):
        part = read_logits(run_dir / f"fold_{fold}" / "valid_logits.parquet")
        assert part.notes == {"step": str(read(run_dir / f"fold_{fold}" / "best.json")["step"]), "fold": str(fold)}
        assert np.array_equal(joined.logits[joined.folds == fold], part.logits)


def test_the_metrics_are_over_all_rows_and_then_by_fold(finished):
    _, run_dir = finished
    joined, metrics = read_logits(run_dir / "oof_logits.parquet"), read(run_dir / "metrics.json")
    expected = score_logits(joined.logits, joined.targets)
    assert {name: metrics[name] for name in expected} == expected
    for fold, scores in enumerate(metrics["folds"]):
        best = read(run_dir / f"fold_{fold}" / "best.json")
        assert scores["fold"] == fold
        assert abs(scores["log_loss"] - best["log_loss"]) < 1e-12
        assert (scores["num_rows"], scores["step"]) == (best["num_rows"], best["step"])
    assert [fold["state"] for fold in read(run_dir / "folds.json")["folds"]] == ["finished"] * 3


def test_two_ranks_give_the_out_of_fold_logits_of_one(finished, write_run):
    run_yaml, run_dir = write_run("two_ranks", **SETTINGS)
    said = train(run_yaml, "--folds", "--json", world_size=2)
    one, two = (read_logits(folder / "oof_logits.parquet") for folder in (finished[1], run_dir))
    assert one.row_ids == two.row_ids
    assert np.abs(one.logits - two.logits).max() < 1e-6
    assert json.loads(said.splitlines()[-1])["num_rows"] == len(two)


def test_jobs_of_one_fold_each_give_the_same_bytes_whoever_is_last(finished, write_run):
    run_yaml, run_dir = write_run("jobs", **SETTINGS)
    for fold in (2, 0):
        assert "other folds are not finished" in train(run_yaml, "--fold", fold)
        assert not (run_dir / "oof_logits.parquet").exists()
    assert "out of fold: log loss" in train(run_yaml, "--fold", 1)
    assert (run_dir / "oof_logits.parquet").read_bytes() == (finished[1] / "oof_logits.parquet").read_bytes()


def test_the_same_command_skips_finished_folds_and_goes_on_with_a_stopped_one(finished, write_run):
    run_yaml, run_dir = write_run("stopped", **SETTINGS)
    arguments = ["train", str(run_yaml), "--folds", "--set", "parallel.backend=single"]
    with start_ranks("pref_dist", 1, arguments) as ranks:
        wait_until((run_dir / "fold_1" / "metrics.jsonl").exists, ranks)
        (run_dir / "stop").touch()
        check_ranks_succeeded(ranks.wait(timeout=120))
        assert "stopped at step" in ranks.read_stdout(0)
    assert read(run_dir / "fold_0" / "state.json")["state"] == "finished"
    assert read(run_dir / "fold_1" / "state.json")["state"] == "stopped"
    assert not (run_dir / "fold_2").exists()
    assert not (run_dir / "stop").exists()
    untouched = (run_dir / "fold_0" / "metrics.jsonl").stat().st_mtime_ns
    train(run_yaml, "--folds")
    assert (run_dir / "fold_0" / "metrics.jsonl").stat().st_mtime_ns == untouched
    assert (run_dir / "oof_logits.parquet").read_bytes() == (finished[1] / "oof_logits.parquet").read_bytes()


def wait_until(happened, ranks):
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline, ranks.read_stdout(0)
        time.sleep(0.001)


def test_what_is_auto_is_settled_by_the_first_fold_wherever_the_others_run(write_run):
    run_yaml, run_dir = write_run("auto", data={"num_folds": 2}, train={"max_steps": 1, "micro_batch_multiple": "auto"})
    train(run_yaml, "--fold", 1, world_size=2)
    train(run_yaml, "--folds")
    settled = [yaml.safe_load((run_dir / f"fold_{fold}" / "config.yaml").read_text()) for fold in range(2)]
    assert [config["train"]["micro_batch_multiple"] for config in settled] == [2, 2]
    assert (run_dir / "oof_logits.parquet").exists()


def test_fresh_trains_all_folds_anew(copied):
    run_yaml, run_dir = copied
    train(run_yaml, "--folds", "--fresh", "--set", "data.num_folds=2", "--set", "train.max_steps=1")
    assert len(read(run_dir / "metrics.json")["folds"]) == 2
    assert not (run_dir / "fold_2" / "state.json").exists(), "nothing is left of a fold that there is no longer"


def test_a_fold_whose_model_was_trained_on_its_rows_is_refused(copied, write_run, sample_dir):
    run_yaml, run_dir = copied
    whole_yaml, whole_dir = write_run("whole", data={"valid": str(sample_dir / "train.csv")}, train=SETTINGS["train"])
    train(whole_yaml)
    for name in ("checkpoints", "model"):
        shutil.rmtree(run_dir / "fold_1" / name)
        shutil.copytree(whole_dir / name, run_dir / "fold_1" / name)
    shutil.copyfile(whole_dir / "trained_rows.parquet", run_dir / "fold_1" / "trained_rows.parquet")
    with pytest.raises(DataError, match="trained on other rows"):
        join(run_yaml, run_dir)
    for path in (run_dir / "fold_1" / "checkpoints").glob("*/progress.json"):
        held_out = plan_folds(load_config(run_yaml), None).held_out_by(1)
        progress, honest = read(path), read(next((run_dir / "fold_0").glob("checkpoints/*/progress.json")))
        progress["identity"] = {**honest["identity"], "valid": digest_rows(held_out)}
        path.write_text(json.dumps(progress))
    with pytest.raises(DataError, match=r"Fold 1 holds out \d+ rows, and its model learns from \d+ .*first: .*row \d"):
        join(run_yaml, run_dir)


def test_a_fold_that_scores_other_rows_is_refused_with_counts(copied):
    run_yaml, run_dir = copied
    shutil.copyfile(run_dir / "fold_0" / "valid_logits.parquet", run_dir / "fold_2" / "valid_logits.parquet")
    with pytest.raises(DataError, match=r"where fold 2 holds out \d+: \d+ are missing, \d+ are others.*first: id"):
        join(run_yaml, run_dir)


def test_a_fold_of_other_settings_is_refused(copied):
    run_yaml, run_dir = copied
    values = yaml.safe_load((run_dir / "fold_1" / "config.yaml").read_text())
    values["train"]["learning_rate"] = 2e-3
    (run_dir / "fold_1" / "config.yaml").write_text(yaml.safe_dump(values))
    assert "learning_rate" in refuse("train", run_yaml, "--folds")
    with pytest.raises(ConfigError, match=r"other settings than .*fold_0.*\n.*learning_rate.*\n.*--fold 1 --fresh"):
        join(run_yaml, run_dir)


def test_pairs_on_both_sides_are_refused_before_any_training(write_run, sample_dir, tmp_path):
    text = (sample_dir / "train.csv").read_text(encoding="utf-8")
    header, first, *rest = text.splitlines(keepends=True)
    twins = [first.replace("train-7", f"twin{number}", 1) for number in range(9)]
    (tmp_path / "twins.csv").write_text("".join([header, first, *rest, *twins]), encoding="utf-8")
    data = {"train": str(tmp_path / "twins.csv"), "split": "random_stratified", "num_folds": 2}
    run_yaml, run_dir = write_run("twins", data={**data, "checks": {"duplicate_pair": "keep"}})
    assert "learns from" in refuse("train", run_yaml, "--folds")
    assert not (run_dir / "fold_0").exists()


def test_what_cannot_be_asked_is_refused_with_the_remedy(finished, write_run):
    run_yaml, run_dir = finished
    single_yaml, _ = write_run("single", train={"max_steps": 1})
    before = (run_dir / "folds.json").read_bytes()
    assert "holds 3 folds, 3 of them begun" in refuse("train", run_yaml, "--folds", "--set", "data.num_folds=2")
    assert (run_dir / "folds.json").read_bytes() == before, "or a blend would take two of three models"
    assert "--set data.num_folds=5" in refuse("train", single_yaml, "--folds")
    assert "folds 0 to 2" in refuse("train", run_yaml, "--fold", 3)
    assert "--fold 0" in refuse("train", run_yaml, "--folds", "--debug")
    assert "one of the two" in refuse("train", run_yaml, "--folds", "--fold", 1)
    assert "holds folds" in refuse("train", run_yaml)
    train(single_yaml)
    assert "holds a single run" in refuse("train", single_yaml, "--folds", "--set", "data.num_folds=2")


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_a_folder_of_folds_is_no_run_and_the_error_says_what_to_do(finished, tmp_path, verb):
    from click.testing import CliRunner

    from pref_dist.cli.program import program

    asked = ["--data", "test.csv", "--out", str(tmp_path / "out.csv")] if verb == "predict" else []
    result = CliRunner().invoke(program, [verb, str(finished[1]), *asked])
    assert isinstance(result.exception, ConfigError)
    assert "fold_0" in str(result.exception)
    assert f"pref-dist blend {finished[1]} --data F --out DIR" in str(result.exception)
