"""Promise 2, step by step: a run that goes on from any of its steps is the run that was never interrupted."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.ranks.many_runs import run_jobs
from tests.ranks.run_verb import largest_difference, largest_loss_difference, read_losses, read_weights

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(900)]

# 46 rows of 13 a step: 4 steps an epoch, the last one shorter; 3 epochs.
STEPS, PER_EPOCH, ROWS = 12, 4, 46
SETTINGS = {
    "train": {
        "epochs": 3, "max_steps": None, "save_every_steps": 1, "keep_last": 100, "token_budget": 300,
        "schedule": "cosine", "warmup_fraction": 0.3, "head_learning_rate": 4e-5,
    },
    "model": {"dropout": 0.1},
    "evaluate": {"every_steps": 5},
}  # fmt: skip


@pytest.fixture(scope="module")
def small_train(sample_dir, tmp_path_factory):
    """The sample's first rows: ROWS to train on beside those held out."""
    import pandas as pd

    path = tmp_path_factory.mktemp("small") / "train.csv"
    rows = pd.read_csv(sample_dir / "train.csv", dtype=str)
    rows.head(ROWS).to_csv(path, index=False)
    rows.tail(20).to_csv(path.with_name("valid.csv"), index=False)
    return path


@pytest.fixture
def write(write_run, small_train):
    def write_one(name):
        data = {"train": str(small_train), "valid": str(small_train.with_name("valid.csv"))}
        return write_run(name, **(SETTINGS | {"data": data}))

    return write_one


def resume_jobs(write, whole, prefix):
    """One job for each step to go on from; returns (jobs, {step: run folder})."""
    jobs, folders = [], {}
    for step in range(1, STEPS):
        run_yaml, folders[step] = write(f"{prefix}_{step}")
        jobs.append({"config": str(run_yaml), "copy_of": str(whole), "step": step})
    return jobs, folders


def read_tensors(run_dir):
    """Weights and moments of the last checkpoint."""
    files = sorted((run_dir / f"checkpoints/step_{STEPS:06d}").glob("*.safetensors"))
    return {name: value for file in files for name, value in load_file(file).items()}


def read_lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_each_row_once_an_epoch(run_dir):
    steps = [line for line in read_lines(run_dir) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    for epoch in range(3):
        assert sum(line["rows"] for line in steps if line["epoch"] == epoch) == ROWS


def assert_same_run(found, expected):
    """Every bit: weights, both moments, losses, evaluations, the best step and its logits."""
    ours, theirs = read_tensors(found), read_tensors(expected)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    timeless = [
        [{key: value for key, value in line.items() if "second" not in key} for line in read_lines(folder)]
        for folder in (found, expected)
    ]
    assert timeless[0] == timeless[1]
    assert (found / "best.json").read_text() == (expected / "best.json").read_text()
    assert (found / "valid_logits.parquet").read_bytes() == (expected / "valid_logits.parquet").read_bytes()


@pytest.mark.parametrize(("backend", "world_size"), [("single", 1), ("ddp", 2), ("zero2", 2), ("fsdp2", 2)])
def test_going_on_from_every_single_step_gives_every_bit_of_the_uninterrupted_run(write, tmp_path, backend, world_size):
    run_yaml, whole = write("whole")
    jobs, folders = resume_jobs(write, whole, "resumed")
    run_jobs(backend, world_size, [{"config": str(run_yaml)}, *jobs], tmp_path)
    assert_each_row_once_an_epoch(whole)
    for folder in folders.values():
        assert_same_run(folder, whole)


def test_going_on_from_every_step_on_another_world_size_and_back_end_stays_within_the_bounds(write, tmp_path):
    run_yaml, whole = write("whole")
    run_jobs("single", 1, [{"config": str(run_yaml)}], tmp_path)
    places = [("ddp", 2), ("ddp", 3), ("zero1", 2), ("zero3", 2), ("fsdp2", 3)]
    weights, losses = read_weights(whole), read_losses(whole)
    for place, (backend, world_size) in enumerate(places):
        jobs, folders = resume_jobs(write, whole, f"{backend}_{world_size}")
        # Each place takes over at other steps; together they take over at all of them, and each at an epoch's edge.
        chosen = [step for step in folders if step % len(places) == place or step == PER_EPOCH]
        run_jobs(backend, world_size, [jobs[step - 1] for step in chosen], tmp_path)
        for step in chosen:
            assert_each_row_once_an_epoch(folders[step])
            assert largest_difference(weights, read_weights(folders[step])) <= 1e-6
            assert largest_loss_difference(losses, read_losses(folders[step])) <= 1e-5
