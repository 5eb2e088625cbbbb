"""What is known of a run's jobs after Slurm has forgotten them: what they themselves have noted."""

import json
import re

import pytest
from click.testing import CliRunner

from pref_dist.cli.slurm import slurm
from pref_dist.cluster.follow import describe, find_logs, join_sources, list_jobs
from pref_dist.cluster.watch import FollowedLogs
from pref_dist.errors import ConfigError
from pref_dist.run_dir import RunDir

JOBS = [
    {"name": "prepare", "job": "999901", "num_tasks": None, "script": "x"},
    {"name": "folds", "job": "999902", "num_tasks": 4, "script": "y"},
    {"name": "evaluate", "job": "999903", "num_tasks": None, "script": "z"},
]


@pytest.fixture
def run_dir(tmp_path):
    notes = [
        {"job": 999902, "task": 0, "event": "started", "what": "train", "restarts": 0},
        {"job": 999902, "task": 0, "event": "requeued", "what": "", "restarts": 0},
        {"job": 999902, "task": 1, "event": "ended", "what": "7", "restarts": 0},
        {"job": 999902, "task": 0, "event": "ended", "what": "0", "restarts": 1},
    ]
    (tmp_path / "slurm" / "logs").mkdir(parents=True)
    (tmp_path / "slurm" / "jobs.json").write_text(json.dumps({"jobs": JOBS}), encoding="utf-8")
    lines = '{"job": 9999' + "\n" + "".join(json.dumps({"time": 1} | note) + "\n" for note in notes)  # one is torn
    (tmp_path / "slurm" / "history.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def write_log(run_dir, name, *lines):
    path = run_dir / "slurm" / "logs" / f"{name}.out"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_each_job_ends_as_it_has_noted_itself_or_its_log_says(run_dir):
    write_log(run_dir, "prepare-999901", "rows 200", "job 999901: exit code 3")
    write_log(run_dir, "folds-999902_2", "job 999902_2: exit code 1", "job 999902_2: ddp, 1 nodes x 1 ranks", "step 1")
    found = [(one.name, one.job, one.task, one.state, one.exit_code, one.restarts) for one in list_jobs(run_dir)]
    assert found == [
        ("prepare", "999901", None, "FAILED", "3", 0),
        ("folds", "999902_0", 0, "COMPLETED", "0", 1),
        ("folds", "999902_1", 1, "FAILED", "7", 0),
        ("folds", "999902_2", 2, "UNKNOWN", "", 0),
        ("folds", "999902_3", 3, "UNKNOWN", "", 0),
        ("evaluate", "999903", None, "UNKNOWN", "", 0),
    ]
    notes = [one.note for one in list_jobs(run_dir)]
    assert notes[3] == "Slurm no longer knows it, and its log does not say how it ended"
    assert notes[4] == notes[5] == "Slurm no longer knows it, and it has left no log: it has not started"


def test_a_fold_that_the_controller_has_forgotten_before_the_others_keeps_its_row():
    running = {"JobId": "12", "ArrayTaskId": "1", "JobState": "RUNNING"}
    noted = [{"JobId": "11", "ArrayTaskId": str(task), "JobState": "COMPLETED"} for task in (0, 1)]
    accounted = [{"JobId": "11_2", "JobState": "COMPLETED"}]
    found = join_sources(range(3), (lambda: [running], lambda: accounted, lambda: noted))
    assert found == {1: running, 2: accounted[0], 0: noted[0]}


def test_only_a_job_that_has_ended_has_an_exit_code(tmp_path):
    fields = {"JobId": "999901", "JobState": "RUNNING", "ExitCode": "0:0"}
    assert describe(tmp_path, JOBS[0], fields).exit_code == ""
    assert describe(tmp_path, JOBS[0], fields | {"JobState": "FAILED", "ExitCode": "5:0"}).exit_code == "5"


def test_a_submission_that_has_not_noted_the_number_of_its_folds_shows_those_that_are_known(run_dir):
    old = [{key: value for key, value in entry.items() if key != "num_tasks"} for entry in JOBS]
    (run_dir / "slurm" / "jobs.json").write_text(json.dumps({"jobs": old}), encoding="utf-8")
    assert [one.job for one in list_jobs(run_dir)] == ["999901", "999902_0", "999902_1", "999903"]


def test_status_shows_the_jobs_and_how_far_each_fold_is(run_dir):
    RunDir(run_dir).fold(0).write_state("finished", 40)
    said = CliRunner().invoke(slurm, ["status", str(run_dir)]).output
    assert "Slurm no longer knows it" in said
    assert "fold_0: finished at step 40" in said


def test_following_ends_with_the_last_job_and_shows_logs_that_come_later(run_dir):
    write_jobs = (run_dir / "slurm" / "jobs.json").write_text
    write_jobs(json.dumps({"jobs": [{**JOBS[1], "num_tasks": 2}]}), encoding="utf-8")
    write_log(run_dir, "folds-999902_0", *range(50))
    logs = FollowedLogs(run_dir, None, (shown := []).append)
    logs.show_ends(2)
    write_log(run_dir, "folds-999902_1", "of the later one")
    with open(run_dir / "slurm" / "logs" / "folds-999902_0.out", "a", encoding="utf-8") as file:
        file.write("50\n")
    logs.show_new()
    logs.show_new()
    said = b"".join(shown).decode()
    assert [line for line in said.splitlines() if line.isdecimal()] == ["48", "49", "50"]
    assert said.count("of the later one") == said.count("folds-999902_1.out <==") == 1
    result = CliRunner().invoke(slurm, ["logs", str(run_dir), "--follow", "--lines", "1"])
    assert result.exit_code == 0, result.output
    assert "of the later one" in result.output
    assert f"No job of {run_dir} waits or runs any more:" in result.output
    assert re.search(r"(?m)^folds +999902_1 +FAILED +7 ", result.output)
    result = CliRunner().invoke(slurm, ["logs", str(run_dir), "--follow", "--job", "train"])
    assert "There are no logs of train" in str(result.exception)


def test_a_run_that_was_never_submitted_has_no_jobs(tmp_path):
    assert list_jobs(tmp_path) == []
    assert "No jobs of" in CliRunner().invoke(slurm, ["status", str(tmp_path)]).output
    assert "No jobs of" in CliRunner().invoke(slurm, ["cancel", str(tmp_path)]).output
    with pytest.raises(ConfigError, match="There are no logs"):
        find_logs(tmp_path)


def test_logs_show_their_ends_and_can_be_of_one_job(run_dir):
    for name in ("prepare-999901", "folds-999902_0"):
        path = run_dir / "slurm" / "logs" / f"{name}.out"
        path.write_text("".join(f"{name} line {number}\n" for number in range(50)), encoding="utf-8")
    said = CliRunner().invoke(slurm, ["logs", str(run_dir), "--lines", "2"]).output
    assert said.count("line 49") == 2
    assert "line 47" not in said
    said = CliRunner().invoke(slurm, ["logs", str(run_dir), "--job", "folds"]).output
    assert "prepare-999901" not in said
