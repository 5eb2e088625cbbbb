"""Slurm's own commands: every value is an argument of its own, so that no shell reads it."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pref_dist.errors import ClusterError

TIMEOUT_SECONDS = 60


def has_slurm() -> bool:
    return shutil.which("sbatch") is not None


def call_slurm(*command: str, is_allowed_to_fail: bool = False) -> str:
    """Return what the command prints. Raises ClusterError with what it says if it fails, or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL, check=False
        )
    except FileNotFoundError as error:
        raise ClusterError(f"There is no {command[0]} here. Run it on a login node of the cluster.") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{command[0]} has not answered within {TIMEOUT_SECONDS} s. Is slurmctld up?") from error
    if done.returncode != 0 and not is_allowed_to_fail:
        raise ClusterError(f"{' '.join(command)}\nfailed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def is_answering() -> bool:
    """Whether slurmctld, or its stand-in, is up."""
    return " is UP" in call_slurm("scontrol", "ping", is_allowed_to_fail=True)


def submit_script(script: Path, after: str | None, is_held: bool) -> str:
    """Submit a job that waits for the success of another one, or to be released; return its number."""
    options = [f"--dependency=afterok:{after}"] if after is not None else []
    options += ["--hold"] if is_held else []
    # --parsable: the number, and the cluster where there are several.
    return call_slurm("sbatch", "--parsable", *options, str(script)).strip().split(";")[0]


def check_syntax(script: Path) -> None:
    """Raise ClusterError for what bash does not take."""
    call_slurm("bash", "-n", str(script))


def check_request(script: Path) -> None:
    """Raise ClusterError for what Slurm would not take, such as more nodes than there are; submits nothing."""
    call_slurm("sbatch", "--test-only", str(script))


def cancel_jobs(jobs: Sequence[str], *options: str) -> None:
    if jobs:
        call_slurm("scancel", *options, *jobs, is_allowed_to_fail=True)


def show_jobs(job: str) -> list[dict[str, str]]:
    """Return what slurmctld knows of a job, one entry a task of an array; nothing once it has forgotten it."""
    if shutil.which("scontrol") is None:
        return []
    text = call_slurm("scontrol", "show", "job", job, "--oneliner", is_allowed_to_fail=True)
    lines = (line for line in text.splitlines() if line.startswith("JobId="))
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]


def account_jobs(job: str) -> list[dict[str, str]]:
    """Return what the accounting remembers, as `show_jobs` does; nothing where there is none."""
    if shutil.which("sacct") is None:
        return []
    fields = {"JobId": "JobID", "JobState": "State", "ExitCode": "ExitCode", "Restarts": "Restarts", "Reason": "Reason"}
    text = call_slurm(
        "sacct", "-X", "-n", "-P", "-j", job, f"--format={','.join(fields.values())}", is_allowed_to_fail=True
    )
    return [dict(zip(fields, line.split("|"), strict=False)) for line in text.splitlines() if "|" in line]
