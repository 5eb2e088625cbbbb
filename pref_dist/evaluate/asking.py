"""Asking several runs for what they say of the rows of one file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pref_dist.config.schema import RunConfig
from pref_dist.data.cache_build import BuildWatch
from pref_dist.data.plan import Rows
from pref_dist.data.table import TokenTable
from pref_dist.evaluate.answers import Answers
from pref_dist.evaluate.completed import FileRows, check_same_ids, list_rows
from pref_dist.evaluate.deadline import Deadline, Pace
from pref_dist.evaluate.orders import answer_first, answer_second
from pref_dist.evaluate.restore import RestoredRun, restore_run
from pref_dist.run_dir import RunDir
from pref_dist.runtime.agreement import check_on_main
from pref_dist.runtime.log import Stopwatch
from pref_dist.runtime.memory import release
from pref_dist.runtime.parallel import Parallel
from pref_dist.submission import check_like_sample


@dataclass(frozen=True)
class Asked:
    """One run, after it was asked, without its model. seconds_to_open: what it takes to have it ready again."""

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
class Asking:
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

    def ask_all(self, runs: Sequence[tuple[RunDir, RunConfig]]) -> list[Asked]:
        """Return what each run says. Under a deadline all have said it once before any says it a second time."""
        at_once = self.deadline is None or len(runs) == 1
        asked = []
        for number, (run_dir, config) in enumerate(runs):
            asked.append(self.ask(number, run_dir, config, at_once))
            check_same_ids([asked[0].rows, asked[-1].rows], [runs[0][0].root, run_dir.root])
        return asked if at_once else [self.ask_again(number, run) for number, run in enumerate(asked)]

    def ask(self, number: int, run_dir: RunDir, config: RunConfig, at_once: bool) -> Asked:
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
        asked = Asked(run_dir, config, run.step, run.class_shares, table, rows, answers, seconds_to_open, pace)
        del run
        release()
        return asked

    def ask_again(self, number: int, asked: Asked) -> Asked:
        """Open a run once more for the second order, if that is wanted and there is time for any of it."""
        is_wanted = asked.config.evaluate.swap != "none" and asked.answers.second is None
        pace, seconds = asked.pace, asked.seconds_to_open
        if not is_wanted or pace is None or not pace.allows(0, self.parallel, more_seconds=seconds):
            return asked
        run = restore_run(asked.config, asked.run_dir, str(asked.step), self.parallel)
        task, work = run.build_task(asked.table, all_of(asked.table)), run.keep_in(self.folder_of(number), asked.table)
        answers = answer_second(task, asked.answers, run.engine.forward, self.parallel, work, pace)
        del run
        release()
        return replace(asked, answers=answers)

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
