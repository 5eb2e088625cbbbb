"""Checkpoints that survive: written in the background, killed at any moment, on disks that are full."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from pref_dist.evaluate.logits_file import read_logits
from pref_dist.metrics import score_logits
from pref_dist.runtime.checkpoint import folder_of_step, list_steps, open_checkpoint
from tests.ranks.disks import fill, limit_file_size, small_disk
from tests.ranks.launch_ranks import REPO_ROOT, check_ranks_succeeded, run_launcher, start_ranks
from tests.ranks.run_verb import launch_env, read_losses, run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

LAST = 12
TRAIN = {"max_steps": LAST, "save_every_steps": 2, "keep_last": 2}
SETTINGS = {"model": {"dropout": 0.1}, "evaluate": {"every_steps": 3}}
NO_ROOM = 5


@pytest.fixture
def write(write_run):
    """Return a function that writes a run of LAST steps; `train` changes that section."""

    def write_one(name, model=None, **train):
        model_section = SETTINGS["model"] | ({"name": str(model)} if model else {})
        return write_run(name, **(SETTINGS | {"model": model_section, "train": TRAIN | train}))

    return write_one


@pytest.fixture(scope="module")
def references():
    return {}


@pytest.fixture
def reference(references, write):
    """Return a function that gives the state and losses of a run saved at the step border and not interrupted."""

    def train(backend, world_size, model=None):
        key = (backend, world_size, model)
        if key not in references:
            run_yaml, run_dir = write(f"reference_{len(references)}", model)
            check_ranks_succeeded(run_verb(backend, world_size, ["train", str(run_yaml)]))
            references[key] = (read_state(run_dir), read_losses(run_dir))
        return references[key]

    return train


def read_state(run_dir):
    """Every tensor of the last checkpoint."""
    folder = open_checkpoint(folder_of_step(run_dir / "checkpoints", LAST)).folder
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def assert_equals(run_dir, expected):
    state, losses = expected
    found = read_state(run_dir)
    assert found.keys() == state.keys()
    assert all(np.array_equal(found[name], state[name]) for name in state)
    assert read_losses(run_dir) == losses
    assert json.loads((run_dir / "state.json").read_text())["state"] == "finished"
    assert not list((run_dir / "checkpoints").glob("*.tmp"))
    assert (run_dir / "valid_logits.parquet").exists()
    assert_logits_are_the_best_steps(run_dir)


def assert_logits_are_the_best_steps(run_dir):
    """valid_logits.parquet may be missing after a crash, but never another step's than best.json's."""
    if not (run_dir / "valid_logits.parquet").exists():
        return
    best = json.loads((run_dir / "best.json").read_text())
    rows = read_logits(run_dir / "valid_logits.parquet")
    assert score_logits(rows.logits, rows.targets)["log_loss"] == best["log_loss"]
    assert best["step"] in list_steps(run_dir / "checkpoints")


def start(run_yaml, backend, world_size, *arguments):
    asked = ["--set", f"parallel.backend={backend}", "--set", f"parallel.world_size={world_size}", *arguments]
    return start_ranks("pref_dist", world_size, ["train", str(run_yaml), *asked], launch_env(backend))


def wait_until(happened, ranks):
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline, ranks.read_stdout(0)
        time.sleep(0.001)


def has_steps(run_dir, count):
    log = run_dir / "metrics.jsonl"
    return log.exists() and log.read_text(encoding="utf-8").count('"loss"') >= count


def go_on(run_yaml, backend, world_size):
    results = run_verb(backend, world_size, ["train", str(run_yaml)])
    check_ranks_succeeded(results)
    return results[0].stdout


@pytest.mark.parametrize(
    ("backend", "world_size"), [("single", 1), ("ddp", 2), ("zero1", 2), ("zero2", 2), ("zero3", 2), ("fsdp2", 2)]
)
def test_saving_in_the_background_changes_no_bit_of_a_run(write, reference, backend, world_size):
    run_yaml, run_dir = write("background", async_save=True)
    go_on(run_yaml, backend, world_size)
    assert_equals(run_dir, reference(backend, world_size))
    best = json.loads((run_dir / "best.json").read_text())["step"]
    assert list_steps(run_dir / "checkpoints") == sorted({best, 10, LAST})


def test_a_stop_waits_for_the_checkpoint_in_the_background(write, reference):
    run_yaml, run_dir = write("stopped", async_save=True)
    with start(run_yaml, "ddp", 2) as ranks:
        wait_until(lambda: has_steps(run_dir, 5), ranks)
        ranks.send_signal(signal.SIGTERM, 1)
        check_ranks_succeeded(ranks.wait(timeout=120))
    state = json.loads((run_dir / "state.json").read_text())
    assert state["state"] == "stopped"
    assert list_steps(run_dir / "checkpoints")[-1] == state["step"] >= 5
    assert f"Going on from step {state['step']}" in go_on(run_yaml, "ddp", 2)
    assert_equals(run_dir, reference("ddp", 2))


MOMENTS = {
    "made": lambda folder: folder.exists(),
    "model": lambda folder: (folder / "model-00000.safetensors").exists(),
    "optimizer": lambda folder: (folder / "optimizer-00000.safetensors").exists(),
    "progress": lambda folder: (folder / "progress.json").exists(),
    "manifest": lambda folder: (folder / "manifest.json").exists() or folder.with_suffix("").exists(),
}


@pytest.mark.parametrize(
    ("backend", "world_size", "moment"),
    [("single", 1, moment) for moment in MOMENTS]
    + [("ddp", 2, moment) for moment in ("made", "optimizer", "manifest")],
)
def test_kill_9_while_the_background_writes_leaves_no_torn_checkpoint(
    write, reference, wide_model, backend, world_size, moment
):
    run_yaml, run_dir = write(f"killed_{moment}", wide_model, async_save=True)
    checkpoints = run_dir / "checkpoints"
    with start(run_yaml, backend, world_size) as ranks:
        wait_until(lambda: folder_of_step(checkpoints, 4).exists(), ranks)
        wait_until(lambda: MOMENTS[moment](checkpoints / "step_000006.tmp"), ranks)
        ranks.kill()
    whole = list_steps(checkpoints)
    assert whole[-1] >= 4
    if moment in ("made", "model"):
        assert 6 not in whole, "killed too late: the test shows nothing"
    for step in whole:
        open_checkpoint(folder_of_step(checkpoints, step))
    assert_logits_are_the_best_steps(run_dir)
    said = go_on(run_yaml, backend, world_size)
    assert "Going on from step" in said
    assert "WARNING: the checkpoint" not in said
    assert_equals(run_dir, reference(backend, world_size, wide_model))


def test_a_damaged_checkpoint_from_the_background_is_passed_over_loudly_beside_a_crash_s_leftover(write, reference):
    run_yaml, run_dir = write("damaged", async_save=True)
    checkpoints = run_dir / "checkpoints"
    with start(run_yaml, "single", 1) as ranks:
        wait_until(lambda: has_steps(run_dir, 7), ranks)
        ranks.send_signal(signal.SIGTERM)
        check_ranks_succeeded(ranks.wait(timeout=120))
    before, last = list_steps(checkpoints)[-2:]
    newest = folder_of_step(checkpoints, last)
    # What a crash left of the next one: without a manifest, though all else is there.
    leftover = checkpoints / "step_000011.tmp"
    shutil.copytree(newest, leftover)
    (leftover / "manifest.json").unlink()
    model = newest / "model-00000.safetensors"
    content = bytearray(model.read_bytes())
    content[-5] ^= 1
    model.write_bytes(content)
    said = go_on(run_yaml, "single", 1)
    assert f"WARNING: the checkpoint of step {last} is unusable, trying the one before" in said
    assert f"Going on from step {before}" in said
    assert_equals(run_dir, reference("single", 1))


@pytest.mark.parametrize("async_save", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_rank_cannot_write_ends_both_with_the_older_checkpoints_intact(
    write, reference, wide_model, async_save, rank
):
    run_yaml, run_dir = write("limited", wide_model, async_save=async_save)
    checkpoints = run_dir / "checkpoints"
    with start(run_yaml, "ddp", 2) as ranks:
        wait_until(lambda: folder_of_step(checkpoints, 4).exists(), ranks)
        # Enough for all but the shards: rank 1's hold half a megabyte.
        limit_file_size(ranks.pids[rank], 100_000)
        results = ranks.wait(timeout=120)
    assert [result.exit_code for result in results] == [NO_ROOM, NO_ROOM], results
    for result in results:
        assert f"could not be written: rank {rank}" in result.stderr
        assert "os error 27" in result.stderr
        assert "ulimit -f" in result.stderr
        assert "Older checkpoints are untouched; make room" in result.stderr
    assert json.loads((run_dir / "state.json").read_text())["state"] == "failed"
    assert sorted(path.name for path in (run_dir / "failures").iterdir()) == ["rank_0.json", "rank_1.json"]
    assert not list(checkpoints.glob("*.tmp"))
    for step in list_steps(checkpoints):
        open_checkpoint(folder_of_step(checkpoints, step))
    assert_logits_are_the_best_steps(run_dir)
    assert f"Going on from step {list_steps(checkpoints)[-1]}" in go_on(run_yaml, "ddp", 2)
    assert_equals(run_dir, reference("ddp", 2, wide_model))


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("room_left", [0, 300_000])
def test_a_disk_that_fills_up_ends_the_run_clearly_and_with_room_again_it_goes_on(
    write_run, reference, tmp_path, world_size, room_left
):
    """room_left 0: metrics.jsonl meets it first; 300 kB: a checkpoint has no room, and is not begun."""
    backend = "single" if world_size == 1 else "ddp"
    with small_disk(tmp_path / "disk", 6_000_000) as disk:
        run_yaml, _ = write_run("filled", **(SETTINGS | {"train": TRAIN | {"async_save": True}}))
        run_dir = tmp_path / ("disk" if disk else "elsewhere") / "run"
        run_yaml.write_text(run_yaml.read_text().replace(str(tmp_path / "filled"), str(run_dir)), encoding="utf-8")
        with start(run_yaml, backend, world_size) as ranks:
            wait_until(lambda: folder_of_step(run_dir / "checkpoints", 2).exists(), ranks)
            if disk is None:  # the same by other means: no file of rank 0 may grow beyond what is there
                limit_file_size(ranks.pids[0], (run_dir / "metrics.jsonl").stat().st_size + room_left)
            else:
                filler = fill(disk)
                with filler.open("r+b") as file:
                    file.truncate(filler.stat().st_size - room_left)
            results = ranks.wait(timeout=120)
        assert [result.exit_code for result in results] == [NO_ROOM] * world_size, results
        for result in results:
            assert "could not be written: rank 0" in result.stderr
            assert "make room or mend the disk and start the same command again" in result.stderr
            assert "Traceback" not in result.stderr
            if disk is not None and room_left:
                assert "are needed, and" in result.stderr
                assert "train.keep_last" in result.stderr
        assert list_steps(run_dir / "checkpoints")[0] >= 2
        assert_logits_are_the_best_steps(run_dir)
        if disk is not None:
            refused = run_verb(backend, world_size, ["train", str(run_yaml)])
            assert [result.exit_code for result in refused] == [NO_ROOM] * world_size, "still no room"
            filler.unlink()
        assert "Going on from" in go_on(run_yaml, backend, world_size)
        assert_equals(run_dir, reference(backend, world_size))


def test_the_launcher_ends_with_the_code_of_a_full_disk(write, tmp_path):
    run_yaml, run_dir = write("launched", async_save=True)
    prepared = run_launcher([sys.executable, "-m", "pref_dist", "prepare", str(run_yaml)])
    assert prepared.exit_code == 0, prepared.stderr
    result = subprocess.run(
        ["bash", str(REPO_ROOT / "launch" / "node.sh"), "ddp", "2", "train", str(run_yaml)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)),
    )
    assert result.returncode == NO_ROOM, result.stdout + result.stderr
    assert "The checkpoint of step 2 could not be written: rank 0" in result.stderr
    assert json.loads((run_dir / "state.json").read_text())["state"] == "failed"


def test_logits_and_best_step_agree_again_after_a_crash_between_the_two(write, reference):
    run_yaml, run_dir = write("between")
    with start(run_yaml, "single", 1) as ranks:
        wait_until(lambda: has_steps(run_dir, 5), ranks)
        ranks.send_signal(signal.SIGTERM)
        check_ranks_succeeded(ranks.wait(timeout=120))
    (run_dir / "valid_logits.parquet").unlink()
    (run_dir / "best.json").write_text('{"step": 1, "log_loss": 9.0}')
    # Nothing is left to do in the second start but to bring them back.
    go_on(run_yaml, "single", 1)
    assert_equals(run_dir, reference("single", 1))
