"""Signs of life in a folder, and what is read from them when a collective fails."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch.distributed

from pref_dist.errors import ParallelError, TrainingError
from pref_dist.run_dir import RunDir
from pref_dist.runtime.failure import record_failure
from pref_dist.runtime.heartbeat import Heart, Whereabouts
from pref_dist.runtime.lost_ranks import Sign, is_of_a_collective, read_signs, sign_file, write_sign

TIMED_OUT = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 8000ms for recv operation")


def give_signs(run_dir, *signs):
    """Write the signs of (rank, moves, seconds ago)."""
    run_dir.heartbeats.mkdir(parents=True, exist_ok=True)
    for rank, moves, age in signs:
        write_sign(run_dir.heartbeats, Sign(rank, "host", 100 + rank, 5, "the update", moves, 9.0))
        os.utime(sign_file(run_dir.heartbeats, rank), (time.time() - age,) * 2)


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path)


def explain(run_dir, world_size, error=TIMED_OUT, moves=7):
    """What rank 0 says that has waited in the seventh place after step 5."""
    whereabouts = Whereabouts()
    whereabouts.at("the backward", step=5)
    whereabouts.moves = moves
    with Heart(run_dir, 0, world_size, whereabouts, timeout_seconds=8) as heart:
        heart.start()
        return heart.explain(error)


def test_ages_are_those_of_the_folders_clock(run_dir):
    give_signs(run_dir, (0, 7, 3600.0), (1, 7, 3612.0), (2, 7, 3599.0))
    ages = [sign.silent_seconds for sign in read_signs(run_dir.heartbeats, 4, own_rank=0)]
    assert ages == pytest.approx([0.0, 12.0, 0.0], abs=0.1)


def test_a_sign_is_overwritten_whole_and_a_damaged_one_is_passed_over(run_dir):
    run_dir.heartbeats.mkdir()
    for place in ("a long description of a place", "short"):
        write_sign(run_dir.heartbeats, Sign(0, "host", 1, 2, place, 3, 4.0))
    assert [sign.place for sign in read_signs(run_dir.heartbeats, 1, own_rank=0)] == ["short"]
    sign_file(run_dir.heartbeats, 1).write_text("{", encoding="utf-8")
    assert [sign.rank for sign in read_signs(run_dir.heartbeats, 2, own_rank=0)] == [0]


def test_a_silent_rank_is_named_with_the_last_step_that_it_must_have_done(run_dir):
    give_signs(run_dir, (1, 7, 0.0), (2, 3, 12.0))
    error = explain(run_dir, 3)
    assert isinstance(error, ParallelError)
    assert "Rank 2 (host, pid 102) gave no sign for 12 s; its last step was 5, in the update" in str(error)
    assert "rank 1" not in str(error).lower()
    assert "Timed out waiting 8000ms" in str(error)


def test_a_rank_that_failed_by_itself_is_not_called_lost(run_dir):
    give_signs(run_dir, (1, 7, 30.0))
    record_failure(run_dir, 1, 5, TrainingError("the loss is not finite"), was_running=True)
    assert "Rank 1 failed at step 5: TrainingError: the loss is not finite" in str(explain(run_dir, 2))


def test_a_rank_that_was_lost_before_its_first_sign_is_named(run_dir):
    give_signs(run_dir, (1, 7, -60.0))
    assert str(explain(run_dir, 3)).startswith("No sign of life can be found of rank 2.")


def test_a_silent_rank_is_named_rather_than_one_that_has_missed_it_before(run_dir):
    give_signs(run_dir, (1, 7, 0.0), (2, 7, 12.0))
    record_failure(run_dir, 1, 5, ParallelError("rank 2 does not answer"), was_running=True)
    assert str(explain(run_dir, 3)).startswith("Rank 2 (host, pid 102) gave no sign for 12 s")


def test_where_all_live_the_rank_that_the_others_wait_for_is_named(run_dir):
    # Signs from the future: they count as given just now, for as long as this rank looks.
    give_signs(run_dir, (1, 6, -60.0), (2, 7, -60.0))
    text = str(explain(run_dir, 3))
    assert "Rank 1 (host, pid 101) lives but does not go on: it has been at one place for 9 s" in text
    assert "rank 2" not in text.lower()


def test_a_rank_killed_a_moment_ago_is_waited_for_until_it_is_silent(run_dir):
    give_signs(run_dir, (1, 7, 0.5))
    started = time.monotonic()
    assert "Rank 1 (host, pid 101) gave no sign for 3 s" in str(explain(run_dir, 2))
    assert time.monotonic() - started < 4.5


def test_only_the_errors_of_collectives_are_explained(run_dir):
    give_signs(run_dir, (1, 7, 12.0))
    own = TrainingError("the loss is not finite")
    assert explain(run_dir, 2, own) is own
    assert is_of_a_collective(torch.distributed.DistNetworkError("the store is gone"))
    assert is_of_a_collective(RuntimeError("Connection closed by peer [127.0.0.1]:5"))
    assert not is_of_a_collective(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_of_a_collective(ValueError("timed out"))


def test_one_process_alone_leaves_no_signs(run_dir):
    assert explain(run_dir, 1) is TIMED_OUT
    assert not run_dir.heartbeats.exists()


def test_a_beating_heart_says_where_the_rank_stands(run_dir):
    whereabouts = Whereabouts()
    with Heart(run_dir, 1, 2, whereabouts, timeout_seconds=8) as heart:
        heart.start()
        whereabouts.at("saving", step=3)
        time.sleep(2.5)
        sign = json.loads(sign_file(run_dir.heartbeats, 1).read_text(encoding="utf-8"))
    assert (sign["rank"], sign["pid"], sign["step"], sign["place"]) == (1, os.getpid(), 3, "saving")
    assert 0.5 < sign["seconds_there"] < 2.5


def test_code_in_c_that_lets_no_thread_run_is_ended_too(tmp_path):
    program = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from pref_dist.run_dir import RunDir\n"
        "from pref_dist.runtime.heartbeat import Heart, Whereabouts\n"
        "with Heart(RunDir(Path(sys.argv[1])), 0, 2, Whereabouts(), timeout_seconds=1) as heart:\n"
        "    heart.start()\n"
        "    with heart.watching():\n"
        "        import time; time.sleep(1.2)\n"
        "        re.match('(a+)+$', 'a' * 60 + 'b')\n"
    )
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "Timeout (0:00:05)!" in result.stderr
    assert "in match" in result.stderr
    assert time.monotonic() - started < 30
