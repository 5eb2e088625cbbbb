"""What is known of a run's jobs after Slurm has forgotten them: what they themselves have noted."""

import json

import pytest
from click.testing import CliRunner

from pref_dist.cli.slurm import slurm
from pref_dist.cluster.follow import find_logs, list_jobs
from pref_dist.errors import ConfigError
from pref_dist.run_dir import RunDir

JOBS = [{"name": "prepare", "job": "999901", "script": "x"}, {"name": "folds", "job": "999902", "script": "y"}]


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
    lines = "".join(json.dumps({"time": 1} | note) + "\n" for note in notes)
    (tmp_path / "slurm" / "history.jsonl").write_text(lines, encoding="utf-8")
    return tmp_path


def test_each_job_ends_as_it_has_noted_itself(run_dir):
    found = [(one.name, one.job, one.state, one.exit_code, one.restarts) for one in list_jobs(run_dir)]
    assert found == [
        ("prepare", "999901", "UNKNOWN", "", 0),
        ("folds", "999902_0", "COMPLETED", "0", 1),
        ("folds", "999902_1", "FAILED", "7", 0),
    ]


def test_status_shows_the_jobs_and_how_far_each_fold_is(run_dir):
    RunDir(run_dir).fold(0).write_state("finished", 40)
    said = CliRunner().invoke(slurm, ["status", str(run_dir)]).output
    assert "Slurm no longer knows it" in said
    assert "fold_0: finished at step 40" in said


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
