"""Parameters and optimiser state of a DeepSpeed engine, whole and by name, for the one checkpoint format.

Everything that this project needs of DeepSpeed's private parts is in this file; tested with 0.19.8.
Under ZeRO a parameter's fp32 value and its moments are slices of flat partitions, one for each
parameter group (stages 1, 2) or sub-group (stage 3), of which each rank owns a part.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed
from deepspeed.utils import (
    groups,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from pref_dist.errors import CheckpointError
from pref_dist.optim import ADAM_BETAS, ADAM_EPSILON, trained_parameters
from pref_dist.runtime.engine import ParameterState

MOMENTS = ("exp_avg", "exp_avg_sq")


def limit_waits(limit: timedelta) -> None:
    """Let DeepSpeed's collectives wait no longer than ours: it talks in a copy of the group of all ranks, which it
    makes with torch's own limit of 10 (NCCL) or 30 minutes."""
    group = groups._get_data_parallel_group()
    torch.distributed.distributed_c10d._set_pg_timeout(limit, group)


def read_states(engine: Any) -> Iterator[tuple[str, ParameterState]]:
    """Yield every trained parameter's state on the host, in the model's order. Collective."""
    steps = _read_steps(engine)
    _link_optimizer_state(engine)
    for name, parameter in trained_parameters(engine.module):
        step = steps[id(parameter)]
        value: Tensor = safe_get_full_fp32_param(parameter).cpu().clone()
        moments = [_read_moment(parameter, key) if step else torch.zeros_like(value) for key in MOMENTS]
        yield name, ParameterState(value, moments[0], moments[1], step)


def write_states(engine: Any, read: Callable[[str], ParameterState]) -> None:
    """Set every trained parameter's state to `read(name)`, on all ranks alike. Collective.

    Raises CheckpointError if a shape is wrong, or if parameters of one partition, which has one update
    counter, were updated differently often.
    """
    _create_optimizer_state(engine)
    steps = dict(_read_steps(engine))
    for name, parameter in trained_parameters(engine.module):
        state = read(name)
        _write_value(name, parameter, state.value)
        steps[id(parameter)] = state.step
        _write_moment(parameter, "exp_avg", state.exp_avg)
        _write_moment(parameter, "exp_avg_sq", state.exp_avg_sq)
    _write_steps(engine, steps)


def copy_values(module: nn.Module) -> dict[str, Tensor]:
    """Return every trained parameter's value, on the host."""
    return {name: parameter.detach().cpu().clone() for name, parameter in trained_parameters(module)}


def write_values(engine: Any, values: Mapping[str, Tensor]) -> None:
    """Set the trained parameters to rank 0's `values`, the fp32 weights in full precision. Collective."""
    for name, parameter in trained_parameters(engine.module):
        value = values[name].to(engine.device)
        torch.distributed.broadcast(value, src=0)
        _write_value(name, parameter, value)


def inner_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The optimiser that updates this rank's partitions."""
    optimizer: torch.optim.Optimizer = engine.optimizer.optimizer
    return optimizer


def leave_loss_scale_to_us(engine: Any) -> None:
    """Take away the loss scaler that DeepSpeed makes for fp16 at stage 0, which no checkpoint would know of."""
    engine.torch_autocast_z0_gradscaler = None


def is_offloaded(engine: Any) -> bool:
    """Whether the optimiser's state is on the host, as DeepSpeed has resolved its config."""
    offload = engine.zero_offload_optimizer()
    return offload is not None and str(getattr(offload.device, "value", offload.device)) != "none"


def forget_bias_correction(optimizer: Any, *_: Any) -> None:
    """Make DeepSpeedCPUAdam's bias correction a function of the step alone; a hook before each of its steps.

    It multiplies beta ** step up from one step to the next, but takes a power after a resume, whose last bits
    differ. An update of one element at step 0 makes it take the power always.
    """
    value, gradient, exp_avg, exp_avg_sq = torch.zeros(4, 1).unbind()
    optimizer.ds_opt_adam.adam_update(
        optimizer.opt_id, 0, 0.0, *ADAM_BETAS, ADAM_EPSILON, 0.0, True, value, gradient, exp_avg, exp_avg_sq
    )


