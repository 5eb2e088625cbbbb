"""Evaluation in 8-bit integers, and the gate before it: what that costs in log loss is measured on held-out rows."""

import sys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pref_dist.config.schema import RunConfig
from pref_dist.data.plan import plan_order
from pref_dist.errors import ConfigError, DataError, ModelError
from pref_dist.evaluate.infer import InferenceTask, build_task, infer_logits
from pref_dist.metrics import score_logits
from pref_dist.models.int8 import quantize_layers
from pref_dist.runtime.log import Speaker
from pref_dist.runtime.parallel import Parallel

if TYPE_CHECKING:
    from pref_dist.evaluate.restore import RestoredRun

GATE_ROWS = 512


def check_quantize(config: RunConfig, parallel: Parallel) -> None:
    """Raise ConfigError, before anything is loaded, where evaluate.quantize=int8 cannot run."""
    if config.evaluate.quantize == "none":
        return
    if parallel.device.type != "cpu":
        raise ConfigError(
            f"evaluate.quantize=int8 is for a CPU, and this is {parallel.device.type}. Set it to none; "
            "train.precision=bf16 is what is fast there."
        )
    if parallel.backend not in ("single", "ddp"):
        raise ConfigError(
            f"evaluate.quantize=int8 needs the whole model on every rank, not parallel.backend={parallel.backend}. "
            "Start it by launch/single.sh or by launch/node.sh ddp."
        )


def quantize_run(run: "RestoredRun", module: nn.Module) -> None:
    """Let a restored run answer in 8-bit integers from now on, if its held-out rows allow it; collective.

    Raises ModelError if their log loss rises by more than evaluate.quantize_tolerance, DataError if these rows are
    not there any more.
    """
    (task, targets), allowed = open_gate(run), run.config.evaluate.quantize_tolerance
    before = score(run, task, targets)
    if quantize_layers(module) == 0:
        raise ModelError(
            f"evaluate.quantize=int8, but {type(module).__name__} has no linear layers in a list of layers. "
            "Set it to none."
        )
    after = score(run, task, targets)
    if not after - before <= allowed:
        raise ModelError(
            f"evaluate.quantize=int8 gives a log loss of {after:.5f} on {len(task.rows):,} held-out rows, where "
            f"{run.config.train.precision} gives {before:.5f}: {after - before:+.5f}, and "
            f"evaluate.quantize_tolerance={allowed:g}. Set evaluate.quantize=none, or allow more."
        )
    Speaker(run.parallel.is_main, sys.stderr).say(
        f"int8: log loss {after:.5f} on {len(task.rows):,} held-out rows, without it {before:.5f} "
        f"({after - before:+.5f}; evaluate.quantize_tolerance={allowed:g})"
    )


def open_gate(run: "RestoredRun") -> tuple[InferenceTask, NDArray[np.float64]]:
    """Return the task of answering a sample of the run's held-out rows, always the same ones, and their targets."""
    try:
        prepared = run.prepare()
    except DataError as error:
        raise DataError(
            f"evaluate.quantize=int8 is tried on the run's own held-out rows first, and they are not there: {error}\n"
            "Give them back where config.yaml names them, or set evaluate.quantize=none."
        ) from error
    rows = prepared.valid_rows[np.sort(plan_order(len(prepared.valid_rows), seed=0, epoch=0)[:GATE_ROWS])]
    budget = run.config.evaluate.token_budget
    assert budget != "auto"
    return build_task(prepared.valid_table, rows, run.layout, budget), prepared.valid_table.targets[rows]


def score(run: "RestoredRun", task: InferenceTask, targets: NDArray[np.float64]) -> float:
    """Return the log loss of the task's rows as they stand in their file, in nats, on every rank.

    Rank 0's, because another CPU may round the last bit otherwise, and all ranks must decide the same. Collective.
    """
    logits = infer_logits(task, run.engine.forward, run.parallel)
    return run.parallel.broadcast(float(score_logits(logits.astype(np.float64), targets)["log_loss"]))
