"""The verb `evaluate`: a trained run's log loss on its validation rows or on any labelled file."""

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.data_files import COMPRESSIONS, KINDS
from pref_dist.data.leaks import TrainedRows, gather_trained_rows
from pref_dist.data.plan import Rows
from pref_dist.data.prepare import Prepared, write_json_lines
from pref_dist.data.pseudo_labels import teachers_of
from pref_dist.data.table import TokenTable
from pref_dist.errors import DataError
from pref_dist.evaluate.analysis import Analysis, Scored, analyse, keep_calibration, write_analysis
from pref_dist.evaluate.answers import Answers
from pref_dist.evaluate.baseline_cache import baseline_chances
from pref_dist.evaluate.logits_file import RowLogits, logits_of_table, note_orders, write_logits
from pref_dist.evaluate.parts_lock import only_one_job
from pref_dist.evaluate.restore import RestoredRun, read_run_config, restore_run
from pref_dist.evaluate.texts import iterate_texts
from pref_dist.files import StrPath, as_path, as_paths, copy_file
from pref_dist.metrics import score_probabilities
from pref_dist.run_dir import RunDir
from pref_dist.runtime.agreement import check_on_main
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.parallel import WatchBatches, start_parallel
from pref_dist.submission import read_probabilities


@dataclass(frozen=True)
class EvaluateOptions:
    """data: a labelled file, None for the run's own validation rows. checkpoint: best, last or a step.

    references: submission files whose probabilities are scored on the same rows, beside the model.
    baselines: also fit the simple baselines on the run's training rows. watch_build: hears of a token cache that
    has to be built; watch_batches: of how far the evaluation is. format: the layout of `data`, None: the run's. Paths
    may also be given as texts.
    """

    data: Path | None = None
    checkpoint: str | None = None
    references: tuple[Path, ...] = ()
    baselines: bool = True
    watch_build: BuildWatch | None = None
    format: str | None = None
    watch_batches: WatchBatches | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", as_path(self.data))
        object.__setattr__(self, "references", tuple(as_paths(self.references)))


@dataclass(frozen=True)
class EvaluateResult:
    """metrics: what was written to metrics.json. set_aside: the file's rows that could not be scored.

    is_main: whether this rank is the one to print it.
    """

    metrics: dict[str, Any]
    folder: Path
    set_aside: list[dict[str, Any]]
    is_main: bool


def evaluate(
    run_folder: StrPath, options: EvaluateOptions | None = None, overrides: Sequence[str] = ()
) -> EvaluateResult:
    """Score a run, write what is known of the rows and per-row logits, return the metrics; every rank calls it.

    Log losses are in nats a row. overrides: as `--set`, of the settings that a trained run may still change. Killed,
    the same call goes on where it was, on any number of ranks; under a launcher end as `train` says. Raises DataError
    if the file has no labels, or a reference does not hold every row; CheckpointError if the run has not finished and
    no checkpoint is named.
    """
    options = options or EvaluateOptions()
    run_dir = RunDir(Path(run_folder))
    check_names(options.references)
    config = read_run_config(run_dir, overrides)
    parallel = start_parallel(config.parallel, config.run.deterministic, options.watch_batches)
    run = restore_run(config, run_dir, options.checkpoint, parallel)
    # What will be scored beside the model is opened before the long work, so that it fails at once; by all
    # ranks, since a token cache may have to be built, for which nobody should wait in a collective.
    prepared = open_own_rows(run, options) if options.data is None or options.baselines else None
    table, rows = choose_rows(run, prepared, options)
    parallel.check_agreement({"the rows": table.digest})
    references = check_on_main(parallel, lambda: read_references(options.references, table, rows))
    folder = choose_folder(run_dir, options, config.evaluate.quantize)
    parts = RunDir(folder).parts
    with only_one_job(parts, parallel):
        answers = run.infer(table, rows, parts)
        parallel.stop()
        # From here on rank 0 works alone; the others are done.
        if not parallel.is_main:
            return EvaluateResult({}, folder, table.set_aside, is_main=False)
        baselines = fit_beside(run, prepared, table, rows) if options.baselines else None
        notes = {"step": str(run.step), **note_orders(config.evaluate)}
        logits = logits_of_table(table, rows, answers, find_trained_rows(run, prepared), notes)
        scored = Scored(table, rows, answers, iterate_texts(config.data, table, rows), logits.held_out)
        found = analyse(scored, config.evaluate.swap, baselines)
        metrics = {
            **found.metrics,
            **({"references": references} if references else {}),
            "step": run.step,
            "quantize": config.evaluate.quantize,
            "num_set_aside": len(table.set_aside),
            "timing": measure(answers),
        }
        write_evaluation(run, folder, Analysis(metrics, found.worst_rows), logits, table.set_aside)
        shutil.rmtree(parts, ignore_errors=True)
    return EvaluateResult(metrics, folder, table.set_aside, is_main=True)


