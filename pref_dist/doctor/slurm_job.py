"""What Slurm says about the job that this runs in."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping

from pref_dist.doctor.finding import NOT_HERE, Finding, Question

ASK_SECONDS = 5.0
SHORT_MINUTES = 10.0


def check_job(question: Question) -> Iterator[Finding]:
    """Say which job, nodes and tasks this is, and whether srun hands on the CPUs."""
    environ = os.environ
    if "SLURM_JOB_ID" not in environ:
        yield Finding("Slurm", "ok", f"{NOT_HERE}: this runs in no Slurm job")
        return
    yield Finding("Slurm", "ok", describe_job(environ))
    asked, handed_on = environ.get("SLURM_CPUS_PER_TASK"), environ.get("SRUN_CPUS_PER_TASK")
    if asked is not None and handed_on is None and "SLURM_STEP_ID" not in environ:
        yield Finding(
            "Slurm CPUs", "warning",
            f"SLURM_CPUS_PER_TASK={asked}, but SRUN_CPUS_PER_TASK is not set: srun (since 22.05) gives a task 1 CPU",
            "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK in the batch script (slurm/train.sbatch does).",
        )  # fmt: skip
    else:
        yield Finding("Slurm CPUs", "ok", f"SLURM_CPUS_PER_TASK={asked}, SRUN_CPUS_PER_TASK={handed_on}")


def describe_job(environ: Mapping[str, str]) -> str:
    nodes = environ.get("SLURM_JOB_NUM_NODES", "?")
    step = f", step {environ['SLURM_STEP_ID']}" if "SLURM_STEP_ID" in environ else ""
    return (
        f"job {environ['SLURM_JOB_ID']}{step}: {nodes} node(s) {environ.get('SLURM_JOB_NODELIST', '?')}, "
        f"{environ.get('SLURM_NTASKS', '?')} task(s), partition {environ.get('SLURM_JOB_PARTITION', '?')}, "
        f"restarts {environ.get('SLURM_RESTART_COUNT', '0')}"
    )


def check_time_left(question: Question) -> Iterator[Finding]:
    """Ask the controller how long the job may run, and whether it starts again by itself."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    try:
        fields = ask_controller(job)
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding(
            "Slurm time", "warning", f"scontrol show job {job} did not tell: {first_line(error)}",
            "Is the Slurm controller up, and scontrol on PATH? Then it also cannot requeue a job.",
        )  # fmt: skip
        return
    yield judge_time(fields)


def judge_time(fields: Mapping[str, str]) -> Finding:
    """Say what the fields of `scontrol show job` mean for a training."""
    minutes = minutes_left(fields)
    left = "no time limit" if minutes is None else f"{minutes:.0f} minutes left of {fields['TimeLimit']}"
    requeue = fields.get("Requeue") == "1"
    seen = f"{left}; {'is' if requeue else 'is not'} requeued after preemption or loss of a node"
    if minutes is not None and minutes < SHORT_MINUTES:
        return Finding("Slurm time", "warning", seen, "Submit with a longer --time; a start and a save need minutes.")
    if not requeue:
        return Finding("Slurm time", "warning", seen, "sbatch --requeue; a requeued training goes on by itself.")
    return Finding("Slurm time", "ok", seen)


def ask_controller(job: str) -> dict[str, str]:
    """Return the fields of `scontrol show job`. Raises OSError or SubprocessError."""
    program = shutil.which("scontrol")
    if program is None:
        raise OSError("there is no scontrol on PATH")
    command = [program, "show", "job", "--oneliner", job]
    result = subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS)
    if result.returncode:
        raise OSError(result.stderr.strip() or f"exit code {result.returncode}")
    return dict(re.findall(r"(\w+)=(\S*)", result.stdout))


def minutes_left(fields: Mapping[str, str]) -> float | None:
    """Return the minutes until the time limit; None where there is none."""
    limit, spent = (read_minutes(fields.get(name, "")) for name in ("TimeLimit", "RunTime"))
    return None if limit is None else limit - (spent or 0.0)


def read_minutes(text: str) -> float | None:
    """Return the minutes of Slurm's [DAYS-]HOURS:MINUTES:SECONDS; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
