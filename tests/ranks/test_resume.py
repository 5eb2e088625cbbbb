"""Promise 2: a stopped or killed run goes on by starting the same command again, to the same weights."""

import json
import random
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest

from pref_dist.run_dir import RunDir
from pref_dist.runtime.starts import read_starts
from tests.ranks.launch_ranks import check_ranks_succeeded, start_ranks
from tests.ranks.run_verb import (
    largest_difference,
    largest_loss_difference,
    launch_env,
    read_losses,
    read_steps,
    read_weights,
    run_verb,
)

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

# Dropout on: its seeds must survive the stop, too.
SETTINGS = {
    "train": {"max_steps": 30, "epochs": 2, "save_every_steps": 7, "keep_last": 2},
    "model": {"dropout": 0.1},
    "evaluate": {"every_steps": 9},
}
LAST = 30


@pytest.fixture(scope="module")
def whole_runs():
    return {}


@pytest.fixture
def whole_run(whole_runs, write_run):
    """Return a function that trains without interruption on some ranks, once."""

    def train(backend, world_size):
        if (backend, world_size) not in whole_runs:
            run_yaml, run_dir = write_run(f"whole_{backend}_{world_size}", **SETTINGS)
            check_ranks_succeeded(run_verb(backend, world_size, ["train", str(run_yaml)]))
            whole_runs[backend, world_size] = (read_weights(run_dir), read_losses(run_dir), read_metrics(run_dir))
        return whole_runs[backend, world_size]

    return train


def state_of(run_dir):
    return json.loads((run_dir / "state.json").read_text(encoding="utf-8"))


def read_metrics(run_dir):
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    return {key: metrics[key] for key in ("log_loss", "accuracy", "step", "num_rows")}


def steps_written(run_dir):
    path = run_dir / "metrics.jsonl"
    return path.read_text(encoding="utf-8").count('"loss"') if path.exists() else 0


def wait_for_step(run_dir, step, ranks):
    deadline = time.monotonic() + 120
    while steps_written(run_dir) < step:
        assert time.monotonic() < deadline, ranks.read_stdout(0)
        time.sleep(0.005)


def train_until_signal(run_yaml, run_dir, backend, world_size, number, rank, at_step):
    asked = ["--set", f"parallel.backend={backend}", "--set", f"parallel.world_size={world_size}"]
    with start_ranks("pref_dist", world_size, ["train", str(run_yaml), *asked], launch_env(backend)) as ranks:
        wait_for_step(run_dir, at_step, ranks)
        ranks.send_signal(number, rank)
        return ranks.wait(timeout=120)


def assert_equals_whole(run_dir, whole):
    weights, losses, metrics = whole
    found = read_weights(run_dir)
    assert all(np.array_equal(weights[name], found[name]) for name in weights), largest_difference(weights, found)
    assert read_losses(run_dir) == losses
    assert read_metrics(run_dir) == metrics


@pytest.mark.parametrize(
    ("backend", "world_size", "number", "rank"),
    [
        ("single", 1, signal.SIGTERM, 0),
        ("ddp", 2, signal.SIGUSR1, 1),
        ("zero2", 2, signal.SIGTERM, 1),
        ("zero3", 2, signal.SIGUSR1, 0),
        ("fsdp2", 2, signal.SIGTERM, 1),
    ],
)
def test_a_signal_in_mid_epoch_saves_and_the_same_command_ends_in_the_same_bits(
    write_run, whole_run, backend, world_size, number, rank
):
    run_yaml, run_dir = write_run(f"stopped_{backend}_{number.name}", **SETTINGS)
    results = train_until_signal(run_yaml, run_dir, backend, world_size, number, rank, at_step=4)
    assert [result.exit_code for result in results] == [0] * world_size
    stopped = state_of(run_dir)
    assert stopped["state"] == "stopped"
    assert 4 <= stopped["step"] < LAST
    check_ranks_succeeded(run_verb(backend, world_size, ["train", str(run_yaml)]))
    assert state_of(run_dir)["state"] == "finished"
    assert_equals_whole(run_dir, whole_run(backend, world_size))


