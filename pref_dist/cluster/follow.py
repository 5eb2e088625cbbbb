"""`pref-dist slurm status / logs / cancel`: the jobs of a run after they were submitted."""

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pref_dist.cluster.commands import account_jobs, cancel_jobs, show_jobs
from pref_dist.cluster.scripts import logs_of
from pref_dist.cluster.tries import describe_tries
from pref_dist.errors import ConfigError
from pref_dist.files import read_json
from pref_dist.run_dir import RunDir

JOBS_FILE = "jobs.json"
FORGOTTEN = "UNKNOWN"


@dataclass(frozen=True)
class JobStatus:
    """One job, or one task of an array. task: the fold; None: not an array, or all that have not started yet.

    state: Slurm's word, UNKNOWN where nobody remembers. exit_code: of the script, once it has ended.
    """

    name: str
    job: str
    task: int | None
    state: str
    exit_code: str
    restarts: int
    note: str


def list_jobs(run_dir: Path) -> list[JobStatus]:
    """Return the jobs of the last submission in the order of the chain, [] if there was none."""
    path = run_dir / "slurm" / JOBS_FILE
    entries = read_json(path)["jobs"] if path.exists() else []
    return [status for entry in entries for status in find_status(run_dir, entry)]


def find_status(run_dir: Path, entry: dict[str, str]) -> list[JobStatus]:
    """Ask the controller, then the accounting, then the notes that the jobs themselves have left."""
    known = show_jobs(entry["job"]) or account_jobs(entry["job"]) or read_notes(run_dir, entry["job"])
    if not known:
        return [JobStatus(entry["name"], entry["job"], None, FORGOTTEN, "", 0, "Slurm no longer knows it")]
    return sorted(
        (describe(run_dir, entry, fields) for fields in known), key=lambda one: -1 if one.task is None else one.task
    )


def describe(run_dir: Path, entry: dict[str, str], fields: dict[str, str]) -> JobStatus:
    """Say what `fields` hold, in Slurm's words. A task of an array goes by ARRAY_TASK."""
    job, task = fields["JobId"], fields.get("ArrayTaskId", "")
    notes = [describe_tries(RunDir(run_dir), job), fields.get("Reason", "None").replace("None", "")]
    if "_" in job:  # so the accounting writes it
        task = job.partition("_")[2]
    is_task = task.isdecimal()
    return JobStatus(
        entry["name"], f"{entry['job']}_{task}" if is_task else entry["job"], int(task) if is_task else None,
        fields["JobState"].split()[0], fields.get("ExitCode", "").partition(":")[0],
        int(fields.get("Restarts") or 0), "; ".join(filter(None, notes)),
    )  # fmt: skip


def read_notes(run_dir: Path, job: str) -> list[dict[str, str]]:
    """Return how a job, or each task of an array, has ended as slurm/job.sh has noted it."""
    path = run_dir / "slurm" / "history.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    notes = [note for note in map(json.loads, lines) if str(note["job"]) == job]
    newest = {note["task"]: note for note in notes}
    return [
        {
            "JobId": job,
            "ArrayTaskId": "" if task is None else str(task),
            "JobState": "COMPLETED" if note["what"] == "0" else "FAILED",
            "ExitCode": note["what"],
            "Restarts": str(note["restarts"]),
        }
        for task, note in newest.items()
        if note["event"] == "ended"
    ]


def read_progress(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return state.json of the run, or of each fold by its folder's name."""
    places = [run_dir, *sorted(run_dir.glob("fold_*"))]
    states = {place.name: RunDir(place).read_state() for place in places}
    return {name: state for name, state in states.items() if state}


def find_logs(run_dir: Path, name: str | None = None) -> list[Path]:
    """Return the jobs' logs, the oldest first. Raises ConfigError if there is none (of the jobs of that name)."""
    found = sorted(logs_of(run_dir).glob(f"{name or '*'}-*.out"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(
            f"There are no logs{f' of {name}' if name else ''} in {logs_of(run_dir)}. Was the run submitted by "
            "`pref-dist slurm submit`, and has a job started?"
        )
    return found


def read_end(path: Path, num_lines: int) -> list[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=num_lines)]


def cancel(run_dir: Path, at_once: bool) -> list[str]:
    """End all jobs of a run; return what was done, a line each.

    A training that runs is asked to save and stop, by a file in its folder; the job then ends with 75, and those
    that wait for it are removed. at_once: it is not asked.
    """
    jobs = [job for job in list_jobs(run_dir) if job.state in ("PENDING", "RUNNING", "SUSPENDED", "CONFIGURING")]
    trainings = [] if at_once else [job for job in jobs if job.name in ("train", "folds") and job.state == "RUNNING"]
    for job in trainings:
        folder = run_dir if job.task is None else RunDir(run_dir).fold(job.task).root
        folder.mkdir(parents=True, exist_ok=True)
        RunDir(folder).stop_file.touch()
    # Only what still waits goes by the number of an array.
    others = [job for job in jobs if job not in trainings]
    cancel_jobs([job.job for job in others if job.state != "PENDING"])
    cancel_jobs([job.job for job in others if job.state == "PENDING"], "--state=PENDING")
    asked = [f"{job.name} {job.job}: asked to save and stop" for job in trainings]
    return asked + [f"{job.name} {job.job}: cancelled" for job in others]
