"""A job that goes back into the queue again and again must get further."""

import pytest

from pref_dist.cluster.tries import begin_try, describe_tries
from pref_dist.errors import ClusterError
from pref_dist.run_dir import RunDir


def save(run_dir: RunDir, step: int) -> None:
    (run_dir.checkpoints / f"step_{step:06d}").mkdir(parents=True)


def test_a_job_that_saves_something_each_time_may_come_back_for_ever(tmp_path):
    run_dir = RunDir(tmp_path)
    for count in range(10):
        begin_try(run_dir, None, "7", count)
        save(run_dir, count + 1)
    assert describe_tries(run_dir, "7") == ""


def test_three_tries_in_a_row_without_a_checkpoint_are_the_last(tmp_path):
    run_dir = RunDir(tmp_path)
    begin_try(run_dir, None, "7", 0)
    save(run_dir, 5)
    for count in (1, 2, 3):
        begin_try(run_dir, None, "7", count)
    assert describe_tries(run_dir, "7") == "3 starts without progress"
    with pytest.raises(ClusterError, match="3 times in a row and has saved nothing beyond step 5"):
        begin_try(run_dir, None, "7", 4)
    # Submitted anew it counts anew, and so does another job of the same run.
    begin_try(run_dir, None, "8", 0)
    begin_try(run_dir, None, "7", 0)


def test_a_half_written_checkpoint_is_no_progress(tmp_path):
    run_dir = RunDir(tmp_path)
    (run_dir.checkpoints / "step_000009.tmp").mkdir(parents=True)
    for count in range(3):
        begin_try(run_dir, None, "7", count)
    with pytest.raises(ClusterError, match="beyond step 0"):
        begin_try(run_dir, None, "7", 3)


def test_each_fold_is_counted_for_itself_and_all_together_where_one_job_trains_them(tmp_path):
    run_dir = RunDir(tmp_path)
    for count in range(3):
        begin_try(run_dir, 1, "7", count)
        begin_try(run_dir, None, "8", count)
        save(run_dir.fold(0), count + 1)
    with pytest.raises(ClusterError):
        begin_try(run_dir, 1, "7", 3)
    begin_try(run_dir, None, "8", 3)


def test_what_a_fresh_start_deletes_is_not_what_its_tries_have_to_beat(tmp_path):
    run_dir = RunDir(tmp_path)
    save(run_dir, 900)
    begin_try(run_dir, None, "7", 0, fresh=True)
    (run_dir.checkpoints / "step_000900").rmdir()
    for count in (1, 2, 3, 4):
        save(run_dir, count)
        begin_try(run_dir, None, "7", count)
