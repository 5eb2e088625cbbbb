"""The verb `predict`: the probabilities of any file's rows, complete and in its order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.leaks import TrainedRows
from pref_dist.data.prepare import prediction_policies
from pref_dist.data.pseudo_labels import write_soft_labels
from pref_dist.data.table import TokenTable
from pref_dist.errors import DataError
from pref_dist.evaluate.restore import RestoredRun, read_run_config, restore_run
from pref_dist.evaluate.texts import pick
from pref_dist.metrics import probabilities
from pref_dist.run_dir import RunDir
from pref_dist.runtime.parallel import start_parallel
from pref_dist.submission import write_submission

SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Completed:
    """Probabilities (N, 3) of every row that a submission can hold, in the order of the file.

    is_prior: (N,) whether the row was set aside and has the class shares. num_left_out and set_aside: as below.
    """

    ids: list[str]
    chances: NDArray[np.float64]
    is_prior: NDArray[np.bool_]
    num_left_out: int
    set_aside: list[dict[str, Any]]


@dataclass(frozen=True)
class PredictResult:
    """num_rows: rows in the submission; num_prior: those of them that were set aside and got the class shares.

    num_left_out: rows of the file that no submission can hold (no id, or an id that stands there twice).
    set_aside: {file, row, id, kind, detail} of both.
    """

    out: Path
    num_rows: int
    num_prior: int
    num_left_out: int
    set_aside: list[dict[str, Any]]
    is_main: bool


def predict(
    run_folder: Path,
    data: Path,
    out: Path,
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
    format: str | None = None,
    watch: BuildWatch | None = None,
    soft_labels: Path | None = None,
) -> PredictResult:
    """Predict every row of `data` on all ranks and write a submission; every rank calls it.

    Rows that fail a check cannot be read by the model; they get the training rows' class shares. Label
    columns are passed over, whatever stands in them. `format` names the layout of `data`, None: the run's.
    Of chosen/rejected pairs A is the chosen response; rows without an id get their number. soft_labels: a Parquet
    file to write besides, of the rows that the model could read with its probabilities as labels, for data.sources.
    """
    run_dir = RunDir(run_folder)
    config = read_run_config(run_dir, overrides)
    trained = read_what_labels_know(run_dir, soft_labels)
    parallel = start_parallel(config.parallel, config.run.deterministic)
    run = restore_run(config, run_dir, checkpoint, parallel)
    table, chances = infer_table(run, data, format, watch)
    found = complete(run, table, chances)
    parallel.stop()
    if parallel.is_main:
        write_submission(out, found.ids, found.chances)
        if soft_labels is not None:
            assert trained is not None
            label_rows(run, table, chances, soft_labels, trained)
    num_prior = int(found.is_prior.sum())
    return PredictResult(out, len(found.ids), num_prior, found.num_left_out, found.set_aside, parallel.is_main)


def read_what_labels_know(run_dir: RunDir, path: Path | None) -> TrainedRows | None:
    """Return what the teacher of soft labels has learnt from, before any work; None if none are asked for.

    Raises DataError if the file would not be known again by its name, CheckpointError if nobody knows the rows.
    """
    if path is None:
        return None
    if path.suffix.lower() != ".parquet":
        raise DataError(f"--soft-labels {path} must end in .parquet: only such a file can say who its teacher was.")
    return TrainedRows.read(run_dir.trained_rows)


def label_rows(
    run: RestoredRun, table: TokenTable, chances: NDArray[np.float64], path: Path, trained: TrainedRows
) -> None:
    """Write the table's rows with the model's probabilities (n, 3), and what the model has learnt from."""
    data = run.config.data
    settings = data.model_copy(update=prediction_policies(data))
    rows = pick(settings, table, np.arange(len(table), dtype=np.int64))
    write_soft_labels(path, rows, chances, trained, f"{run.run_dir.root.name}, step {run.step}")


def predict_table(run: RestoredRun, data: Path, format: str | None, watch: BuildWatch | None) -> Completed:
    """Return what a restored run says of every row of a file, on every rank; collective."""
    return complete(run, *infer_table(run, data, format, watch))


def infer_table(
    run: RestoredRun, data: Path, format: str | None, watch: BuildWatch | None
) -> tuple[TokenTable, NDArray[np.float64]]:
    """Return the rows of a file that the model can read, and its probabilities (n, 3) of them; collective."""
    table = run.open_rows(data, format, with_labels=False, watch=watch)
    run.parallel.check_agreement({"the rows": table.digest})
    logits = run.infer(table, np.arange(len(table), dtype=np.int64))
    return table, probabilities(logits.astype(np.float64))


def complete(run: RestoredRun, table: TokenTable, chances: NDArray[np.float64]) -> Completed:
    """Add the rows that were set aside, and put all into the order of the file."""
    numbers = [int(number) for number in table.row_numbers]
    ids = table.ids.to_pylist()
    known = set(ids)
    prior: list[int] = []
    for record in table.set_aside_rows:
        if record["id"] and record["id"] not in known:
            known.add(record["id"])
            prior.append(int(record["row"]))
            ids.append(record["id"])
    shares = np.tile(np.asarray(run.class_shares), (len(prior), 1))
    joined = keep_inside(np.concatenate([chances, shares]))
    order = np.argsort(np.asarray(numbers + prior), kind="stable")
    num_left_out = len(table.set_aside_rows) - len(prior)
    return Completed([ids[place] for place in order], joined[order], order >= len(table), num_left_out, table.set_aside)


def keep_inside(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities (N, 3) of which none is 0, so that no single row can cost infinitely much."""
    inside = np.maximum(chances, SMALLEST_PROBABILITY)
    return np.asarray(inside / inside.sum(axis=1, keepdims=True))
