"""The verb `predict`: the probabilities of any file's rows by one run or several, complete and in the file's order."""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.leaks import TrainedRows
from pref_dist.data.prepare import prediction_policies
from pref_dist.data.pseudo_labels import write_soft_labels
from pref_dist.data.table import TokenTable
from pref_dist.errors import ConfigError, DataError
from pref_dist.evaluate.calibration_file import ChosenTemperature, choose_temperature
from pref_dist.evaluate.deadline import Deadline
from pref_dist.evaluate.file_predictions import FilePredictions, average, chances_of, complete, list_rows
from pref_dist.evaluate.file_predictor import FilePredictor, RunAnswers, all_of, open_table
from pref_dist.evaluate.parts_lock import only_one_job
from pref_dist.evaluate.restore import RestoredRun, read_model_config
from pref_dist.evaluate.texts import pick
from pref_dist.files import StrPath, as_path, as_paths
from pref_dist.run_dir import RunDir
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.parallel import WatchBatches, start_parallel
from pref_dist.submission import write_submission


@dataclass(frozen=True)
class PredictOptions:
    """checkpoint: best, last or a step, of every run. format: the layout of the rows, None: each run's.

    watch_build: hears of a token cache that has to be built, watch_batches of how far the work is. soft_labels: a
    Parquet file to write besides, of the rows that the models could read with their probabilities as labels, for
    data.sources. sample_submission: a file whose columns and ids the submission must have. time_limit_minutes: counted
    from `started` (time.monotonic); what does not fit any more is the second order of A and B (evaluate.swap), never a
    row. Paths may also be given as texts.
    """

    checkpoint: str | None = None
    overrides: Sequence[str] = ()
    format: str | None = None
    watch_build: BuildWatch | None = None
    soft_labels: Path | None = None
    sample_submission: Path | None = None
    time_limit_minutes: float | None = None
    started: float = field(default_factory=time.monotonic)
    watch_batches: WatchBatches | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "soft_labels", as_path(self.soft_labels))
        object.__setattr__(self, "sample_submission", as_path(self.sample_submission))


@dataclass(frozen=True)
class PredictResult:
    """num_rows: rows in the submission; num_prior: those of them that were set aside and got the class shares;
    num_partly: those that some of several runs had set aside, so that they are the mean of the others alone.

    num_left_out: rows of the file that no submission can hold (no id, or an id that stands there twice).
    set_aside: {file, row, id, kind, detail} of both. runs: whose probabilities were averaged. num_both_orders: rows
    that all of them read in both orders of A and B. temperatures: what each run's logits were divided by, None where
    nothing was applied.
    """

    out: Path
    num_rows: int
    num_prior: int
    num_partly: int
    num_left_out: int
    set_aside: list[dict[str, Any]]
    runs: list[str]
    num_both_orders: int
    temperatures: list[float | None]
    is_main: bool


def predict(
    run_folders: StrPath | Sequence[StrPath], data: StrPath, out: StrPath, options: PredictOptions | None = None
) -> PredictResult:
    """Predict every row of `data` by the mean of all runs' probabilities and write a submission; every rank calls it.

    run_folders: one or several, of runs or of exported models. The columns of `out` are id, winner_model_a,
    winner_model_b, winner_tie.

    Rows that fail a check cannot be read by a model; they get the training rows' class shares. Label columns are
    passed over, whatever stands in them. Of chosen/rejected pairs A is the chosen response; rows without an id get
    their number. What was done when the process was killed is found again beside `out` by the same call, on any number
    of ranks; under a launcher end as `train` says. Raises PrefDistError; before any work if the runs or the sample do
    not go with the rows.
    """
    options, data, out = options or PredictOptions(), Path(data), Path(out)
    run_dirs = [RunDir(folder) for folder in as_paths(run_folders)]
    check_request(run_dirs, options)
    configs = [read_model_config(run_dir, options.overrides) for run_dir in run_dirs]
    trained = read_what_labels_know(run_dirs, options.soft_labels)
    parallel = start_parallel(configs[0].parallel, configs[0].run.deterministic, options.watch_batches)
    say = Speaker(parallel.is_main, sys.stderr).say
    minutes = options.time_limit_minutes
    deadline = None if minutes is None else Deadline(minutes, options.started)
    predictor = FilePredictor(
        parallel, data, parts_beside(out), say, options.checkpoint, options.format, options.watch_build,
        options.sample_submission, deadline,
    )  # fmt: skip
    with only_one_job(predictor.folder, parallel):
        answered = predictor.predict_all(list(zip(run_dirs, configs, strict=True)))
        parallel.stop()
        # From here on rank 0 works alone; the others are done.
        choices = [choose(run) for run in answered]
        if parallel.is_main:
            for choice in filter(None, (choice.sentence for choice in choices)):
                say(choice)
            write_result(answered, choices, out, options.soft_labels, trained)
    return describe_result(answered, choices, out, parallel.is_main)


def check_request(run_dirs: Sequence[RunDir], options: PredictOptions) -> None:
    """Raise ConfigError for what cannot be meant."""
    if not run_dirs:
        raise ConfigError("There is no run to predict by. Name one or several run folders.")
    places = [run_dir.root.resolve() for run_dir in run_dirs]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ConfigError(f"{twice} stands twice among the runs, which would count it double. Name each once.")
    minutes = options.time_limit_minutes
    if minutes is not None and not minutes > 0.0:
        raise ConfigError(f"--time-limit-minutes={minutes:g} must be more than 0.")


