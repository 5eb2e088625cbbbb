"""DeepSpeed's configuration: what a user may say in a JSON file, and what the run config adds to it.

A DeepSpeed JSON holds `zero_optimization` only, as an Accelerate YAML holds topology only. Precision,
clipping, accumulation and batch sizes have one home, the run config; in a second place they would be
a second truth.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pref_dist.config.schema import Backend
from pref_dist.errors import ConfigError

if TYPE_CHECKING:
    from pref_dist.runtime.engine import EngineSettings

# back-end: (ZeRO stage, optimiser (at stage 3 also weights) on the host)
BACKENDS: dict[Backend, tuple[int, bool]] = {
    "zero0": (0, False),
    "zero1": (1, False),
    "zero2": (2, False),
    "zero2_offload": (2, True),
    "zero3": (3, False),
    "zero3_offload": (3, True),
}

# Where the run config says what users of DeepSpeed are used to write into its JSON.
HOMES = {
    "bf16": "train.precision",
    "data_types": "train.precision",
    "fp16": "train.precision",
    "torch_autocast": "train.precision",
    "gradient_accumulation_steps": "train.token_budget",
    "train_micro_batch_size_per_gpu": "train.token_budget",
    "train_batch_size": "train.rows_per_step",
    "gradient_clipping": "train.clip_norm",
    "optimizer": "train.learning_rate and train.weight_decay",
    "scheduler": "train.schedule and train.warmup_fraction",
}

# Parts of zero_optimization that would change the numbers, or keep state where a checkpoint does not look.
REFUSED = ("zenflow", "zero_quantized_gradients", "zero_quantized_nontrainable_weights", "zero_quantized_weights")


def find_backend(path: Path) -> Backend:
    """Return the name of the back-end that a DeepSpeed JSON describes. Raises ConfigError."""
    return name_backend(read_zero_file(path), path)


def name_backend(section: dict[str, Any], path: Path) -> Backend:
    """Return the back-end of a `zero_optimization` section that was read from `path`. Raises ConfigError."""
    found = (section.get("stage"), _is_offloaded(section, path))
    for name, kind in BACKENDS.items():
        if kind == found:
            return name
    known = ", ".join(f"{name} (stage {stage}, offload {_text(off)})" for name, (stage, off) in BACKENDS.items())
    raise ConfigError(
        f"{path}: zero_optimization has stage {found[0]}, offload {_text(found[1])}, which is no back-end. "
        f"The back-ends are {known}; see configs/deepspeed/."
    )


def read_zero_file(path: Path) -> dict[str, Any]:
    """Return the `zero_optimization` section of a DeepSpeed JSON.

    Raises ConfigError if the file cannot be read, says anything else, or asks for what is refused.
    """
    content = _read_json(path)
    for key, value in content.items():
        if key != "zero_optimization":
            raise ConfigError(f"{path} sets {key}={json.dumps(value)}. {_remedy(key)}")
    section = content.get("zero_optimization")
    if not isinstance(section, dict):
        raise ConfigError(f"{path} has no section zero_optimization. Copy one of configs/deepspeed/zero*.json.")
    for key in REFUSED:
        if section.get(key):
            raise ConfigError(
                f"{path} sets zero_optimization.{key}={json.dumps(section[key])}, which is not supported: "
                "it changes the result of a run or what a checkpoint must hold. Take it out."
            )
    return section


def compose_deepspeed_config(
    zero_section: dict[str, Any], settings: "EngineSettings", world_size: int
) -> dict[str, Any]:
    """Return the whole DeepSpeed config: the user's ZeRO section and the run config's settings.

    Batch sizes are 1 because the batch plan is ours: the engine is told by hand where a step ends.
    """
    is_shared = zero_section["stage"] > 0
    # Without sharing, clipping and the loss scale are ours (zero0.py).
    clip_norm = settings.clip_norm if is_shared else None
    return {
        "train_batch_size": world_size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip_norm if clip_norm is not None else 0.0,
        "zero_allow_untested_optimizer": True,
        # Otherwise Accelerate replaces our DeepSpeedCPUAdam by a new one, without decoupled weight decay.
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "zero_optimization": zero_section,
        **_precision_section(settings, is_shared),
    }


def _precision_section(settings: "EngineSettings", is_shared: bool) -> dict[str, Any]:
    if settings.precision == "bf16" or (settings.precision == "fp16" and not is_shared):
        dtype = "bfloat16" if settings.precision == "bf16" else "float16"
        # The empty list keeps gradients and gathered weights in fp32 on the wire, as DDP does.
        return {"torch_autocast": {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}}
    if settings.precision == "fp16":
        return {
            "fp16": {
                "enabled": True,
                "auto_cast": False,
                "initial_scale_power": int(math.log2(settings.initial_loss_scale)),
                "loss_scale_window": settings.loss_scale_growth_interval,
                "hysteresis": 1,
                "min_loss_scale": 1,
            },
            # fp16 gradients of many micro-batches and ranks would be summed in fp16 without these two.
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }
    return {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"The DeepSpeed config {path} cannot be read ({error.strerror}). It is named by deepspeed_config_file of "
            "the Accelerate config, relative to the folder where the launcher was started."
        ) from error
    except ValueError as error:
        raise ConfigError(f"The DeepSpeed config {path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"The DeepSpeed config {path} is not a JSON object.")
    return content


def _remedy(key: str) -> str:
    if key in HOMES:
        return f"That comes from the run config ({HOMES[key]}) alone. Take it out of the file."
    return "Only zero_optimization may stand there; everything else comes from the run config. Take it out."


def _is_offloaded(section: dict[str, Any], path: Path) -> bool:
    """Whether the optimiser lives on the host. Raises ConfigError for offload to anywhere else."""
    devices = {key: (section.get(key) or {}).get("device", "none") for key in ("offload_optimizer", "offload_param")}
    for key, device in devices.items():
        if device not in ("none", "cpu"):
            raise ConfigError(f"{path} sets zero_optimization.{key}.device={device}. Only cpu and none are supported.")
    if devices["offload_param"] == "cpu" and devices["offload_optimizer"] == "none":
        raise ConfigError(
            f"{path} offloads the weights but not the optimiser. Set zero_optimization.offload_optimizer."
        )
    return bool(devices["offload_optimizer"] == "cpu")


def _text(offload: bool) -> str:
    return "cpu" if offload else "none"