def measure(answers: Answers) -> dict[str, float]:
    """Return what the model's work took now, in seconds; what an interrupted start had done counts nothing."""
    seconds = answers.first_seconds + answers.second_seconds
    return {
        "seconds": seconds,
        "first_seconds": answers.first_seconds,
        "second_seconds": answers.second_seconds,
        "rows_per_second": len(answers) / max(seconds, 1e-9),
    }


def stem_of(path: Path) -> str:
    """Return a name for a folder or a table: the file's, without what says its kind; a pattern's stars become _.

    It begins with no dot: `..` would be another folder, and what is hidden is not found.
    """
    name = path.name
    for suffix in (*COMPRESSIONS, *KINDS):
        name = name.removesuffix(suffix)
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".") or "data"


def check_names(references: Sequence[Path]) -> None:
    """Raise DataError if two references would stand under one name."""
    names = [stem_of(path) for path in references]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"Several --reference files are called {twice[0]}; they are shown by name. Rename one.")


def choose_folder(run_dir: RunDir, options: EvaluateOptions, quantize: str) -> Path:
    """Return where the result goes: the run folder itself for its own rows and best step, else evaluations/NAME.

    What is said in 8-bit integers never takes the place of what the run itself says.
    """
    suffix = "" if quantize == "none" else f"_{quantize}"
    if options.data is not None:
        return run_dir.evaluations / f"{stem_of(options.data)}{suffix}"
    if options.checkpoint in (None, "best") and not suffix:
        return run_dir.root
    return run_dir.evaluations / f"valid_{options.checkpoint or 'best'}{suffix}"


def choose_rows(run: RestoredRun, prepared: Prepared | None, options: EvaluateOptions) -> tuple[TokenTable, Rows]:
    if options.data is None:
        assert prepared is not None
        return prepared.valid_table, prepared.valid_rows
    table = run.open_rows(options.data, options.format, watch=options.watch_build)
    if not table.is_labelled:
        raise DataError(
            f"{options.data} has no label columns, so there is nothing to evaluate against. Use `predict` for it."
        )
    return table, np.arange(len(table), dtype=np.int64)


def read_references(references: Sequence[Path], table: TokenTable, rows: Rows) -> dict[str, Any]:
    """Return the scores of other predictions of the rows, by name. Raises DataError if one lacks a row."""
    ids, target = table.ids.take(rows).to_pylist(), table.targets[rows]
    return {stem_of(path): score_reference(path, ids, target) for path in references}


def score_reference(path: Path, ids: list[str], target: NDArray[np.float64]) -> dict[str, float | int]:
    known = read_probabilities(path)
    missing = [row_id for row_id in ids if row_id not in known.index]
    if missing:
        raise DataError(f"{path} lacks {len(missing)} of {len(ids)} ids (first: {missing[0]}).")
    return score_probabilities(known.loc[ids].to_numpy(dtype=np.float64), target)


def open_own_rows(run: RestoredRun, options: EvaluateOptions) -> Prepared:
    """Return the run's own rows: to be scored, or for the baselines to be fitted on. Raises DataError."""
    try:
        return run.prepare(options.watch_build)
    except DataError as error:
        if options.data is None:
            raise
        raise DataError(
            f"{error}\nThe baselines are fitted on the training rows; --no-baselines goes without."
        ) from error


def fit_beside(
    run: RestoredRun, prepared: Prepared | None, table: TokenTable, rows: Rows
) -> dict[str, NDArray[np.float64]]:
    """Return the probabilities of the baselines for the rows, by name."""
    assert prepared is not None
    return baseline_chances(run.config, prepared, table, rows, Speaker(True, sys.stderr).say)


def find_trained_rows(run: RestoredRun, prepared: Prepared | None) -> TrainedRows | None:
    """Return what the weights have learnt from; None for a run from before that was kept, unless its rows are open."""
    if run.run_dir.trained_rows.is_file():
        return TrainedRows.read(run.run_dir.trained_rows)
    if prepared is None:
        return None
    teachers = teachers_of(prepared.pseudo_sources)
    return gather_trained_rows(run.config, prepared.train_table, prepared.train_rows, teachers)


def write_evaluation(
    run: RestoredRun, folder: Path, found: Analysis, logits: RowLogits, set_aside: list[dict[str, Any]]
) -> None:
    is_own = folder == run.run_dir.root
    folder.mkdir(parents=True, exist_ok=True)
    name = run.run_dir.valid_logits.name if is_own else "logits.parquet"
    write_logits(folder / name, logits)
    write_analysis(folder, found)
    if is_own:
        keep_calibration(run.run_dir, found.metrics, run.config.evaluate)
        return
    if set_aside:
        write_json_lines(folder / run.run_dir.rows_set_aside.name, set_aside)
    copy_file(folder / run.run_dir.metrics.name, run.run_dir.metrics)
