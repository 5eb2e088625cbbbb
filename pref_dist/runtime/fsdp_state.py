"""Parameters and optimiser state that FSDP2 has shared among the ranks, whole and by name, for checkpoints."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from pref_dist.errors import CheckpointError
from pref_dist.runtime.engine import ParameterState


def read_states(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, ParameterState]]:
    """Yield every parameter's state on the host, in the order of `parameters`. Collective."""
    for name, parameter in parameters.items():
        moments = optimizer.state.get(parameter, {})
        value = _gather(parameter)
        yield (
            name,
            ParameterState(
                value=value,
                exp_avg=_gather(moments["exp_avg"]) if moments else torch.zeros_like(value),
                exp_avg_sq=_gather(moments["exp_avg_sq"]) if moments else torch.zeros_like(value),
                step=int(moments["step"]) if moments else 0,
            ),
        )


def write_states(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    read: Callable[[str], ParameterState],
) -> None:
    """Set every parameter's state to `read(name)`, of which each rank takes its slice.

    Raises CheckpointError if a shape is wrong.
    """
    for name, parameter in parameters.items():
        state = read(name)
        if state.value.shape != parameter.shape:
            raise CheckpointError(
                f"{name} has shape {tuple(parameter.shape)} in the model, but {tuple(state.value.shape)} in the "
                "checkpoint."
            )
        with torch.no_grad():
            parameter.copy_(_slice_like(parameter, state.value))
        if parameter.requires_grad and state.step > 0:
            optimizer.state[parameter] = {
                # A fused AdamW keeps its counters beside the parameters.
                "step": torch.tensor(float(state.step), dtype=torch.float32, device=parameter.device),
                "exp_avg": _slice_like(parameter, state.exp_avg),
                "exp_avg_sq": _slice_like(parameter, state.exp_avg_sq),
            }


def _gather(value: Tensor) -> Tensor:
    assert isinstance(value, DTensor)
    whole: Tensor = value.full_tensor()
    return whole.detach().to("cpu", copy=True)


def _slice_like(parameter: Tensor, value: Tensor) -> DTensor:
    """Cut `value`, which every rank holds whole, as the parameter is cut; nothing is sent."""
    assert isinstance(parameter, DTensor)
    on_device = value.to(parameter.device, parameter.dtype)
    part = distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)
    # A view, as some versions of torch return, would keep the whole value in memory.
    own = part.clone()
    assert isinstance(own, DTensor)
    return own
