"""Lets several runs answer the rows of one file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pref_dist.config.schema import RunConfig
from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.plan import Rows
from pref_dist.data.table import TokenTable
from pref_dist.evaluate.answers import Answers
from pref_dist.evaluate.deadline import Deadline, Pace
from pref_dist.evaluate.file_predictions import FileRows, check_same_ids, list_rows
from pref_dist.evaluate.orders import answer_first, answer_second
from pref_dist.evaluate.restore import RestoredRun, restore_run
from pref_dist.run_dir import RunDir
from pref_dist.runtime.agreement import check_on_main
from pref_dist.runtime.log import Stopwatch
from pref_dist.runtime.memory import release
from pref_dist.runtime.parallel import Parallel
from pref_dist.submission import check_like_sample


@dataclass(frozen=True)
class RunAnswers:
    """What one run says of the rows of a file, without its model.

    seconds_to_open: what it takes to have the model ready again.
    """

    run_dir: RunDir
    config: RunConfig
    step: int
    class_shares: tuple[float, float, float]
    table: TokenTable
    rows: FileRows
    answers: Answers
    seconds_to_open: float
    pace: Pace | None


@dataclass(frozen=True)
class FilePredictor:
    """Lets runs answer the rows of a file, one after another, so that one model at a time is in memory.

    folder: where finished batches are kept. sample_submission: must hold exactly the file's rows. Under a deadline the
    second order of A and B is left out where time runs short.
    """

    parallel: Parallel
    data: Path
    folder: Path
    say: Callable[[str], None]
    checkpoint: str | None = None
    format: str | None = None
    watch_build: BuildWatch | None = None
    sample_submission: Path | None = None
    deadline: Deadline | None = None

    def predict_all(self, runs: Sequence[tuple[RunDir, RunConfig]]) -> list[RunAnswers]:
        """Return what each run says. Under a deadline all have said it once before any says it a second time."""
        at_once = self.deadline is None or len(runs) == 1
        answered = []
        for number, (run_dir, config) in enumerate(runs):
            answered.append(self.answer(number, run_dir, config, at_once))
            check_same_ids([answered[0].rows, answered[-1].rows], [runs[0][0].root, run_dir.root])
        return answered if at_once else [self.answer_again(number, run) for number, run in enumerate(answered)]

    def answer(self, number: int, run_dir: RunDir, config: RunConfig, at_once: bool) -> RunAnswers:
        """Open a run and let it answer; `at_once`: in both orders, where it is to."""
        watch = Stopwatch()
        run = restore_run(config, run_dir, self.checkpoint, self.parallel)
        table, rows = self.open_rows(run)
        seconds_to_open = watch.seconds()
        pace = None
        if self.deadline is not None:
            self.deadline.expect_rows(len(rows))
            pace = Pace(self.deadline)
        task, work = run.build_task(table, all_of(table)), run.keep_in(self.folder_of(number), table)
        answers = answer_first(task, run.engine.forward, self.parallel, work, pace)
        self.warn_if_late(run_dir)
        if at_once:
            answers = answer_second(task, answers, run.engine.forward, self.parallel, work, pace)
        answered = RunAnswers(run_dir, config, run.step, run.class_shares, table, rows, answers, seconds_to_open, pace)
        del run
        release()
        return answered

    def answer_again(self, number: int, answered: RunAnswers) -> RunAnswers:
        """Open a run once more for the second order, if that is wanted and there is time for any of it."""
        is_wanted = answered.config.evaluate.swap != "none" and answered.answers.second is None
        pace, seconds = answered.pace, answered.seconds_to_open
        if not is_wanted or pace is None or not pace.allows(0, self.parallel, more_seconds=seconds):
            return answered
        run = restore_run(answered.config, answered.run_dir, str(answered.step), self.parallel)
        table = answered.table
        task, work = run.build_task(table, all_of(table)), run.keep_in(self.folder_of(number), table)
        answers = answer_second(task, answered.answers, run.engine.forward, self.parallel, work, pace)
        del run
        release()
        return replace(answered, answers=answers)

    def open_rows(self, run: RestoredRun) -> tuple[TokenTable, FileRows]:
        """Return the rows that a run can read, and all of the file. Raises DataError if the sample is of others."""
        table = open_table(run, self.data, self.format, self.watch_build)
        rows = list_rows(table)
        sample = self.sample_submission
        if sample is not None:
            check_on_main(self.parallel, lambda: check_like_sample(sample, rows.ids))
        return table, rows

    def folder_of(self, number: int) -> Path:
        return self.folder / f"run_{number}"

    def warn_if_late(self, run_dir: RunDir) -> None:
        seconds = 0.0 if self.deadline is None else self.deadline.seconds_over()
        if self.deadline is not None and seconds > 0.0:
            self.say(
                f"WARNING: --time-limit-minutes={self.deadline.minutes:g} was over {seconds:.0f} s before each row had "
                f"its first answer of {run_dir.root}. No row is dropped; use more ranks, fewer runs or a smaller model."
            )


def all_of(table: TokenTable) -> Rows:
    return np.arange(len(table), dtype=np.int64)


def open_table(run: RestoredRun, data: Path, format: str | None, watch: BuildWatch | None) -> TokenTable:
    """Return the rows of a file that the model can read; all ranks see the same. Collective."""
    table = run.open_rows(data, format, with_labels=False, watch=watch)
    run.parallel.check_agreement({"the rows": table.digest})
    return table
