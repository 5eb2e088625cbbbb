"""The training loop: take a step, evaluate and save when due, leave when asked to."""

from typing import Any

import numpy as np

from pref_dist.data.plan import PlannedStep
from pref_dist.evaluate.infer import infer_logits
from pref_dist.metrics import score_logits
from pref_dist.optim import learning_rate_factor
from pref_dist.runtime.engine import StepOutcome
from pref_dist.runtime.log import Stopwatch
from pref_dist.runtime.preempt import StopRequest
from pref_dist.train.assemble import Assembled
from pref_dist.train.memory import within_budget
from pref_dist.train.rehearsal import rehearse
from pref_dist.train.saving import Logits, look_after_files, save, save_is_due, save_is_late
from pref_dist.train.skips import check_skips
from pref_dist.train.step import take_step


def run_steps(run: Assembled, stop: StopRequest) -> str:
    """Train to the end of the plan; return why it stopped earlier, or an empty string.

    Raises TrainingError after too many skipped steps in a row.
    """
    step_watch, save_watch = Stopwatch(), Stopwatch()
    run.engine.train()
    (stops,) = run.parallel.sum(bool(stop.reason()))  # asked while the run was being put together
    if stops:
        return stop.reason() or "another rank was asked to stop"
    catch_up(run)
    if run.progress.step < run.plan.num_steps:
        rehearse(run)
    for planned in run.plan.steps(run.progress.step):
        step_watch.restart()
        taken = take_step(run, planned)
        run.parallel.whereabouts.at("the end of the step")
        asked_to_stop, late = bool(stop.reason()), save_is_late(run, save_watch)
        writing, unlogged = run.writer.is_writing(), run.metrics_log.has_failed
        loss, *flags = run.parallel.sum(taken.loss_share, asked_to_stop, late, writing, unlogged)
        stops, late, writing, unlogged = (flag > 0 for flag in flags)
        run.progress.step = planned.step + 1
        run.parallel.whereabouts.at("the step border", run.progress.step)
        run.progress.seconds += step_watch.seconds()
        record_step(run, planned, loss, taken.outcome, step_watch.seconds())
        look_after_files(run, writing, unlogged)
        check_skips(run, planned, taken)
        is_end = run.progress.step == run.plan.num_steps
        # A stop does not wait for an evaluation; the next start makes up for it.
        best_logits = evaluate(run) if evaluation_is_due(run) and not stops else None
        if best_logits is not None or is_end or stops or late or save_is_due(run):
            save(run, best_logits)
            save_watch.restart()
        if stops and (not is_end or run.progress.evaluated_step < run.progress.step):
            return stop.reason() or "another rank was asked to stop"
    return ""


def catch_up(run: Assembled) -> None:
    """Evaluate the step that the run goes on from, if it was stopped before it could."""
    if run.progress.step > run.progress.evaluated_step and evaluation_is_due(run):
        save(run, evaluate(run))


def record_step(run: Assembled, planned: PlannedStep, loss: float, outcome: StepOutcome, seconds: float) -> None:
    train = run.config.train
    factor = learning_rate_factor(planned.step, run.plan.num_steps, train.warmup_fraction, train.schedule)
    record: dict[str, Any] = {
        "step": run.progress.step,
        "epoch": planned.epoch,
        "loss": loss,
        "grad_norm": outcome.grad_norm,
        "learning_rate": train.learning_rate * factor,
        "rows": planned.num_rows,
        "tokens": planned.num_tokens,
        "padding": 1.0 - planned.num_tokens / planned.num_padded_tokens,
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
        run.options.show_step(record)


def evaluation_is_due(run: Assembled) -> bool:
    """True at the end, after every `every_steps` steps and whenever another `every_epochs` epochs are full."""
    settings, step = run.config.evaluate, run.progress.step
    if step == run.plan.num_steps:
        return True
    if settings.every_steps is not None and step % settings.every_steps == 0:
        return True
    if settings.every_epochs is None:
        return False
    interval = settings.every_epochs * run.plan.steps_per_epoch
    return int(step / interval) > int((step - 1) / interval)


def evaluate(run: Assembled) -> Logits | None:
    """Score the validation rows on all ranks; return their logits if this is the best log loss so far."""
    watch = Stopwatch()
    run.engine.eval()
    with within_budget(run, "evaluate.token_budget"):
        logits = infer_logits(run.validation, run.engine.forward, run.parallel)
    run.engine.train()
    target = run.valid_table.targets[run.validation.rows]
    scores = {"step": run.progress.step, **score_logits(logits.astype(np.float64), target)}
    seconds = watch.seconds()
    run.metrics_log.append(scores | {"seconds": seconds, "rows_per_second": len(logits) / seconds})
    run.speaker.say(
        f"step {scores['step']}: valid log loss {scores['log_loss']:.4f}, accuracy {scores['accuracy']:.3f}"
    )
    run.progress.evaluated_step = run.progress.step
    best = run.progress.best
    if best is not None and scores["log_loss"] >= best["log_loss"]:
        return None
    run.progress.best = scores
    return logits
