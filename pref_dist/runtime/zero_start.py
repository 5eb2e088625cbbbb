"""Starting DeepSpeed through Accelerate, and what it says that it runs.

DeepSpeed reads DS_ACCELERATOR when it is imported, so import this module only after `start_parallel`.
"""

import io
import logging
import sys
import warnings
from contextlib import redirect_stdout
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from deepspeed.accelerator import get_accelerator
from transformers.integrations import unset_hf_deepspeed_config

from pref_dist.config.train_section import Precision
from pref_dist.errors import ParallelError
from pref_dist.runtime import zero_state
from pref_dist.runtime.heartbeat import limit_of_collectives
from pref_dist.runtime.op_locks import list_needed_ops, wait_for_builders
from pref_dist.runtime.zero_config import BACKENDS

PRECISIONS: dict[torch.dtype | None, Precision] = {
    None: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}


def start_accelerator_for_zero(config: dict[str, Any], timeout_seconds: int) -> Any:
    """Return an Accelerator that runs DeepSpeed with `config`, on this machine's kind of device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = get_accelerator().device_name()
    if found != device:
        raise ParallelError(
            f"DeepSpeed computes on {found}, torch on {device}. DS_ACCELERATOR must be set before DeepSpeed is "
            "imported; take it out of your environment, it is set where it is needed."
        )
    _quieten()
    wait_for_builders(list_needed_ops("offload_optimizer" in config["zero_optimization"]))
    # Accelerate takes a plugin only at its first start; folds train one engine after another in a process.
    AcceleratorState._reset_state(reset_partial_state=False)
    plugin = DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=False)
    limit = limit_of_collectives(device, timeout_seconds)
    group = InitProcessGroupKwargs(backend="nccl" if device == "cuda" else "gloo", timeout=limit)
    with redirect_stdout(io.StringIO()):  # "... built successfully", from every rank, in every run on a CPU
        accelerator = Accelerator(mixed_precision="no", deepspeed_plugin=plugin, kwargs_handlers=[group])
    # Accelerate tells transformers about stage 3, whose from_pretrained would then hand out empty weights.
    unset_hf_deepspeed_config()
    zero_state.limit_waits(limit)
    return accelerator


def _quieten() -> None:
    """Keep DeepSpeed's chatter out of a run's log, and its warnings out of stdout, which belongs to the commands."""
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    warnings.filterwarnings("ignore", r"`torch.distributed.\w+` is deprecated", FutureWarning)


def describe_engine(engine: Any) -> dict[str, Any]:
    """What DeepSpeed itself says that it runs, not what it was told."""
    stage, offload = engine.zero_optimization_stage(), zero_state.is_offloaded(engine)
    names = [name for name, kind in BACKENDS.items() if kind == (stage, offload)]
    return {
        "backend": names[0] if names else f"stage {stage}, offload {offload}",
        "zero_stage": stage,
        "offload": offload,
        "world_size": engine.dp_world_size,
        "weight_dtype": str(torch.float32),
        "module_dtype": str(next(engine.module.parameters()).dtype),
        "precision": _find_precision(engine),
    }


def _find_precision(engine: Any) -> Precision | str:
    if engine.fp16_enabled():
        return PRECISIONS[torch.float16]
    if engine.bfloat16_enabled():
        return "bf16 without fp32 weights"
    return PRECISIONS[engine.torch_autocast_dtype() if engine.torch_autocast_enabled() else None]
