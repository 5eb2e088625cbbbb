"""`pref-dist cache list | verify | clean`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pref_dist.cli.options import as_json
from pref_dist.cli.verbs import VerbGroup
from pref_dist.errors import DataError
from pref_dist.files import render_bytes

if TYPE_CHECKING:
    from pref_dist.data.cache_care import EntrySummary

KEY_SHOWN = 12

cache_dir_option = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the caches; without it $PREF_DIST_CACHE_DIR, else ~/.cache/pref_dist.",
)


@click.group(cls=VerbGroup)
def cache() -> None:
    """Look after the caches of tokens and of baselines: see what is there, check it, remove it.

    \b
    Examples:
      pref-dist cache list
      pref-dist cache verify
      pref-dist cache clean --older-than 30
    """


@cache.command("list")
@cache_dir_option
@as_json
def list_(cache_dir: Path | None, as_json: bool) -> None:
    """Show every entry: its size, rows, tokens, age, and how rows became tokens; or that it holds baselines.

    \b
    Examples:
      pref-dist cache list
      pref-dist cache list --cache-dir /scratch/me/cache --json
    """
    from pref_dist.data.cache_care import list_entries

    folder = find_folder(cache_dir)
    entries = list_entries(folder)
    if as_json:
        click.echo(json.dumps({"cache_dir": str(folder), "entries": [asdict(entry) for entry in entries]}))
        return
    show_entries(entries)
    click.echo(f"{len(entries):,} entries, {render_bytes(sum(entry.num_bytes for entry in entries))}, in {folder}")


@cache.command()
@click.argument("key", default="")
@cache_dir_option
@as_json
def verify(key: str, cache_dir: Path | None, as_json: bool) -> None:
    """Read every byte and compare it with the digests; KEY (or its beginning) picks one entry.

    Ends with exit code 3 if an entry is damaged.

    \b
    Examples:
      pref-dist cache verify
      pref-dist cache verify 3f9a
    """
    from pref_dist.data.cache_care import verify_entries

    folder = find_folder(cache_dir)
    entries = verify_entries(folder, key)
    damaged = [entry for entry in entries if entry.damage]
    if as_json:
        click.echo(json.dumps({"cache_dir": str(folder), "entries": [asdict(entry) for entry in entries]}))
    else:
        show_entries(entries)
        click.echo(f"{len(entries) - len(damaged):,} of {len(entries):,} entries are as they were written, in {folder}")
    if damaged:
        raise DataError(f"{len(damaged):,} damaged entries. Remove them with: pref-dist cache clean --damaged")


@cache.command()
@click.option("--all", "everything", is_flag=True, help="Remove every entry.")
@click.option("--damaged", is_flag=True, help="Remove the entries that `verify` finds damaged.")
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Remove entries built before that.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@cache_dir_option
@as_json
def clean(
    everything: bool, damaged: bool, older_than: float | None, dry_run: bool, cache_dir: Path | None, as_json: bool
) -> None:
    """Remove what killed builders left, and the entries that the options name. They are built again when needed.

    \b
    Examples:
      pref-dist cache clean --older-than 30 --dry-run
      pref-dist cache clean --damaged
    """
    from pref_dist.data.cache_care import CleanRequest
    from pref_dist.data.cache_care import clean as clean_folder

    folder = find_folder(cache_dir)
    removed = clean_folder(folder, CleanRequest(everything, damaged, older_than, dry_run))
    if as_json:
        click.echo(json.dumps({"cache_dir": str(folder), "removed": [asdict(one) for one in removed]}))
        return
    for one in removed:
        what = "stays, is being built" if one.in_use else "would be removed" if dry_run else "removed"
        click.echo(f"{one.name[:KEY_SHOWN]}  {render_bytes(one.num_bytes):>9}  {what}")
    gone = [one for one in removed if not one.in_use]
    click.echo(f"{len(gone):,} entries and left-overs, {render_bytes(sum(one.num_bytes for one in gone))}, in {folder}")


def find_folder(named: Path | None) -> Path:
    from pref_dist.data.cache import find_cache_dir

    return find_cache_dir(None if named is None else str(named))


def show_entries(entries: Sequence["EntrySummary"]) -> None:
    """Print a table; cut to the terminal's width there, whole lines in a pipe."""
    if not entries:
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("key", "rows", "tokens", "size", "days"):
        table.add_column(name, justify="left" if name == "key" else "right", no_wrap=True)
    table.add_column("settings")
    table.add_column("built from", overflow="fold")
    for entry in entries:
        num_tokens = f"{entry.num_tokens:,}" if entry.kind == "tokens" else ""
        cells = (f"{entry.num_rows:,}", num_tokens) if not entry.damage else ("", "")
        size, age = render_bytes(entry.num_bytes), f"{entry.age_days:.1f}"
        note = f"DAMAGED: {entry.damage}" if entry.damage else entry.built_from
        table.add_row(entry.key[:KEY_SHOWN], *cells, size, age, entry.settings, note)
    width = None if sys.stdout.isatty() else 200
    Console(file=sys.stdout, width=width, highlight=False, markup=False).print(table)