def test_a_stop_file_stops_a_run(write_run, whole_run):
    run_yaml, run_dir = write_run("stop_file", **SETTINGS)
    asked = ["--set", "parallel.backend=ddp", "--set", "parallel.world_size=2"]
    with start_ranks("pref_dist", 2, ["train", str(run_yaml), *asked]) as ranks:
        wait_for_step(run_dir, 3, ranks)
        (run_dir / "stop").touch()
        check_ranks_succeeded(ranks.wait(timeout=120))
    assert "stop file" in state_of(run_dir)["reason"]
    check_ranks_succeeded(run_verb("ddp", 2, ["train", str(run_yaml)]))
    assert_equals_whole(run_dir, whole_run("ddp", 2))


def test_an_evaluation_that_a_stop_did_not_wait_for_is_made_up_for(write_run):
    settings = {"train": {"max_steps": 12}, "evaluate": {"every_steps": 1}}
    evaluations = []
    for name in ("whole_evaluated", "stopped_evaluated"):
        run_yaml, run_dir = write_run(name, **settings)
        if name.startswith("stopped"):
            train_until_signal(run_yaml, run_dir, "single", 1, signal.SIGTERM, 0, at_step=4)
            assert state_of(run_dir)["state"] == "stopped"
        check_ranks_succeeded(run_verb("single", 1, ["train", str(run_yaml)]))
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        evaluations.append([(line["step"], line["log_loss"]) for line in lines if "log_loss" in line])
    assert [step for step, _ in evaluations[0]] == list(range(1, 13))
    assert evaluations[0] == evaluations[1]


def test_kill_9_goes_on_from_the_last_checkpoint_and_each_step_stands_once(write_run, whole_run):
    run_yaml, run_dir = write_run("killed", **SETTINGS)
    results = train_until_signal(run_yaml, run_dir, "ddp", 2, signal.SIGKILL, 0, at_step=11)
    assert results[0].exit_code == -signal.SIGKILL
    unfinished = run_dir / ".best.json.12345.tmp"  # as a kill between writing and naming leaves it
    unfinished.touch()
    again = run_verb("ddp", 2, ["train", str(run_yaml)])
    assert not unfinished.exists()
    check_ranks_succeeded(again)
    assert "Going on from" in again[0].stdout
    assert_equals_whole(run_dir, whole_run("ddp", 2))
    assert [line["step"] for line in read_steps(run_dir)] == list(range(1, LAST + 1))


def test_five_interruptions_at_random_leave_the_same_losses_and_each_step_once(write_run, whole_run):
    draw = random.Random(20261122)
    run_yaml, run_dir = write_run("interrupted", **SETTINGS)
    for at_step in sorted(draw.sample(range(2, LAST - 2), 5)):
        number = draw.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL))
        train_until_signal(run_yaml, run_dir, "ddp", 2, number, draw.randrange(2), at_step)
        assert state_of(run_dir)["state"] != "finished"
    check_ranks_succeeded(run_verb("ddp", 2, ["train", str(run_yaml)]))
    assert_equals_whole(run_dir, whole_run("ddp", 2))
    assert [line["step"] for line in read_steps(run_dir)] == list(range(1, LAST + 1))


@pytest.mark.parametrize("damage", ["half_written", "flipped_byte"])
def test_a_checkpoint_that_is_not_whole_is_passed_over_loudly(write_run, whole_run, damage):
    """A crash during a save leaves step_N.tmp; a bad disk leaves the rest."""
    run_yaml, run_dir = write_run(f"damaged_{damage}", **SETTINGS)
    train_until_signal(run_yaml, run_dir, "single", 1, signal.SIGTERM, 0, at_step=16)
    newest = sorted((run_dir / "checkpoints").glob("step_*"))[-1]
    model = newest / "model-00000.safetensors"
    if damage == "half_written":
        shutil.move(newest, newest.with_name(newest.name + ".tmp"))
        (newest.with_name(newest.name + ".tmp") / "manifest.json").unlink()
    else:
        content = bytearray(model.read_bytes())
        content[-5] ^= 1
        model.write_bytes(content)
    again = run_verb("single", 1, ["train", str(run_yaml)])
    check_ranks_succeeded(again)
    assert "Going on from" in again[0].stdout
    if damage != "half_written":
        assert "WARNING: the checkpoint of step" in again[0].stdout
    assert_equals_whole(run_dir, whole_run("single", 1))
    assert not list((run_dir / "checkpoints").glob("*.tmp"))


