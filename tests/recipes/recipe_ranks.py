"""What each rank does in test_recipes.py: several recipes, one after another, in one process.

    python -m tests.recipes.recipe_ranks JOBS.json

A job trains `config` with `overrides` in the folder `whole`. In the folder `stopped` it is stopped after STOP_AFTER
steps, goes on to the end, and predicts `data` into `out`.
"""

import json
import sys
from pathlib import Path
from typing import Any

STOP_AFTER = 2


def main() -> None:
    from pref_dist.cli.program import leave
    from pref_dist.config.load import load_config
    from pref_dist.runtime.parallel import start_parallel

    parallel = None
    for job in json.loads(Path(sys.argv[1]).read_text()):
        config = load_config(Path(job["config"]), job["overrides"])
        parallel = parallel or start_parallel(config.parallel)
        train(parallel, job, "whole")
        train(parallel, job, "stopped", stop_after=STOP_AFTER)
        train(parallel, job, "stopped")
        predict(parallel, Path(job["stopped"]), Path(job["data"]), Path(job["out"]))
    leave(0, 0)


def train(parallel: Any, job: dict[str, Any], folder: str, stop_after: int | None = None) -> None:
    """Train a job's recipe until it ends, or a file `stop` appears during the step `stop_after`."""
    from pref_dist.config.load import load_config
    from pref_dist.run_dir import RunDir
    from pref_dist.train.assemble import TrainOptions
    from pref_dist.train.run import train_among

    stop_file = RunDir(Path(job[folder])).stop_file

    def show_step(record: dict[str, Any]) -> None:
        if stop_after is not None and record["step"] == stop_after - 1:
            stop_file.touch()

    config = load_config(Path(job["config"]), [*job["overrides"], f"run.dir={job[folder]}"])
    result = train_among(parallel, config, TrainOptions(show_step=show_step))
    if parallel.is_main:
        stop_file.unlink(missing_ok=True)  # a new process would know that it is from before
    parallel.broadcast(None)
    found = (result.state, result.step)
    assert found == (("finished", config.train.max_steps) if stop_after is None else ("stopped", stop_after)), found


def predict(parallel: Any, run_folder: Path, data: Path, out: Path) -> None:
    """`pref_dist.predict.predict` among ranks that are connected already."""
    from pref_dist.evaluate.restore import read_run_config, restore_run
    from pref_dist.predict import predict_table
    from pref_dist.run_dir import RunDir
    from pref_dist.submission import write_submission

    run_dir = RunDir(run_folder)
    found = predict_table(restore_run(read_run_config(run_dir, ()), run_dir, None, parallel), data, None, None)
    if parallel.is_main:
        write_submission(out, found.ids, found.chances)


if __name__ == "__main__":
    main()
