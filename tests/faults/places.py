"""Where a fault strikes: functions of the program, wrapped in the process that is to be struck."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import pref_dist.data.cache_build as cache_build
import pref_dist.train.loop as loop
from pref_dist.runtime.engine import QueuedStep
from pref_dist.runtime.parallel import Parallel
from tests.faults.fault import Fault
from tests.faults.strikes import leave_mark, poison, strike


class Passage:
    """Where the process is: in which step, or (0) in none; after which; how often it has passed the fault's place."""

    def __init__(self) -> None:
        self.step, self.last_step, self.num_passed, self.has_struck = 0, 0, 0, False

    def is_due(self, fault: Fault) -> bool:
        """Count one passing of the place; whether the fault strikes at it."""
        self.num_passed += 1
        return self.num_passed == fault.count + 1


def arm(fault: Fault, run_dir: Path | None) -> None:
    """Make the fault happen in this process. run_dir: where `files` are counted."""
    passage = Passage()
    if fault.place == "tokenising":
        wrap_tokenising(fault)
    elif fault.place == "files":
        assert run_dir is not None
        watch_files(fault, run_dir)
    else:
        follow_steps(passage)
        wrap_engines(fault, passage)


def wrap_tokenising(fault: Fault) -> None:
    """Strike in the process that builds the cache: before its files are written (count 0), or before they are named."""
    write_entry = cache_build.write_entry

    def write(folder: Path, job: Any) -> None:
        if fault.count == 0:
            strike(fault, 0)
        write_entry(folder, job)
        if fault.count > 0:
            strike(fault, 0)

    cache_build.write_entry = write


def follow_steps(passage: Passage) -> None:
    take_step = loop.take_step

    def take(run: Any, fed: Any) -> Any:
        passage.step, passage.num_passed = fed.planned.step + 1, 0
        taken = take_step(run, fed)
        passage.last_step, passage.step, passage.num_passed = passage.step, 0, 0
        return taken

    loop.take_step = take


def wrap_engines(fault: Fault, passage: Passage) -> None:
    build_engine = Parallel.build_engine

    def build(self: Parallel, *arguments: Any) -> Any:
        engine: Any = build_engine(self, *arguments)
        if fault.place == "update":
            engine.step = wrap_update(fault, passage, engine, engine.step)
        else:
            engine.forward = wrap_forward(fault, passage, engine.forward)
        return engine

    Parallel.build_engine = build


def wrap_forward(fault: Fault, passage: Passage, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run_forward(*arguments: Any, **named: Any) -> Any:
        due = is_place(fault, passage) and passage.is_due(fault)
        if due and fault.strike != "nan":
            passage.has_struck = True
            strike(fault, passage.step)
        logits = forward(*arguments, **named)
        return poison(fault, passage.step, logits) if due and fault.strike == "nan" else logits

    return run_forward


def is_place(fault: Fault, passage: Passage) -> bool:
    """Whether this forward is one of those that the fault counts."""
    if fault.place == "forward":
        return passage.step in fault.steps
    if passage.has_struck or passage.step != 0:
        return False
    if fault.place == "evaluation":
        return not torch.is_grad_enabled() and passage.last_step >= fault.steps[0]
    return torch.is_grad_enabled()  # rehearsal: a training forward outside of every step


def wrap_update(
    fault: Fault, passage: Passage, engine: Any, step: Callable[[float], QueuedStep]
) -> Callable[[float], QueuedStep]:
    def update(learning_rate_factor: float) -> QueuedStep:
        if passage.step not in fault.steps:
            return step(learning_rate_factor)
        if fault.strike != "skip":
            strike(fault, passage.step)
            return step(learning_rate_factor)
        # What a step that is skipped must amount to, on engines that hold the whole model: nothing at all.
        leave_mark(fault, passage.step)
        engine.optimizer.zero_grad(set_to_none=True)
        return QueuedStep(grad_norm=torch.tensor(float("nan")), skipped=torch.tensor(True))

    return update


FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


def watch_files(fault: Fault, run_dir: Path) -> None:
    """Strike between two operations on the run's files, once the checkpoint of the fault's step has been begun.

    An audit hook hears of an operation before it happens, so that nothing comes between it and the one before.
    """
    begins_with = str(run_dir / "checkpoints" / f"step_{fault.steps[0]:06d}.tmp")
    passage = Passage()

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        if not isinstance(path, str) or not path.startswith(str(run_dir)):
            return
        passage.step = passage.step or int(path.startswith(begins_with))
        if passage.step and passage.is_due(fault):
            strike(fault, fault.steps[0])

    sys.addaudithook(hear)
