"""Token budgets that a lack of memory has made smaller: halved until they fit, and kept for the next start.

A step's rows do not depend on its token budget, so that a run may go on with a smaller one from any step. With
dropout 0 its losses stay the same; with dropout each micro-batch has masks of its own, hence other ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pref_dist.config.schema import RunConfig
from pref_dist.errors import OutOfMemoryError
from pref_dist.files import read_json, write_json
from pref_dist.run_dir import RunDir
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.memory import first_line, is_out_of_memory
from pref_dist.train.assemble import Assembled, PlannedRows

Setting = Literal["train.token_budget", "evaluate.token_budget"]
Budgets = dict[str, int]

REMEDY = (
    "Lower data.max_tokens, or share the model among more ranks (zero3, fsdp2), or set "
    "parallel.activation_checkpointing=true."
)


def asked_budgets(config: RunConfig) -> Budgets:
    train, evaluate = config.train.token_budget, config.evaluate.token_budget
    assert train != "auto", "the config is settled before"
    assert evaluate != "auto"
    return {"train.token_budget": train, "evaluate.token_budget": evaluate}


def read_budgets(config: RunConfig, run_dir: RunDir) -> Budgets:
    """Return the budgets to work with: the config's, or smaller ones that an earlier start has found out."""
    found = read_json(run_dir.fitted_budgets) if run_dir.fitted_budgets.exists() else {}
    return {
        setting: found[setting]["fits"] if found.get(setting, {}).get("asked") == asked else asked
        for setting, asked in asked_budgets(config).items()
    }


def write_budgets(config: RunConfig, run_dir: RunDir, budgets: Budgets) -> None:
    asked = asked_budgets(config)
    smaller = {
        setting: {"asked": asked[setting], "fits": fits} for setting, fits in budgets.items() if fits < asked[setting]
    }
    write_json(run_dir.fitted_budgets, smaller)


def fit_rows(rows: PlannedRows, budgets: Budgets) -> PlannedRows:
    """Cut the same steps into micro-batches of other sizes. The run's identity stays that of its own config."""
    plan = replace(rows.plan, token_budget=budgets["train.token_budget"])
    evaluation = rows.evaluation.model_copy(update={"token_budget": budgets["evaluate.token_budget"]})
    return replace(rows, plan=plan, evaluation=evaluation)


def say_budgets(config: RunConfig, budgets: Budgets, speaker: Speaker) -> None:
    """Say loudly which budgets are not the config's."""
    for setting, asked in asked_budgets(config).items():
        if budgets[setting] < asked:
            speaker.say(
                f"WARNING: {setting}={asked:,} did not fit in memory: {budgets[setting]:,} is used instead "
                f"(delete {RunDir(Path(config.run.dir)).fitted_budgets} to try it again)." + masks_differ(config)
            )


def masks_differ(config: RunConfig) -> str:
    model = config.model
    if model.dropout == model.head_dropout == 0.0 and (model.lora is None or model.lora.dropout == 0.0):
        return ""
    return " With dropout, its masks are not those of a run where it fits."


def budgets_of(run: Assembled) -> Budgets:
    return {"train.token_budget": run.plan.token_budget, "evaluate.token_budget": run.validation.token_budget}


def halve(run: Assembled, setting: Setting) -> int | None:
    """Return a budget half as large, at least the longest row's tokens; None where that would not be smaller."""
    budget = budgets_of(run)[setting]
    lengths = run.plan.lengths if setting == "train.token_budget" else run.validation.lengths
    smaller = max(budget // 2, int(lengths.max()))
    return smaller if smaller < budget else None


@contextmanager
def within_budget(run: Assembled, setting: Setting) -> Iterator[None]:
    """Let this rank leave a smaller budget to the next start if the work in it runs out of memory.

    Raises OutOfMemoryError on this rank alone: the others lose it in their next collective, and end by that.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OutOfMemoryError) as error:
        if not isinstance(error, OutOfMemoryError) and not is_out_of_memory(error):
            raise
        raise shrink(run, setting, error) from error


def shrink(run: Assembled, setting: Setting, error: BaseException) -> OutOfMemoryError:
    """Write the smaller budget; return the error that says so."""
    budget, smaller = budgets_of(run)[setting], halve(run, setting)
    what = (
        f"Rank {run.parallel.rank} ran out of memory in step {run.progress.step + 1} with {setting}={budget:,} "
        f"({first_line(error)}). "
    )
    if smaller is None:
        return OutOfMemoryError(f"{what}It holds but the longest row. {REMEDY}")
    write_budgets(run.config, run.run_dir, budgets_of(run) | {setting: smaller})
    return OutOfMemoryError(
        f"{what}The next start uses {smaller:,}: start the same command again to go on from the last checkpoint."
    )
