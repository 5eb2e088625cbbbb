"""After which steps a run evaluates."""

from fractions import Fraction
from itertools import islice

from pref_dist.config.schema import EvaluateSection, RunConfig
from pref_dist.data.plan import Plan


def evaluates_after(settings: EvaluateSection, plan: Plan, step: int) -> bool:
    """True at the end, after every `every_steps` steps and whenever another `every_epochs` epochs are full.

    The fraction is taken as it is written: as a float, 0.07 epochs of 100 steps would be a little more than 7 steps.
    """
    if step == plan.num_steps:
        return True
    if settings.every_steps is not None and step % settings.every_steps == 0:
        return True
    if settings.every_epochs is None:
        return False
    interval = Fraction(repr(settings.every_epochs)) * plan.steps_per_epoch
    return step // interval > (step - 1) // interval


def warn_of_few_evaluations(config: RunConfig, plan: Plan) -> list[str]:
    """Return a sentence for each setting that can do nothing, because the run evaluates too seldom."""
    train = config.train
    patience = {
        "train.early_stop_patience": train.early_stop_patience,
        "train.plateau_patience": train.plateau_patience if train.schedule == "plateau" else None,
    }
    # The first evaluation is better than none, and after the last step there is nothing left to decide.
    needed = {setting: evaluations + 1 for setting, evaluations in patience.items() if evaluations is not None}
    due = (step for step in range(1, plan.num_steps) if evaluates_after(config.evaluate, plan, step))
    found = len(list(islice(due, max(needed.values(), default=0))))
    return [
        f"{setting}={patience[setting]} can do nothing: the run evaluates {found} times before its end, and "
        f"{number} would be needed. Lower evaluate.every_epochs."
        for setting, number in needed.items()
        if found < number
    ]
