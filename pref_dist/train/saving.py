"""When a run saves, and what becomes of a checkpoint: begun at a step border, completed at the same or a later one."""

from pathlib import Path

from pref_dist.evaluate.answers import Answers
from pref_dist.evaluate.logits_file import RowLogits, logits_of_table, note_orders, render_logits
from pref_dist.files import read_json
from pref_dist.runtime.agreement import on_main
from pref_dist.runtime.checkpoint import prune
from pref_dist.runtime.log import Stopwatch
from pref_dist.train.assemble import Assembled
from pref_dist.train.resume import describe_progress, show_best


def save_is_due(run: Assembled) -> bool:
    every = run.config.train.save_every_steps
    return every is not None and run.progress.step % every == 0


def save_is_late(run: Assembled, watch: Stopwatch) -> bool:
    """True on rank 0, whose clock decides, when the last checkpoint is older than save_every_minutes."""
    minutes = run.config.train.save_every_minutes
    return run.parallel.is_main and minutes is not None and watch.seconds() > 60.0 * minutes


def save(run: Assembled, best: Answers | None) -> None:
    """Write a checkpoint of this step; with train.async_save only begin it, once the one before is complete.

    best: answers of the validation rows, if this step is the best so far. They travel in its checkpoint.
    Raises CheckpointError on every rank if anything could not be written, also of the one before. Collective.
    """
    run.parallel.whereabouts.at("saving")
    complete_save(run)
    check_log(run)
    content = describe_progress(run.progress, run.rows.identity, run.engine, run.class_shares)
    files = {}
    if best is not None and run.parallel.is_main:
        files[run.run_dir.valid_logits.name] = render_logits(describe_logits(run, best))
    run.writer.save(run.progress.step, run.engine, content, files)
    if not run.config.train.async_save:
        complete_save(run)


def describe_logits(run: Assembled, answers: Answers) -> RowLogits:
    """Return logits of the validation rows with what is known of them; rank 0 only."""
    notes = {"step": str(run.progress.step), **note_orders(run.config.evaluate)}
    if run.config.data.num_folds is not None:
        notes["fold"] = str(run.config.data.fold)
    return logits_of_table(run.valid_table, run.validation.rows, answers, run.trained_rows, notes)


def look_after_files(run: Assembled, is_writing: bool, log_has_failed: bool) -> None:
    """At a step border: raise what any rank could not write, and complete the checkpoint that all have written."""
    if log_has_failed:
        check_log(run)
    if not is_writing:
        complete_save(run)


def check_log(run: Assembled) -> None:
    """Make metrics.jsonl durable, so that no checkpoint is ahead of it. Collective."""
    on_main(run.parallel, run.run_dir.metrics_log.name, run.metrics_log.sync)


def complete_save(run: Assembled) -> None:
    """Wait for the checkpoint under way, if there is one, and let the run folder name it. Collective."""
    folder = run.writer.complete()
    if folder is not None:
        on_main(run.parallel, "The run folder", lambda: publish(run, folder))


def publish(run: Assembled, folder: Path) -> None:
    """Name the newest checkpoint and the best in the run folder, then drop those that are no longer kept."""
    # As they were when it was begun; the run itself may be further by now.
    progress = read_json(folder / "progress.json")["progress"]
    best = progress["best"]
    show_best(run.run_dir, best)
    run.run_dir.write_state("running", progress["step"])
    prune(run.run_dir.checkpoints, run.config.train.keep_last, None if best is None else best["step"])
