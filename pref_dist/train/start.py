"""What a start goes by, before anything is built or changed: settings, rows, the checkpoint that it goes on from."""

from dataclasses import dataclass
from pathlib import Path

from pref_dist.config.schema import RunConfig
from pref_dist.run_dir import RunDir
from pref_dist.runtime.checkpoint import Checkpoint, list_steps
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.parallel import Parallel
from pref_dist.train.assemble import PlannedRows, TrainOptions, plan_rows
from pref_dist.train.memory import Budgets, asked_budgets, fit_rows, read_budgets
from pref_dist.train.resume import find_checkpoint, settle_config


@dataclass(frozen=True)
class Start:
    """rows: planned with `budgets`, which may be smaller than the config's. checkpoint: None at the first start."""

    config: RunConfig
    rows: PlannedRows
    checkpoint: Checkpoint | None
    budgets: Budgets


def has_started(run_dir: RunDir) -> bool:
    """Return whether there is a run to go on with; rank 0 only."""
    return run_dir.read_state().get("state") == "finished" or bool(list_steps(run_dir.checkpoints))


def plan_start(
    config: RunConfig, saved: RunConfig | None, parallel: Parallel, speaker: Speaker, options: TrainOptions
) -> Start:
    """Return what a start with this config goes by; collective, and the run folder stays as it is.

    saved: the config of the run that it goes on with. Raises PrefDistError where it would not go on with this one.
    """
    run_dir = RunDir(Path(config.run.dir))
    config = settle_config(config, saved, parallel, options.accept_changes)
    copies = run_dir.model_files if saved else None
    rows = plan_rows(config, parallel, options.num_rows, options.watch_build, copies)
    if options.is_anew:
        return Start(config, rows, None, asked_budgets(config))
    checkpoint = find_checkpoint(run_dir, rows.identity, rows.plan, parallel, speaker, options.accept_changes)
    budgets = parallel.broadcast(read_budgets(config, run_dir) if parallel.is_main else {})
    return Start(config, fit_rows(rows, budgets), checkpoint, budgets)
