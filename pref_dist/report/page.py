"""The report page: gathers what a run folder tells, and renders it as one file that needs no network."""

import json
import platform
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2

from pref_dist import __version__
from pref_dist.config.schema import RunConfig
from pref_dist.files import write_text
from pref_dist.report.curves import build_loss_chart, build_step_charts, list_evaluations
from pref_dist.report.figures import NARROW, WIDE, Chart, draw_svg
from pref_dist.report.run_record import Record, RunRecord, read_run_record
from pref_dist.report.scores import ScoredModel, judge, list_scores
from pref_dist.report.templates import open_templates
from pref_dist.run_dir import RunDir

LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed", "datasets", "tokenizers", "numpy")
TRUNCATION_LABELS = {  # key of truncation.json: label, whether it is a share
    "num_rows": ("rows", False),
    "max_tokens": ("data.max_tokens", False),
    "rows_cut": ("rows cut", False),
    "share_of_rows_cut": ("share of rows cut", True),
    "tokens_before": ("tokens before", False),
    "tokens_lost": ("tokens lost", False),
    "rows_without_response_b": ("rows that lost response B", False),
    "rows_without_response_b_under_right_truncation": ("would have lost it, cut at the right", False),
    "rows_without_a_response": ("rows that lost a whole response", False),
    "rows_without_a_response_under_right_truncation": ("would have lost one, cut at the right", False),
    "longest_row": ("longest row, tokens", False),
    "max_tokens_for_95_percent": ("max_tokens that holds 95 % of rows", False),
    "max_tokens_for_99_percent": ("max_tokens that holds 99 % of rows", False),
}


@dataclass(frozen=True)
class ScoreTable:
    """One metrics.json. scored_on: whose rows; verdict: whether the model beats every baseline, as a sentence."""

    scored_on: str
    metrics: Record
    models: list[ScoredModel]
    verdict: tuple[bool, str] | None

    @property
    def closed(self) -> float | None:
        """The model's share of the way from the class prior to the best reference."""
        return next(model.closed for model in self.models if model.kind == "model")


@dataclass(frozen=True)
class Setting:
    key: str
    value: str
    is_default: bool


@dataclass(frozen=True)
class SetAside:
    """Rows of one kind. first: {file, row, id, kind, detail} of the first of them."""

    kind: str
    num_rows: int
    first: Record


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write the page about a run, by default to RUN_DIR/report.html, and return where it is.

    The run may be unfinished: the page shows what is there. The same folder gives the same bytes on the
    same machine. Raises ConfigError if the folder holds no run, CheckpointError if a file in it is damaged.
    """
    path = out or RunDir(run_folder).report
    write_text(path, render_page(read_run_record(run_folder)))
    return path


def render_page(record: RunRecord) -> str:
    """Return the page as HTML. Text from the run is escaped, whatever it holds."""
    template = open_report_templates().get_template("page.html.jinja")
    return template.render(
        record=record,
        tables=list_score_tables(record),
        totals=sum_steps(record.steps),
        loss_chart=build_loss_chart(record) if record.steps else None,
        step_charts=build_step_charts(record) if record.steps else [],
        evaluations=list_evaluations(record),
        set_aside=count_set_aside(record.set_aside),
        truncation={side: describe_truncation(audit) for side, audit in record.truncation.items()},
        settings_of=list_settings(record.config),
        environment=list_versions(),
        version=__version__,
    )


def open_report_templates() -> jinja2.Environment:
    templates = open_templates(Path(__file__).parent)
    templates.filters |= {
        "wide_svg": lambda chart: draw_svg(chart, WIDE),
        "narrow_svg": lambda chart: draw_svg(chart, NARROW),
        "legend": list_legend,
    }
    return templates


def list_legend(chart: Chart) -> list[tuple[str, str, str]]:
    """Return (label, tone, look) of each curve."""
    return [(curve.label, curve.tone, curve.look) for curve in chart.curves]


def list_score_tables(record: RunRecord) -> list[ScoreTable]:
    """Return metrics.json first, then what else was evaluated."""
    own = (record.scored_on or "the run's validation part", record.metrics)
    return [
        ScoreTable(name, metrics, list_scores(metrics), judge(metrics))
        for name, metrics in [own, *record.other_evaluations.items()]
        if metrics
    ]


def sum_steps(steps: list[Record]) -> Record:
    """Return what all steps together took: rows, tokens, seconds, rows_per_second and the share of padding."""
    rows, tokens, seconds = (sum(step[key] for step in steps) for key in ("rows", "tokens", "seconds"))
    padded = sum(step["tokens"] / (1.0 - step["padding"]) for step in steps)
    return {
        "rows": rows,
        "tokens": tokens,
        "seconds": seconds,
        "rows_per_second": rows / seconds if seconds else None,
        "padding": 1.0 - tokens / padded if padded else None,
    }


def count_set_aside(set_aside: list[Record]) -> list[SetAside]:
    """Return the kinds of rows that were set aside, the most frequent first."""
    counts = Counter(str(row.get("kind")) for row in set_aside)
    first_of = {str(row.get("kind")): row for row in reversed(set_aside)}
    return [SetAside(kind, num_rows, first_of[kind]) for kind, num_rows in counts.most_common()]


def describe_truncation(audit: Record) -> list[tuple[str, float, bool]]:
    """Return (label, figure, whether it is a share) of every figure that the audit holds."""
    return [(label, audit[key], is_share) for key, (label, is_share) in TRUNCATION_LABELS.items() if key in audit]


def list_settings(config: RunConfig) -> dict[str, list[Setting]]:
    """Return the settings of every section, and whether each is the default."""
    defaults = RunConfig().model_dump()
    return {
        section: [Setting(key, render_value(value), value == defaults[section][key]) for key, value in values.items()]
        for section, values in config.model_dump().items()
    }


def render_value(value: Any) -> str:
    """As it would stand in the YAML file."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def list_versions() -> dict[str, str]:
    """Return the machine and the libraries of the process that writes the page."""
    versions = {name: find_version(name) for name in LIBRARIES}
    machine = {"python": platform.python_version(), "platform": platform.platform()}
    return machine | {name: found for name, found in versions.items() if found}


def find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
