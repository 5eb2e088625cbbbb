"""`pref-dist prepare`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pref_dist.cli.options import as_json, overrides, run_config

if TYPE_CHECKING:
    from pref_dist.data.prepare import Prepared
    from pref_dist.data.table import TokenTable


@click.command()
@run_config
@overrides
@as_json
def prepare(run_yaml: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the rows, split them, and build the token cache that training reads.

    \b
    Examples:
      pref-dist prepare configs/demo.yaml --set data.max_tokens=512
      pref-dist prepare RUN.yaml --json
    """
    from pref_dist.cli.terminal import Terminal
    from pref_dist.config.load import load_config
    from pref_dist.data.prepare import prepare as prepare_rows
    from pref_dist.data.prepare import write_audit
    from pref_dist.data.truncation_audit import describe_cuts
    from pref_dist.models.source import find_model_folder
    from pref_dist.run_dir import RunDir

    config = load_config(run_yaml, overrides)
    with Terminal(as_json) as terminal:
        prepared = prepare_rows(config, find_model_folder(config.model.name), terminal)
    run_dir = RunDir(Path(config.run.dir))
    # A run that has started keeps the audit of its own rows.
    is_new = not run_dir.config.exists()
    if is_new:
        write_audit(run_dir, prepared)
    if as_json:
        click.echo(json.dumps(summarise(prepared)))
        return
    for name, side in (("train", prepared.train), ("valid", prepared.valid)):
        shares = ", ".join(f"{label} {share:.3f}" for label, share in side.class_shares.items())
        click.echo(
            f"{name:<10} {side.num_rows:,} rows, {side.num_prompts:,} prompts, {side.num_tokens:,} tokens; {shares}"
        )
    if cuts := describe_cuts(prepared.truncation):
        click.echo(f"cut        {cuts}")
    for warning in prepared.warnings:
        click.echo(f"WARNING    {warning}")
    for table in (*prepared.parts, *([prepared.test_table] if prepared.test_table else [])):
        say_table(table)
    for finding in prepared.findings:
        first = ", ".join(f"{place['row']:,}" for place in finding.first)
        click.echo(
            f"finding    {finding.kind}: {finding.num_rows:,} rows of {finding.source} (first: {first}), "
            f"policy {finding.policy}"
        )
    if is_new:
        click.echo(f"written    {run_dir.findings}, {run_dir.truncation}, {run_dir.rows_set_aside}")
    else:
        click.echo(f"not written: {run_dir.root} holds a run already, which keeps its own audit")


def summarise(prepared: "Prepared") -> dict[str, Any]:
    return {
        "train": asdict(prepared.train),
        "valid": asdict(prepared.valid),
        "set_aside": len(prepared.set_aside),
        "findings": [asdict(finding) for finding in prepared.findings],
        "warnings": prepared.warnings,
        "tables": [str(part.folder) for part in prepared.parts],
    }


def say_table(table: "TokenTable") -> None:
    """Print what became of one source: found again or built, and how many rows it gave."""
    how = "found"
    if table.build_seconds is not None:
        speed = table.num_tokens / table.build_seconds
        how = f"built in {table.build_seconds:.1f} s ({table.num_tokens:,} tokens, {speed:,.0f}/s):"
    lost = table.num_rows_in_file - len(table)
    click.echo(f"cache      {how} {table.folder}")
    click.echo(f"rows       {len(table):,} of {table.num_rows_in_file:,} in {table.source}, {lost:,} set aside")
    for name, meant in table.manifest["unused_columns"].items():
        if meant is not None:
            click.echo(f"WARNING    column '{name}' is not used; was '{meant}' meant?")