def test_kill_9_while_a_checkpoint_is_written_loses_only_that_checkpoint(write_run, whole_run):
    run_yaml, run_dir = write_run("killed_saving", **SETTINGS)
    asked = ["--set", "parallel.backend=single", "--set", "parallel.world_size=1"]
    with start_ranks("pref_dist", 1, ["train", str(run_yaml), *asked]) as ranks:
        deadline = time.monotonic() + 120
        # The second save, so that there is one before it.
        while not (
            (run_dir / "checkpoints" / "step_000007").is_dir()
            and (run_dir / "checkpoints" / "step_000009.tmp").exists()
        ):
            assert time.monotonic() < deadline
        ranks.send_signal(signal.SIGKILL)
        ranks.wait(timeout=60)
    assert [path.name for path in (run_dir / "checkpoints").glob("step_*[0-9]")] == ["step_000007"]
    again = run_verb("single", 1, ["train", str(run_yaml)])
    check_ranks_succeeded(again)
    assert "Going on from step 7" in again[0].stdout
    assert_equals_whole(run_dir, whole_run("single", 1))


def test_a_changed_label_is_noticed_although_no_length_changed(write_run, sample_dir, tmp_path):
    rows = pd.read_csv(sample_dir / "train.csv", dtype=str)
    rows.to_csv(tmp_path / "train.csv", index=False)
    settings = SETTINGS | {"data": {"train": str(tmp_path / "train.csv")}}
    run_yaml, run_dir = write_run("relabelled", **settings)
    train_until_signal(run_yaml, run_dir, "single", 1, signal.SIGTERM, 0, at_step=4)
    columns = ["winner_model_a", "winner_model_b", "winner_tie"]
    rows.loc[0, columns] = rows.loc[0, columns].tolist()[1:] + rows.loc[0, columns].tolist()[:1]
    rows.to_csv(tmp_path / "train.csv", index=False)
    refused = run_verb("single", 1, ["train", str(run_yaml)])[0]
    assert refused.exit_code == 5
    assert "the content of data.train or data.valid changed" in refused.stderr
    assert state_of(run_dir)["state"] == "stopped"


def test_a_run_whose_checkpoints_are_all_damaged_does_not_silently_start_anew(write_run):
    run_yaml, run_dir = write_run("all_damaged", **SETTINGS)
    train_until_signal(run_yaml, run_dir, "single", 1, signal.SIGTERM, 0, at_step=10)
    for manifest in run_dir.glob("checkpoints/*/manifest.json"):
        manifest.unlink()
    refused = run_verb("single", 1, ["train", str(run_yaml)])[0]
    assert refused.exit_code == 5
    assert "--fresh" in refused.stderr
    assert list(run_dir.glob("checkpoints/step_*"))


@pytest.mark.parametrize(
    "stations",
    [
        (("single", 1), ("zero0", 3), ("zero3", 2), ("zero1", 2)),
        (("single", 1), ("fsdp2", 2), ("zero2_offload", 2), ("ddp", 3)),
    ],
    ids=lambda stations: " ".join(f"{backend}-{world_size}" for backend, world_size in stations),
)
def test_a_run_moves_between_back_ends_and_world_sizes(write_run, whole_run, stations):
    run_yaml, run_dir = write_run("moved", **SETTINGS)
    for (backend, world_size), at_step in zip(stations[:-1], (3, 9, 15), strict=True):
        train_until_signal(run_yaml, run_dir, backend, world_size, signal.SIGTERM, 0, at_step)
        assert state_of(run_dir)["state"] == "stopped"
    check_ranks_succeeded(run_verb(*stations[-1], ["train", str(run_yaml)]))
    starts = read_starts(RunDir(run_dir))
    assert [(start["backend"], start["ranks"]) for start in starts] == list(stations)
    assert [start["state"] for start in starts] == [*3 * ["stopped"], "finished"]
    assert [start["from_step"] for start in starts[1:]] == [start["step"] for start in starts[:-1]]
    weights, losses, _ = whole_run("single", 1)
    assert largest_difference(weights, read_weights(run_dir)) <= 1e-6
    assert largest_loss_difference(losses, read_losses(run_dir)) <= 1e-5


