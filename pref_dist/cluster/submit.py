"""`pref-dist slurm submit`: what the jobs of a run need is written into its folder, checked, and put into the queue."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from pref_dist.cluster.code_version import CODE_ROOT, read_code_version
from pref_dist.cluster.commands import call_slurm, cancel_jobs, check_request, check_syntax, has_slurm, submit_script
from pref_dist.cluster.follow import JOBS_FILE, WATCHED_STATES, list_jobs
from pref_dist.cluster.scripts import Job, JobName, Surroundings, logs_of, plan_jobs, render_script
from pref_dist.cluster.site import Site
from pref_dist.config.load import render_config, with_values
from pref_dist.config.schema import RunConfig
from pref_dist.errors import ClusterError, ConfigError
from pref_dist.files import write_json, write_text


@dataclass(frozen=True)
class Submitted:
    """texts: of the chain's scripts, in its order, each by its path.

    jobs: [{name, job, num_tasks, script}], empty after a dry run.
    checked_by_slurm: whether sbatch has looked at the scripts, which it cannot where there is no Slurm.
    """

    folder: Path
    texts: dict[str, str]
    jobs: list[dict[str, Any]]
    checked_by_slurm: bool


def submit(config: RunConfig, site: Site, num_folds: int | None = None, dry_run: bool = False) -> Submitted:
    """Check, write and submit the chain prepare -> train or folds -> evaluate -> predict (where data.test is set).

    dry_run: only checks. Raises ConfigError for what cannot be asked for or written, ClusterError for what Slurm
    refuses; then nothing stays in the queue, and what sbatch's check refuses is not written either.
    """
    config = settle(config, num_folds)
    folder = Path(config.run.dir) / "slurm"
    if not dry_run:
        check_is_free(Path(config.run.dir))
    jobs = plan_jobs(config, site, folder / "run.yaml")
    texts = {job.name: render_script(job, config, site, find_surroundings()) for job in jobs}
    check_scripts(texts)
    scripts = [folder / f"{job.name}.sbatch" for job in jobs]
    submitted: list[dict[str, Any]] = []
    if not dry_run:
        write_folder(folder, config, site, texts)
        submitted = submit_chain(folder, jobs, scripts)
    by_path = dict(zip(map(str, scripts), texts.values(), strict=True))
    return Submitted(folder, by_path, submitted, has_slurm())


def settle(config: RunConfig, num_folds: int | None) -> RunConfig:
    """Return the config with an absolute run folder, for which the jobs need no working folder, and the folds."""
    changes: dict[str, Any] = {"run__dir": str(Path(config.run.dir).absolute())}
    if num_folds is not None:
        changes["data__num_folds"] = num_folds
    return with_values(config, **changes)


def find_surroundings() -> Surroundings:
    """Return where the jobs will work. Raises ConfigError if the package was installed without its scripts."""
    if not (CODE_ROOT / "slurm" / "job.sh").is_file():
        raise ConfigError(
            f"There is no slurm/job.sh in {CODE_ROOT}: the jobs need a checkout of the repository on a disk that all "
            "nodes see. Install it from there: pip install --editable ."
        )
    return Surroundings(Path.cwd(), CODE_ROOT, Path(sys.executable))


def check_is_free(run_dir: Path) -> None:
    """Raise ClusterError while jobs of the run are in the queue: two at a time would stop each other."""
    waiting = [job.name for job in list_jobs(run_dir) if job.state in WATCHED_STATES]
    if waiting:
        raise ClusterError(
            f"Jobs of {run_dir} are in the queue already ({', '.join(dict.fromkeys(waiting))}). "
            f"See `pref-dist slurm status {run_dir}`; end them by `pref-dist slurm cancel {run_dir}`."
        )


def check_scripts(texts: Mapping[JobName, str]) -> None:
    """Raise ClusterError for what bash, or Slurm where there is one, would not take; leaves nothing behind."""
    with TemporaryDirectory(prefix="pref_dist_") as folder:
        for name, text in texts.items():
            script = Path(folder) / f"{name}.sbatch"
            write_text(script, text)
            check_syntax(script)
            if has_slurm():
                check_request(script)


def write_folder(folder: Path, config: RunConfig, site: Site, texts: Mapping[JobName, str]) -> None:
    logs_of(folder.parent).mkdir(parents=True, exist_ok=True)  # or the jobs fail without a word
    write_text(folder / "run.yaml", render_config(config))
    write_text(folder / "site.yaml", yaml.safe_dump(site.model_dump(), sort_keys=False, allow_unicode=True))
    write_json(folder / "code.json", read_code_version())
    for left_over in folder.glob("*.sbatch"):
        left_over.unlink()
    for name, text in texts.items():
        write_text(folder / f"{name}.sbatch", text)


def submit_chain(folder: Path, jobs: list[Job], scripts: list[Path]) -> list[dict[str, Any]]:
    """Submit each job to begin after the success of the one before. Raises ClusterError after taking all back."""
    submitted: list[dict[str, Any]] = []
    # Nothing starts before the last one is in, so that a chain that is taken back has done nothing.
    try:
        for job, script in zip(jobs, scripts, strict=True):
            after = submitted[-1]["job"] if submitted else None
            number = submit_script(script, after, is_held=not submitted)
            entry = {"name": job.name, "job": number, "num_tasks": job.num_folds, "script": str(script)}
            submitted.append(entry)
        write_json(folder / JOBS_FILE, {"submitted": time.strftime("%Y-%m-%d %H:%M:%S"), "jobs": submitted})
        call_slurm("scontrol", "release", submitted[0]["job"])
    except BaseException:
        cancel_jobs([entry["job"] for entry in submitted])
        raise
    return submitted
