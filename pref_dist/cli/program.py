"""The program itself: its verbs, and how it ends."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import click

from pref_dist import __version__
from pref_dist.cli.bench import bench
from pref_dist.cli.blend import blend
from pref_dist.cli.cache import cache
from pref_dist.cli.completion import completion
from pref_dist.cli.doctor import doctor
from pref_dist.cli.evaluate import evaluate
from pref_dist.cli.export import export
from pref_dist.cli.inspect import inspect
from pref_dist.cli.predict import predict
from pref_dist.cli.prepare import prepare
from pref_dist.cli.report import report
from pref_dist.cli.sample import sample
from pref_dist.cli.slurm import slurm
from pref_dist.cli.train import train
from pref_dist.cli.verbs import VerbGroup
from pref_dist.errors import CheckpointError, PrefDistError
from pref_dist.files import DISK_FULL, without_controls


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pref-dist")
def program() -> None:
    """Fine-tune a cross-encoder that predicts which of two LLM responses people prefer.

    \b
    Examples:
      pref-dist sample DATA                   make a data set whose best log loss is known
      pref-dist inspect DATA                  check and describe any data set before training on it
      pref-dist train RUN.yaml --dry-run      plan it all, and see whether it fits in memory
      pref-dist train RUN.yaml                train (starting it again goes on)
      pref-dist evaluate RUN_DIR --data F     score it
      pref-dist predict RUN_DIR --data F --out submission.csv
      pref-dist blend RUN_DIR... --data F --out DIR     weigh several runs, predict by all
      pref-dist export RUN_DIR OUT            write a folder that other programs load
      pref-dist bench train --data F          measure the speed beside other pipelines
      pref-dist doctor [RUN.yaml]             check this machine before a training
      pref-dist slurm submit RUN.yaml --site SITE.yaml  all of it as jobs of a cluster
      eval "$(pref-dist completion bash)"     let TAB complete verbs, options and paths

    Several processes: bash launch/node.sh zero2 8 train RUN.yaml
    """


VERBS = (
    sample, inspect, prepare, cache, train, evaluate, predict, blend, report, export, bench, doctor, slurm, completion,
)  # fmt: skip
for verb in VERBS:
    program.add_command(verb)


def main() -> NoReturn:
    """Run the program; the exit code says how it ended (errors.py lists them)."""
    run_as_rank(lambda: program.main(standalone_mode=False))


def run_as_rank(work: Callable[[], int | None]) -> NoReturn:
    """Do the work and end the process as every rank of a launch must, whatever happens: see `leave`.

    work: what a script of your own does; it may return the code that launch/*.sh are to end with, such as 75 for a
    stopped training, with which the process itself ends by 0. Errors are shown and become their exit codes.
    """
    told = 0
    try:
        told = work() or 0
        code = 0
    except click.exceptions.Exit as end:
        code = end.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except PrefDistError as error:
        notes = getattr(error, "__notes__", [])
        say_error("\n".join((f"{type(error).__name__}: {error}", *notes)))
        code = error.exit_code
    except SystemExit as end:
        if isinstance(end.code, str):
            say_error(end.code)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        code = 130
    except Exception as error:  # whatever it is, the process must end, and by the right exit code
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            say_error(f"The disk has no more room, or a quota or limit is reached: {error}. Make room and start again.")
            code = CheckpointError.exit_code
        else:  # a bug: shown whole, and the process must still leave without waiting for other ranks
            sys.excepthook(*sys.exc_info())
            code = 1
    leave(code, told or code)


def say_error(text: str) -> None:
    """Say it, if it can be said: on a full disk the log may be full, too, and the exit code must still come through."""
    said = without_controls(text)
    with suppress(OSError):
        click.echo(f"{rank_prefix()}{said}", err=True)
    if "PREF_DIST_LAUNCH_DIR" in os.environ:
        from pref_dist.runtime.preempt import tell_launcher_why

        with suppress(OSError):
            tell_launcher_why(int(os.environ.get("RANK", "0")), said)


def rank_prefix() -> str:
    rank = os.environ.get("RANK")
    return f"[rank {rank}] " if rank not in (None, "0") else ""


def leave(code: int, told: int) -> NoReturn:
    """End the process with `code` and tell the launcher `told`.

    A rank ends at once. After an error an orderly exit would wait for collectives that the other ranks will
    not join; and after success the libraries' own teardown can still hang or crash when a partner's sockets
    close first, which would make a failure of a finished run. All that counts has been written by then.
    """
    rank = int(os.environ.get("RANK", "0"))
    if "PREF_DIST_LAUNCH_DIR" in os.environ:
        from pref_dist.runtime.preempt import tell_launcher

        try:
            tell_launcher(rank, told)
        except OSError:
            code = code or told  # else a launcher that heard nothing would take a stopped run for a finished one
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1  # what was to be printed did not come through
    if "torch" in sys.modules and (code != 0 or "RANK" in os.environ):
        os._exit(code)
    sys.exit(code)
