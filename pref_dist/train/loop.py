"""The training loop: take a step, evaluate and save when due, leave when asked to."""

from collections.abc import Iterable
from contextlib import closing
from typing import Any

import numpy as np

from pref_dist.data.plan import PlannedStep
from pref_dist.evaluate.answers import Answers
from pref_dist.evaluate.orders import answer_rows
from pref_dist.metrics import score_logits
from pref_dist.runtime.engine import StepOutcome
from pref_dist.runtime.log import Stopwatch
from pref_dist.runtime.preempt import StopRequest
from pref_dist.train.assemble import Assembled
from pref_dist.train.evaluations import evaluates_after
from pref_dist.train.feed import FedStep, feed_steps
from pref_dist.train.memory import within_budget
from pref_dist.train.rehearsal import rehearse
from pref_dist.train.saving import look_after_files, save, save_is_due, save_is_late
from pref_dist.train.skips import check_skips
from pref_dist.train.step import take_step
from pref_dist.train.stopping import has_ended, note_scores, rate_factor, watch_plateau


def run_steps(run: Assembled, stop: StopRequest) -> str:
    """Train until the run has ended; return why it was stopped before, or an empty string.

    Raises TrainingError after too many skipped steps in a row.
    """
    run.engine.train()
    (stops,) = run.parallel.sum(bool(stop.reason()))  # asked while the run was being put together
    if stops:
        return stop.reason() or "another rank was asked to stop"
    catch_up(run)
    if has_ended(run):
        return ""
    rehearse(run)
    with closing(feed_steps(run)) as steps:
        return follow(run, steps, stop)


def follow(run: Assembled, steps: Iterable[FedStep], stop: StopRequest) -> str:
    """Take the steps; as `run_steps`."""
    step_watch, save_watch = Stopwatch(), Stopwatch()
    for fed in steps:
        step_watch.restart()
        planned, taken = fed.planned, take_step(run, fed)
        run.parallel.whereabouts.at("the end of the step")
        # Here, once a step, the host waits for the device: a stop, a save, or what a skip means, is decided after it.
        outcome = taken.queued.read()
        asked_to_stop, late = bool(stop.reason()), save_is_late(run, save_watch)
        writing, unlogged = run.writer.is_writing(), run.metrics_log.has_failed
        loss, *flags = run.parallel.sum(taken.loss_share, asked_to_stop, late, writing, unlogged)
        stops, late, writing, unlogged = (flag > 0 for flag in flags)
        run.progress.step = planned.step + 1
        run.parallel.whereabouts.at("the step border", run.progress.step)
        run.progress.seconds += step_watch.seconds()
        record_step(run, planned, loss, outcome, step_watch.seconds())
        look_after_files(run, writing, unlogged)
        check_skips(run, planned, taken, outcome)
        # A stop does not wait for an evaluation; the next start makes up for it.
        best = evaluate(run) if evaluation_is_due(run) and not stops else None
        is_end = has_ended(run)
        if best is not None or is_end or stops or late or save_is_due(run):
            save(run, best)
            save_watch.restart()
        if stops and (not is_end or run.progress.evaluated_step < run.progress.step):
            return stop.reason() or "another rank was asked to stop"
        if is_end:
            break
    return ""


def catch_up(run: Assembled) -> None:
    """Evaluate the step that the run goes on from, if it was stopped before it could."""
    if run.progress.step > run.progress.evaluated_step and evaluation_is_due(run):
        save(run, evaluate(run))


def record_step(run: Assembled, planned: PlannedStep, loss: float, outcome: StepOutcome, seconds: float) -> None:
    record: dict[str, Any] = {
        "step": run.progress.step,
        "epoch": planned.epoch,
        "loss": loss,
        "grad_norm": outcome.grad_norm,
        "learning_rate": run.config.train.learning_rate * rate_factor(run, planned.step),
        "rows": planned.num_rows,
        "tokens": planned.num_tokens,
        "padding": 0.0 if run.built.attention == "packed" else 1.0 - planned.num_tokens / planned.num_padded_tokens,
        "micro_batches": len(planned.micro_batches),
        "seconds": seconds,
    }
    loss_scale = run.engine.read_loss_scale()
    if loss_scale is not None:
        record |= {"loss_scale": loss_scale.scale, "skipped": outcome.skipped}
    elif outcome.skipped:
        record["skipped"] = True
    run.metrics_log.append(record)
    if run.parallel.is_main:
        run.options.show_step(record | {"num_steps": run.plan.num_steps})


def evaluation_is_due(run: Assembled) -> bool:
    return evaluates_after(run.config.evaluate, run.plan, run.progress.step)


def evaluate(run: Assembled) -> Answers | None:
    """Score the validation rows on all ranks; return their answers if this is the best log loss so far."""
    watch = Stopwatch()
    run.engine.eval()
    with within_budget(run, "evaluate.token_budget"):
        answers = answer_rows(run.validation, run.engine.forward, run.parallel)
    run.engine.train()
    target = run.valid_table.targets[run.validation.rows]
    # Rank 0's, because another CPU may round the last bit otherwise, and all ranks must decide the same.
    scores = {
        "step": run.progress.step,
        **run.parallel.broadcast(score_logits(answers.logits.astype(np.float64), target)),
    }
    seconds = watch.seconds()
    speed = {"micro_batches": answers.num_batches, "seconds": seconds, "rows_per_second": len(answers) / seconds}
    run.metrics_log.append(scores | speed)
    if run.parallel.is_main:
        run.options.show_scores(scores)
    run.speaker.say(
        f"step {scores['step']}: valid log loss {scores['log_loss']:.4f}, accuracy {scores['accuracy']:.3f}"
    )
    watch_plateau(run, scores["log_loss"])
    return answers if note_scores(run.progress, scores) else None
