"""The engine where ranks share the optimiser, the gradients or the weights: DeepSpeed ZeRO, through Accelerate.

DeepSpeed reads DS_ACCELERATOR when it is imported, so import this module only after `start_parallel`.
Where DeepSpeed's private parts are needed they are in `zero_state.py`; this file uses its documented ones.
"""

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from deepspeed.accelerator import get_accelerator
from torch import Tensor, nn
from transformers.integrations import unset_hf_deepspeed_config

from pref_dist.config.schema import Precision
from pref_dist.errors import ConfigError, ParallelError, TrainingError
from pref_dist.optim import ADAM_BETAS, ADAM_EPSILON
from pref_dist.runtime import zero_state
from pref_dist.runtime.engine import EngineSettings, LossScale, ParameterState, StepOutcome
from pref_dist.runtime.heartbeat import limit_of_collectives
from pref_dist.runtime.loss_scale import DynamicLossScale
from pref_dist.runtime.zero_config import BACKENDS, compose_deepspeed_config, name_backend, read_zero_file

PRECISIONS: dict[torch.dtype | None, Precision] = {
    None: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}


class ZeroEngine:
    """One DeepSpeed engine, spoken to as every back-end is. See `Engine`; build it by `build_zero_engine`."""

    def __init__(self, engine: Any, settings: EngineSettings, world_size: int) -> None:
        self._engine, self._settings, self._world_size = engine, settings, world_size
        self._loss_scale: DynamicLossScale | None = None
        if settings.precision == "fp16":
            self._loss_scale = DynamicLossScale(
                settings.initial_loss_scale, settings.loss_scale_growth_interval, world_size
            )
            engine.optimizer.loss_scaler = self._loss_scale

    def forward(self, inputs: Mapping[str, Tensor], is_last: bool = True) -> Tensor:
        logits: Tensor = self._engine(**inputs).logits
        return logits.float()

    def backward(self, loss: Tensor, is_last: bool) -> None:
        # The plan, not a fixed count, says where a step ends. Ranks are averaged over: the step's loss is their
        # sum. With fp16 the loss scale sees to that, because a larger loss would overflow sooner.
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss if self._loss_scale is not None else loss * self._world_size)

    def step(self, learning_rate_factor: float) -> StepOutcome:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = group["peak_learning_rate"] * learning_rate_factor
        # DeepSpeed takes the norm over all ranks and skips before it changes anything, in every precision.
        self._engine.step()
        outcome = StepOutcome(float(self._engine.get_global_grad_norm()), not self._engine.was_step_applied())
        if self._loss_scale is not None:
            self._loss_scale.grow_if_due()
        _check_outcome(outcome)
        return outcome

    def train(self) -> None:
        self._engine.train()

    def eval(self) -> None:
        self._engine.eval()

    def read_state(self) -> Iterator[tuple[str, ParameterState]]:
        """One parameter at a time is gathered, so that a whole model never stands on a device."""
        yield from zero_state.read_states(self._engine)

    def write_state(self, read: Callable[[str], ParameterState]) -> None:
        zero_state.write_states(self._engine, read)

    def read_loss_scale(self) -> LossScale | None:
        return None if self._loss_scale is None else self._loss_scale.read()

    def write_loss_scale(self, loss_scale: LossScale) -> None:
        if self._loss_scale is not None:
            self._loss_scale.write(loss_scale)

    def describe(self) -> dict[str, Any]:
        return describe_engine(self._engine) | {"optimizer": type(zero_state.inner_optimizer(self._engine)).__name__}


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


def build_zero_engine(
    zero_file: Path,
    module: nn.Module,
    groups: list[dict[str, Any]],
    settings: EngineSettings,
    world_size: int,
    timeout_seconds: int,
) -> ZeroEngine:
    """Share a model, which every rank has built whole, and its AdamW among the ranks as `zero_file` says.

    groups: torch parameter groups, each with its peak `lr`. Raises ConfigError for the file, ParallelError
    where DeepSpeed runs on another device than torch.
    """
    section = read_zero_file(zero_file)
    offload = BACKENDS[name_backend(section, zero_file)][1]
    config = compose_deepspeed_config(section, settings, world_size)
    accelerator = start_accelerator_for_zero(config, timeout_seconds)
    # The fp16 engine rounds the weights before it makes its fp32 copies of them, so keep the true ones.
    exact = zero_state.copy_values(module) if settings.precision == "fp16" else None
    engine, _ = accelerator.prepare(module, build_optimizer(groups, offload))
    if exact is not None:
        zero_state.write_values(engine, exact)
    return ZeroEngine(engine, settings, world_size)


class ZeroInference:
    """A model whose weights the ranks share, for evaluation alone. Every rank must run equally many forwards."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        engine.eval()

    def forward(self, inputs: Mapping[str, Tensor], is_last: bool = True) -> Tensor:
        """Return the logits (R, C) in fp32. Call it under `torch.no_grad`, not `torch.inference_mode`."""
        logits: Tensor = self._engine(**inputs).logits
        return logits.float()

    def describe(self) -> dict[str, Any]:
        return describe_engine(self._engine) | {"optimizer": None}


def build_zero_inference(
    zero_file: Path, module: nn.Module, settings: EngineSettings, world_size: int, timeout_seconds: int
) -> ZeroInference:
    """Share a model's weights among the ranks, without an optimiser. Raises ConfigError if the stage is not 3."""
    section = read_zero_file(zero_file)
    if section["stage"] != 3:
        raise ConfigError(f"{zero_file} is stage {section['stage']}, which shares no weights. Use stage 3 or ddp.")
    kept = {key: value for key, value in section.items() if key != "offload_optimizer"}
    accelerator = start_accelerator_for_zero(compose_deepspeed_config(kept, settings, world_size), timeout_seconds)
    return ZeroInference(accelerator.prepare(module))


def build_optimizer(groups: list[dict[str, Any]], offload: bool) -> torch.optim.Optimizer:
    """AdamW, on the host if the state is there. Each group keeps its peak rate, whatever DeepSpeed does to it."""
    kept = [
        {key: value for key, value in group.items() if key != "names"} | {"peak_learning_rate": group["lr"]}
        for group in groups
    ]
    if not offload:
        return torch.optim.AdamW(kept, betas=ADAM_BETAS, eps=ADAM_EPSILON, fused=True)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(kept, betas=ADAM_BETAS, eps=ADAM_EPSILON, adamw_mode=True)
    optimizer.register_step_pre_hook(zero_state.forget_bias_correction)
    return optimizer


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


def _find_precision(engine: Any) -> Precision | str:
    if engine.fp16_enabled():
        return PRECISIONS[torch.float16]
    if engine.bfloat16_enabled():
        return "bf16 without fp32 weights"
    return PRECISIONS[engine.torch_autocast_dtype() if engine.torch_autocast_enabled() else None]


def _check_outcome(outcome: StepOutcome) -> None:
    """Raise if a gradient that is not finite was applied, as DeepSpeed before 0.19 did in fp32."""
    if not outcome.skipped and outcome.grad_norm - outcome.grad_norm != 0.0:
        raise TrainingError(
            f"DeepSpeed applied a gradient of norm {outcome.grad_norm}: the weights are lost. "
            "Start again from the last checkpoint, with the tested version of deepspeed."
        )
