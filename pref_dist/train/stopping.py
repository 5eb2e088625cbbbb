"""What evaluations decide: the best step, the learning rate on a plateau, and whether a run has reached its end.

All of it is a function of `Progress`, which every rank holds alike and each checkpoint keeps.
"""

from typing import Any

from pref_dist.optim import learning_rate_factor
from pref_dist.train.assemble import Assembled
from pref_dist.train.resume import Progress


def rate_factor(run: Assembled, step: int) -> float:
    """Return the share of the peak rate that step `step` (from 0) trains with."""
    train = run.config.train
    factor = learning_rate_factor(step, run.plan.num_steps, train.warmup_fraction, train.schedule)
    return factor * run.progress.plateau.scale if train.schedule == "plateau" else factor


def watch_plateau(run: Assembled, log_loss: float) -> None:
    """Lower the rate of the steps to come, if train.schedule asks for it and evaluations no longer get better."""
    train, before = run.config.train, run.progress.plateau
    if train.schedule != "plateau":
        return
    run.progress.plateau = before.after(log_loss, train.plateau_patience, train.plateau_factor)
    if run.progress.plateau.scale < before.scale:
        run.speaker.say(
            f"step {run.progress.step}: the log loss is on a plateau; the learning rate is "
            f"{run.progress.plateau.scale:.3g} of the schedule's from here on"
        )


def note_scores(progress: Progress, scores: dict[str, Any]) -> bool:
    """Take an evaluation of the present step into account; return whether it is the best so far."""
    progress.evaluated_step = progress.step
    is_best = progress.best is None or scores["log_loss"] < progress.best["log_loss"]
    if is_best:
        progress.best = scores
    progress.evaluations_since_best = 0 if is_best else progress.evaluations_since_best + 1
    return is_best


def is_out_of_patience(progress: Progress, patience: int | None) -> bool:
    """Whether the evaluation of the present step was one too many without a better log loss.

    Only an evaluation ends a run: a patience that was lowered when the run went on waits for the next one.
    """
    if patience is None or progress.best is None or progress.evaluated_step != progress.step:
        return False
    return progress.evaluations_since_best >= patience


def has_ended(run: Assembled) -> bool:
    """Whether no step is to be taken any more."""
    is_done = run.progress.step == run.plan.num_steps
    return is_done or is_out_of_patience(run.progress, run.config.train.early_stop_patience)


def why_ended_early(run: Assembled) -> str:
    """Return why a run that has ended did so before the end of its plan; an empty string if it did not."""
    best = run.progress.best
    if run.progress.step == run.plan.num_steps or best is None:
        return ""
    return (
        f"early stop: {run.progress.evaluations_since_best} evaluations in a row were not better than "
        f"{best['log_loss']:.4f} of step {best['step']}, train.early_stop_patience="
        f"{run.config.train.early_stop_patience}"
    )
