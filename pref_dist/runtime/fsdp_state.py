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
    """Yield every trained parameter's state on the host, in the order of `parameters`. Collective."""
    for name, parameter in trained(parameters):
        moments = optimizer.state[parameter]
        value, exp_avg, exp_avg_sq = map(_gather, (parameter, moments["exp_avg"], moments["exp_avg_sq"]))
        yield name, ParameterState(value, exp_avg, exp_avg_sq, int(moments["step"]))


def write_states(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    read: Callable[[str], ParameterState],
) -> None:
    """Set every trained parameter's state to `read(name)`, of which each rank takes its slice.

    Raises CheckpointError if a shape is wrong.
    """
    for name, parameter in trained(parameters):
        state, moments = read(name), optimizer.state[parameter]
        if state.value.shape != parameter.shape:
            raise CheckpointError(
                f"{name} has shape {tuple(parameter.shape)} in the model, but {tuple(state.value.shape)} in the "
                "checkpoint."
            )
        with torch.no_grad():
            parameter.copy_(_slice_like(parameter, state.value))
        moments["step"].fill_(state.step)
        moments["exp_avg"].copy_(_slice_like(parameter, state.exp_avg))
        moments["exp_avg_sq"].copy_(_slice_like(parameter, state.exp_avg_sq))


def trained(parameters: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name, parameter) of all that training changes."""
    return ((name, parameter) for name, parameter in parameters.items() if parameter.requires_grad)


def _gather(value: Tensor) -> Tensor:
    assert isinstance(value, DTensor)
    whole: Tensor = value.full_tensor()
    return whole.detach().to("cpu", copy=True)


def _slice_like(parameter: Tensor, value: Tensor) -> DTensor:
    """Cut `value`, which every rank holds whole, as the parameter is cut; nothing is sent."""
    assert isinstance(parameter, DTensor)
    on_device = value.to(parameter.device, parameter.dtype)
    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)
