"""Runs with trackers: they show every line of metrics.jsonl, and change nothing."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.ranks.disks import small_disk
from tests.ranks.launch_ranks import check_ranks_succeeded
from tests.ranks.run_verb import read_losses, read_weights, run_verb
from tests.tracked_files import Curves, read_metrics_log, read_tensorboard, read_wandb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(400)]
SECRET = "5ec7e7" * 7
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed: pip install wandb")


def check_same_curves(found: Curves, wanted: Curves, dtype: type) -> None:
    assert found.keys() == wanted.keys()
    for place, values in wanted.items():
        assert [dtype(value) for value in found[place]] == [dtype(value) for value in values], place


def train(backend: str, world_size: int, run: tuple[Path, Path], *more: str) -> tuple[Path, str]:
    """Train and return the run folder and what rank 0 said."""
    results = run_verb(backend, world_size, ["train", str(run[0]), *more])
    check_ranks_succeeded(results)
    return run[1], results[0].stdout


@pytest.mark.parametrize(("backend", "world_size"), [("single", 1), ("ddp", 2), ("zero2", 2)])
def test_tensorboard_shows_metrics_jsonl_and_the_run_is_the_same_to_the_bit(write_run, backend, world_size):
    settings = {"train": {"max_steps": 4}, "evaluate": {"every_steps": 2}}
    plain, _ = train(backend, world_size, write_run("plain", **settings))
    tracked, said = train(backend, world_size, write_run("tracked", run={"trackers": ["tensorboard"]}, **settings))
    assert read_losses(tracked) == read_losses(plain)
    weights = read_weights(plain)
    assert all(np.array_equal(value, weights[name]) for name, value in read_weights(tracked).items())
    wanted = read_metrics_log(tracked)
    assert {tag for tag, _ in wanted} >= {"train/loss", "train/learning_rate", "valid/log_loss", "valid/accuracy"}
    check_same_curves(read_tensorboard(tracked / "logs" / "tensorboard"), wanted, np.float32)
    assert f"tensorboard --logdir {tracked / 'logs' / 'tensorboard'}" in said
    assert not (plain / "logs").exists()


def test_a_resumed_curve_goes_on_and_a_fresh_one_begins_anew(write_run):
    run = write_run(run={"trackers": ["tensorboard"]}, train={"max_steps": 6, "save_every_steps": 2})
    run[1].mkdir()
    (run[1] / "stop").touch()
    for _ in range(2):
        train("single", 1, run)
    assert json.loads((run[1] / "state.json").read_text())["state"] == "finished"
    check_same_curves(read_tensorboard(run[1] / "logs" / "tensorboard"), read_metrics_log(run[1]), np.float32)
    train("single", 1, run, "--fresh", "--set", "train.max_steps=2")
    check_same_curves(read_tensorboard(run[1] / "logs" / "tensorboard"), read_metrics_log(run[1]), np.float32)


def test_a_full_disk_under_a_tracker_costs_one_warning_and_its_curve(write_run):
    plain, _ = train("ddp", 2, write_run("plain"))
    run = write_run("tracked", run={"trackers": ["tensorboard"]})
    run[1].mkdir()
    with small_disk(run[1] / "logs", 8 * 1024) as disk:  # for about half of the 20 steps
        if disk is None:
            pytest.skip("this user may not mount a small disk")
        (disk / "tensorboard").mkdir()  # so that this is a start that goes on, without hyperparameters
        tracked, said = train("ddp", 2, run)
    assert said.count("WARNING: the tracker tensorboard has failed (OSError: [Errno 28]") == 1
    assert "tracker    tensorboard: " in said
    assert read_losses(tracked) == read_losses(plain)
    assert len(read_losses(tracked)) == 20


@needs_wandb
def test_wandb_is_offline_shows_metrics_jsonl_and_no_key_lies_in_the_run_folder(write_run, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("HF_TOKEN", f"hf_{SECRET}")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    settings = {"train": {"max_steps": 4}, "evaluate": {"every_steps": 2}}
    plain, _ = train("ddp", 2, write_run("plain", **settings))
    run = write_run("tracked", run={"trackers": ["wandb", "tensorboard"]}, **settings)
    tracked, said = train("ddp", 2, run)
    assert read_losses(tracked) == read_losses(plain)
    (folder,) = (tracked / "logs" / "wandb").glob("offline-run-*")
    assert f"wandb: offline, in {folder} (upload it: wandb sync)" in said
    (file,) = folder.glob("*.wandb")
    check_same_curves(read_wandb(file), read_metrics_log(tracked), np.float64)
    files = [path for path in tracked.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
