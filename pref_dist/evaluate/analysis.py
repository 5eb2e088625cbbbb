"""What is worth knowing about scored rows: metrics with intervals, slices, calibration, bias, baselines, worst rows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.config.schema import EvaluateSection, EvaluateSwap
from pref_dist.data.plan import Rows
from pref_dist.data.rows import Row
from pref_dist.data.table import TokenTable
from pref_dist.evaluate.answers import Answers
from pref_dist.evaluate.calibrate import calibrate
from pref_dist.evaluate.calibration_file import Calibration, write_calibration
from pref_dist.evaluate.gate import judge_gate
from pref_dist.evaluate.order_bias import compare_orders
from pref_dist.evaluate.scores import describe_scores
from pref_dist.evaluate.slices import RowFacts, join_facts, measure_rows, score_slices
from pref_dist.evaluate.verbosity import measure_verbosity
from pref_dist.evaluate.worst_rows import find_worst, is_cut, list_worst_rows, write_worst_rows
from pref_dist.files import write_json
from pref_dist.metrics import probabilities
from pref_dist.run_dir import RunDir

Array = NDArray[np.float64]

TEXTS_AT_ONCE = 4_096


@dataclass(frozen=True)
class Scored:
    """Labelled rows (n,) of a table, what a model says of them, and their texts; all in one order.

    texts: read once, as they come, so that not all of them need be in memory.
    held_out: (n,) whether the model had not learnt from the row or its prompt, None where nobody knows.
    """

    table: TokenTable
    rows: Rows
    answers: Answers
    texts: Iterable[Row]
    held_out: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Analysis:
    """metrics: the sections of metrics.json. worst_rows: the content of worst_rows.json."""

    metrics: dict[str, Any]
    worst_rows: list[dict[str, Any]]


def analyse(scored: Scored, swap: EvaluateSwap, baselines: Mapping[str, Array] | None = None) -> Analysis:
    """Describe scored rows; the same rows and answers give the same numbers.

    swap: how the second order was asked for. baselines: probabilities (n, 3) of what the model is compared with.
    Raises DataError if there is no row.
    """
    table, rows, answers = scored.table, scored.rows, scored.answers
    targets, groups = table.targets[rows], table.groups[rows]
    logits = answers.logits.astype(np.float64)
    worst = find_worst(logits, targets)
    facts, worst_texts = read_texts(scored.texts, is_cut(table, rows), worst)
    metrics: dict[str, Any] = {
        **describe_scores(logits, targets, groups),
        "num_learnt": None if scored.held_out is None else int((~scored.held_out).sum()),
        "slices": score_slices(facts, logits, targets, groups),
        "verbosity": measure_verbosity(facts, probabilities(logits), targets),
        "calibration": calibrate(logits, targets, groups),
    }
    if answers.second is not None:
        first, second = answers.first.astype(np.float64), answers.second.astype(np.float64)
        metrics["orders"] = {"mode": swap, **compare_orders(first, second, targets, groups)}
    if baselines is not None:
        metrics |= judge_gate(baselines, logits, targets, groups)
    return Analysis(metrics, list_worst_rows(table, rows[worst], worst_texts, logits[worst]))


def read_texts(texts: Iterable[Row], is_cut: NDArray[np.bool_], worst: Rows) -> tuple[RowFacts, list[Row]]:
    """Return what slices are made of, of all rows (n,), and the rows at the places `worst` (w,), in that order."""
    wanted, kept = set(worst.tolist()), dict[int, Row]()
    parts: list[RowFacts] = []
    remaining, start = iter(texts), 0
    while several := list(islice(remaining, TEXTS_AT_ONCE)):
        parts.append(measure_rows(several, is_cut[start : start + len(several)]))
        kept |= {place: row for place, row in enumerate(several, start) if place in wanted}
        start += len(several)
    return join_facts(parts), [kept[place] for place in worst.tolist()]


def warn_of_learnt(metrics: Mapping[str, Any]) -> str:
    """Return what must be said if the scored rows were not new to the model; empty if they were, or nobody knows."""
    learnt, rows = metrics["num_learnt"], metrics["num_rows"]
    if not learnt:
        return ""
    return (
        f"The model has learnt from {learnt:,} of these {rows:,} rows, or from their prompts: on new rows it will be "
        "worse. Evaluate it on rows that it has not seen."
    )


def write_analysis(folder: Path, found: Analysis) -> None:
    write_worst_rows(folder, found.worst_rows)
    write_json(RunDir(folder).metrics, found.metrics)


def keep_calibration(run_dir: RunDir, metrics: Mapping[str, Any], settings: EvaluateSection) -> None:
    """Keep the temperature of a run's own held-out rows, for its predictions."""
    found = metrics["calibration"]
    interval = None if found["interval"] is None else (found["interval"][0], found["interval"][1])
    calibration = Calibration(
        found["temperature"], found["applies"], interval, found["gain"], metrics["step"], settings.orders,
        metrics["num_rows"], metrics["num_learnt"],
    )  # fmt: skip
    write_calibration(run_dir.calibration, calibration)
