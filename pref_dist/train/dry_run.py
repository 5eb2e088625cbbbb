"""The verb `train --dry-run`: all that comes before the first step, and whether it fits.

The run folder stays as it is.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pref_dist.config.schema import RunConfig
from pref_dist.errors import OutOfMemoryError
from pref_dist.files import render_bytes
from pref_dist.run_dir import RunDir
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.memory_meter import held_bytes
from pref_dist.runtime.parallel import start_parallel
from pref_dist.runtime.trackers import check_trackers
from pref_dist.train.assemble import TrainOptions, assemble
from pref_dist.train.folds import check_request, config_of_fold
from pref_dist.train.measuring import RankMemory, measure_ranks
from pref_dist.train.memory import REMEDY, say_budgets
from pref_dist.train.resume import read_saved_config
from pref_dist.train.start import has_started, plan_start


@dataclass(frozen=True)
class DryRun:
    """What a training would take. ranks: in their order. token_budget: train.token_budget of the run.

    is_main: whether this rank is the one to print it.
    """

    backend: str
    world_size: int
    device: str
    num_rows: int
    num_steps: int
    token_budget: int
    ranks: list[RankMemory]
    is_main: bool

    @property
    def largest_budget(self) -> int | None:
        """The largest train.token_budget that fits on every rank; None: the batches are too small to tell."""
        found = [rank.largest_budget for rank in self.ranks if rank.largest_budget is not None]
        return min(found, default=None)

    @property
    def fits(self) -> bool:
        return all(rank.fits for rank in self.ranks)

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        del values["is_main"]
        for rank, told in zip(self.ranks, values["ranks"], strict=True):
            told["state"] |= {"total": rank.state.total}
        return values | {"largest_budget": self.largest_budget, "fits": self.fits}

    def check_fits(self) -> None:
        """Raise OutOfMemoryError if the largest micro-batch has no room on a rank."""
        if self.fits:
            return
        # Where one rank fails none tries the largest batch, so that to have tried it says nothing of the others.
        tight = [number for number, rank in enumerate(self.ranks) if rank.failure or rank.activations > rank.free]
        rank = self.ranks[tight[0]]
        why = rank.failure or f"about {render_bytes(rank.activations)} are needed, {render_bytes(rank.free)} are free"
        remedy = f"Lower it. {REMEDY}"
        if self.largest_budget is not None and self.largest_budget < self.token_budget:
            remedy = f"Set train.token_budget to at most {self.largest_budget:,}. {REMEDY}"
        raise OutOfMemoryError(
            f"train.token_budget={self.token_budget:,} does not fit on {len(tight)} of {len(self.ranks)} ranks "
            f"(rank {tight[0]}: {why}). {remedy}"
        )


def dry_run(config: RunConfig, options: TrainOptions | None = None, fold: int | None = None) -> DryRun:
    """Check, prepare and plan a run, build its model, and measure its largest micro-batch; every rank calls it.

    Written is the token cache alone, which has a folder of its own. Of several folds it is `fold`. Raises PrefDistError
    as `train` does before its first step, also where a run in the folder would not go on with this config.
    """
    options = options or TrainOptions()
    if fold is not None:
        check_request(config, options, fold)
        config = config_of_fold(config, fold, None)
    run_dir = RunDir(Path(config.run.dir))
    run_dir.check_holds_no_folds()
    parallel = start_parallel(config.parallel, config.run.deterministic)
    check_trackers(config.run.trackers, parallel)
    speaker = Speaker(parallel.is_main, sys.stderr if options.lines_to_stderr else sys.stdout)
    goes_on = parallel.is_main and not options.is_anew and has_started(run_dir)
    saved = parallel.broadcast(read_saved_config(run_dir) if goes_on else None)
    start = plan_start(config, saved, parallel, speaker, options)
    say_budgets(start.config, start.budgets, speaker)
    held_before = held_bytes(parallel.device)
    run = assemble(start.config, start.rows, start.checkpoint, parallel, speaker, options)
    speaker.say("memory     measuring it: small batches and the largest one, forward and backward")
    ranks = measure_ranks(run, held_before)
    parallel.stop()
    return DryRun(
        parallel.backend, parallel.world_size, parallel.device.type, len(run.plan.rows), run.plan.num_steps,
        run.plan.token_budget, ranks, parallel.is_main,
    )  # fmt: skip
