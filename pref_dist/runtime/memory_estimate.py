"""What a model with its optimiser takes of a rank's memory, by arithmetic; what batches take is measured.

Source: Rajbhandari et al. 2020 (ZeRO) for who keeps what; the rest as seen with DeepSpeed 0.19 and torch 2.13.
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
DEEPSPEED_LIVE = 1_000_000_000  # parameters; what DeepSpeed takes where its JSON says nothing


@dataclass(frozen=True)
class StateBytes:
    """Bytes of one rank, between two micro-batches. gathered: whole weights that stand on it beside its own share.

    on_host: what an offload keeps in the host's memory instead of the device's; on a CPU both are the same.
    """

    parameters: int
    gradients: int
    optimizer: int
    gathered: int = 0
    on_host: int = 0

    @property
    def on_device(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.gathered

    @property
    def total(self) -> int:
        return self.on_device + self.on_host

    def counted_on(self, device_type: str) -> int:
        """Return what the memory of a rank's device holds of it: on a CPU both are one."""
        return self.on_device if device_type == "cuda" else self.total


@dataclass(frozen=True)
class Sharing:
    """What of a launch matters for memory. zero_section: of a DeepSpeed JSON, None for back-ends without one."""

    backend: Backend
    world_size: int
    precision: Precision
    zero_section: dict[str, Any] | None = None


def estimate_state(sizes: ModelSizes, sharing: Sharing) -> StateBytes:
    """Return what parameters, gradients and optimiser take on a rank.

    Not in it are the buffers of exchanges, which stand there while a micro-batch runs and are measured with it.
    """
    if sharing.backend == "fsdp2":
        return estimate_fsdp(sizes, sharing)
    stage, is_offloaded = BACKENDS.get(sharing.backend, (0, False))
    if stage == 0:
        dense = sizes.value_bytes * (sizes.num_trained - sizes.num_by_rows)
        return StateBytes(sizes.trained_bytes + sizes.frozen_bytes, dense, MOMENTS * sizes.trained_bytes)
    return estimate_zero(sizes, sharing, stage, is_offloaded)


def estimate_zero(sizes: ModelSizes, sharing: Sharing, stage: int, is_offloaded: bool) -> StateBytes:
    """Stage 1 shares master weights and moments, 2 also gradients, 3 also the weights that are computed with."""
    value = NARROW_BYTES if sharing.precision == "fp16" else sizes.value_bytes
    parameters, gathered = value * sizes.num_trained + sizes.frozen_bytes, 0
    gradients = value * sizes.num_trained
    optimizer = (1 + MOMENTS) * sizes.trained_bytes // sharing.world_size
    if stage >= 2:
        gradients //= sharing.world_size
    if stage == 3:
        live = int((sharing.zero_section or {}).get("stage3_max_live_parameters", DEEPSPEED_LIVE))
        gathered = min(parameters, value * live)
        parameters //= sharing.world_size
    if not is_offloaded:
        return StateBytes(parameters, gradients, optimizer, gathered)
    if stage == 3:
        return StateBytes(0, 0, 0, gathered, on_host=parameters + gradients + optimizer)
    return StateBytes(parameters, 0, 0, on_host=gradients + optimizer)


def estimate_fsdp(sizes: ModelSizes, sharing: Sharing) -> StateBytes:
    """Between micro-batches each rank keeps whole gradients and, unless some are frozen, whole weights."""
    everything = sizes.trained_bytes + sizes.frozen_bytes
    at_once = sizes.value_bytes * (sizes.num_outside + 2 * sizes.num_in_layer)  # one computes, one is fetched
    return StateBytes(
        everything // sharing.world_size,
        sizes.trained_bytes,
        MOMENTS * sizes.trained_bytes // sharing.world_size,
        min(everything, at_once) if sizes.frozen_bytes else everything,
    )


def read_zero_section(zero_file: Path | None) -> dict[str, Any] | None:
    return None if zero_file is None else read_zero_file(zero_file)
