"""launch/submission.sh as a user starts it: from a train.csv and a test.csv to a complete submission."""

import json
import signal

import pandas as pd
import pytest
import yaml

from tests.ranks.launch_ranks import REPO_ROOT

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

STOPPED = 75
SETTINGS = ("train.max_steps=2", "train.rows_per_step=8", "data.num_workers=0")


def test_one_command_goes_from_two_files_to_a_submission(launch, tmp_path, sample_dir, cache_dir):
    out = tmp_path / "with spaces" / "mine"
    changes = [word for setting in (*SETTINGS, f"data.cache_dir={cache_dir}") for word in ("--set", setting)]
    command = ("submission.sh", sample_dir / "train.csv", sample_dir / "test.csv", out)
    started = launch(*command, "--folds", 1, *changes)
    assert started.end() == 0, started.text()
    check_submission(started, out, sample_dir)
    assert json.loads((out / "state.json").read_text(encoding="utf-8"))["state"] == "finished", "one run, no folds"
    weights = read_weights(out)
    again = launch(*command, *changes)
    assert again.end() == 0, again.text()
    assert f"{out} holds a single run, which goes on." in again.text()
    assert "finished before, at step 2; nothing was to be done" in again.text()
    check_submission(again, out, sample_dir)
    assert read_weights(out) == weights
    assert not (out / "fold_0").exists()


def test_a_signal_saves_the_training_and_the_same_command_finishes_and_blends_three_folds(
    launch, tmp_path, sample_dir, write_run
):
    recipe, _ = write_run("recipe", train={"max_steps": 20, "epochs": 2})
    out = tmp_path / "stopped"
    command = ("submission.sh", sample_dir / "train.csv", sample_dir / "test.csv", out, recipe)
    stopped = launch(*command)
    stopped.wait_for_step(out / "fold_0", 1)
    stopped.process.send_signal(signal.SIGTERM)
    assert stopped.end() == STOPPED, stopped.text()
    assert json.loads((out / "fold_0" / "state.json").read_text(encoding="utf-8"))["state"] == "stopped"
    assert not (out / "submission.csv").exists()
    again = launch(*command)
    assert again.end() == 0, again.text()
    assert "Going on from" in again.text()
    check_submission(again, out, sample_dir)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["num_rows"], len(metrics["folds"])) == (300, 3), "every row was held out once"
    assert json.loads((out / "blend" / "weights.json").read_text())["temperature"] > 0.0


def check_submission(started, out, sample_dir):
    """It has the rows of the test set in their order, and is what the command names last."""
    submission, given = (
        pd.read_csv(path, dtype={"id": str}) for path in (out / "submission.csv", sample_dir / "test.csv")
    )
    assert submission["id"].tolist() == given["id"].tolist()
    assert (submission.iloc[:, 1:].sum(axis=1) - 1).abs().max() < 1e-6
    assert started.text().rstrip().endswith(f"submission: {out / 'submission.csv'}")


def read_weights(out):
    weights = [path.read_bytes() for path in sorted(out.glob("checkpoints/step_*/*.safetensors"))]
    assert weights
    return weights


def test_a_recipe_of_ones_own_takes_the_place_of_the_default(launch, tmp_path, sample_dir):
    recipe = tmp_path / "own.yaml"
    recipe.write_text(yaml.safe_dump({"train": {"rows_per_stepp": 3}}), encoding="utf-8")
    command = ("submission.sh", sample_dir / "train.csv", sample_dir / "test.csv", tmp_path / "out", recipe)
    started = launch(*command, "--folds", 1)
    assert started.end() == 2
    assert "did you mean 'rows_per_step'?" in started.text().rpartition("failed first")[2], "said last, below torchrun"


def test_too_few_arguments_say_the_usage(launch):
    started = launch("submission.sh", "train.csv")
    assert started.end() == 2
    assert "usage: bash launch/submission.sh TRAIN TEST OUT_DIR" in started.text()
    assert (REPO_ROOT / "configs" / "minilm_demo.yaml").exists()
    started = launch("submission.sh", "train.csv", "test.csv", "out", "--folds")
    assert started.end() == 2
    assert "--folds needs a number" in started.text()
    started = launch("submission.sh", "train.csv", "test.csv", "out", "--set", "data.num_folds=5")
    assert started.end() == 2
    assert "how many folds is said by --folds N, not by data.num_folds" in started.text()
