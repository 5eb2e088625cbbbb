"""Where a run stands: its settled config, its progress, and what a second start may change."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from pref_dist.config.load import all_keys, build_config, list_changes, read_config_file, render_config, with_values
from pref_dist.config.schema import RunConfig, Tracker
from pref_dist.data.plan import Plan
from pref_dist.data.prepare import Prepared, digest_rows
from pref_dist.errors import CheckpointError, ConfigError, PlanError
from pref_dist.evaluate.worst_rows import WORST_ROWS
from pref_dist.files import remove_folder, render_json, sync, write_bytes, write_json, write_text
from pref_dist.optim import Plateau
from pref_dist.run_dir import RunDir
from pref_dist.runtime.budgets import TokenBudgets, resolve_budget, suggest_budgets
from pref_dist.runtime.checkpoint import Checkpoint, drop_newer, find_newest, folder_of_step, list_steps, read_into
from pref_dist.runtime.engine import Engine, LossScale
from pref_dist.runtime.log import MetricsLog, Speaker
from pref_dist.runtime.parallel import Parallel
from pref_dist.runtime.precision import resolve_precision
from pref_dist.train.distill import Teacher


@dataclass
class Progress:
    """Everything about a run that is not in the weights; saved with each checkpoint.

    step: optimiser steps done. evaluated_step: the last one after which was evaluated.
    skipped_steps: steps that changed nothing, because a gradient was not finite; skipped_in_row: the latest of them.
    best: {step, log_loss, accuracy, num_rows} of the best evaluation so far. evaluations_since_best: how many there
    were since, of which a checkpoint older than this count knows none. plateau: what train.schedule=plateau has seen.
    """

    step: int = 0
    skipped_in_row: int = 0
    skipped_steps: int = 0
    best: dict[str, Any] | None = None
    evaluated_step: int = 0
    evaluations_since_best: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    seconds: float = 0.0

    @property
    def best_step(self) -> int | None:
        return None if self.best is None else int(self.best["step"])

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """Return what `asdict` has made of one, also before there were all fields."""
        return cls(**values | {"plateau": Plateau(**values.get("plateau", {}))})


def settle_config(asked: RunConfig, saved: RunConfig | None, parallel: Parallel, accept_changes: bool) -> RunConfig:
    """Return the config with every `auto` resolved; the same as at the first start (`saved`), or refuse.

    `auto` keeps what the first start found, so that a resumed run is the same run on other machines.
    Raises ConfigError with the differences if a setting that matters has changed, unless accepted, and
    ParallelError if the ranks were given different settings.
    """
    precision = saved.train.precision if saved else resolve_precision("auto", parallel.device)
    multiple = saved.train.micro_batch_multiple if saved else parallel.world_size
    budgets = settle_budgets(asked, saved, parallel)
    settled = with_values(
        asked,
        train__token_budget=budgets.train,
        evaluate__token_budget=budgets.evaluate,
        train__precision=precision if asked.train.precision == "auto" else asked.train.precision,
        train__micro_batch_multiple=multiple
        if asked.train.micro_batch_multiple == "auto"
        else asked.train.micro_batch_multiple,
        parallel__backend=parallel.backend,
        parallel__world_size=parallel.world_size,
    )
    parallel.check_agreement(flatten(settled))
    changes = list_changes(saved, settled) if saved else []
    if changes and not accept_changes:
        raise ConfigError(
            f"{settled.run.dir} holds a run with other settings:\n  " + "\n  ".join(changes) + "\n"
            "Give them back, choose another run.dir, start anew with --fresh, or go on with --accept-changes."
        )
    return settled


def settle_budgets(asked: RunConfig, saved: RunConfig | None, parallel: Parallel) -> TokenBudgets:
    """Return the token budgets: as asked for; where that is auto as saved, else what suits all ranks. Collective."""
    suggested = parallel.gather(suggest_budgets(parallel.device))
    chosen = asked if saved is None else fill_budgets(asked, saved)
    return TokenBudgets(
        train=resolve_budget(chosen.train.token_budget, min(one.train for one in suggested), asked),
        evaluate=resolve_budget(chosen.evaluate.token_budget, min(one.evaluate for one in suggested), asked),
    )


def fill_budgets(asked: RunConfig, saved: RunConfig) -> RunConfig:
    """Return the config with the saved budgets where it says auto."""
    budgets = {
        f"{name}__token_budget": getattr(saved, name).token_budget
        for name in ("train", "evaluate")
        if getattr(asked, name).token_budget == "auto"
    }
    return with_values(asked, **budgets)


# Folders of one data set or cache may be mounted at other places on other machines; contents are compared.
PLACES = ("run.dir", "data.train", "data.valid", "data.test", "data.cache_dir", "data.num_workers", "model.name")


def flatten(config: RunConfig) -> dict[str, str]:
    """Return {section.key: value as text} of all that must be the same on every rank."""
    values = config.model_dump()
    for source in values["data"]["sources"] or ():
        del source["path"]
    if values["train"]["distill"] is not None:
        del values["train"]["distill"]["logits"]
    names = [name.split(".") for name in all_keys() if name not in PLACES]
    return {f"{section}.{key}": repr(values[section][key]) for section, key in names}


def read_saved_config(run_dir: RunDir) -> RunConfig | None:
    if not run_dir.config.exists():
        return None
    return build_config(read_config_file(run_dir.config), where=str(run_dir.config))


def write_config(config: RunConfig, run_dir: RunDir) -> None:
    write_text(run_dir.config, render_config(config))


def remove_run(run_dir: RunDir) -> None:
    """Delete what an earlier run left, by name: a run folder may hold files that are not ours.

    Not the stop file, which may be meant for this start. Raises CheckpointError if the checkpoints lie behind a link.
    """
    if run_dir.checkpoints.is_symlink() and list_steps(run_dir.checkpoints):
        raise CheckpointError(
            f"{run_dir.checkpoints} is a link to {run_dir.checkpoints.resolve()}, whose checkpoints may be another "
            "run's: they are not deleted. Empty that folder, or remove the link, and start again."
        )
    folders = [] if run_dir.checkpoints.is_symlink() else [run_dir.checkpoints]
    folders += [run_dir.evaluations, run_dir.failures, run_dir.heartbeats, run_dir.model_files]
    folders += [run_dir.parts, *(run_dir.logs / tracker for tracker in get_args(Tracker))]
    files = (run_dir.config, run_dir.state, run_dir.starts, run_dir.metrics_log, run_dir.metrics, run_dir.best,
             run_dir.valid_logits, run_dir.trained_rows, run_dir.rows_set_aside, run_dir.findings, run_dir.truncation,
             run_dir.report, run_dir.fitted_budgets, run_dir.calibration, run_dir.root / WORST_ROWS)  # fmt: skip
    for folder in folders:
        remove_folder(folder)
    for file in files:
        file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Identity:
    """What a run's checkpoints are bound to besides its settings; each a sha256."""

    plan: str
    tables: tuple[str, ...]
    valid: str  # which rows are held out
    tokenizer: str
    teacher: str | None = None  # its logits of the training rows
    base: str | None = None  # weights that are not trained, and so in no checkpoint; None: all are


