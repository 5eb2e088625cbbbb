"""The engine where ranks share the optimiser, the gradients or the weights: DeepSpeed ZeRO, through Accelerate.

DeepSpeed reads DS_ACCELERATOR when it is imported, so import this module only after `start_parallel`.
Where DeepSpeed's private parts are needed they are in `zero_state.py`; this file uses its documented ones.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pref_dist.errors import ConfigError, TrainingError
from pref_dist.optim import ADAM_BETAS, ADAM_EPSILON
from pref_dist.runtime import zero_state
from pref_dist.runtime.engine import Engine, EngineSettings, LossScale, ParameterState, QueuedStep, StepOutcome
from pref_dist.runtime.loss_scale import DynamicLossScale
from pref_dist.runtime.zero0 import Zero0Engine
from pref_dist.runtime.zero_config import BACKENDS, compose_deepspeed_config, name_backend, read_zero_file
from pref_dist.runtime.zero_start import describe_engine, start_accelerator_for_zero


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

    def forward(self, inputs: Mapping[str, Any], is_last: bool = True) -> Tensor:
        logits: Tensor = self._engine(**inputs).logits
        return logits.float()

    def backward(self, loss: Tensor, is_last: bool) -> None:
        # The plan, not a fixed count, says where a step ends. Ranks are averaged over: the step's loss is their
        # sum. With fp16 the loss scale sees to that, because a larger loss would overflow sooner.
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss if self._loss_scale is not None else loss * self._world_size)

    def step(self, learning_rate_factor: float) -> QueuedStep:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = group["peak_learning_rate"] * learning_rate_factor
        # DeepSpeed takes the norm over all ranks and skips before it changes anything, in every precision; for that
        # it waits for the device by itself.
        self._engine.step()
        outcome = StepOutcome(float(self._engine.get_global_grad_norm()), not self._engine.was_step_applied())
        if self._loss_scale is not None:
            self._loss_scale.grow_if_due()
        _check_outcome(outcome)
        return QueuedStep(torch.tensor(outcome.grad_norm, dtype=torch.float64), torch.tensor(outcome.skipped))

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


def build_zero_engine(
    zero_file: Path,
    module: nn.Module,
    groups: list[dict[str, Any]],
    settings: EngineSettings,
    world_size: int,
    timeout_seconds: int,
) -> Engine:
    """Share a model, which every rank has built whole, and its AdamW among the ranks as `zero_file` says.

    groups: torch parameter groups, each with its peak `lr`. Raises ConfigError for the file, ParallelError
    where DeepSpeed runs on another device than torch.
    """
    section = read_zero_file(zero_file)
    stage, offload = BACKENDS[name_backend(section, zero_file)]
    config = compose_deepspeed_config(section, settings, world_size)
    accelerator = start_accelerator_for_zero(config, timeout_seconds)
    if stage == 0:
        return Zero0Engine(module, groups, settings, accelerator, world_size)
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

    def forward(self, inputs: Mapping[str, Any], is_last: bool = True) -> Tensor:
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


def _check_outcome(outcome: StepOutcome) -> None:
    """Raise if a gradient that is not finite was applied, as DeepSpeed before 0.19 did in fp32."""
    if not outcome.skipped and outcome.grad_norm - outcome.grad_norm != 0.0:
        raise TrainingError(
            f"DeepSpeed applied a gradient of norm {outcome.grad_norm}: the weights are lost. "
            "Start again from the last checkpoint, with the tested version of deepspeed."
        )
