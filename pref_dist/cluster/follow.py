"""`pref-dist slurm status / logs / cancel`: the jobs of a run after they were submitted."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pref_dist.cluster.commands import account_jobs, cancel_jobs, show_jobs
from pref_dist.cluster.endings import logs_of_job, read_endings
from pref_dist.cluster.scripts import logs_of
from pref_dist.cluster.tries import describe_tries
from pref_dist.errors import ConfigError
from pref_dist.files import read_json
from pref_dist.run_dir import RunDir

JOBS_FILE = "jobs.json"
FORGOTTEN = "UNKNOWN"
WATCHED_STATES = (
    "PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "SPECIAL_EXIT", "RESV_DEL_HOLD", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING",
)  # fmt: skip

Source = Callable[[], list[dict[str, str]]]


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


def find_status(run_dir: Path, entry: dict[str, Any]) -> list[JobStatus]:
    """Ask the controller, then the accounting, then what the jobs themselves have left."""
    name, job = entry["name"], entry["job"]
    # Submissions from before their number was kept have none.
    tasks = [None] if entry.get("num_tasks") is None else list(range(entry["num_tasks"]))
    sources = (lambda: show_jobs(job), lambda: account_jobs(job), lambda: read_endings(run_dir, name, job))
    found = join_sources(tasks, sources)
    known = {task: describe(run_dir, entry, fields) for task, fields in found.items()}
    # What waits of an array is one entry, without the number of a task.
    is_known = None in known or (tasks == [None] and known)
    forgotten = [] if is_known else [task for task in tasks if task not in known]
    known |= {task: describe_forgotten(run_dir, entry, task) for task in forgotten}
    return sorted(known.values(), key=lambda one: -1 if one.task is None else one.task)


def join_sources(tasks: Sequence[int | None], sources: Iterable[Source]) -> dict[int | None, dict[str, str]]:
    """Return the fields of each task by the first source that knows it; later ones are asked for what is missing.

    The controller forgets the tasks of an array one by one.
    """
    found: dict[int | None, dict[str, str]] = {}
    for source in sources:
        if any(task not in found for task in tasks):
            found = {find_task(fields): fields for fields in source()} | found
    return found


def find_task(fields: dict[str, str]) -> int | None:
    """Return the number of an array's task; None: not of an array, or all tasks that wait."""
    # The accounting writes it into the job's number.
    task = fields["JobId"].partition("_")[2] or fields.get("ArrayTaskId", "")
    return int(task) if task.isdecimal() else None


def describe_forgotten(run_dir: Path, entry: dict[str, Any], task: int | None) -> JobStatus:
    has_log = bool(logs_of_job(run_dir, entry["name"], entry["job"], task))
    why = "its log does not say how it ended" if has_log else "it has left no log: it has not started"
    return JobStatus(
        entry["name"], number_of(entry, task), task, FORGOTTEN, "", 0, f"Slurm no longer knows it, and {why}"
    )


def number_of(entry: dict[str, Any], task: int | None) -> str:
    return str(entry["job"]) if task is None else f"{entry['job']}_{task}"


def describe(run_dir: Path, entry: dict[str, Any], fields: dict[str, str]) -> JobStatus:
    """Say what `fields` hold, in Slurm's words. A task of an array goes by ARRAY_TASK."""
    task, state = find_task(fields), fields["JobState"].split()[0]
    # Slurm gives 0 to what has not ended.
    exit_code = "" if state in WATCHED_STATES else fields.get("ExitCode", "").partition(":")[0]
    notes = [describe_tries(RunDir(run_dir), fields["JobId"]), fields.get("Reason", "None").replace("None", "")]
    return JobStatus(
        entry["name"], number_of(entry, task), task,
        state, exit_code, int(fields.get("Restarts") or 0), "; ".join(filter(None, notes)),
    )  # fmt: skip


def read_progress(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return state.json of the run, or of each fold by its folder's name."""
    places = [run_dir, *sorted(run_dir.glob("fold_*"))]
    states = {place.name: RunDir(place).read_state() for place in places}
    return {name: state for name, state in states.items() if state}


def list_logs(run_dir: Path, name: str | None = None) -> list[Path]:
    """Return the jobs' logs, the oldest first."""
    return sorted(logs_of(run_dir).glob(f"{name or '*'}-*.out"), key=lambda path: path.stat().st_mtime)


def find_logs(run_dir: Path, name: str | None = None) -> list[Path]:
    """Return the jobs' logs, the oldest first. Raises ConfigError if there is none (of the jobs of that name)."""
    found = list_logs(run_dir, name)
    if not found:
        raise ConfigError(
            f"There are no logs{f' of {name}' if name else ''} in {logs_of(run_dir)}. Was the run submitted by "
            "`pref-dist slurm submit`, and has a job started?"
        )
    return found


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
