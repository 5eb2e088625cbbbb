"""How jobs have ended by what they have left in the run folder themselves, for clusters that soon forget their jobs."""

import json
import re
from collections import deque
from pathlib import Path
from typing import Any

from pref_dist.cluster.scripts import logs_of

NUM_LAST_LINES = 50


def read_endings(run_dir: Path, name: str, job: str) -> list[dict[str, str]]:
    """Return how a job, or each task of an array, has ended, in Slurm's words (commands.py); nothing of those that run.

    slurm/job.sh notes it in a file, but for `prepare`, which knows no run folder, and says it last in each log.
    """
    by_task = {fields["ArrayTaskId"]: fields for fields in [*read_logs(run_dir, name, job), *read_notes(run_dir, job)]}
    return list(by_task.values())


def read_notes(run_dir: Path, job: str) -> list[dict[str, str]]:
    path = run_dir / "slurm" / "history.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    notes = [note for note in map(read_note, lines) if note is not None and str(note["job"]) == job]
    newest = {note["task"]: note for note in notes}
    return [
        describe_ending(job, "" if task is None else str(task), note["what"], note["restarts"])
        for task, note in newest.items()
        if note["event"] == "ended"
    ]


def read_note(line: str) -> dict[str, Any] | None:
    """Return a line of history.jsonl, None if it is torn: jobs of several nodes append to it without a lock."""
    try:
        note = json.loads(line)
    except ValueError:
        return None
    return note if isinstance(note, dict) and {"job", "task", "what", "restarts", "event"} <= set(note) else None


def read_logs(run_dir: Path, name: str, job: str) -> list[dict[str, str]]:
    codes = {path.stem.removeprefix(f"{name}-"): read_exit_code(path) for path in logs_of_job(run_dir, name, job)}
    return [describe_ending(job, full.partition("_")[2], code, 0) for full, code in codes.items() if code is not None]


def logs_of_job(run_dir: Path, name: str, job: str, task: int | None = None) -> list[Path]:
    """Return the log of a job, or those of an array's tasks, as far as they have started."""
    return [
        path
        for pattern in (f"{name}-{job}.out", f"{name}-{job}_{'*' if task is None else task}.out")
        for path in sorted(logs_of(run_dir).glob(pattern))
    ]


def read_exit_code(log: Path) -> str | None:
    """Return the exit code that a log ends with; None if the script has said something else since, or nothing."""
    said = [line for line in read_end(log, NUM_LAST_LINES) if re.match(r"job \d+(_\d+)?: ", line)]
    found = re.search(r": exit code (\d+)$", said[-1]) if said else None
    return None if found is None else found[1]


def read_end(path: Path, num_lines: int) -> list[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=num_lines)]


def describe_ending(job: str, task: str, exit_code: str, num_restarts: int) -> dict[str, str]:
    state = "COMPLETED" if exit_code == "0" else "FAILED"
    return {
        "JobId": job, "ArrayTaskId": task, "JobState": state, "ExitCode": exit_code, "Restarts": str(num_restarts),
    }  # fmt: skip
