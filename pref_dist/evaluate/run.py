"""The verb `evaluate`: a trained run's log loss on its validation rows or on any labelled file."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.cache import TokenTable
from pref_dist.data.plan import Rows
from pref_dist.data.validate import Row, read_checked_rows
from pref_dist.errors import DataError
from pref_dist.evaluate.baselines import fit_baselines
from pref_dist.evaluate.logits_file import write_logits
from pref_dist.evaluate.restore import RestoredRun, read_run_config, restore_run
from pref_dist.files import write_json
from pref_dist.metrics import score_logits, score_probabilities
from pref_dist.run_dir import RunDir
from pref_dist.runtime.parallel import start_parallel
from pref_dist.submission import read_probabilities


@dataclass(frozen=True)
class EvaluateOptions:
    """data: a labelled file, None for the run's own validation rows. checkpoint: best, last or a step.

    references: submission files whose probabilities are scored on the same rows, beside the model.
    baselines: also fit the simple baselines on the run's training rows.
    """

    data: Path | None = None
    checkpoint: str | None = None
    references: tuple[Path, ...] = ()
    baselines: bool = True


@dataclass(frozen=True)
class EvaluateResult:
    """metrics: what was written to metrics.json. is_main: whether this rank is the one to print it."""

    metrics: dict[str, Any]
    folder: Path
    is_main: bool


def evaluate(run_folder: Path, options: EvaluateOptions, overrides: Sequence[str] = ()) -> EvaluateResult:
    """Score a run, write metrics and per-row logits, return the metrics; every rank calls it.

    Raises DataError if the file has no labels, or a reference does not hold every row.
    """
    run_dir = RunDir(run_folder)
    config = read_run_config(run_dir, overrides)
    parallel = start_parallel(config.parallel, config.run.deterministic)
    run = restore_run(config, run_dir, options.checkpoint, parallel)
    table, rows = choose_rows(run, options.data)
    logits = run.infer(table, rows)
    parallel.stop()
    # From here on rank 0 works alone; the others are done.
    metrics: dict[str, Any] = {**score_logits(logits.astype(np.float64), table.targets[rows]), "step": run.step}
    folder = run_folder if options.data is None else run_dir.evaluations / stem_of(options.data)
    if parallel.is_main:
        metrics |= score_beside(run, table, rows, options)
        write_evaluation(run, folder, metrics, (table, rows, logits))
    return EvaluateResult(metrics, folder, parallel.is_main)


def stem_of(path: Path) -> str:
    return path.name.split(".")[0] or "data"


def choose_rows(run: RestoredRun, data: Path | None) -> tuple[TokenTable, Rows]:
    if data is None:
        prepared = run.prepare()
        return prepared.valid_table, prepared.valid_rows
    table = run.open_rows(data)
    if not table.is_labelled:
        raise DataError(f"{data} has no winner columns, so there is nothing to evaluate against. Use `predict` for it.")
    return table, np.arange(len(table), dtype=np.int64)


def score_beside(run: RestoredRun, table: TokenTable, rows: Rows, options: EvaluateOptions) -> dict[str, Any]:
    """Return the scores of references and baselines on the same rows."""
    ids = table.ids.take(rows).to_pylist()
    target = table.targets[rows]
    scores: dict[str, Any] = {}
    if options.references:
        scores["references"] = {stem_of(path): score_reference(path, ids, target) for path in options.references}
    if options.baselines:
        train, scored = texts_for_baselines(run, table, rows, options.data)
        scores["baselines"] = fit_baselines(train, run.config.run.seed).score(scored)
    return scores


def score_reference(path: Path, ids: list[str], target: NDArray[np.float64]) -> dict[str, float | int]:
    known = read_probabilities(path)
    missing = [row_id for row_id in ids if row_id not in known.index]
    if missing:
        raise DataError(f"{path} lacks {len(missing)} of {len(ids)} ids (first: {missing[0]}).")
    return score_probabilities(known.loc[ids].to_numpy(dtype=np.float64), target)


def texts_for_baselines(
    run: RestoredRun, table: TokenTable, rows: Rows, data: Path | None
) -> tuple[list[Row], list[Row]]:
    """Return the run's training rows and the rows to score, as texts."""
    prepared = run.prepare()
    settings = run.config.data
    train = pick(Path(settings.train), settings.bad_rows, prepared.train_table, prepared.train_rows)
    source = data or Path(settings.valid or settings.train)
    return train, pick(source, settings.bad_rows, table, rows)


def pick(source: Path, bad_rows: str, table: TokenTable, rows: Rows) -> list[Row]:
    by_number = {row.row: row for row in read_checked_rows(source, bad_rows).rows}
    return [by_number[int(number)] for number in table.row_numbers[rows]]


def write_evaluation(
    run: RestoredRun,
    folder: Path,
    metrics: dict[str, Any],
    scored: tuple[TokenTable, Rows, NDArray[np.float32 | np.float64]],
) -> None:
    table, rows, logits = scored
    folder.mkdir(parents=True, exist_ok=True)
    name = run.run_dir.valid_logits.name if folder == run.run_dir.root else "logits.parquet"
    write_logits(folder / name, table.ids.take(rows), logits, table.targets[rows])
    write_json(folder / "metrics.json", metrics)
    if folder != run.run_dir.root:
        shutil.copyfile(folder / "metrics.json", run.run_dir.metrics)
