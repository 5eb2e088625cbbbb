"""One rank that trains several runs, one after another, in one process: starting up costs more than a tiny run.

    python -m tests.ranks.many_runs JOBS.json

JOBS.json is a list: a job trains `config` (a file) with `overrides`. With `copy_of` and `step` the run folder is
first made to look as a kill -9 just after that step of another run would have left it.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.ranks.launch_ranks import check_ranks_succeeded, run_ranks
from tests.ranks.run_verb import launch_env


def run_jobs(
    backend: str,
    world_size: int,
    jobs: Sequence[dict[str, Any]],
    folder: Path,
    timeout: float = 400,
    zero_file: Path | None = None,
) -> None:
    """Let `world_size` ranks train all jobs; fails if any rank did. zero_file: instead of the repository's own."""
    path = folder / f"jobs_{backend}_{world_size}.json"
    path.write_text(json.dumps([{**job, "backend": backend, "world_size": world_size} for job in jobs]))
    env = launch_env(backend)
    if zero_file is not None:
        env["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(zero_file)
    check_ranks_succeeded(run_ranks("tests.ranks.many_runs", world_size, [str(path)], env, timeout))


def leave_as_killed(source: Path, target: Path, step: int) -> None:
    """Copy a run folder as it stood when the checkpoint of `step` had just been written.

    metrics.jsonl and best.json stay as they were at the end: what a crash left behind must be cut back.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".lock"))
    for folder in (target / "checkpoints").glob("step_*"):
        if int(folder.name.removeprefix("step_")) > step:
            shutil.rmtree(folder)
    (target / "state.json").write_text(json.dumps({"state": "running", "step": step, "reason": ""}))
    (target / "metrics.json").unlink()


def main() -> None:
    from pref_dist.cli.program import leave
    from pref_dist.config.load import load_config
    from pref_dist.runtime.parallel import start_parallel
    from pref_dist.train.assemble import TrainOptions
    from pref_dist.train.run import train_among

    jobs = json.loads(Path(sys.argv[1]).read_text())
    parallel = None
    for job in jobs:
        here = [f"parallel.backend={job['backend']}", f"parallel.world_size={job['world_size']}"]
        config = load_config(Path(job["config"]), [*job.get("overrides", ()), *here])
        parallel = parallel or start_parallel(config.parallel)
        if "copy_of" in job and parallel.is_main:
            leave_as_killed(Path(job["copy_of"]), Path(config.run.dir), job["step"])
        parallel.broadcast(None)
        result = train_among(parallel, config, TrainOptions(show_step=lambda record: None))
        assert result.state == "finished", result
    leave(0, 0)


if __name__ == "__main__":
    main()
