"""The job scripts of one run: a head that Slurm reads, the site's setup, and one call into slurm/job.sh."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pref_dist.cluster.site import Site
from pref_dist.config.schema import RunConfig
from pref_dist.errors import ConfigError

JobName = Literal["prepare", "train", "folds", "evaluate", "predict"]

SIGNAL_SECONDS = 120
BARE = re.compile(r"[\w./+=:,@%\[\]&|*()-]+")
# Inside double quotes sbatch takes these for something else. It does not know any other $, # or '.
UNQUOTABLE = re.compile(r'["\\\x00-\x1f\x7f\x85\u2028\u2029]')


@dataclass(frozen=True)
class Surroundings:
    """Where a job works: `here` is the folder it starts in, `root` the code's, `python` the program's."""

    here: Path
    root: Path
    python: Path


@dataclass(frozen=True)
class Job:
    """One job of the chain. call: a function of slurm/job.sh with its arguments."""

    name: JobName
    call: tuple[str, ...]
    num_folds: int | None = None

    @property
    def is_short(self) -> bool:
        return self.name not in ("train", "folds")


def plan_jobs(config: RunConfig, site: Site, run_yaml: Path) -> list[Job]:
    """Return the chain in its order; each job waits for the one before."""
    run, ranks, backend = config.run.dir, str(site.num_ranks), choose_backend(config, site)
    num_folds = config.data.num_folds
    train: JobName = "train" if num_folds is None else "folds"
    jobs = [
        Job("prepare", ("prepare_job", str(run_yaml))),
        Job(train, ("train_job", backend, ranks, str(run_yaml)), num_folds),
        # Each rank holds the whole model here, whatever it was trained by.
        Job("evaluate", ("evaluate_job", "ddp", ranks, run)),
    ]
    if config.data.test is not None:
        out = str(Path(run) / "submission.csv")
        jobs.append(Job("predict", ("predict_job", "ddp", ranks, run, config.data.test, out)))
    return jobs


def choose_backend(config: RunConfig, site: Site) -> str:
    """Return what launches the ranks. Raises ConfigError if the config asks for other ranks than the site gives."""
    asked, num_ranks = config.parallel, site.nodes * site.num_ranks
    if asked.world_size not in ("auto", num_ranks):
        raise ConfigError(
            f"parallel.world_size={asked.world_size} was asked for, but the site gives {site.nodes} nodes x "
            f"{site.num_ranks} ranks. Leave it auto, or change the site's nodes or gpus_per_node."
        )
    if asked.backend == "single" and num_ranks > 1:
        raise ConfigError(
            f"parallel.backend=single is one rank, but the site gives {site.nodes} nodes x {site.num_ranks} ranks. "
            "Set parallel.backend to ddp, zero2, ... or leave it auto."
        )
    return "ddp" if asked.backend in ("auto", "single") else asked.backend


def render_script(job: Job, config: RunConfig, site: Site, place: Surroundings) -> str:
    """Return a script that sbatch, bash and a reader understand. Raises ConfigError for what cannot be quoted."""
    run = Path(config.run.dir)
    call = shlex.join(job.call)
    if job.num_folds is not None:
        call += ' --fold "$SLURM_ARRAY_TASK_ID"'
    setup = ["# Modules and conda use variables that they have not set.", "set +u", *site.setup, "set -u"]
    lines = [
        "#!/usr/bin/env bash",
        f"# The job `{job.name}` of a run, by `pref-dist slurm submit`. By hand: sbatch, and the name of this file.",
        "#",
        *(f"#SBATCH --{option}" for option in list_options(job, run, site)),
        "#",
        "# shellcheck disable=SC2016 # a $ in a name is one",
        "set -euo pipefail",
        f"cd {quote(str(place.here), 'the working folder')}",
        "# shellcheck source=/dev/null",
        f". {quote(str(place.root / 'slurm' / 'job.sh'), 'the folder of the code')}",
        f"export PREF_DIST_PYTHON={quote(str(place.python), 'the path of Python')}",
        *(setup if site.setup else []),
        call,
    ]
    return "\n".join(lines) + "\n"


def list_options(job: Job, run: Path, site: Site) -> list[str]:
    """Return the options of sbatch, in the order in which they stand in the script."""
    is_prepare = job.name == "prepare"
    number = "%j" if job.num_folds is None else "%A_%a"
    asked = {
        # squeue shows the first eight letters.
        "job-name": f"{job.name}-{re.sub(r'[^A-Za-z0-9._-]', '_', run.name)}",
        "account": site.account,
        "qos": site.qos,
        **(prepare_resources(site) if is_prepare else training_resources(site)),
        "ntasks-per-node": 1,
        "time": site.short_time if job.is_short else site.time,
        "array": render_array(job.num_folds, site.parallel_folds),
    }
    options = [option(name, str(value)) for name, value in asked.items() if value is not None]
    log = option("output", f"{check_pattern(logs_of(run))}/{job.name}-{number}.out")
    signals = [] if is_prepare else [f"signal=B:USR1@{SIGNAL_SECONDS}"]
    return [*options, log, "open-mode=append", "requeue", "kill-on-invalid-dep=yes", *signals]


def training_resources(site: Site) -> dict[str, str | int | None]:
    return {
        "partition": site.partition,
        "constraint": site.constraint,
        "nodes": site.nodes,
        "gpus-per-node": site.gpus_per_node or None,
        "cpus-per-task": site.cpus_per_node,
        "mem": site.memory_per_node,
    }


def prepare_resources(site: Site) -> dict[str, str | int | None]:
    """Return what one process without a GPU needs, perhaps on nodes of another kind."""
    return {"partition": site.prepare_partition or site.partition, "nodes": 1, "cpus-per-task": site.prepare_cpus}


def logs_of(run: Path) -> Path:
    return run / "slurm" / "logs"


def render_array(num_folds: int | None, num_parallel: int | None) -> str | None:
    if num_folds is None:
        return None
    return f"0-{num_folds - 1}" + (f"%{num_parallel}" if num_parallel else "")


def option(name: str, value: str) -> str:
    """Return `name=value` as sbatch reads it in a script. Raises ConfigError if it would read something else."""
    if BARE.fullmatch(value):
        return f"{name}={value}"
    if not value or UNQUOTABLE.search(value):
        raise ConfigError(
            f'{name}: {value!r} cannot stand in an #SBATCH line, which has no way to write line breaks, " or \\. '
            "Choose another name (for a path: run.dir)."
        )
    return f'{name}="{value}"'


def check_pattern(path: Path) -> str:
    """Return a path that Slurm does not take for a pattern. Raises ConfigError."""
    if "%" in str(path):
        raise ConfigError(f"run.dir: Slurm takes the % in {str(path)!r} for a pattern. Choose another run.dir.")
    return str(path)


def quote(value: str, what: str) -> str:
    """Return a word for bash. Raises ConfigError for line breaks, which would also end a comment."""
    if not value.isprintable():
        raise ConfigError(f"{what}, {value!r}, holds a line break or a control character. Choose another.")
    return shlex.quote(value)
