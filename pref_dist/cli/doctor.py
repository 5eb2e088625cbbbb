"""`pref-dist doctor`."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pref_dist.cli.options import as_json, overrides
from pref_dist.errors import DiagnosisError

if TYPE_CHECKING:
    from pref_dist.doctor.finding import Finding

RUN_YAML = click.Path(path_type=Path, dir_okay=False)
STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
RANKS_WAIT_SECONDS = 60


@click.command()
@click.argument("run_yaml", type=RUN_YAML, metavar="[RUN.yaml]", required=False)
@click.option("--ranks", is_flag=True, help="Under a launcher: look at what lies between the ranks.")
@click.option(
    "--seconds", type=click.FloatRange(min=1), default=17.0, show_default=True,
    help="Time of all checks; what hangs for longer is named. What computes on a busy machine has three times that.",
)  # fmt: skip
@overrides
@as_json
def doctor(run_yaml: Path | None, ranks: bool, seconds: float, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check this machine, and RUN.yaml if it is given, before a training; each finding with its remedy.

    \b
    Examples:
      pref-dist doctor
      pref-dist doctor RUN.yaml --set parallel.backend=zero2
      bash launch/node.sh ddp 2 doctor --ranks
      accelerate launch --config_file configs/accelerate/ddp.yaml -m pref_dist doctor --ranks

    Ends with exit code 1 if a training would fail, or would silently do something else; else with 0.
    With --ranks parallel.timeout_seconds is 60 unless RUN.yaml or --set says otherwise.
    """
    if ranks:
        show_ranks(run_yaml, overrides, as_json)
        return
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise click.UsageError("Several ranks were launched: give --ranks, or start one process without a launcher.")
    from pref_dist.doctor.examine import examine
    from pref_dist.runtime.preempt import seconds_alive

    # A user counts from the command on.
    findings = examine(run_yaml, overrides, seconds - seconds_alive(os.getpid()))
    show(findings, as_json)
    end(findings)


def show_ranks(run_yaml: Path | None, overrides: Sequence[str], as_json: bool) -> None:
    from pref_dist.config.load import load_config
    from pref_dist.doctor.finding import Question
    from pref_dist.doctor.ranks import examine_ranks

    if run_yaml is None:
        overrides = (f"parallel.timeout_seconds={RANKS_WAIT_SECONDS}", *overrides)
    config = load_config(run_yaml, overrides)
    question = Question(None if run_yaml is None else str(run_yaml), tuple(overrides))
    end(examine_ranks(question, config, lambda findings: show(findings, as_json)))


def show(findings: Sequence["Finding"], as_json: bool) -> None:
    """Print the findings and how many there are of each state."""
    from pref_dist.doctor.finding import count_states

    counts = count_states(findings)
    if as_json:
        click.echo(json.dumps({"findings": [asdict(finding) for finding in findings], "counts": counts}))
    else:
        show_table(findings) if sys.stdout.isatty() else show_lines(findings)
        click.echo(f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} ok")
    sys.stdout.flush()


def end(findings: Sequence["Finding"]) -> None:
    """Raise DiagnosisError if one of them is an error."""
    errors = [finding.name for finding in findings if finding.state == "error"]
    if errors:
        raise DiagnosisError(f"A training would fail here: {', '.join(dict.fromkeys(errors))}. The remedies are above.")


def show_lines(findings: Sequence["Finding"]) -> None:
    """Print whole lines for a log."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        click.echo(f"{finding.state:<8} {finding.name:<{width}}  {finding.seen}")
        if finding.remedy:
            click.echo(f"{'':<8} {'':<{width}}  -> {finding.remedy}")


def show_table(findings: Sequence["Finding"]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("seen", overflow="fold")
    for finding in findings:
        seen = Text(finding.seen)
        if finding.remedy:
            seen.append(f"\n-> {finding.remedy}", style="bold")
        table.add_row(Text(finding.state, style=STYLES[finding.state]), Text(finding.name), seen)
    Console(highlight=False, markup=False, emoji=False).print(table)