def identify(prepared: Prepared, plan: Plan, teacher: Teacher | None, base: str | None) -> Identity:
    tables = tuple(table.digest for table in prepared.tables)
    taught = None if teacher is None else teacher.digest
    return Identity(plan.digest, tables, digest_rows(prepared.valid_rows), prepared.tokenizer.digest, taught, base)


def find_checkpoint(
    run_dir: RunDir, identity: Identity, plan: Plan, parallel: Parallel, speaker: Speaker, accept_changes: bool
) -> Checkpoint | None:
    """Return the newest undamaged checkpoint of these very rows, the same on every rank; changes nothing.

    Raises CheckpointError if it belongs to other rows or another tokenizer, unless that is accepted.
    """
    found = find_newest(run_dir.checkpoints, speaker.say) if parallel.is_main else None
    checkpoint: Checkpoint | None = parallel.broadcast(found)
    if checkpoint is None:
        return None
    changes = list_identity_changes(checkpoint.progress["identity"], identity)
    if changes and not accept_changes:
        raise CheckpointError(
            f"{checkpoint.folder} belongs to another run: {', '.join(changes)} changed.\n"
            "Give the data, the model's files or --limit back, start anew with --fresh, or go on with --accept-changes."
        )
    if changes:
        speaker.say(
            f"WARNING: going on although {', '.join(changes)} changed: rows of this epoch may come twice or never."
        )
    if checkpoint.step > plan.num_steps:
        raise PlanError(
            f"{checkpoint.folder} is from step {checkpoint.step}, but the plan now ends at {plan.num_steps}. "
            "Raise train.epochs or train.max_steps, or start anew with --fresh."
        )
    return checkpoint


