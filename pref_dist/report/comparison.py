"""Several runs side by side: one page, and its numbers as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pref_dist.errors import ConfigError
from pref_dist.files import StrPath, as_paths, write_json
from pref_dist.report.configuration import list_differences
from pref_dist.report.furthest_rows import FurthestRows, find_furthest_rows
from pref_dist.report.overlays import RunLook, build_overlays, choose_looks
from pref_dist.report.page import open_report_templates, sum_steps, write_page
from pref_dist.report.paired import Paired, RowSet, compare_all, list_row_sets
from pref_dist.report.run_record import Record, RunRecord, read_run_record
from pref_dist.report.scores import HEADLINES, Headline, list_headlines
from pref_dist.report.starts import Start, list_starts, render_wall_time
from pref_dist.report.tracks import Track, TrackScale, span_scale
from pref_dist.runtime.machine import list_versions

SECTIONS = ("Summary", "Differences", "Curves", "Rows that differ most", "Settings", "Environment")


@dataclass(frozen=True)
class ComparedRun:
    """wall_time: in words."""

    record: RunRecord
    look: RunLook
    totals: Record
    headlines: dict[str, Headline]
    starts: list[Start]
    wall_time: str


@dataclass(frozen=True)
class MetricLine:
    """One metric of all runs. best: numbers of the runs with the best value; tracks: their bars."""

    label: str
    note: str
    values: list[Headline | None]
    tracks: list[Track | None]
    best: list[int]


@dataclass(frozen=True)
class PairedTable:
    """All pairs of runs on rows of one origin, with the bars of their differences, and the rows that differ most."""

    name: str
    pairs: list[tuple[Paired, Track | None]]
    furthest: list[FurthestRows]


def write_comparison(run_folders: Sequence[StrPath], out: StrPath) -> Path:
    """Write report.html and comparison.json about several runs into the folder `out`; return the page's path.

    Raises ConfigError for a folder that holds no run, or one that is named twice; CheckpointError or DataError for a
    file that is damaged.
    """
    folders, out = as_paths(run_folders), Path(out)
    records = [read_run_record(folder) for folder in folders]
    runs = describe_runs(records, name_runs(folders))
    tables = [build_paired_table(rows, runs) for rows in list_row_sets(folders)]
    page = open_report_templates().get_template("comparison.html.jinja").render(
        title=" and ".join(run.look.label for run in runs),
        sections=SECTIONS,
        runs=runs,
        metric_lines=list_metric_lines(runs),
        notes=list_notes(runs),
        tables=tables,
        charts=build_overlays(records, [run.look for run in runs]),
        settings=list_differences([record.config for record in records]),
        environment=list_versions(),
    )  # fmt: skip
    write_json(out / "comparison.json", gather_numbers(runs, tables))
    write_page(out / "report.html", page)
    return out / "report.html"


def name_runs(run_folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, or their paths as given where names are alike. Raises ConfigError."""
    places = [folder.resolve() for folder in run_folders]
    twice = next((str(place) for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is named twice. Name different runs.")
    names = [place.name for place in places]
    return names if len(set(names)) == len(names) else [str(folder) for folder in run_folders]


def describe_runs(records: Sequence[RunRecord], labels: Sequence[str]) -> list[ComparedRun]:
    return [describe_run(record, look) for record, look in zip(records, choose_looks(labels), strict=True)]


def describe_run(record: RunRecord, look: RunLook) -> ComparedRun:
    headlines = {found.key: found for found in list_headlines(record.metrics)}
    starts, wall_time = list_starts(record.starts), render_wall_time(record.starts)
    return ComparedRun(record, look, sum_steps(record.steps), headlines, starts, wall_time)


def list_metric_lines(runs: Sequence[ComparedRun]) -> list[MetricLine]:
    """Return the metrics that at least one run has."""
    return [
        build_metric_line(key, [run.headlines.get(key) for run in runs])
        for key in HEADLINES
        if any(key in run.headlines for run in runs)
    ]


def build_metric_line(key: str, values: list[Headline | None]) -> MetricLine:
    known = [found.value for found in values if found is not None and found.value is not None]
    goal = (max if key in ("accuracy", "macro_f1", "auc") else min)(known, default=None)
    intervals = [None if found is None else found.interval for found in values]
    scale = span_scale(known, intervals)
    return MetricLine(
        *HEADLINES[key],
        values=values,
        # Two dots without intervals would stand at both ends of the scale, however near they are.
        tracks=[
            scale.track(found.value, found.interval) if found is not None and any(intervals) else None
            for found in values
        ],
        best=find_best(values, goal) if len(set(known)) > 1 else [],
    )


def find_best(values: Sequence[Headline | None], goal: float | None) -> list[int]:
    return [number for number, found in enumerate(values) if found is not None and found.value == goal]


def list_notes(runs: Sequence[ComparedRun]) -> list[str]:
    """Return what makes the runs' figures hard to compare, a sentence each."""
    notes = []
    scored = {run.look.label: run.record.scored_on or "its own validation part" for run in runs if run.record.metrics}
    if len(set(scored.values())) > 1:
        listed = ", ".join(f"{label} on {rows}" for label, rows in scored.items())
        notes.append(f"The metrics are of different rows: {listed}. Differences on common rows stand below.")
    elif len({run.record.metrics["num_rows"] for run in runs if run.record.metrics}) > 1:
        notes.append("The metrics are of different numbers of rows. Differences on common rows stand below.")
    sources = {run.look.label: [source.path for source in run.record.config.data.training_sources] for run in runs}
    if len({tuple(paths) for paths in sources.values()}) > 1:
        listed = "; ".join(f"{label}: {', '.join(paths)}" for label, paths in sources.items())
        notes.append(f"The runs were trained on different data ({listed}).")
    missing = [run.look.label for run in runs if not run.record.metrics]
    if missing:
        notes.append(f"Not evaluated as finished runs yet, without metrics.json: {', '.join(missing)}.")
    return notes


def build_paired_table(rows: RowSet, runs: Sequence[ComparedRun]) -> PairedTable:
    pairs = compare_all(rows)
    scale = scale_differences(pairs)
    first = min(rows.files)
    chosen = [paired for paired in pairs if paired.num_rows and paired.first == first]
    return PairedTable(
        rows.name,
        [(paired, scale.track(paired.difference, paired.interval)) for paired in pairs],
        find_furthest_rows(rows, chosen, runs[first].record.config),
    )


def scale_differences(pairs: Sequence[Paired]) -> TrackScale:
    """Zero in the middle, so that left and right mean the same in every row."""
    scale = span_scale([paired.difference for paired in pairs], [paired.interval for paired in pairs], line=0.0)
    reach = max(abs(scale.low), abs(scale.high)) or 1.0
    return TrackScale(-reach, reach, line=0.0)


def gather_numbers(runs: Sequence[ComparedRun], tables: Sequence[PairedTable]) -> dict[str, Any]:
    names = [run.look.label for run in runs]
    return {
        "runs": [
            {
                "name": run.look.label,
                "scored_on": run.record.scored_on,
                "step": run.record.metrics.get("step"),
                "starts": run.record.starts,
                "num_rows": run.record.metrics.get("num_rows"),
                "metrics": {key: found.value for key, found in run.headlines.items()},
                "intervals": {key: found.interval for key, found in run.headlines.items()},
            }
            for run in runs
        ],
        "notes": list_notes(runs),
        "rows": [
            {"name": table.name, "pairs": [paired.to_json(names) for paired, _ in table.pairs]} for table in tables
        ],
        "settings": list_differences([run.record.config for run in runs]),
    }
