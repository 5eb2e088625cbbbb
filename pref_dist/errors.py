"""What a user can do wrong, each kind with its exit code.

An error says what, where, with which values, and the remedy. The exit code of a process that
ends by one of these is `error.exit_code`; any other exception is a bug and exits with 1.
"""


class PrefDistError(Exception):
    """Base of every error that is meant for a user."""

    exit_code = 1


class ConfigError(PrefDistError):
    """The run config, its file or an override is wrong, or it changed under a run."""

    exit_code = 2


class DataError(PrefDistError):
    """The input cannot be used as it is: file, columns, rows, or a damaged cache."""

    exit_code = 3


class ParallelError(PrefDistError):
    """The processes, the back-end or the precision are not what was asked for."""

    exit_code = 4


class CheckpointError(PrefDistError):
    """A checkpoint is missing, damaged, or belongs to something else."""

    exit_code = 5


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not whole, or not what was written; the one before may be."""


class PlanError(PrefDistError):
    """The rows do not fit the batch settings."""

    exit_code = 6


class TrainingError(PrefDistError):
    """Training cannot go on: non-finite loss, too many skipped steps, a failed self-check."""

    exit_code = 7


class ModelError(PrefDistError):
    """The model or its tokenizer cannot be found, loaded or used."""

    exit_code = 8


class OutOfMemoryError(PrefDistError):
    """A micro-batch does not fit in the memory of a rank."""

    exit_code = 9


class DiagnosisError(PrefDistError):
    """`doctor` has found what would make a training fail."""

    exit_code = 1


class ClusterError(PrefDistError):
    """Slurm refuses a job, or one that goes back into the queue again and again gets nowhere."""

    exit_code = 10


class BenchError(PrefDistError):
    """A measuring process of `bench` gave no answer."""

    exit_code = 11


STOPPED_EXIT_CODE = 75  # EX_TEMPFAIL: stopped on request, start the same command again to go on
