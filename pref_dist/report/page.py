"""The report page: gathers what a run folder tells, and renders it as one file that needs no network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from pref_dist import __version__
from pref_dist.evaluate.calibration_file import describe_gain
from pref_dist.files import write_bytes
from pref_dist.report.audit import count_set_aside, describe_held_out, describe_truncation
from pref_dist.report.bias import build_cost_chart, build_verbosity_picture, render_range
from pref_dist.report.calibration import build_reliability, explain_predict, explain_temperature
from pref_dist.report.configuration import list_settings
from pref_dist.report.curves import build_loss_chart, build_small_charts, list_evaluations
from pref_dist.report.run_record import Record, RunRecord
from pref_dist.report.scores import Headline, ScoredModel, Verdict, judge, list_headlines, list_scores
from pref_dist.report.shown_rows import show_worst_row
from pref_dist.report.slices import group_slices, list_confusion
from pref_dist.report.starts import describe_training, list_starts
from pref_dist.report.templates import open_templates
from pref_dist.runtime.machine import list_versions

SECTIONS = ("Summary", "Curves", "Classes", "Slices", "Calibration", "Bias", "Worst rows", "Data", "Configuration",
            "Environment")  # fmt: skip
HELD_OUT = "the held-out rows"


@dataclass(frozen=True)
class ScoreTable:
    """One metrics.json. scored_on: whose rows; short_name: the same in a few words, for beside a figure.

    verdict: whether the model beats every baseline, as a sentence.
    """

    scored_on: str
    short_name: str
    metrics: Record
    headlines: list[Headline]
    models: list[ScoredModel]
    verdict: tuple[Verdict, str] | None

    @property
    def closed(self) -> float | None:
        """The model's share of the way from the class prior to the best reference."""
        return next(model.closed for model in self.models if model.kind == "model")

    @property
    def has_intervals(self) -> bool:
        return any(headline.interval is not None for headline in self.headlines)


def write_page(path: Path, page: str) -> None:
    # Half a character, which a damaged file may hold, is no reason to have no page.
    write_bytes(path, page.encode("utf-8", errors="replace"))


def render_page(record: RunRecord) -> str:
    """Return the page as HTML. Text from the run is escaped, whatever it holds."""
    template = open_report_templates().get_template("page.html.jinja")
    return template.render(
        title=record.name,
        sections=SECTIONS,
        record=record,
        tables=list_score_tables(record),
        totals=sum_steps(record.steps),
        loss_chart=build_loss_chart(record) if record.steps else None,
        small_charts=build_small_charts(record),
        evaluations=list_evaluations(record),
        label_smoothing=record.config.train.label_smoothing,
        **describe_evaluation(record.metrics, record.worst_rows),
        scored_on=record.scored_on,
        evaluate_command=name_command(record.scored_on),
        swap_command=name_command(record.scored_on) + " --set evaluate.swap=full",
        predict_note=explain_predict(record.calibration, record.config.evaluate.calibrate),
        held_out=describe_held_out(record),
        set_aside=count_set_aside(record.set_aside),
        truncation={side: describe_truncation(audit) for side, audit in record.truncation.items()},
        settings_of=list_settings(record.config),
        starts=list_starts(record.starts),
        software=record.starts[-1]["software"] if record.starts else {},
        training=describe_training(record.starts),
        environment=list_versions(),
    )


def describe_evaluation(metrics: Record, worst_rows: list[Record] | None) -> dict[str, Any]:
    """Return what the sections about one metrics.json show; each is empty or None where it is not known."""
    calibration, orders = metrics.get("calibration"), metrics.get("orders")
    return {
        "metrics": metrics,
        "class_scores": metrics.get("classes") or {},
        "confusion": list_confusion(metrics),
        "slices": group_slices(metrics),
        "calibration": calibration,
        "change": describe_gain(calibration["gain"], calibration["interval"]) if calibration else "",
        "temperature_note": explain_temperature(calibration["temperature"]) if calibration else "",
        "reliability": build_reliability(calibration),
        "orders": orders,
        "cost_chart": build_cost_chart(orders),
        "verbosity": metrics.get("verbosity") or [],
        "verbosity_picture": build_verbosity_picture(metrics.get("verbosity")),
        "worst_rows": None if worst_rows is None else [show_worst_row(row) for row in worst_rows],
    }


def name_command(scored_on: str | None) -> str:
    """Return the command that would fill the sections about metrics.json."""
    return "pref-dist evaluate RUN_DIR" + ("" if scored_on is None else " --data FILE")


def open_report_templates() -> jinja2.Environment:
    templates = open_templates(Path(__file__).parent)
    templates.globals["version"] = __version__
    templates.filters["characters"] = render_range
    return templates


def list_score_tables(record: RunRecord) -> list[ScoreTable]:
    """Return metrics.json first, then what else was evaluated."""
    scored_on, short_name = record.scored_on or "the run's validation part", record.scored_on or HELD_OUT
    tables = [build_score_table(scored_on, short_name, record.metrics)] if record.metrics else []
    others = record.other_evaluations.items()
    return tables + [build_score_table(name, name, metrics) for name, metrics in others if metrics]


def build_score_table(scored_on: str, short_name: str, metrics: Record) -> ScoreTable:
    return ScoreTable(scored_on, short_name, metrics, list_headlines(metrics), list_scores(metrics), judge(metrics))


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
