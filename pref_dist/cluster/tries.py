"""How often a job has been put back into the queue without getting any further; slurm/job.sh asks at each start."""

from pathlib import Path

from pref_dist.errors import ClusterError
from pref_dist.files import read_json, write_json
from pref_dist.run_dir import RunDir

MOST_TRIES = 3


def begin_try(run_dir: RunDir, fold: int | None, job: str, num_restarts: int, fresh: bool = False) -> None:
    """Count this start of a job. Raises ClusterError after three in a row from which no checkpoint has come.

    fold: the one that the job trains; None: the run, or all its folds. num_restarts: how often Slurm has put the job
    back so far; one that is submitted anew counts anew. fresh: what earlier jobs have saved will be deleted.
    """
    path = run_dir.root / "slurm" / "tries" / f"{job}.json"
    step = 0 if fresh and not num_restarts else count_steps(run_dir, fold)
    before = read_json(path) if num_restarts and path.exists() else {"step": -1, "tries": 0}
    tries = 1 if step > before["step"] else before["tries"] + 1
    if tries > MOST_TRIES:
        raise ClusterError(
            f"Job {job} was started {MOST_TRIES} times in a row and has saved nothing beyond step {step} of "
            f"{run_dir.root}; it is not tried again. Either its time limit or its grace at a preemption is shorter "
            "than a start, a step and a save, or its nodes fail: the job's log says how each try has ended. Give it "
            "more time, or lower train.rows_per_step, and submit it again: it goes on."
        )
    write_json(path, {"step": step, "tries": tries})


def count_steps(run_dir: RunDir, fold: int | None) -> int:
    """Return the steps that are safe in checkpoints; of all folds together where no fold is named."""
    if fold is not None:
        return newest_step(run_dir.fold(fold))
    return newest_step(run_dir) + sum(newest_step(RunDir(path)) for path in run_dir.root.glob("fold_*"))


def newest_step(run_dir: RunDir) -> int:
    # By their names, as runtime/checkpoint.py lists them, which would cost the import of torch.
    names = (path.name.removeprefix("step_") for path in run_dir.checkpoints.glob("step_*"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def describe_tries(run_dir: RunDir, job: str) -> str:
    """Return a note on a job that does not get further, or an empty string."""
    path = Path(run_dir.root / "slurm" / "tries" / f"{job}.json")
    tries = read_json(path)["tries"] if path.exists() else 1
    return f"{tries} starts without progress" if tries > 1 else ""
