"""`pref-dist slurm logs --follow`: what comes in the jobs' logs, until none of the jobs waits or runs any more."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from pref_dist.cluster.commands import has_slurm, is_answering
from pref_dist.cluster.follow import FORGOTTEN, WATCHED_STATES, JobStatus, list_jobs, list_logs

LOOKS_PER_QUESTION = 10  # a second each: slurmctld has others to serve

Show = Callable[[bytes], None]


class FollowedLogs:
    """Logs of a run (of the jobs of that name), and how far each has been shown."""

    def __init__(self, run_dir: Path, name: str | None, show: Show) -> None:
        self.run_dir, self.name, self.show = run_dir, name, show
        self.shown_to: dict[Path, int] = {}
        self.last: Path | None = None

    def show_ends(self, num_lines: int) -> None:
        """Show the last lines of the logs that are there."""
        for path in list_logs(self.run_dir, self.name):
            with open(path, "rb") as file:
                self.add(path, b"".join(deque(file, maxlen=num_lines)), file.tell())

    def show_new(self) -> None:
        """Show what has come since, also in logs of jobs that have started since."""
        for path in list_logs(self.run_dir, self.name):
            with open(path, "rb") as file:
                file.seek(self.shown_to.get(path, 0))
                self.add(path, file.read(), file.tell())

    def add(self, path: Path, text: bytes, shown_to: int) -> None:
        self.shown_to[path] = shown_to
        if not text:
            return
        if path != self.last:
            self.show(f"{'' if self.last is None else chr(10)}==> {path} <==\n".encode())
        self.last = path
        self.show(text)


def follow_logs(run_dir: Path, name: str | None, num_lines: int, show: Show) -> list[JobStatus]:
    """Show the end of each log, then what comes; return the jobs once none of them waits or runs any more.

    name: only jobs of this name. Raises ClusterError if Slurm does not answer in time.
    """
    logs = FollowedLogs(run_dir, name, show)
    logs.show_ends(num_lines)
    while True:
        jobs = [job for job in list_jobs(run_dir) if name in (None, job.name)]
        # Asked before the logs are read: what the last job has said is in them then.
        is_over = all(has_ended(job) for job in jobs)
        logs.show_new()
        if is_over:
            return jobs
        for _ in range(LOOKS_PER_QUESTION):
            time.sleep(1)
            logs.show_new()


def has_ended(job: JobStatus) -> bool:
    """Whether a job is gone for good; one that nobody knows may be hidden by a controller that is down."""
    if job.state == FORGOTTEN:
        return not has_slurm() or is_answering()
    return job.state not in WATCHED_STATES