def list_identity_changes(saved: dict[str, Any], identity: Identity) -> list[str]:
    names = {
        "tables": "the content of data.train or data.valid",
        "valid": "which rows are held out",
        "tokenizer": "the tokenizer",
        "plan": "the order of rows",
        "teacher": "the logits of train.distill.logits",
        "base": "the frozen weights of model.name",
    }
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(identity).items()}
    return [text for key, text in names.items() if saved.get(key) != found[key]]


def restore(checkpoint: Checkpoint | None, run_dir: RunDir, engine: Engine) -> Progress:
    """Set the engine to a checkpoint and return where it stood; the start of a run without one. Collective."""
    if checkpoint is None:
        return Progress()
    values = checkpoint.progress
    progress = Progress.from_json(values["progress"])
    read_into(checkpoint, engine)
    if values["loss_scale"] is not None:
        engine.write_loss_scale(LossScale(**values["loss_scale"]))
    best = progress.best_step
    if best is not None and not folder_of_step(run_dir.checkpoints, best).is_dir():
        progress.best = None  # it went with a newer state of the run that was lost; the next evaluation is the best
    return progress


def cut_back(run_dir: RunDir, progress: Progress) -> None:
    """Take away what came after the checkpoint: it will be done again. Rank 0 only."""
    drop_newer(run_dir.checkpoints, progress.step)
    MetricsLog(run_dir.metrics_log, is_main=True).cut_back(progress.step)
    show_best(run_dir, progress.best)


def show_best(run_dir: RunDir, best: dict[str, Any] | None) -> None:
    """Make best.json and valid_logits.parquet those of the best step, whose checkpoint is in place. Rank 0 only.

    The logits lie in that checkpoint. Those in the run folder go first and come last, so that they never belong to
    another step than best.json names, whenever a crash comes; the next start brings back what is missing.
    """
    if best is not None and is_shown(run_dir, best):
        return
    run_dir.valid_logits.unlink(missing_ok=True)
    if best is None:
        run_dir.best.unlink(missing_ok=True)
        return
    sync(run_dir.root)
    write_json(run_dir.best, best)
    logits = logits_of_step(run_dir, best["step"])
    if logits.exists():
        write_bytes(run_dir.valid_logits, logits.read_bytes())


def is_shown(run_dir: RunDir, best: dict[str, Any]) -> bool:
    files_are_there = run_dir.best.exists() and run_dir.valid_logits.exists()
    return files_are_there and run_dir.best.read_text(encoding="utf-8") == render_json(best)


def logits_of_step(run_dir: RunDir, step: int) -> Path:
    return folder_of_step(run_dir.checkpoints, step) / run_dir.valid_logits.name


def describe_progress(
    progress: Progress, identity: Identity, engine: Engine, class_shares: list[float]
) -> dict[str, Any]:
    """Return what a checkpoint keeps besides the tensors. class_shares: of A, B, tie among the training rows."""
    loss_scale = engine.read_loss_scale()
    return {
        "progress": asdict(progress),
        "identity": {key: value for key, value in asdict(identity).items() if value is not None},
        "class_shares": class_shares,
        "loss_scale": None if loss_scale is None else asdict(loss_scale),
    }
