"""A file `stop` in the run folder: from before the start it is a left-over, while the start is loading it counts."""

import json
import os
import time

import pytest

from pref_dist.runtime.preempt import remove_left_over, seconds_alive, seconds_since_start
from tests.launch.launched import Launched, clean_env
from tests.ranks.launch_ranks import REPO_ROOT, check_ranks_succeeded, start_ranks
from tests.ranks.run_verb import run_verb

SHORT = {"max_steps": 3}
STOPPED = 75


def state_of(run_dir):
    return json.loads((run_dir / "state.json").read_text(encoding="utf-8"))


@pytest.mark.ranks
@pytest.mark.parametrize(("backend", "world_size"), [("single", 1), ("ddp", 2)])
def test_a_left_over_from_before_the_start_stops_nothing(write_run, backend, world_size):
    run_yaml, run_dir = write_run("left_over", train=SHORT)
    run_dir.mkdir()
    (run_dir / "stop").touch()
    time.sleep(0.1)  # a process knows its start to a hundredth of a second
    check_ranks_succeeded(run_verb(backend, world_size, ["train", str(run_yaml)]))
    assert state_of(run_dir)["state"] == "finished"
    assert not (run_dir / "stop").exists()


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("backend", "world_size", "arguments"), [("single", 1, []), ("ddp", 2, []), ("ddp", 2, ["--fresh"])]
)
def test_a_stop_file_that_comes_while_the_start_is_loading_counts(write_run, backend, world_size, arguments):
    run_yaml, run_dir = write_run("early", train=SHORT)
    run_dir.mkdir()
    asked = ["--set", f"parallel.backend={backend}", "--set", f"parallel.world_size={world_size}", *arguments]
    with start_ranks("pref_dist", world_size, ["train", str(run_yaml), *asked]) as ranks:
        time.sleep(0.1)  # the ranks import torch for seconds after that
        (run_dir / "stop").touch()
        check_ranks_succeeded(ranks.wait(timeout=120))
    assert state_of(run_dir)["state"] == "stopped"
    assert state_of(run_dir)["step"] == 0
    assert "stop file" in state_of(run_dir)["reason"]
    assert not (run_dir / "stop").exists(), "the next start is not to be stopped by it"
    check_ranks_succeeded(run_verb(backend, world_size, ["train", str(run_yaml)]))
    assert state_of(run_dir)["state"] == "finished"


@pytest.mark.ranks
def test_it_counts_from_the_launchers_start_not_only_from_the_ranks(write_run, tmp_path):
    """torchrun itself imports torch before it starts a rank."""
    run_yaml, run_dir = write_run("launched", train=SHORT)
    run_dir.mkdir()
    command = ("bash", REPO_ROOT / "launch" / "node.sh", "ddp", 2, "train", run_yaml)
    launched = Launched(command, tmp_path / "output.txt", tmp_path, clean_env())
    try:
        time.sleep(1.0)
        assert not [child for child in launched.descendants() if "RANK" in child.environ()], "too late for this test"
        (run_dir / "stop").touch()
        assert launched.end() == STOPPED, launched.text()
    finally:
        launched.kill()
    assert state_of(run_dir)["state"] == "stopped"


def test_only_what_is_older_than_the_start_is_removed(tmp_path):
    stop = tmp_path / "stop"
    for age, stays in ((0.0, True), (seconds_since_start() - 0.5, True), (seconds_since_start() + 0.5, False)):
        stop.touch()
        os.utime(stop, (time.time() - age, time.time() - age))
        remove_left_over(stop, tmp_path / "probe")
        assert stop.exists() == stays
    remove_left_over(tmp_path / "none", tmp_path / "probe")


def test_the_age_of_a_process_is_known():
    assert 0 < seconds_alive(os.getpid()) < seconds_alive(1)
    before = seconds_alive(os.getpid())
    time.sleep(0.05)
    assert 0.04 < seconds_alive(os.getpid()) - before < 5