def test_a_rate_for_each_layer_is_the_same_under_zero_and_after_a_stop(write_run):
    """ZeRO has one partition for each group of parameters, of which there are ten then."""
    settings = {"train": SETTINGS["train"] | {"layer_decay": 0.5, "head_learning_rate": 4e-5}}
    run_yaml, run_dir = write_run("layers_single", **settings)
    check_ranks_succeeded(run_verb("single", 1, ["train", str(run_yaml)]))
    moved_yaml, moved_dir = write_run("layers_zero2", **settings)
    train_until_signal(moved_yaml, moved_dir, "zero2", 2, signal.SIGTERM, 0, at_step=4)
    assert state_of(moved_dir)["state"] == "stopped"
    check_ranks_succeeded(run_verb("zero2", 2, ["train", str(moved_yaml)]))
    assert largest_difference(read_weights(run_dir), read_weights(moved_dir)) <= 1e-6
    assert largest_loss_difference(read_losses(run_dir), read_losses(moved_dir)) <= 1e-5


def test_a_finished_run_is_not_trained_again_and_fresh_trains_anew(write_run, whole_run):
    weights, losses, _ = whole_run("single", 1)
    run_yaml, run_dir = write_run("finished", **SETTINGS)
    for arguments, expected in (
        ([], "finished at step 30"),
        ([], "finished before, at step 30; nothing was to be done"),
        (["--fresh"], "finished at step 30"),
    ):
        results = run_verb("single", 1, ["train", str(run_yaml), *arguments])
        check_ranks_succeeded(results)
        assert expected in results[0].stdout
    assert len(read_starts(RunDir(run_dir))) == 1, "--fresh forgets the others"
    assert read_losses(run_dir) == losses
    assert largest_difference(weights, read_weights(run_dir)) == 0
    other = run_verb("single", 1, ["train", str(run_yaml), "--limit", "100"])[0]
    assert other.exit_code == 5, "another number of rows is another run, finished or not"
    assert state_of(run_dir)["state"] == "finished"


def test_changed_settings_and_changed_rows_are_refused_with_the_difference(write_run, sample_dir, tmp_path):
    run_yaml, run_dir = write_run("changed", **SETTINGS)
    train_until_signal(run_yaml, run_dir, "single", 1, signal.SIGTERM, 0, at_step=4)
    refused = run_verb("single", 1, ["train", str(run_yaml), "--set", "train.learning_rate=1e-3"])[0]
    assert refused.exit_code == 2
    assert "train.learning_rate: 2e-05 -> 0.001" in refused.stderr
    assert state_of(run_dir)["state"] == "stopped", "a refusal must not touch the run"
    fewer = run_verb("single", 1, ["train", str(run_yaml), "--limit", "100"])[0]
    assert fewer.exit_code == 5
    assert "the order of rows changed" in fewer.stderr
    assert state_of(run_dir)["state"] == "stopped", "a refusal must not touch the run"
    accepted = run_verb("single", 1, ["train", str(run_yaml), "--set", "train.learning_rate=1e-3", "--accept-changes"])
    check_ranks_succeeded(accepted)
    assert "Going on from" in accepted[0].stdout
    starts = read_starts(RunDir(run_dir))
    assert [start["state"] for start in starts] == ["stopped", "finished"], "refusals are no starts"
    assert (starts[0]["from_step"], starts[1]["from_step"]) == (0, starts[0]["step"])
