"""Where a run stands: its settled config, its progress, and what a second start may change."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pref_dist.config.load import build_config, list_changes, read_config_file, render_config, with_values
from pref_dist.config.schema import RunConfig
from pref_dist.data.plan import Plan
from pref_dist.data.prepare import Prepared
from pref_dist.errors import CheckpointError, ConfigError
from pref_dist.files import write_json, write_text
from pref_dist.run_dir import RunDir
from pref_dist.runtime.checkpoint import Checkpoint, find_newest, read_into
from pref_dist.runtime.engine import Engine, LossScale
from pref_dist.runtime.log import MetricsLog, Speaker
from pref_dist.runtime.parallel import Parallel
from pref_dist.runtime.precision import resolve_precision


@dataclass
class Progress:
    """Everything about a run that is not in the weights; saved with each checkpoint.

    step: optimiser steps done. best: {step, log_loss, accuracy, num_rows} of the best evaluation so far.
    """

    step: int = 0
    skipped_in_row: int = 0
    best: dict[str, Any] | None = None
    last_saved_step: int = -1
    seconds: float = 0.0

    @property
    def best_step(self) -> int | None:
        return None if self.best is None else int(self.best["step"])


def settle_config(
    asked: RunConfig, saved: RunConfig | None, run_dir: RunDir, parallel: Parallel, accept_changes: bool
) -> RunConfig:
    """Return the config with every `auto` resolved; the same as at the first start (`saved`), or refuse.

    `auto` keeps what the first start found, so that a resumed run is the same run on other machines.
    Raises ConfigError with the differences if a setting that matters has changed, unless accepted.
    """
    precision = saved.train.precision if saved else resolve_precision("auto", parallel.device)
    multiple = saved.train.micro_batch_multiple if saved else parallel.world_size
    settled = with_values(
        asked,
        train__precision=precision if asked.train.precision == "auto" else asked.train.precision,
        train__micro_batch_multiple=multiple
        if asked.train.micro_batch_multiple == "auto"
        else asked.train.micro_batch_multiple,
        parallel__backend=parallel.backend,
        parallel__world_size=parallel.world_size,
    )
    changes = list_changes(saved, settled) if saved else []
    if changes and not accept_changes:
        raise ConfigError(
            f"{run_dir.root} holds a run with other settings:\n  " + "\n  ".join(changes) + "\n"
            "Give them back, choose another run.dir, start anew with --fresh, or go on with --accept-changes."
        )
    return settled


def read_saved_config(run_dir: RunDir) -> RunConfig | None:
    if not run_dir.config.exists():
        return None
    return build_config(read_config_file(run_dir.config), where=str(run_dir.config))


def write_config(config: RunConfig, run_dir: RunDir) -> None:
    write_text(run_dir.config, render_config(config))


def remove_run(run_dir: RunDir) -> None:
    """Delete what an earlier run left, by name: a run folder may hold files that are not ours."""
    folders = (run_dir.checkpoints, run_dir.evaluations, run_dir.failures, run_dir.model_files)
    files = (run_dir.config, run_dir.state, run_dir.metrics_log, run_dir.metrics, run_dir.best, run_dir.valid_logits,
             run_dir.rows_set_aside, run_dir.truncation, run_dir.report, run_dir.stop_file)  # fmt: skip
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for file in files:
        file.unlink(missing_ok=True)


def restore(
    run_dir: RunDir, engine: Engine, plan: Plan, parallel: Parallel, speaker: Speaker, accept_changes: bool
) -> Progress:
    """Go on from the newest undamaged checkpoint, or from the start; collective.

    Rank 0 looks and tells the others, so that all ranks go on from the same step.
    """
    found = find_newest(run_dir.checkpoints, speaker.say) if parallel.is_main else None
    checkpoint: Checkpoint | None = parallel.broadcast(found)
    progress = Progress()
    if checkpoint is not None:
        values = checkpoint.progress
        check_plan(values, plan, checkpoint.folder, accept_changes)
        progress = Progress(**values["progress"])
        read_into(checkpoint, engine)
        if values["loss_scale"] is not None:
            engine.write_loss_scale(LossScale(**values["loss_scale"]))
        speaker.say(f"Going on from {checkpoint.folder} (step {progress.step} of {plan.num_steps}).")
    # Evaluations and lines after the checkpoint are done again, so what they left goes.
    MetricsLog(run_dir.metrics_log, parallel.is_main).cut_back(progress.step)
    if parallel.is_main:
        keep_best(run_dir, progress)
    return progress


def keep_best(run_dir: RunDir, progress: Progress) -> None:
    if progress.best is None:
        run_dir.best.unlink(missing_ok=True)
    else:
        write_json(run_dir.best, progress.best)


def check_plan(values: dict[str, Any], plan: Plan, folder: Path, accept_changes: bool) -> None:
    if values["plan_digest"] != plan.digest and not accept_changes:
        raise CheckpointError(
            f"{folder} belongs to other rows or another order of rows (plan {values['plan_digest'][:12]}, now "
            f"{plan.digest[:12]}): the data, the tokenizer or --limit changed.\n"
            "Give the data back, start anew with --fresh, or go on with --accept-changes."
        )


def describe_progress(
    progress: Progress, plan: Plan, engine: Engine, prepared: Prepared, class_shares: list[float]
) -> dict[str, Any]:
    """Return what a checkpoint keeps besides the tensors. class_shares: of A, B, tie among the training rows."""
    loss_scale = engine.read_loss_scale()
    return {
        "progress": asdict(progress),
        "plan_digest": plan.digest,
        "table_digests": [table.digest for table in prepared.tables],
        "class_shares": class_shares,
        "loss_scale": None if loss_scale is None else asdict(loss_scale),
    }