def _partitions(engine: Any) -> list[tuple[list[nn.Parameter], Tensor]]:
    """This rank's flat fp32 partitions, each with the parameters that it holds slices of."""
    zero = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        return list(zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True))
    return list(zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True))


def _create_optimizer_state(engine: Any) -> None:
    """Let the inner optimiser make its state, which it has only after a first step; values are written later.

    An update by a zero gradient at rate 0, partition by partition, as DeepSpeed's own step does it:
    without forward or backward, so that no inputs are needed.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = 0.0
    for index, (_, flat) in enumerate(_partitions(engine)):
        if not inner_optimizer(engine).state.get(flat):
            kept = flat.grad
            flat.grad = torch.zeros_like(flat) if kept is None else kept.zero_()
            engine.optimizer._optimizer_step(index)
            flat.grad = kept
    _link_optimizer_state(engine)


def _link_optimizer_state(engine: Any) -> None:
    """Let the parameters of stages 1 and 2 find their moments.

    DeepSpeed does it once, after the first group's first update, when the other groups have no moments yet:
    their parameters would never find them.
    """
    state = inner_optimizer(engine).state
    if engine.zero_optimization_stage() < 3 and all(state.get(flat) for _, flat in _partitions(engine)):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _read_steps(engine: Any) -> dict[int, int]:
    """Update counter of every trained parameter, by id; 0 before the first update."""
    state = inner_optimizer(engine).state
    return {
        id(parameter): int(state[flat]["step"]) if state.get(flat) else 0
        for parameters, flat in _partitions(engine)
        for parameter in parameters
    }


def _write_steps(engine: Any, steps: Mapping[int, int]) -> None:
    state = inner_optimizer(engine).state
    for parameters, flat in _partitions(engine):
        wanted = {steps[id(parameter)] for parameter in parameters}
        if len(wanted) != 1:
            raise CheckpointError(
                f"The checkpoint's parameters were updated {sorted(wanted)} times. ZeRO keeps one counter for all "
                "parameters of a group, so it cannot go on from there; resume with the back-end that wrote it."
            )
        counter = state[flat]["step"]
        state[flat]["step"] = counter.fill_(wanted.pop()) if isinstance(counter, Tensor) else wanted.pop()


def _read_moment(parameter: nn.Parameter, key: str) -> Tensor:
    moment: Tensor = safe_get_full_optimizer_state(parameter, key).cpu().clone()
    return moment


def _write_value(name: str, parameter: nn.Parameter, value: Tensor) -> None:
    """Set the fp32 copy and the weight that forward uses: DeepSpeed's setters change only the former."""
    shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
    if tuple(value.shape) != shape:
        raise CheckpointError(f"{name} has shape {shape} in the model, but {tuple(value.shape)} in the checkpoint.")
    if _is_partitioned(parameter):
        safe_set_local_fp32_param(parameter, _own_part(parameter, value))
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            parameter.copy_(value)
        return
    safe_set_full_fp32_param(parameter, value)
    with torch.no_grad():
        parameter.copy_(value)


def _write_moment(parameter: nn.Parameter, key: str, value: Tensor) -> None:
    if _is_partitioned(parameter):
        safe_set_local_optimizer_state(parameter, _own_part(parameter, value), key)
    else:
        safe_set_full_optimizer_state(parameter, value, key)


def _is_partitioned(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")  # DeepSpeed's own test for a stage 3 parameter


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """This rank's slice of a stage 3 parameter, with zeros up to the partition's size.

    DeepSpeed's setters of a whole value fail where the world size does not divide the number of elements.
    """
    size = parameter.ds_tensor.numel()
    start = size * torch.distributed.get_rank(parameter.ds_process_group)
    part = torch.zeros(size, dtype=value.dtype, device=value.device)
    own = value.flatten()[start : start + size]
    part[: own.numel()] = own
    return part
