"""`pref-dist slurm submit / status / logs / cancel`."""

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pref_dist.cli.options import as_json, overrides, run_config, run_folder
from pref_dist.cli.verbs import VerbGroup

if TYPE_CHECKING:
    from pref_dist.cluster.follow import JobStatus

FILE = click.Path(path_type=Path, dir_okay=False)
JOB_NAMES = click.Choice(["prepare", "train", "folds", "evaluate", "predict"])


@click.group(cls=VerbGroup)
def slurm() -> None:
    """Run a whole chain on a Slurm cluster: prepare, train or folds, evaluate, predict.

    \b
    Examples:
      pref-dist slurm submit RUN.yaml --site configs/sites/example.yaml
      pref-dist slurm status RUN_DIR
    """


@slurm.command()
@run_config
@click.option("--site", "site_yaml", type=FILE, required=True, help="The cluster: configs/sites/example.yaml.")
@click.option("--folds", type=click.IntRange(min=2), metavar="K", help="Train K folds as an array (data.num_folds).")
@click.option("--dry-run", is_flag=True, help="Show and check the scripts; write and submit nothing.")
@overrides
@as_json
def submit(
    run_yaml: Path, site_yaml: Path, folds: int | None, dry_run: bool, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Check the jobs' scripts, write them into the run folder, and submit them as a chain.

    \b
    Examples:
      pref-dist slurm submit RUN.yaml --site configs/sites/example.yaml --dry-run
      pref-dist slurm submit RUN.yaml --site configs/sites/example.yaml --folds 5 --set data.test=test.csv
    """
    from pref_dist.cluster.site import load_site
    from pref_dist.cluster.submit import submit as submit_run
    from pref_dist.config.load import load_config

    result = submit_run(load_config(run_yaml, overrides), load_site(site_yaml), folds, dry_run)
    if as_json:
        click.echo(json.dumps(asdict(result), default=str))
        return
    if not result.checked_by_slurm:
        click.echo("WARNING: there is no sbatch here, so only bash has checked the scripts")
    if dry_run:
        for script, text in result.texts.items():
            click.echo(f"==> {script} <==\n{text}")
        click.echo("Nothing was written, and nothing submitted.")
        return
    for entry in result.jobs:
        click.echo(f"{entry['name']:<10} job {entry['job']}")
    run_dir = shlex.quote(str(result.folder.parent))
    click.echo(f"watch:     pref-dist slurm status {run_dir}")
    click.echo(f"           pref-dist slurm logs {run_dir} --follow")
    click.echo(f"cancel:    pref-dist slurm cancel {run_dir}")


@slurm.command()
@run_folder
@as_json
def status(run_dir: Path, as_json: bool) -> None:
    """Show the jobs of a run and how far its training is.

    \b
    Examples:
      pref-dist slurm status runs/demo
      pref-dist slurm status runs/demo --json
    """
    from pref_dist.cluster.follow import list_jobs, read_progress

    jobs, progress = list_jobs(run_dir), read_progress(run_dir)
    if as_json:
        click.echo(json.dumps({"jobs": [asdict(job) for job in jobs], "progress": progress}))
        return
    if not jobs:
        click.echo(f"No jobs of {run_dir} were submitted by `pref-dist slurm submit`.")
    show_table(jobs)
    for name, state in progress.items():
        click.echo(f"{name}: {state['state']} at step {state['step']} {state.get('reason', '')}".rstrip())


def show_table(jobs: Sequence["JobStatus"]) -> None:
    if jobs:
        click.echo(f"{'':<10} {'job':<12} {'state':<12} {'exit':>4} {'restarts':>8}  note")
    for job in jobs:
        click.echo(f"{job.name:<10} {job.job:<12} {job.state:<12} {job.exit_code:>4} {job.restarts:>8}  {job.note}")


@slurm.command()
@run_folder
@click.option("--job", "name", type=JOB_NAMES, help="Only these jobs.")
@click.option("--lines", type=click.IntRange(min=1), default=20, show_default=True, help="The last lines of each log.")
@click.option("--follow", is_flag=True, help="Show what comes, until the last job has ended.")
@as_json
def logs(run_dir: Path, name: str | None, lines: int, follow: bool, as_json: bool) -> None:
    """Show the ends of the jobs' logs.

    \b
    Examples:
      pref-dist slurm logs runs/demo --job train --lines 50
      pref-dist slurm logs runs/demo --follow
    """
    from pref_dist.cluster.endings import read_end
    from pref_dist.cluster.follow import find_logs, list_jobs

    if follow and as_json:
        raise click.UsageError("--follow shows text as it comes, and --json one object: give one of the two.")
    if follow and any(name in (None, job.name) for job in list_jobs(run_dir)):
        show_until_the_end(run_dir, name, lines)
        return
    found = find_logs(run_dir, name)
    if as_json:
        click.echo(json.dumps({"logs": {str(path): read_end(path, lines) for path in found}}))
        return
    for path in found:
        click.echo(f"==> {path} <==")
        click.echo("\n".join(read_end(path, lines)))


def show_until_the_end(run_dir: Path, name: str | None, num_lines: int) -> None:
    from pref_dist.cluster.watch import follow_logs

    jobs = follow_logs(run_dir, name, num_lines, lambda text: click.echo(text, nl=False))
    click.echo(f"\nNo job of {run_dir}{f' named {name}' if name else ''} waits or runs any more:")
    show_table(jobs)


@slurm.command()
@run_folder
@click.option("--now", is_flag=True, help="Do not let a training save first.")
@as_json
def cancel(run_dir: Path, now: bool, as_json: bool) -> None:
    """End all jobs of a run; a training that runs saves first.

    \b
    Examples:
      pref-dist slurm cancel runs/demo
      pref-dist slurm cancel runs/demo --now
    """
    from pref_dist.cluster.follow import cancel as cancel_run

    if as_json:
        click.echo(json.dumps({"done": cancel_run(run_dir, now)}))
        return
    click.echo("\n".join(cancel_run(run_dir, now)) or f"No jobs of {run_dir} are waiting or running.")


@slurm.command(hidden=True, context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def begin(arguments: tuple[str, ...]) -> None:
    """For slurm/job.sh: print the run folder of a `train` with these arguments, unless its tries lead nowhere."""
    from pref_dist.cli.train import train
    from pref_dist.cluster.tries import begin_try
    from pref_dist.config.load import load_config
    from pref_dist.run_dir import RunDir

    asked = train.make_context("train", list(arguments)).params
    run_dir = Path(load_config(asked["run_yaml"], asked["overrides"]).run.dir).absolute()
    job, num_restarts = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    begin_try(RunDir(run_dir), asked["fold"], job, num_restarts, asked["fresh"])
    click.echo(run_dir)
