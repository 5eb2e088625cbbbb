"""`pref-dist doctor --ranks`: real ranks on gloo say who they are, what is between them, and who did not come."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ranks.launch_ranks import (
    REPO_ROOT,
    find_free_port,
    rank_env,
    run_launcher,
    run_ranks,
    start_ranks,
)

pytestmark = pytest.mark.ranks


def test_under_accelerate_launch_the_ranks_see_each_other(tmp_path: Path, write_run) -> None:
    config = REPO_ROOT / "configs/accelerate/ddp.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    port = ["--main_process_port", str(find_free_port())]
    result = run_launcher(
        [*launch, *port, "-m", "pref_dist", "doctor", str(write_run()[0]), "--ranks", "--json"], timeout=200
    )
    assert result.exit_code == 0, result.stdout + result.stderr
    found = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    pids = {found[f"rank {rank}"]["seen"].rpartition(" ")[2] for rank in (0, 1)}
    assert len(pids) == 2
    assert "2 rank(s) on 1 machine(s) see each other, ddp" in found["ranks"]["seen"]
    for name in ("same versions", "same cache folder", "same run folder", "clocks"):
        assert found[name]["state"] == "ok", found[name]
    assert "(latency), gloo" in found["all-reduce 4 B"]["seen"]
    assert "GB/s a link" in found["all-reduce 67.1 MB"]["seen"]
    assert found["slowest rank"]["seen"].startswith("rank ")
    assert not list(tmp_path.glob("**/.doctor*"))


def test_another_number_of_ranks_than_asked_for_is_refused() -> None:
    results = run_ranks("pref_dist", 2, ["doctor", "--ranks", "--set", "parallel.world_size=3"], timeout=150)
    assert [result.exit_code for result in results] == [4, 4]
    assert "parallel.world_size=3 was asked for, but this process sees 2" in results[0].stderr


def test_a_rank_that_does_not_come_ends_the_wait_in_time(tmp_path: Path) -> None:
    env = rank_env(0, 2, find_free_port()) | {"PREF_DIST_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pref_dist", "doctor", "--ranks", "--set", "parallel.timeout_seconds=3"]
    start = time.perf_counter()
    result = subprocess.run(command, env=env, cwd=REPO_ROOT, capture_output=True, text=True, timeout=150)
    assert time.perf_counter() - start < 60  # 10 where there is time; imports are most of it
    assert result.returncode == 4
    assert "The ranks could not connect through 127.0.0.1" in result.stderr


def test_a_rank_that_is_lost_on_the_way_is_named(tmp_path: Path) -> None:
    arguments = ["doctor", "--ranks", "--set", "parallel.timeout_seconds=6"]
    with start_ranks("pref_dist", 2, arguments, {"PREF_DIST_CACHE_DIR": str(tmp_path)}) as ranks:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".doctor-*/heartbeats/rank_1.json")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        ranks.ranks[1].process.kill()
        results = ranks.wait(60)
    assert results[0].exit_code == 4
    assert "Rank 1 (" in results[0].stderr
    assert "gave no sign for" in results[0].stderr
