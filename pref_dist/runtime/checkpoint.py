"""Checkpoints: one format for every back-end and world size, whole or not there.

    checkpoints/step_000400/
        manifest.json                 written last: names, sizes and digests of all files
        progress.json                 where the run stands (see train/resume.py)
        model-00000.safetensors ...   parameter name -> fp32 value
        optimizer-00000.safetensors   exp_avg/NAME and exp_avg_sq/NAME; metadata "steps": {NAME: update count}

All ranks write into `step_000400.tmp/`; rank 0 adds the manifest, syncs, renames. So a folder without
`.tmp` is complete, and what lies in it does not depend on the number of ranks that wrote it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pref_dist.errors import CheckpointError, DamagedCheckpointError
from pref_dist.files import describe_file, read_json, sync, write_json
from pref_dist.runtime.engine import Engine, ParameterState
from pref_dist.runtime.parallel import Parallel
from pref_dist.runtime.shard_reader import ShardReader

FORMAT_VERSION = 1
SHARD_BYTES = 1 << 30  # of parameter values; the moments of a shard take twice as much


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


def save_checkpoint(
    checkpoints: Path,
    step: int,
    engine: Engine,
    progress: dict[str, Any],
    parallel: Parallel,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a whole checkpoint of `step` finished steps; collective. Returns its folder.

    Raises CheckpointError on every rank if any rank could not write; older checkpoints are untouched then.
    """
    target = folder_of_step(checkpoints, step)
    temporary = target.with_name(target.name + ".tmp")
    agree(parallel, lambda: make_empty(temporary) if parallel.is_main else None)
    files = agree(parallel, lambda: write_shards(temporary, engine, parallel, shard_bytes))
    entries = {name: entry for part in files for name, entry in part.items()}
    agree(parallel, lambda: finish(temporary, target, step, entries, progress) if parallel.is_main else None)
    return target


def agree(parallel: Parallel, work: Callable[[], Any]) -> list[Any]:
    """Do this rank's part; return all ranks' results, or raise on every rank what went wrong on one."""
    result, failure = None, ""
    try:
        result = work()
    except OSError as error:
        failure = f"rank {parallel.rank}: {error}"
    outcomes = parallel.gather((result, failure))
    failures = [failure for _, failure in outcomes if failure]
    if failures:
        raise CheckpointError(
            f"The checkpoint could not be written: {'; '.join(failures)}. Older checkpoints are untouched; "
            "make room or mend the disk and start the same command again."
        )
    return [result for result, _ in outcomes]


def make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def write_shards(folder: Path, engine: Engine, parallel: Parallel, shard_bytes: int) -> dict[str, dict[str, Any]]:
    """Write the shards that are this rank's turn; return {file name: {bytes, sha256}}.

    Reading the state is collective, so that every rank walks over all parameters and keeps its own.
    An error must not keep a rank from the walk: it is raised at the end.
    """
    entries: dict[str, dict[str, Any]] = {}
    failure: OSError | None = None
    for number, shard in enumerate(split_into_shards(engine.read_state(), parallel, shard_bytes)):
        if shard and failure is None:
            try:
                entries |= write_shard(folder, number, shard)
            except OSError as error:
                failure = error
    if failure is not None:
        raise failure
    return entries


def split_into_shards(
    states: Iterator[tuple[str, ParameterState]], parallel: Parallel, shard_bytes: int
) -> Iterator[dict[str, ParameterState]]:
    """Yield one dict a shard: filled if it is this rank's to write, else empty (nothing is kept in memory)."""
    shard: dict[str, ParameterState] = {}
    size, number = 0, 0
    for name, state in states:
        if number % parallel.world_size == parallel.rank:
            shard[name] = state
        size += state.value.numel() * state.value.element_size()
        if size >= shard_bytes:
            yield shard
            shard, size, number = {}, 0, number + 1
    if size:
        yield shard


def write_shard(folder: Path, number: int, shard: dict[str, ParameterState]) -> dict[str, dict[str, Any]]:
    values = {name: state.value.contiguous() for name, state in shard.items()}
    moments: dict[str, Tensor] = {}
    for name, state in shard.items():
        moments[f"exp_avg/{name}"] = state.exp_avg.contiguous()
        moments[f"exp_avg_sq/{name}"] = state.exp_avg_sq.contiguous()
    steps = json.dumps({name: state.step for name, state in shard.items()})
    return {
        **write_tensors(folder / f"model-{number:05d}.safetensors", values, {"format": "pt"}),
        **write_tensors(folder / f"optimizer-{number:05d}.safetensors", moments, {"format": "pt", "steps": steps}),
    }


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Write and sync one file. Raises OSError, also where safetensors reports a full disk in its own way."""
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    sync(path)
    return {path.name: describe_file(path)}


def finish(
    temporary: Path, target: Path, step: int, entries: dict[str, dict[str, Any]], progress: dict[str, Any]
) -> None:
    """Add progress and manifest, make all of it durable, and give the checkpoint its name."""
    write_json(temporary / "progress.json", progress)
    entries = entries | {"progress.json": describe_file(temporary / "progress.json")}
    write_json(
        temporary / "manifest.json",
        {"format_version": FORMAT_VERSION, "step": step, "files": dict(sorted(entries.items()))},
    )
    sync(temporary)
    if target.exists():  # of the same step: damaged, or saved before its evaluation was made up for
        mark_for_removal(target)
    os.replace(temporary, target)
    sync(target.parent)


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
    except (CheckpointError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{folder / 'manifest.json'} is damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format {version}; this version of pref_dist reads {FORMAT_VERSION}. "
            "Go on with the version that wrote it, or start anew with --fresh."
        )
    for name, entry in files.items():
        path = folder / name
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
    shutil.rmtree(target, ignore_errors=True)
    os.replace(folder, target)


def read_into(checkpoint: Checkpoint, engine: Engine) -> None:
    """Set the engine's parameters and optimiser from a checkpoint; collective.

    Raises CheckpointError if the checkpoint lacks a parameter of the model.
    """
    with ShardReader(checkpoint.folder, checkpoint.manifest, with_moments=True) as reader:
        engine.write_state(reader.read)


def read_weights(checkpoint: Checkpoint, module: torch.nn.Module) -> None:
    """Copy the values alone into a plain model (evaluation, prediction)."""
    with ShardReader(checkpoint.folder, checkpoint.manifest, with_moments=False) as reader, torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(reader.read_value(name, tuple(parameter.shape)))


def prune(checkpoints: Path, keep_last: int, best_step: int | None) -> None:
    """Delete all but the newest `keep_last` checkpoints and the best one, and whatever a crash left half-written."""
    for step in list_steps(checkpoints)[:-keep_last]:
        if step != best_step:
            mark_for_removal(folder_of_step(checkpoints, step))
    for leftover in checkpoints.glob("step_*.tmp"):
        shutil.rmtree(leftover)
