"""A rank that is stopped, killed or hangs: the others end in time and name it, and the run can go on."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.launch.launched import Launched, clean_env
from tests.ranks.launch_ranks import REPO_ROOT, RunningRanks, check_ranks_succeeded, start_ranks
from tests.ranks.run_verb import launch_env, read_losses, read_weights, run_verb

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(300)]

TIMEOUT_SECONDS = 10  # ranks that start on busy cores wait for each other, too
SETTINGS = {
    "parallel": {"timeout_seconds": TIMEOUT_SECONDS},
    "train": {"max_steps": 40, "epochs": 2, "save_every_steps": 7},
    "model": {"dropout": 0.1},
}
HANGING = Path(__file__).parent / "hanging_ranks.py"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def check_named(text: str, rank: int, run_dir: Path) -> None:
    """The rank, that it is silent, and the last step that it has done: that of the last line of the log."""
    assert f"Rank {rank} (" in text, text
    assert "gave no sign for" in text
    assert f"its last step was {len(read_losses(run_dir))}" in text


def start(run_yaml: Path, backend: str) -> RunningRanks:
    asked = ["--set", f"parallel.backend={backend}", "--set", "parallel.world_size=2"]
    return start_ranks("pref_dist", 2, ["train", str(run_yaml), *asked], launch_env(backend))


def wait_for_step(ranks: RunningRanks, run_dir: Path, step: int) -> None:
    log, deadline = run_dir / "metrics.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text(encoding="utf-8").count('"loss"') >= step):
        assert time.monotonic() < deadline, ranks.read_stdout(0)
        time.sleep(0.005)


@pytest.mark.parametrize(("backend", "stopped", "live"), [("ddp", 0, 1), ("zero2", 1, 0)])
def test_a_stopped_rank_is_named_in_time_and_the_same_command_ends_in_the_same_bits(write_run, backend, stopped, live):
    run_yaml, run_dir = write_run("stopped", **SETTINGS)
    with start(run_yaml, backend) as ranks:
        wait_for_step(ranks, run_dir, 9)
        ranks.send_signal(signal.SIGSTOP, stopped)
        watch = time.monotonic()
        code = ranks.ranks[live].process.wait(timeout=60)
        seconds = time.monotonic() - watch
        ranks.kill()
        text = os.pread(ranks.ranks[live].stderr.fileno(), 1 << 20, 0).decode()
    print(f"{backend}: the live rank ended after {seconds:.1f} s")
    assert TIMEOUT_SECONDS - 1 < seconds < TIMEOUT_SECONDS + 5
    assert code == 4
    check_named(text, stopped, run_dir)
    state = read(run_dir / "state.json")
    assert state["state"] == "failed"
    check_named(state["reason"], stopped, run_dir)
    check_named(read(run_dir / "failures" / f"rank_{live}.json")["error"], stopped, run_dir)

    check_ranks_succeeded(run_verb(backend, 2, ["train", str(run_yaml)]))
    assert not (run_dir / "failures").exists()
    whole_yaml, whole_dir = write_run("whole", **SETTINGS)
    check_ranks_succeeded(run_verb(backend, 2, ["train", str(whole_yaml)]))
    whole, found = read_weights(whole_dir), read_weights(run_dir)
    assert all(np.array_equal(whole[name], found[name]) for name in whole)
    assert read_losses(run_dir) == read_losses(whole_dir)


def test_under_the_launcher_all_processes_are_gone_within_timeout_and_40_seconds(write_run, tmp_path):
    # torchrun sends TERM, which a stopped process does not see, and KILL after 30 s.
    run_yaml, run_dir = write_run("launched", **SETTINGS)
    command = ("bash", REPO_ROOT / "launch" / "node.sh", "zero2", 2, "train", run_yaml)
    launched = Launched(command, tmp_path / "output.txt", tmp_path, clean_env())
    try:
        launched.wait_for_step(run_dir, 9)
        launched.find("pref_dist", rank=1).suspend()
        watch = time.monotonic()
        live = launched.find("pref_dist", rank=0)
        psutil.wait_procs([live], timeout=TIMEOUT_SECONDS + 5 - (time.monotonic() - watch))
        assert not live.is_running() or live.status() == psutil.STATUS_ZOMBIE
        assert launched.end(timeout=TIMEOUT_SECONDS + 40 - (time.monotonic() - watch)) == 4, launched.text()
        print(f"all processes were gone after {time.monotonic() - watch:.1f} s")
    finally:
        launched.kill()
    check_named(launched.text(), 1, run_dir)
    assert read(run_dir / "state.json")["state"] == "failed"


def test_a_slow_step_is_waited_for_and_a_rank_that_hangs_is_named_by_its_place(write_run):
    run_yaml, run_dir = write_run("hanging", parallel={"timeout_seconds": TIMEOUT_SECONDS})
    asked = ["parallel.backend=ddp", "parallel.world_size=2"]
    with start_ranks(HANGING, 2, [str(run_yaml), *asked]) as ranks:
        wait_for_step(ranks, run_dir, 6)
        watch = time.monotonic()
        results = ranks.wait(timeout=60)
        seconds = time.monotonic() - watch
    print(f"both ranks had ended {seconds:.1f} s after the hang began")
    assert seconds < TIMEOUT_SECONDS + 5
    assert [result.exit_code for result in results] == [4, 4]
    for result in results:
        assert "Rank 0 (" in result.stderr
        assert "lives but does not go on" in result.stderr
        assert "its last step was 6, in the step border" in result.stderr
    assert "hang_for_ever" in results[0].stderr, "where the main thread stands"
    assert len(read_losses(run_dir)) == 6