def parts_beside(out: Path) -> Path:
    """Return where finished batches are kept until the submission `out` is written."""
    return out.with_name(f".{out.name}.parts")


def choose(answered: RunAnswers) -> ChosenTemperature:
    """Decide on the temperature of one run's answers."""
    settings, answers = answered.config.evaluate, answered.answers
    wanted = {"none": 0, "selective": int(np.ceil(settings.swap_share * len(answers))), "full": len(answers)}
    is_whole = int(answers.has_both.sum()) >= wanted[settings.swap]
    return choose_temperature(answered.run_dir, settings, answered.step, is_whole)


def write_result(
    answered: Sequence[RunAnswers],
    choices: Sequence[ChosenTemperature],
    out: Path,
    soft_labels: Path | None,
    trained: TrainedRows | None,
) -> None:
    """Write the submission, and the soft labels where they are asked for; then the parts have served."""
    parts = [
        complete(run.rows, chances_of(run.answers, choice.temperature), run.class_shares)
        for run, choice in zip(answered, choices, strict=True)
    ]
    found = parts[0] if len(parts) == 1 else average(parts)
    check_is_whole(found, answered[0].table)
    write_submission(out, found.ids, found.chances)
    if soft_labels is not None:
        assert trained is not None
        label_rows(answered, choices, soft_labels, trained)
    shutil.rmtree(parts_beside(out), ignore_errors=True)


def check_is_whole(found: FilePredictions, table: TokenTable) -> None:
    if len(found) + found.num_left_out != table.num_rows_in_file:
        raise RuntimeError(
            f"The submission would hold {len(found):,} of the {table.num_rows_in_file:,} rows of the file, and "
            f"{found.num_left_out:,} cannot be in it. This is a bug."
        )


def describe_result(
    answered: Sequence[RunAnswers], choices: Sequence[ChosenTemperature], out: Path, is_main: bool
) -> PredictResult:
    rows = answered[0].rows
    both = np.all([place_rows(run) for run in answered], axis=0)
    num_blind = np.sum([run.rows.is_prior for run in answered], axis=0)
    return PredictResult(
        out,
        len(rows),
        int((num_blind == len(answered)).sum()),
        int(((num_blind > 0) & (num_blind < len(answered))).sum()),
        rows.num_left_out,
        rows.set_aside,
        [str(run.run_dir.root) for run in answered],
        int(both.sum()),
        [choice.temperature if choice.is_applied else None for choice in choices],
        is_main,
    )


def place_rows(answered: RunAnswers) -> NDArray[np.bool_]:
    """Return (N,) whether each row of the file was read in both orders."""
    both = np.zeros(len(answered.rows), np.bool_)
    both[~answered.rows.is_prior] = answered.answers.has_both
    return both


def read_what_labels_know(run_dirs: Sequence[RunDir], path: Path | None) -> TrainedRows | None:
    """Return what the teachers of soft labels have learnt from, before any work; None if none are asked for.

    Raises DataError if the file would not be known again by its name, CheckpointError if nobody knows the rows.
    """
    if path is None:
        return None
    if path.suffix.lower() != ".parquet":
        raise DataError(f"--soft-labels {path} must end in .parquet: only such a file can say who its teacher was.")
    trained = TrainedRows.read(run_dirs[0].trained_rows)
    for run_dir in run_dirs[1:]:
        trained = trained.joined_with(TrainedRows.read(run_dir.trained_rows))
    return trained


def label_rows(
    answered: Sequence[RunAnswers], choices: Sequence[ChosenTemperature], path: Path, trained: TrainedRows
) -> None:
    """Write the rows that the models could read with the mean of their probabilities, and what they have learnt from.

    Raises DataError if one of several runs has set aside other rows than the first.
    """
    first = answered[0]
    for run in answered[1:]:
        if not np.array_equal(run.table.row_numbers, first.table.row_numbers):
            raise DataError(
                f"{run.run_dir.root} has set aside other rows than {first.run_dir.root}, so that --soft-labels cannot "
                "hold the mean of both. Write it with one run, or with runs of the same data.bad_rows and data.checks."
            )
    data = first.config.data
    settings = data.model_copy(update=prediction_policies(data))
    chances = chances_of(first.answers, choices[0].temperature)
    for run, choice in zip(answered[1:], choices[1:], strict=True):
        chances += chances_of(run.answers, choice.temperature)
    teachers = " + ".join(f"{run.run_dir.root.name}, step {run.step}" for run in answered)
    rows = pick(settings, first.table, all_of(first.table))
    write_soft_labels(path, rows, chances / len(answered), trained, teachers)


def predict_table(run: RestoredRun, data: Path, format: str | None, watch: BuildWatch | None) -> FilePredictions:
    """Return what a restored run says of every row of a file, without a temperature, on every rank; collective."""
    table = open_table(run, data, format, watch)
    return complete(list_rows(table), chances_of(run.infer(table, all_of(table))), run.class_shares)
