"""The page about folds: what each scores, all out-of-fold rows together, and the folds' learning curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pref_dist.files import read_json
from pref_dist.report.configuration import list_settings
from pref_dist.report.overlays import RunLook, build_overlays, choose_looks
from pref_dist.report.page import build_score_table, describe_evaluation, open_report_templates, sum_steps
from pref_dist.report.run_record import WORST_ROWS, RunRecord, read_json_if_there, read_list_if_there, read_run_record
from pref_dist.report.tracks import Track, span_scale
from pref_dist.run_dir import RunDir
from pref_dist.runtime.machine import list_versions

Record = dict[str, Any]
SECTIONS = (
    "Summary",
    "Curves",
    "Classes",
    "Slices",
    "Calibration",
    "Bias",
    "Worst rows",
    "Configuration",
    "Environment",
)
OUT_OF_FOLD = "all folds, each by the model that had not seen it"


@dataclass(frozen=True)
class FoldLine:
    """One fold. scores: {log_loss, accuracy, num_rows, step} of the rows that it holds out, {} until they are known.

    record: of its own run, None before it has started.
    """

    number: int
    state: str
    step: int
    scores: Record
    track: Track | None
    record: RunRecord | None
    look: RunLook


def render_folds_page(folder: Path) -> str:
    """Return the page about a folder that `train --folds` has filled, whether all folds are finished or not.

    Raises CheckpointError that names a damaged file.
    """
    run_dir = RunDir(folder)
    metrics, state = read_json_if_there(run_dir.metrics), read_json(run_dir.folds)
    folds = list_folds(run_dir, state, metrics)
    started = [(fold.record, fold.look) for fold in folds if fold.record is not None]
    template = open_report_templates().get_template("folds.html.jinja")
    return template.render(
        title=run_dir.root.resolve().name,
        sections=SECTIONS,
        folds=folds,
        joined=bool(state["joined"]),
        table=build_score_table(OUT_OF_FOLD, "all folds", metrics) if metrics else None,
        totals=sum_steps([step for record, _ in started for step in record.steps]),
        charts=build_overlays([record for record, _ in started], [look for _, look in started]),
        **describe_evaluation(metrics, read_list_if_there(run_dir.root / WORST_ROWS)),
        evaluate_command="pref-dist train RUN.yaml --folds",
        swap_command="pref-dist train RUN.yaml --folds --fresh --set evaluate.swap=full",
        predict_note="",
        settings_of=list_settings(started[0][0].config) if started else {},
        environment=list_versions(),
    )


def list_folds(run_dir: RunDir, state: Record, metrics: Record) -> list[FoldLine]:
    """Return the folds; their scores are those in metrics.json, else the best ones in training."""
    scored = {scores["fold"]: scores for scores in metrics.get("folds") or []}
    all_scores = [scored.get(fold["fold"]) or fold.get("best") or {} for fold in state["folds"]]
    scale = span_scale([scores.get("log_loss") for scores in all_scores], [], metrics.get("log_loss"))
    looks = choose_looks([f"fold {fold['fold']}" for fold in state["folds"]])
    return [
        FoldLine(
            number=fold["fold"],
            state=fold["state"],
            step=fold["step"],
            scores=scores,
            track=scale.track(scores.get("log_loss")),
            record=read_fold(run_dir.fold(fold["fold"])),
            look=look,
        )
        for fold, scores, look in zip(state["folds"], all_scores, looks, strict=True)
    ]


def read_fold(fold: RunDir) -> RunRecord | None:
    return read_run_record(fold.root) if fold.config.is_file() else None
