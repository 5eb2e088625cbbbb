"""What a model with its optimiser takes of a rank's memory, by arithmetic; what batches take is measured.

Sources: Rajbhandari et al. 2020 (ZeRO) for who keeps what; buffers as DeepSpeed 0.19 and torch 2.13 have them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pref_dist.config.schema import Backend
from pref_dist.config.train_section import Precision
from pref_dist.models.sizes import ModelSizes
from pref_dist.runtime.zero_config import BACKENDS, read_zero_file

NARROW_BYTES = 2
MOMENTS = 2
# What DeepSpeed takes where its JSON says nothing; configs/deepspeed/*.json say other numbers.
DEEPSPEED_BUCKET, DEEPSPEED_LIVE = 500_000_000, 1_000_000_000


@dataclass(frozen=True)
class StateBytes:
    """Bytes of one rank. gathered: whole weights of others that stand on it for a while, and buffers of exchanges.

    on_host: what an offload keeps in the host's memory instead of the device's; on a CPU both are the same.
    """

    parameters: int
    gradients: int
    optimizer: int
    gathered: int
    on_host: int = 0

    @property
    def on_device(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.gathered

    @property
    def total(self) -> int:
        return self.on_device + self.on_host


@dataclass(frozen=True)
class Sharing:
    """What of a launch matters for memory. num_micro_batches: of a rank in a step.

    zero_section: of a DeepSpeed JSON, None for back-ends that have none. device_type: cpu, cuda.
    """

    backend: Backend
    world_size: int
    precision: Precision
    num_micro_batches: int
    device_type: str
    zero_section: dict[str, Any] | None = None


def read_zero_section(zero_file: Path | None) -> dict[str, Any] | None:
    return None if zero_file is None else read_zero_file(zero_file)


def estimate_state(sizes: ModelSizes, sharing: Sharing) -> StateBytes:
    """Return what parameters, gradients and optimiser take on a rank."""
    if sharing.backend == "fsdp2":
        return estimate_fsdp(sizes, sharing)
    stage, is_offloaded = BACKENDS.get(sharing.backend, (0, False))
    if stage == 0:
        dense = sizes.value_bytes * (sizes.num_trained - sizes.num_by_rows)
        buffers = bucket_bytes(sizes, sharing, 1) if sharing.backend == "zero0" and sharing.world_size > 1 else 0
        return StateBytes(sizes.trained_bytes + sizes.frozen_bytes, dense, MOMENTS * sizes.trained_bytes, buffers)
    return estimate_zero(sizes, sharing, stage, is_offloaded)


def estimate_zero(sizes: ModelSizes, sharing: Sharing, stage: int, is_offloaded: bool) -> StateBytes:
    """Stage 1 shares master weights and moments, 2 also gradients, 3 also the weights that are computed with."""
    value = NARROW_BYTES if sharing.precision == "fp16" else sizes.value_bytes
    parameters = value * sizes.num_trained + sizes.frozen_bytes
    gradients = value * sizes.num_trained
    optimizer = (1 + MOMENTS) * sizes.trained_bytes // sharing.world_size
    gathered = bucket_bytes(sizes, sharing, 2)
    if stage >= 2:
        gradients //= sharing.world_size
    if stage == 3:
        live = int((sharing.zero_section or {}).get("stage3_max_live_parameters", DEEPSPEED_LIVE))
        gathered += min(parameters, value * live)
        parameters //= sharing.world_size
    if not is_offloaded:
        return StateBytes(parameters, gradients, optimizer, gathered)
    if stage == 3:
        return StateBytes(0, 0, 0, gathered, on_host=parameters + gradients + optimizer)
    return StateBytes(parameters, 0, 0, gathered, on_host=gradients + optimizer)


def estimate_fsdp(sizes: ModelSizes, sharing: Sharing) -> StateBytes:
    """Between micro-batches each rank keeps whole gradients and, unless some are frozen, whole weights."""
    everything = sizes.trained_bytes + sizes.frozen_bytes
    keeps_whole = sharing.num_micro_batches > 1
    at_once = sizes.value_bytes * (sizes.num_outside + 2 * sizes.num_in_layer)  # one computes, one is fetched
    gathered = everything if keeps_whole and not sizes.frozen_bytes else min(everything, at_once)
    gradients = sizes.trained_bytes if keeps_whole else sizes.trained_bytes // sharing.world_size
    return StateBytes(
        everything // sharing.world_size, gradients, MOMENTS * sizes.trained_bytes // sharing.world_size, gathered
    )


def bucket_bytes(sizes: ModelSizes, sharing: Sharing, num_buckets: int) -> int:
    """Return the bytes of DeepSpeed's buckets, in which gradients are exchanged; on a CPU only what is used counts."""
    bucket = int((sharing.zero_section or {}).get("reduce_bucket_size", DEEPSPEED_BUCKET))
    if sharing.device_type == "cpu":
        bucket = min(bucket, sizes.num_trained)
    return num_buckets * bucket * sizes.value_bytes
