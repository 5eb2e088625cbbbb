"""Checkpoints: one format for every back-end and world size, whole or not there.

    checkpoints/step_000400/
        manifest.json                 written last: names, sizes and digests of all files
        progress.json                 where the run stands (see train/resume.py)
        model-00000.safetensors ...   trained parameter's name -> fp32 value
        optimizer-00000.safetensors   exp_avg/NAME and exp_avg_sq/NAME; metadata "steps": {NAME: update count}

        valid_logits.parquet          where this step was the best so far: the run folder's file of that name

All ranks write into `step_000400.tmp/`; rank 0 adds the manifest, syncs, renames (runtime/checkpoint_writer.py).
So a folder without `.tmp` is complete, and what lies in it does not depend on the number of ranks that wrote it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pref_dist.errors import CheckpointError, DamagedCheckpointError
from pref_dist.files import describe_file, leaves_folder, read_json, remove_folder, sync
from pref_dist.optim import trained_parameters
from pref_dist.runtime.engine import Engine
from pref_dist.runtime.shard_reader import ShardReader

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk whose digests were checked."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def progress(self) -> dict[str, Any]:
        return dict(read_json(self.folder / "progress.json"))


def folder_of_step(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step_{step:06d}"


def temporary_of(target: Path) -> Path:
    """Where a checkpoint is until it is complete."""
    return target.with_name(target.name + ".tmp")


def list_steps(checkpoints: Path) -> list[int]:
    """Return the steps of all complete checkpoints, ascending."""
    if not checkpoints.is_dir():
        return []
    names = (path.name.removeprefix("step_") for path in checkpoints.glob("step_*") if path.is_dir())
    return sorted(int(name) for name in names if name.isdigit())


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check every file's size and digest against the manifest.

    Raises DamagedCheckpointError naming what is wrong, CheckpointError for a missing folder or another format.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist. Steps that are there: {list_steps(folder.parent)}.")
    if not (folder / "manifest.json").is_file():
        raise DamagedCheckpointError(f"{folder} has no manifest.json.")
    try:
        manifest = read_json(folder / "manifest.json")
        version, files = manifest["format_version"], manifest["files"]
        named = folder_of_step(folder.parent, manifest["step"]).name
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpointError(f"{folder / 'manifest.json'} is damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format {version}; this version of pref_dist reads {FORMAT_VERSION}. "
            "Go on with the version that wrote it, or start anew with --fresh."
        )
    if folder.name != named:
        raise DamagedCheckpointError(f"{folder / 'manifest.json'} is damaged: it says that this is {named}.")
    for name, entry in files.items():
        path = folder / name
        if leaves_folder(name):
            raise DamagedCheckpointError(f"{folder / 'manifest.json'} names a file outside its folder: {name!r}.")
        if not path.is_file():
            raise DamagedCheckpointError(f"{path} is missing.")
        if describe_file(path) != entry:
            raise DamagedCheckpointError(f"{path} is damaged: its size or sha256 differs from the manifest's.")
    return Checkpoint(folder, manifest)


def find_newest(checkpoints: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest undamaged checkpoint, or None if there is none at all.

    Every damaged one that is passed over is said loudly. Raises CheckpointError if all of them are
    damaged: starting at step 0 would delete what may still be mended.
    """
    steps = list_steps(checkpoints)
    for step in reversed(steps):
        try:
            return open_checkpoint(folder_of_step(checkpoints, step))
        except DamagedCheckpointError as error:
            say(f"WARNING: the checkpoint of step {step} is unusable, trying the one before. {error}")
    if steps:
        raise CheckpointError(
            f"All checkpoints in {checkpoints} are damaged (steps {steps}). Mend one, or start anew with --fresh."
        )
    return None


def drop_newer(checkpoints: Path, step: int) -> None:
    """Take damaged checkpoints after `step` out of the way, so that they never count as the newest again."""
    for newer in list_steps(checkpoints):
        if newer > step:
            mark_for_removal(folder_of_step(checkpoints, newer))


def mark_for_removal(folder: Path) -> None:
    """Rename a checkpoint, so that a crash during its removal leaves no folder that looks like one."""
    target = folder.with_name(f"{folder.name}.old.tmp")
    remove_folder(target)
    os.replace(folder, target)


def read_into(checkpoint: Checkpoint, engine: Engine) -> None:
    """Set the engine's parameters and optimiser from a checkpoint; collective.

    Raises CheckpointError if the checkpoint lacks a parameter of the model.
    """
    with ShardReader(checkpoint.folder, checkpoint.manifest, with_moments=True) as reader:
        engine.write_state(reader.read)


def read_weights(checkpoint: Checkpoint, module: torch.nn.Module) -> None:
    """Copy the values alone into a plain model (evaluation, prediction), whose frozen parameters stay as they are.

    Raises CheckpointError if one that the model trains is missing.
    """
    with ShardReader(checkpoint.folder, checkpoint.manifest, with_moments=False) as reader, torch.no_grad():
        for name, parameter in trained_parameters(module):
            parameter.copy_(reader.read_value(name, tuple(parameter.shape)))


def read_values(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the value of every parameter, in memory of its own: the checkpoint may be deleted then."""
    with ShardReader(checkpoint.folder, checkpoint.manifest, with_moments=False) as reader:
        return {name: reader.read_any(name).clone() for name in reader.names}


def name_checkpoint(temporary: Path, target: Path) -> None:
    """Give a complete checkpoint its name."""
    if target.exists():  # of the same step: damaged, or saved before its evaluation was made up for
        mark_for_removal(target)
    os.replace(temporary, target)
    sync(target.parent)


def recover(checkpoints: Path) -> None:
    """Name a checkpoint that a crash has left complete but unnamed: its manifest, which is written last, is there.

    Without this a crash while a checkpoint takes the place of another one of the same step could lose both.
    """
    for temporary in sorted(checkpoints.glob("step_*[0-9].tmp")):
        target = temporary.with_suffix("")
        if (temporary / "manifest.json").is_file() and not target.exists():
            name_checkpoint(temporary, target)


def prune(checkpoints: Path, keep_last: int, best_step: int | None) -> None:
    """Delete all but the newest `keep_last` checkpoints and the best one, and whatever a crash left half-written."""
    for step in list_steps(checkpoints)[:-keep_last]:
        if step != best_step:
            mark_for_removal(folder_of_step(checkpoints, step))
    remove_leftovers(checkpoints)


def remove_leftovers(checkpoints: Path) -> None:
    """Delete what is half-written or marked for removal. Not while a checkpoint is being written."""
    for leftover in checkpoints.glob("step_*.tmp"):
        remove_folder(leftover)
